"""A small network that reads how far lips and eyes are open off small pictures; it measures, it is no product.

No landmark detector is to be trusted at 64 pixels, so this is fitted to made frames whose landmarks are known, and
tried on people it never saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .takin_ada_frames import FrameSet, pictures_of

WIDTHS = (3, 24, 48, 64)
SMALLEST_DEVIATION = 1e-3
READ_AT_ONCE = 256


def openings_of(frames: FrameSet) -> np.ndarray:
    """Return (F, 2) float32 opening ratios of the lips and, on average, of the eyes."""
    return np.stack([frames.openings[:, 2], frames.openings[:, :2].mean(axis=1)], axis=1)


class OpeningRegressor(nn.Module):
    """(B, 3, S, S) pictures in 0..1 to (B, 2) opening ratios of lips and eyes; S is a multiple of 8."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        layers: list[nn.Module] = []
        for before, after in pairwise(WIDTHS):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(WIDTHS[-1] * (size // 8) ** 2, 64), nn.ReLU()
        )
        self.head = nn.Linear(64, 2)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("deviation", torch.ones(2))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (B, 2) opening ratios of the lips and, on average, of the eyes, of (B, 3, S, S) pictures in 0..1."""
        return self.head(self.body(pictures)) * self.deviation + self.mean

    @torch.no_grad()
    def read(self, pictures: Tensor) -> np.ndarray:
        """Return (N, 2) float32 opening ratios of (N, 3, S, S) pictures in 0..1, a part at a time."""
        return torch.cat([self(part) for part in pictures.split(READ_AT_ONCE)]).numpy()


@dataclass(frozen=True)
class FittingParameters:
    """steps: updates, at least 1. seed: of what each learns from. batch: samples of an update. learning_rate: Adam's,
    led to 0 over the last third."""

    steps: int
    seed: int
    batch: int = 64
    learning_rate: float = 1e-3


def fitted(
    regressor: nn.Module, read: Callable[[np.ndarray], Tensor], wanted: Tensor, p: FittingParameters
) -> nn.Module:
    """Return a regressor, its buffers `mean` and `deviation` set from what is wanted, fitted and in evaluation mode.

    read: gives what the regressor reads off the samples of an index (B,). wanted: (F, ...) of all samples.
    Raises ValueError for steps below 1.
    """
    if p.steps < 1:
        raise ValueError(f"steps is {p.steps}, expected at least 1")
    regressor.mean.copy_(wanted.mean(dim=0))
    regressor.deviation.copy_(wanted.std(dim=0).clamp(min=SMALLEST_DEVIATION))
    optimiser = torch.optim.Adam(regressor.parameters(), lr=p.learning_rate)
    rng = np.random.default_rng(p.seed)
    for step in range(p.steps):
        for group in optimiser.param_groups:
            group["lr"] = p.learning_rate * min(1.0, 3 * (1 - step / p.steps))
        index = rng.integers(len(wanted), size=p.batch)
        error = (read(index) - wanted[index]) / regressor.deviation
        loss = F.smooth_l1_loss(error, torch.zeros_like(error))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return regressor.eval().requires_grad_(False)


def fitted_regressor(frames: FrameSet, steps: int = 800, seed: int = 0) -> OpeningRegressor:
    """Return a regressor fitted to frames with known openings, in evaluation mode.

    The same frames, steps and seed give the same one. Raises ValueError for steps below 1 or a size that 8 does not
    divide.
    """
    if steps < 1 or frames.size % 8:
        raise ValueError(f"steps is {steps} and size {frames.size}, expected at least 1 and a multiple of 8")
    wanted = torch.from_numpy(openings_of(frames))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        regressor = OpeningRegressor(frames.size)
    return fitted(
        regressor, lambda index: regressor(pictures_of(frames, index)), wanted, FittingParameters(steps, seed)
    )
