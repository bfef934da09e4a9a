"""LivePortrait's motion extractor: a picture to head pose, expression, scale, translation and keypoints.

Source: LivePortrait (arXiv 2407.03168) section 3.1 on ConvNeXt V2 (arXiv 2301.00808) tiny; keys are the published
ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class MotionExtractorParameters:
    """Sizes of the extractor; the defaults describe the published file.

    depths, widths: blocks and channels of each stage. keypoints: how many. angle_bins: of each head angle.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    keypoints: int = 21
    angle_bins: int = 66


class ExtractedMotion(NamedTuple):
    """What a picture shows; raw numbers of the network.

    pitch, yaw, roll: (B, 66) logits of angle bins. translation: (B, 3). expression: (B, 63), x, y, z of each
    keypoint's shift. scale: (B, 1). keypoints: (B, 63), x, y, z of each canonical keypoint.
    """

    pitch: Tensor
    yaw: Tensor
    roll: Tensor
    translation: Tensor
    expression: Tensor
    scale: Tensor
    keypoints: Tensor


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """Channels of (B, H, W, C) raised or lowered by how strong they are against the others (equation 3 there)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        strength = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        relative = strength / (strength.mean(dim=-1, keepdim=True) + NORM_EPSILON)
        return self.gamma * (x * relative) + self.beta + x


class ConvNextBlock(nn.Module):
    """x plus depthwise 7x7, norm, expansion to four times the channels, GELU, response norm, projection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        out = self.pwconv2(self.grn(F.gelu(self.pwconv1(out))))
        return x + out.permute(0, 3, 1, 2)


def _reductions(widths: tuple[int, ...]) -> nn.ModuleList:
    """A convolution before each stage: 4x4 at the start, then 2x2; the order of norm and convolution differs."""
    first = nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), ChannelNorm(widths[0]))
    later = (
        nn.Sequential(ChannelNorm(before), nn.Conv2d(before, after, 2, stride=2))
        for before, after in pairwise(widths)
    )
    return nn.ModuleList([first, *later])


class Detector(nn.Module):
    """ConvNeXt V2 and a linear head for each quantity."""

    def __init__(self, parameters: MotionExtractorParameters) -> None:
        super().__init__()
        p, width = parameters, parameters.widths[-1]
        self.downsample_layers = _reductions(p.widths)
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNextBlock(channels) for _ in range(depth)))
            for depth, channels in zip(p.depths, p.widths, strict=True)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.fc_kp = nn.Linear(width, 3 * p.keypoints)
        self.fc_scale = nn.Linear(width, 1)
        self.fc_pitch = nn.Linear(width, p.angle_bins)
        self.fc_yaw = nn.Linear(width, p.angle_bins)
        self.fc_roll = nn.Linear(width, p.angle_bins)
        self.fc_t = nn.Linear(width, 3)
        self.fc_exp = nn.Linear(width, 3 * p.keypoints)

    def forward(self, image: Tensor) -> ExtractedMotion:
        x = image
        for reduction, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(reduction(x))
        x = self.norm(x.mean(dim=(2, 3)))
        heads = (self.fc_pitch, self.fc_yaw, self.fc_roll, self.fc_t, self.fc_exp, self.fc_scale, self.fc_kp)
        return ExtractedMotion(*(head(x) for head in heads))


class MotionExtractor(nn.Module):
    """Picture to motion."""

    def __init__(self, parameters: MotionExtractorParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = parameters or MotionExtractorParameters()
        self.detector = Detector(self.parameters_used)

    def forward(self, image: Tensor) -> ExtractedMotion:
        """Return the motion of (B, 3, H, W) pictures, RGB in 0..1; H and W divisible by 32, 256 was learnt."""
        return self.detector(image)
