"""The noise of Stable Video Diffusion: EDM's levels and steps, with a network that predicts v.

A noisy latent is x = x0 + sigma * n; the network sees x / sqrt(sigma^2 + 1) and ln(sigma) / 4 (arXiv 2206.00364 with
sigma_data = 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 700.0, 7.0
"""The noise levels of SVD-XT."""


def karras_sigmas(steps: int, low: float = SIGMA_MIN, high: float = SIGMA_MAX, rho: float = RHO) -> Tensor:
    """Return (steps + 1,) float32 noise levels from `high` down to `low`, and 0 (arXiv 2206.00364, equation 5).

    Raises ValueError for less than one step.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()


def noise_condition(sigma: Tensor) -> Tensor:
    """Return what the network is told of a noise level: ln(sigma) / 4."""
    return 0.25 * torch.log(sigma)


def scaled_input(noisy: Tensor, sigma: Tensor) -> Tensor:
    """Return what the network sees of a noisy latent."""
    return noisy / torch.sqrt(sigma**2 + 1)


def denoised(noisy: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    """Return the estimate of the clean latent: x / (sigma^2 + 1) - v sigma / sqrt(sigma^2 + 1)."""
    return noisy / (sigma**2 + 1) - v * (sigma / torch.sqrt(sigma**2 + 1))


def v_target(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return the v for which `denoised` gives `clean`, of the noisy latent clean + sigma * noise.

    The plain squared error of v is EDM's loss weight (1 + sigma^2) / sigma^2 on the clean latent.
    """
    return (noise - sigma * clean) / torch.sqrt(sigma**2 + 1)


def euler_step(noisy: Tensor, v: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
    """Return the latent at the next noise level, along the straight line away from the clean estimate."""
    slope = (noisy - denoised(noisy, v, sigma)) / sigma
    return noisy + (following - sigma) * slope
