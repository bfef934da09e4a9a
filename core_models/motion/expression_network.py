"""The expression network of ACTalker's driving video: a ResNet-50 with group norm, a face crop to 512 numbers.

What the release computes (expression_model in vasa_feat/MX31c_32k.ckpt), with the published keys: the bottleneck ResNet
of He et al. (arXiv 1512.03385) with a group norm of one group in place of each batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from .group_norm_resnet import GroupNormResNet


@dataclass(frozen=True)
class ExpressionNetworkParameters:
    """Sizes; the defaults are the published ones.

    depths, widths: blocks of each stage, and the inner channels of these; the first stage keeps the size, the others
    halve it. expansion: a block's outer channels over its inner ones. groups: of each norm. features: what comes out.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    expansion: int = 4
    groups: int = 1
    features: int = 512


class Bottleneck(nn.Module):
    """ReLU of the input plus: to the inner channels, 3x3, to the outer channels, each with its norm."""

    def __init__(self, channels: int, width: int, stride: int, p: ExpressionNetworkParameters) -> None:
        super().__init__()
        outer = width * p.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.gn1 = nn.GroupNorm(p.groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.gn2 = nn.GroupNorm(p.groups, width)
        self.conv3 = nn.Conv2d(width, outer, 1, bias=False)
        self.gn3 = nn.GroupNorm(p.groups, outer)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, outer, 1, stride, bias=False), nn.GroupNorm(p.groups, outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width * expansion, H / stride, W / stride)."""
        inner = F.relu(self.gn1(self.conv1(x)))
        inner = F.relu(self.gn2(self.conv2(inner)))
        kept = x if self.downsample is None else self.downsample(x)
        return F.relu(self.gn3(self.conv3(inner)) + kept)


class ExpressionNetwork(nn.Module):
    """A face crop to numbers that tell its expression."""

    def __init__(self, parameters: ExpressionNetworkParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = parameters or ExpressionNetworkParameters()
        p = self.parameters_used
        self.resnet50 = GroupNormResNet(
            *(p.depths, p.widths, p.groups, p.features, "gn1"),
            make_block=lambda channels, width, stride: Bottleneck(channels, width, stride, p),
            expansion=p.expansion,
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Return features (B, features) of RGB crops (B, 3, H, W) in 0..1; 256 x 256 is what it was trained on.

        Raises ValueError for another shape.
        """
        return self.resnet50(pictures)
