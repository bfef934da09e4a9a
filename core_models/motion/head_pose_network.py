"""The head pose network of ACTalker's driving video: a ResNet-18 with group norm, a head crop to rotation and place.

What the release computes (pose_model in vasa_feat/MX31c_32k.ckpt), with the published keys: the basic ResNet of He et
al. (arXiv 1512.03385) with a group norm in place of each batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .group_norm_resnet import GroupNormResNet

ROTATION_SPAN = 360.0
"""Degrees that a rotation can range over: -180 to 180."""
TRANSLATION_SPAN = 4.0
"""What a translation can range over: -2 to 2, in the network's own unit."""
OUTPUT_SIZE = 6


@dataclass(frozen=True)
class HeadPoseNetworkParameters:
    """Sizes; the defaults are the published ones.

    depths, widths: blocks of each stage, and their channels; the first stage keeps the size, the others halve it.
    groups: of each norm.
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 32


class HeadPose(NamedTuple):
    """rotation: (B, 3) degrees in -180..180. translation: (B, 3) in -2..2."""

    rotation: Tensor
    translation: Tensor


class BasicBlock(nn.Module):
    """ReLU of the input plus two 3x3 convolutions, each with its norm."""

    def __init__(self, channels: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.GroupNorm(groups, width)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.GroupNorm(groups, width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width, H / stride, W / stride)."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class HeadPoseNetwork(nn.Module):
    """A head crop to where the head looks and where it is."""

    def __init__(self, parameters: HeadPoseNetworkParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = parameters or HeadPoseNetworkParameters()
        p = self.parameters_used
        self.head_pose_net = GroupNormResNet(
            *(p.depths, p.widths, p.groups, OUTPUT_SIZE, "bn1"),
            make_block=lambda channels, width, stride: BasicBlock(channels, width, stride, p.groups),
        )

    def forward(self, pictures: Tensor) -> HeadPose:
        """Return the pose of RGB crops (B, 3, H, W) in -1..1; 256 x 256 is what it was trained on.

        Raises ValueError for another shape.
        """
        shares = torch.sigmoid(self.head_pose_net(pictures)) - 0.5
        return HeadPose(ROTATION_SPAN * shares[:, :3], TRANSLATION_SPAN * shares[:, 3:])
