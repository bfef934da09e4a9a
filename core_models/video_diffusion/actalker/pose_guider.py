"""ACTalker's pose guider: the face mask of each frame to what is added behind the UNet's first convolution.

What the release computes (pose_guider of its files), with the published keys: convolutions on each frame by itself, as
in AnimateAnyone's pose guider (arXiv 2311.17117). The last one starts at 0, so that training starts from the UNet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 3


@dataclass(frozen=True)
class PoseGuiderParameters:
    """Sizes; the defaults are the published ones.

    channels_in: of the mask. widths: of the first convolution and of each level after it. strides: from one level to
    the next; their product is the UNet's reduction, 8. channels: of the UNet's first convolution.
    Raises ValueError unless there is a stride between each two widths, and all are at least 1.
    """

    channels_in: int = 3
    widths: tuple[int, ...] = (16, 32, 96, 256)
    strides: tuple[int, ...] = (2, 2, 2)
    channels: int = 320

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.widths) - 1:
            raise ValueError(
                f"{len(self.widths)} widths need {len(self.widths) - 1} strides between them, got {self.strides}"
            )
        if min(self.channels_in, self.channels, *self.widths, *self.strides) < 1:
            raise ValueError(f"widths, strides and channels must be at least 1, got {self}")

    @property
    def stride(self) -> int:
        """Pixels of the mask to one row or column of the result."""
        return math.prod(self.strides)


class PoseGuider(nn.Module):
    """Two convolutions for each level, the second of which reduces; SiLU between all."""

    def __init__(self, parameters: PoseGuiderParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or PoseGuiderParameters()
        self.conv_in = _convolution(p.channels_in, p.widths[0])
        self.blocks = nn.ModuleList()
        for (width, following), stride in zip(pairwise(p.widths), p.strides, strict=True):
            self.blocks += [_convolution(width, width), _convolution(width, following, stride)]
        self.conv_out = _convolution(p.widths[-1], p.channels)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, masks: Tensor) -> Tensor:
        """Return (B, channels, F, H / stride, W / stride), rounded up, of masks (B, channels_in, F, H, W) in 0..1.

        Raises ValueError for another shape.
        """
        p = self.parameters_used
        if masks.ndim != 5 or masks.shape[1] != p.channels_in or 0 in masks.shape:
            raise ValueError(
                f"the pose guider's masks have shape {tuple(masks.shape)}, expected (batch, {p.channels_in}, frames, "
                "height, width), none of them 0"
            )
        batch, _, frames = masks.shape[:3]
        x = F.silu(self.conv_in(masks.transpose(1, 2).flatten(0, 1)))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x).unflatten(0, (batch, frames)).transpose(1, 2)


def _convolution(channels_in: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, KERNEL, stride, padding=KERNEL // 2)
