"""LivePortrait's dense motion network: keypoints of source and driving frame to a field of positions.

Source: face-vid2vid (arXiv 2011.15126) section 3.2 without Jacobians, as released by LivePortrait
(arXiv 2407.03168); keys are the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import ConvolutionBlock3d, identity_grid

KEYPOINT_VARIANCE = 0.01
"""Of the Gaussian around a keypoint, in units of the grid (-1..1)."""


@dataclass(frozen=True)
class DenseMotionParameters:
    """Sizes of the dense motion network; the defaults describe the published file.

    keypoints: how many; one motion more than that, the first for the background. volume_channels, volume_depth: of
    the feature volume. compressed_channels: of the volume that the motions sample. first_channels: doubled by each of
    the hourglass's blocks up to max_channels. mask_kernel: side of the convolution that shares out the motions.

    Raises ValueError for a mask_kernel that is even or below 1.
    """

    keypoints: int = 21
    volume_channels: int = 32
    volume_depth: int = 16
    compressed_channels: int = 4
    first_channels: int = 32
    max_channels: int = 1024
    blocks: int = 5
    mask_kernel: int = 7

    def __post_init__(self) -> None:
        if self.mask_kernel < 1 or self.mask_kernel % 2 == 0:
            raise ValueError(f"mask_kernel is {self.mask_kernel}, expected an odd number from 1 on")

    @property
    def motions(self) -> int:
        """Candidate motions: the identity and one for each keypoint."""
        return self.keypoints + 1

    @property
    def input_channels(self) -> int:
        """Of the hourglass: for each motion its heatmap and the compressed volume it samples."""
        return self.motions * (1 + self.compressed_channels)

    @property
    def widths(self) -> list[int]:
        """Channels at each resolution of the hourglass, finest (which only the decoder has) first."""
        return [min(self.max_channels, self.first_channels << level) for level in range(self.blocks + 1)]


class DenseMotion(NamedTuple):
    """What the network finds. D, H, W are those of the feature volume.

    deformation: (B, D, H, W, 3) x, y, z in -1..1, where in the source volume each place comes from.
    occlusion_map: (B, 1, H, W) in 0..1. mask: (B, 22, D, H, W), the share of each motion; sums to 1.
    """

    deformation: Tensor
    occlusion_map: Tensor
    mask: Tensor


class DownBlock3d(ConvolutionBlock3d):
    """3x3x3 convolution, batch norm, ReLU, average over 2x2 of height and width."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(super().forward(x), (1, 2, 2))


class UpBlock3d(ConvolutionBlock3d):
    """Height and width doubled by repetition, 3x3x3 convolution, batch norm, ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=(1, 2, 2)))


class Encoder(nn.Module):
    """The way down; returns the input and what every block makes."""

    def __init__(self, parameters: DenseMotionParameters) -> None:
        super().__init__()
        widths = [parameters.input_channels, *parameters.widths[1:]]
        self.down_blocks = nn.ModuleList(DownBlock3d(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = [x]
        for block in self.down_blocks:
            found.append(block(found[-1]))
        return found


class Decoder(nn.Module):
    """The way up; what comes from below is joined with what the encoder had at that resolution."""

    def __init__(self, parameters: DenseMotionParameters) -> None:
        super().__init__()
        widths = parameters.widths
        joined = [*(2 * width for width in widths[:-1]), widths[-1]]
        levels = range(parameters.blocks, 0, -1)
        self.up_blocks = nn.ModuleList(UpBlock3d(joined[level], widths[level - 1]) for level in levels)
        out_channels = widths[0] + parameters.input_channels
        self.conv = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm3d(out_channels)

    def forward(self, found: list[Tensor]) -> Tensor:
        x = found[-1]
        for block, skip in zip(self.up_blocks, found[-2::-1], strict=True):
            x = torch.cat([block(x), skip], dim=1)
        return F.relu(self.norm(self.conv(x)))


class Hourglass(nn.Module):
    """Encoder and decoder with joins at every resolution."""

    def __init__(self, parameters: DenseMotionParameters) -> None:
        super().__init__()
        self.encoder = Encoder(parameters)
        self.decoder = Decoder(parameters)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def keypoint_heatmaps(keypoints: Tensor, grid: Tensor) -> Tensor:
    """Return (B, K, D, H, W): a Gaussian around each of (B, K, 3) keypoints on a (D, H, W, 3) grid."""
    distance = grid - keypoints[:, :, None, None, None]
    return torch.exp(-0.5 * distance.square().sum(-1) / KEYPOINT_VARIANCE)


def candidate_motions(kp_driving: Tensor, kp_source: Tensor, grid: Tensor) -> Tensor:
    """Return (B, K + 1, D, H, W, 3): the grid as it is, then moved from each driving to its source keypoint."""
    moved = grid + (kp_source - kp_driving)[:, :, None, None, None]
    return torch.cat([grid.expand(len(moved), 1, *grid.shape), moved], dim=1)


class DenseMotionNetwork(nn.Module):
    """Which of the candidate motions holds where, and what the source does not show."""

    def __init__(self, parameters: DenseMotionParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or DenseMotionParameters()
        self.hourglass = Hourglass(p)
        out_channels = p.widths[0] + p.input_channels
        self.mask = nn.Conv3d(out_channels, p.motions, p.mask_kernel, padding=p.mask_kernel // 2)
        self.compress = nn.Conv3d(p.volume_channels, p.compressed_channels, 1)
        self.norm = nn.BatchNorm3d(p.compressed_channels)
        self.occlusion = nn.Conv2d(out_channels * p.volume_depth, 1, 7, padding=3)

    def forward(self, feature_3d: Tensor, kp_driving: Tensor, kp_source: Tensor) -> DenseMotion:
        """Return the motion for (B, 32, 16, H, W) features and (B, 21, 3) keypoints; H and W divisible by 32."""
        grid = identity_grid(*feature_3d.shape[2:], device=feature_3d.device)
        motions = candidate_motions(kp_driving, kp_source, grid)
        x = self.hourglass(self.candidates(feature_3d, motions, kp_driving, kp_source, grid))
        mask = self.mask(x).softmax(dim=1)
        deformation = (mask[..., None] * motions).sum(dim=1)
        occlusion_map = self.occlusion(x.flatten(1, 2)).sigmoid()
        return DenseMotion(deformation, occlusion_map, mask)

    def candidates(
        self, feature_3d: Tensor, motions: Tensor, kp_driving: Tensor, kp_source: Tensor, grid: Tensor
    ) -> Tensor:
        """Return (B, 110, D, H, W): for each motion its heatmap and the compressed volume it samples.

        Sampling is align_corners=False though the grid runs to the corners: the published weights learnt so.
        """
        compressed = F.relu(self.norm(self.compress(feature_3d)))
        repeated = compressed.repeat_interleave(motions.shape[1], dim=0)
        sampled = F.grid_sample(repeated, motions.flatten(0, 1), align_corners=False)
        sampled = sampled.unflatten(0, motions.shape[:2])
        heatmaps = keypoint_heatmaps(kp_driving, grid) - keypoint_heatmaps(kp_source, grid)
        heatmaps = F.pad(heatmaps, (0, 0, 0, 0, 0, 0, 1, 0))[:, :, None]
        return torch.cat([heatmaps, sampled], dim=2).flatten(1, 2)
