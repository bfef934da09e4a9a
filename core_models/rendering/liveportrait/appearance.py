"""LivePortrait's appearance feature extractor: a picture to a volume of features, once per source.

Source: LivePortrait (arXiv 2407.03168), after face-vid2vid (arXiv 2011.15126) figure 3; keys are the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import ConvolutionBlock2d, DownBlock2d, ResidualBlock3d

PICTURE_CHANNELS = 3


@dataclass(frozen=True)
class AppearanceParameters:
    """Sizes of the extractor; the defaults describe the published file.

    first_channels: after the first convolution, doubled by each of down_blocks up to max_channels.
    volume_channels, volume_depth: of the feature volume. residual_blocks: 3-D ones at the end.
    """

    first_channels: int = 64
    down_blocks: int = 2
    max_channels: int = 512
    volume_channels: int = 32
    volume_depth: int = 16
    residual_blocks: int = 6


class AppearanceFeatureExtractor(nn.Module):
    """Picture to feature volume."""

    def __init__(self, parameters: AppearanceParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or AppearanceParameters()
        widths = [min(p.max_channels, p.first_channels << level) for level in range(p.down_blocks + 1)]
        self.first = ConvolutionBlock2d(PICTURE_CHANNELS, widths[0])
        self.down_blocks = nn.ModuleList(DownBlock2d(before, after) for before, after in pairwise(widths))
        self.second = nn.Conv2d(widths[-1], p.volume_channels * p.volume_depth, 1)
        self.resblocks_3d = nn.ModuleDict(
            {f"3dr{index}": ResidualBlock3d(p.volume_channels) for index in range(p.residual_blocks)}
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, 32, 16, H/4, W/4) features of (B, 3, H, W) pictures in 0..1; 256x256 is what it learnt."""
        x = F.relu(self.first(image))
        for block in self.down_blocks:
            x = block(x)
        x = self.second(x).unflatten(1, (self.parameters_used.volume_channels, -1))
        for block in self.resblocks_3d.values():
            x = block(x)
        return x
