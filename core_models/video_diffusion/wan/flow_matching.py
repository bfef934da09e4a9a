"""The noise of Wan: flow matching along straight lines, with a network that predicts velocities.

A noisy latent is x = (1 - sigma) x0 + sigma n, the velocity n - x0; the network is told 1000 sigma.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TRAINING_STEPS = 1000
"""Noise levels of the training schedule, and the timestep of pure noise."""
RELEASE_SHIFT = 5.0
"""Shift that Wan is sampled and trained with at the sizes FantasyTalking uses."""


def shifted_sigmas(steps: int, shift: float = RELEASE_SHIFT) -> Tensor:
    """Return (steps + 1,) float32 noise levels from 1 down, and 0: s u / (1 + (s - 1) u) of even steps u.

    shift: s > 0; above 1, more of the steps are spent at high noise. Levels of FlowMatchScheduler with one extra step.
    Raises ValueError for less than one step, or a shift that is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift is {shift}, expected a positive number; 1 leaves the steps even")
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return (shift * even / (1 + (shift - 1) * even)).float()


def timesteps(sigmas: Tensor) -> Tensor:
    """Return what the network is told of noise levels: 1000 sigma, not rounded, float32."""
    return TRAINING_STEPS * sigmas.float()


def euler_step(
    latents: Tensor, velocity: Tensor, sigma: Tensor | float, next_sigma: Tensor | float
) -> Tensor:
    """Return the latents at the next noise level, along the velocity: x + (sigma' - sigma) v.

    sigma, next_sigma: one for all latents, or (B,), one for each of a batch.
    """
    return latents + velocity * (_for_each(next_sigma, latents) - _for_each(sigma, latents))


def noisy_latents(clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """Return (1 - sigma) clean + sigma noise. sigma: one for all, or (B,), one for each of a batch."""
    sigma = _for_each(sigma, clean)
    return (1 - sigma) * clean + sigma * noise


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity that the network is to predict: noise - clean, at every noise level."""
    return noise - clean


def training_weight(timestep: Tensor, shift: float = RELEASE_SHIFT) -> Tensor:
    """Return the weight of the squared error of each timestep (...,) in 0..1000, float32 >= 0.

    A bell around the middle of the schedule, exp(-2 ((t - 500) / 1000)^2), less its least value over the schedule's
    1000 timesteps (`shifted_sigmas(1000, shift)` without the 0), brought to a mean of 1 over them. It is 0 at t = 1000.
    """
    schedule = timesteps(shifted_sigmas(TRAINING_STEPS, shift)[:-1]).double()
    least = _bell(schedule).min()
    mean = (_bell(schedule) - least).mean()
    return (
        ((_bell(timestep.double()) - least.to(timestep.device)) / mean.to(timestep.device))
        .clamp(min=0)
        .float()
    )


def _bell(timestep: Tensor) -> Tensor:
    return torch.exp(-2 * (timestep / TRAINING_STEPS - 0.5) ** 2)


def _for_each(sigma: Tensor | float, latents: Tensor) -> Tensor | float:
    """Return the levels in a shape that multiplies latents."""
    if not isinstance(sigma, Tensor) or sigma.ndim == 0:
        return sigma
    return sigma.to(latents).reshape(-1, *[1] * (latents.ndim - 1))
