"""What a source portrait contributes to every frame drawn of it, and the geometry both methods share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .dense_motion import KEYPOINT_VARIANCE

Check = Callable[[], None]
"""Called between the steps of a frame, again and again within a second; may raise to cancel."""


def go_on() -> None:
    """A Check that never cancels."""


SMALLEST_HEAT = 1e-30
"""Heatmap values below count as zero: no output changes, and processors are slow with such small numbers."""


@dataclass(frozen=True)
class PreparedSource:
    """All that depends on the source alone; the layout of the last three is that of the method that made it.

    feature_3d: (1, 32, 16, 64, 64). keypoints: (1, 21, 3). compressed: the volume that motions sample.
    heatmaps: of the source keypoints. identity_sample: the compressed volume where nothing moves. All float32.
    """

    feature_3d: Tensor
    keypoints: Tensor
    compressed: Tensor
    heatmaps: Tensor
    identity_sample: Tensor


def folded_batch_norm(
    convolution: nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d | nn.BatchNorm3d
) -> tuple[Tensor, Tensor]:
    """Return float32 weight and bias of the convolution with the norm that follows it, as one."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = convolution.weight.double() * scale.view(-1, *[1] * (convolution.weight.dim() - 1))
    bias = (convolution.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
    return weight.float(), bias.float()


def axis_heat(positions: Tensor, centres: Tensor) -> Tensor:
    """Return (..., N, K): one axis of the Gaussians around (..., K) centres at (N,) positions."""
    return torch.exp((positions[:, None] - centres[..., None, :]).square() * (-0.5 / KEYPOINT_VARIANCE))


def without_tiny_heat(heatmaps: Tensor) -> Tensor:
    """Set values below SMALLEST_HEAT to zero in place; return the tensor."""
    return heatmaps.masked_fill_(heatmaps < SMALLEST_HEAT, 0)


def interpolation_weights(positions: Tensor, shifts: Tensor, size: int) -> Tensor:
    """Return (..., N, size): how `size` samples of an axis mix at each of (N,) positions moved by (...) shifts.

    Linear interpolation as of grid_sample(align_corners=False) with zeros outside. A translation moves each axis by
    itself, so three products with such matrices sample a volume.
    """
    pixels = ((positions + shifts[..., None] + 1) * size - 1) / 2
    steps = torch.arange(size, device=positions.device, dtype=positions.dtype)
    return (1 - (pixels[..., None] - steps).abs()).clamp_min_(0)
