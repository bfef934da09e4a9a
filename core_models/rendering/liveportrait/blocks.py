"""Blocks that several LivePortrait networks share: convolution, batch norm, activation.

Attribute names are the keys of the published files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvolutionBlock2d(nn.Module):
    """3x3 convolution and batch norm; the activation belongs to the caller."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class DownBlock2d(ConvolutionBlock2d):
    """3x3 convolution, batch norm, ReLU, 2x2 average."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.relu(super().forward(x)), 2)


class ConvolutionBlock3d(nn.Module):
    """3x3x3 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class ResidualBlock3d(nn.Module):
    """x + convolution(ReLU(norm(convolution(ReLU(norm(x)))))), channels kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(channels)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(out)))


def identity_grid(depth: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return (depth, height, width, 3) float32 positions x, y, z, each from -1 to 1 inclusive."""
    z, y, x = (torch.linspace(-1, 1, size, device=device) for size in (depth, height, width))
    grid = torch.meshgrid(z, y, x, indexing="ij")
    return torch.stack(grid[::-1], dim=-1)
