"""Noise schedules and the deterministic DDIM step (Song et al. 2020, eta = 0)."""

from __future__ import annotations

import torch
from torch import Tensor

from .choices import LEADING, SPACINGS, TRAILING

TRAINING_STEPS = 1000
LINEAR_BETAS = (1e-5, 8e-3)
DDPM_BETAS = (1e-4, 2e-2)
COSINE_OFFSET = 0.008


def alphas_cumprod(schedule: str) -> Tensor:
    """Return (1000,) float32: the share of signal variance left at each timestep.

    "linear" is KDTalker's; "ddpm" is linear too, with the betas of Ho et al., as AniTalker and so Takin-ADA use them;
    "cosine" is Nichol and Dhariwal's. Raises ValueError for another name.
    """
    betas = {"linear": LINEAR_BETAS, "ddpm": DDPM_BETAS}.get(schedule)
    if betas is not None:
        return torch.cumprod(1 - torch.linspace(*betas, TRAINING_STEPS), dim=0)
    if schedule == "cosine":
        t = (torch.arange(TRAINING_STEPS, dtype=torch.float64) + 1) / TRAINING_STEPS
        angle = (t + COSINE_OFFSET) / (1 + COSINE_OFFSET) * torch.pi / 2
        return (angle.cos() ** 2).clamp(1e-5, 1 - 1e-5).float()
    raise ValueError(f"unknown schedule {schedule!r}, expected 'linear', 'ddpm' or 'cosine'")


def sampling_timesteps(steps: int, spacing: str = LEADING) -> list[int]:
    """Return the timesteps of a DDIM run, noisiest first.

    "leading" is (1000 // n) * i, as the released KDTalker samples; "trailing" starts at 999, which is
    needed when few steps are taken. Raises ValueError for a count outside 1..1000 or another spacing.
    """
    if not 1 <= steps <= TRAINING_STEPS:
        raise ValueError(f"steps is {steps}, expected 1..{TRAINING_STEPS}")
    if spacing == LEADING:
        return [(TRAINING_STEPS // steps) * index for index in reversed(range(steps))]
    if spacing == TRAILING:
        return [round(TRAINING_STEPS * (index + 1) / steps) - 1 for index in reversed(range(steps))]
    raise ValueError(f"unknown spacing {spacing!r}, expected {' or '.join(SPACINGS)}")


def split_prediction(prediction: Tensor, x: Tensor, signal: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return (x0, epsilon) from a network's prediction at signal share `signal` (alpha bar)."""
    if kind == "epsilon":
        return (x - (1 - signal).sqrt() * prediction) / signal.sqrt(), prediction
    return prediction, (x - signal.sqrt() * prediction) / (1 - signal).sqrt()


def ddim_step(x0: Tensor, epsilon: Tensor, next_signal: Tensor) -> Tensor:
    """Return the sample at the next, less noisy, signal share."""
    return next_signal.sqrt() * x0 + (1 - next_signal).sqrt() * epsilon
