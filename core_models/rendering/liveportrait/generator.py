"""LivePortrait's SPADE generator: moved features to a picture.

Source: SPADE (arXiv 1903.07291) equation 1 and figure 4, spectral norm (arXiv 1802.05957), as released by
LivePortrait (arXiv 2407.03168); keys are the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEGATIVE_SLOPE = 0.2
MODULATION_CHANNELS = 128
"""Of the published file, between the features and the gain and offset of every norm."""
PICTURE_CHANNELS = 3


@dataclass(frozen=True)
class GeneratorParameters:
    """Sizes of the generator; the defaults describe the published file.

    feature_channels: of the moved features, which also modulate every block. channels: of the middle blocks.
    middle_blocks: at the features' size. out_channels: before the picture. upscale: of the last step, 2 for a
    picture of eight times the features' size, 1 for four times. modulation_channels: between the features and the
    gain and offset of every norm.

    Raises ValueError for modulation_channels below 1.
    """

    feature_channels: int = 256
    channels: int = 512
    middle_blocks: int = 6
    out_channels: int = 64
    upscale: int = 2
    modulation_channels: int = MODULATION_CHANNELS

    def __post_init__(self) -> None:
        if self.modulation_channels < 1:
            raise ValueError(f"modulation_channels is {self.modulation_channels}, expected at least 1")


class SpectralNormConvolution(nn.Module):
    """A convolution divided by its largest singular value, as files hold it: u and v are from training.

    Weight = weight_orig / (u . W v), W being weight_orig as a matrix with a row for each output channel.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.padding = kernel // 2
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_orig = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.register_buffer("weight_u", torch.empty(out_channels))
        self.register_buffer("weight_v", torch.empty(in_channels * kernel * kernel))
        nn.init.kaiming_uniform_(self.weight_orig)
        nn.init.normal_(self.weight_u)
        nn.init.normal_(self.weight_v)

    @property
    def weight(self) -> Tensor:
        """(out, in, kernel, kernel): the weight that convolves."""
        sigma = self.weight_u @ (self.weight_orig.flatten(1) @ self.weight_v)
        return self.weight_orig / sigma

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """Return the plain convolution that computes the same."""
        out_channels, in_channels, kernel, _ = self.weight_orig.shape
        with torch.device("meta"):
            plain = nn.Conv2d(
                in_channels, out_channels, kernel, padding=self.padding, bias=self.bias is not None
            )
        plain.weight = nn.Parameter(self.weight, requires_grad=self.weight_orig.requires_grad)
        plain.bias = self.bias
        return plain.train(self.training)


def fold_spectral_norm(module: nn.Module) -> nn.Module:
    """Replace every SpectralNormConvolution inside `module` by the plain convolution it is; return `module`."""
    for name, child in list(module.named_children()):
        if isinstance(child, SpectralNormConvolution):
            setattr(module, name, child.folded())
        else:
            fold_spectral_norm(child)
    return module


class SpadeNorm(nn.Module):
    """Instance norm whose gain and offset are convolved from the features."""

    def __init__(self, channels: int, feature_channels: int, modulation_channels: int) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(
            nn.Conv2d(feature_channels, modulation_channels, 3, padding=1), nn.ReLU()
        )
        self.mlp_gamma = nn.Conv2d(modulation_channels, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(modulation_channels, channels, 3, padding=1)

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        shared = self.mlp_shared(F.interpolate(feature, size=x.shape[2:], mode="nearest"))
        return F.instance_norm(x) * (1 + self.mlp_gamma(shared)) + self.mlp_beta(shared)


class SpadeBlock(nn.Module):
    """Residual block of two modulated convolutions; a third in the shortcut when the channels change."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        feature_channels: int,
        modulation_channels: int = MODULATION_CHANNELS,
    ) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.conv_0 = SpectralNormConvolution(in_channels, middle, 3)
        self.conv_1 = SpectralNormConvolution(middle, out_channels, 3)
        self.norm_0 = SpadeNorm(in_channels, feature_channels, modulation_channels)
        self.norm_1 = SpadeNorm(middle, feature_channels, modulation_channels)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.conv_s = SpectralNormConvolution(in_channels, out_channels, 1, bias=False)
            self.norm_s = SpadeNorm(in_channels, feature_channels, modulation_channels)

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        shortcut = self.conv_s(self.norm_s(x, feature)) if self.has_shortcut else x
        out = self.conv_0(F.leaky_relu(self.norm_0(x, feature), NEGATIVE_SLOPE))
        return shortcut + self.conv_1(F.leaky_relu(self.norm_1(out, feature), NEGATIVE_SLOPE))


class SpadeGenerator(nn.Module):
    """Features to picture: six blocks at their size, two with the size doubled before each, pixel shuffle."""

    def __init__(self, parameters: GeneratorParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or GeneratorParameters()
        self.fc = nn.Conv2d(p.feature_channels, p.channels, 3, padding=1)
        widths = p.feature_channels, p.modulation_channels
        for index in range(p.middle_blocks):
            setattr(self, f"G_middle_{index}", SpadeBlock(p.channels, p.channels, *widths))
        self.up_0 = SpadeBlock(p.channels, p.feature_channels, *widths)
        self.up_1 = SpadeBlock(p.feature_channels, p.out_channels, *widths)
        if p.upscale > 1:
            last = nn.Conv2d(p.out_channels, PICTURE_CHANNELS * p.upscale**2, 3, padding=1)
            self.conv_img = nn.Sequential(last, nn.PixelShuffle(p.upscale))
        else:
            self.conv_img = nn.Conv2d(p.out_channels, PICTURE_CHANNELS, 3, padding=1)

    @property
    def middle(self) -> list[SpadeBlock]:
        """The blocks at the features' size, in order."""
        return [getattr(self, f"G_middle_{index}") for index in range(self.parameters_used.middle_blocks)]

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, 3, 8 H, 8 W) pictures in 0..1 of (B, 256, H, W) moved features."""
        x = self.fc(feature)
        for block in self.middle:
            x = block(x, feature)
        x = self.up_0(F.interpolate(x, scale_factor=2), feature)
        x = self.up_1(F.interpolate(x, scale_factor=2), feature)
        return self.conv_img(F.leaky_relu(x, NEGATIVE_SLOPE)).sigmoid()
