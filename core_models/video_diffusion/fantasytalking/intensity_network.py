"""How much face and body move, as a vector added to the time embedding (arXiv 2504.04842, section 3.2 and figure 2).

The paper's order: an MLP for each coefficient, both side by side, a residual layer, the mean, and a projection. It
gives no sizes and released no weights: all sizes here are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COEFFICIENTS = 2
"""Face and body, in this order."""
COEFFICIENT_SCALE = 100.0
"""Coefficients are multiplied by this before they become waves: the shortest is a sixteenth of the range 0..1 long."""
LONGEST_WAVE = 10_000.0
"""Of the waves, over the shortest; as the time embedding has it."""
KERNEL = 3
"""Of the residual layer's convolutions over the two coefficients: each sees the other."""


@dataclass(frozen=True)
class IntensityParameters:
    """Sizes; none is in the paper.

    frequency_dim: waves of a coefficient, even. hidden: of the MLPs and the residual layer. width: of the time
    embedding that the result is added to.
    Raises ValueError for anything but whole numbers above 0, or an odd frequency_dim.
    """

    frequency_dim: int = 256
    hidden: int = 512
    width: int = 5120

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"IntensityParameters.{one.name} is {value!r}, expected a whole number >= 1")
        if self.frequency_dim % 2:
            raise ValueError(f"frequency_dim is {self.frequency_dim}, expected an even number")


def coefficient_waves(coefficients: Tensor, count: int) -> Tensor:
    """Return (..., count) float32 cosines, then sines, of coefficients (...), at falling frequencies."""
    half = count // 2
    places = torch.arange(half, device=coefficients.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(LONGEST_WAVE) * places / half)
    angles = COEFFICIENT_SCALE * coefficients.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResidualLayer(nn.Module):
    """Two convolutions over a short row, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2)
        self.conv2 = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2)

    def forward(self, row: Tensor) -> Tensor:
        """(B, width, T) -> (B, width, T)."""
        return row + self.conv2(F.silu(self.conv1(F.silu(row))))


class IntensityNetwork(nn.Module):
    """Two coefficients to a vector for the time embedding; 0 before training, as the projection begins at 0."""

    def __init__(self, parameters: IntensityParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or IntensityParameters()
        self.face, self.body = (
            nn.Sequential(nn.Linear(p.frequency_dim, p.hidden), nn.SiLU(), nn.Linear(p.hidden, p.hidden))
            for _ in range(COEFFICIENTS)
        )
        self.residual = ResidualLayer(p.hidden)
        self.proj_out = nn.Linear(p.hidden, p.width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, coefficients: Tensor) -> Tensor:
        """Return (B, width) of coefficients (B, 2) in 0..1, face and body. Raises ValueError for another shape."""
        p = self.parameters_used
        if coefficients.ndim != 2 or coefficients.shape[1] != COEFFICIENTS:
            raise ValueError(
                f"motion coefficients have shape {tuple(coefficients.shape)}, expected (batch, 2): face and body"
            )
        waves = coefficient_waves(coefficients, p.frequency_dim).to(self.proj_out.weight.dtype)
        row = torch.stack([self.face(waves[:, 0]), self.body(waves[:, 1])], dim=-1)
        return self.proj_out(F.silu(self.residual(row).mean(dim=-1)))
