"""LivePortrait's SPADE generator with transformed convolutions, for processors: same results, far fewer products.

Built from a SpadeGenerator with spectral norm folded; maps are tiled and channels come last. One frame at a time.
What is left out without changing the picture: convolution biases that an instance norm takes off again, statistics
computed twice, and the enlargement of features before their convolutions.

Where a precision is asked for, it is that of gains and offsets (half of all products). In bfloat16 those change the
picture by 0.2 to 0.5 %; the convolutions that the residual sum runs through would change it by 2 % in transformed
form, and stay in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .generator import NEGATIVE_SLOPE, SpadeBlock, SpadeGenerator, SpadeNorm
from .prepared_source import Check, go_on
from .tiled_map import retiled, untiled
from .winograd import TransformedConvolution, nearest_axis, picture_axes, winograd_axis

INSTANCE_NORM_EPSILON = 1e-5
TILE = 4
"""Rows and columns of a tile. Maps before an enlargement are cut into tiles of half as many, which the enlargement
makes whole, tile by tile."""


class TransformedSpadeNorm(nn.Module):
    """Instance norm with gain and offset convolved from the features, both by one convolution, and activation."""

    def __init__(self, norm: SpadeNorm, scale: int, precision: torch.dtype, activation: bool = True) -> None:
        """scale: how often rows and columns of the features repeat at this norm. activation: leaky ReLU at the end."""
        super().__init__()
        self.activation = activation
        first, axes = (
            norm.mlp_shared[0],
            picture_axes(nearest_axis(scale) if scale > 1 else winograd_axis(TILE)),
        )
        self.shared = TransformedConvolution(first.weight, first.bias, axes, precision)
        weight = torch.cat([norm.mlp_gamma.weight, norm.mlp_beta.weight])
        bias = torch.cat([norm.mlp_gamma.bias + 1, norm.mlp_beta.bias])
        self.modulation = TransformedConvolution(weight, bias, picture_axes(winograd_axis(TILE)), precision)

    def shared_features(self, features: Tensor) -> Tensor:
        """Return what gain and offset are convolved from, for features in tiles of one, or of TILE at scale 1."""
        return retiled(self.shared(features).relu_(), (1, TILE, TILE))

    def rows(self, normed: Tensor, shared: Tensor, first: int, last: int) -> Tensor:
        """Return normed * gain + offset, activated, for some tile rows.

        normed: the normalised map's tile rows first..last-1; its tiles may be half as large, then each of their
        values counts for 2x2 of the output.
        """
        gain, offset = self.modulation.rows(shared, first, last).chunk(2, dim=-1)
        if normed.shape[1] != TILE:
            normed = normed.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        out = torch.addcmul(offset, normed, gain)
        return F.leaky_relu_(out, NEGATIVE_SLOPE) if self.activation else out

    def forward(self, normed: Tensor, shared: Tensor) -> Tensor:
        """Return all rows."""
        step, count = self.modulation.rows_at_a_time(shared), shared.shape[3]
        out = shared.new_empty(1, TILE, TILE, *shared.shape[3:6], normed.shape[-1])
        for first in range(0, count, step):
            last = min(first + step, count)
            out[:, :, :, first:last] = self.rows(normed[:, :, :, first:last], shared, first, last)
        return out


def instance_normed(tiles: Tensor) -> Tensor:
    """Return the map with mean 0 and variance 1 in every channel."""
    flat = tiles.flatten(0, 5)
    centred = flat - flat.mean(dim=0)
    variance = centred.square().mean(dim=0)  # several times as fast as var_mean over the first axis
    return centred.mul_((variance + INSTANCE_NORM_EPSILON).rsqrt()).view_as(tiles)


def _residual_convolution(convolution: nn.Conv2d, bias: bool = False) -> TransformedConvolution:
    """Float32 always. bias: False where an instance norm follows, which takes it off again."""
    axes = picture_axes(winograd_axis(TILE))
    return TransformedConvolution(convolution.weight, convolution.bias if bias else None, axes)


class TransformedSpadeBlock(nn.Module):
    """A residual block whose channels stay."""

    def __init__(self, block: SpadeBlock, precision: torch.dtype) -> None:
        super().__init__()
        self.norm_0 = TransformedSpadeNorm(block.norm_0, 1, precision)
        self.norm_1 = TransformedSpadeNorm(block.norm_1, 1, precision)
        self.conv_0 = _residual_convolution(block.conv_0)
        self.conv_1 = _residual_convolution(block.conv_1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the block's output without its last bias; x and features in tiles of TILE."""
        out = self.conv_0(self.norm_0(instance_normed(x), self.norm_0.shared_features(features)))
        out = self.conv_1(self.norm_1(instance_normed(out), self.norm_1.shared_features(features)))
        return out.add_(x)


class TransformedUpBlock(nn.Module):
    """Rows and columns doubled, then a residual block with a convolved shortcut."""

    def __init__(self, block: SpadeBlock, scale: int, precision: torch.dtype, bias: bool) -> None:
        """scale: of the output against the features. bias: whether the last bias counts."""
        super().__init__()
        self.norm_0 = TransformedSpadeNorm(block.norm_0, scale, precision)
        self.norm_1 = TransformedSpadeNorm(block.norm_1, scale, precision)
        self.norm_s = TransformedSpadeNorm(block.norm_s, scale, precision, activation=False)
        self.conv_0 = _residual_convolution(block.conv_0)
        self.conv_1 = _residual_convolution(block.conv_1, bias)
        self.register_buffer("shortcut_weight", block.conv_s.weight.flatten(1).T.float().contiguous())

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the output in tiles of TILE; x before doubling, features in tiles of one."""
        normed = retiled(instance_normed(x), (1, TILE // 2, TILE // 2))  # repeating keeps mean and variance
        out = self.conv_0(self.norm_0(normed, self.norm_0.shared_features(features)))
        out = self.norm_1(instance_normed(out), self.norm_1.shared_features(features))
        return self.conv_1(out).add_(self._shortcut(normed, self.norm_s.shared_features(features)))

    def _shortcut(self, normed: Tensor, shared: Tensor) -> Tensor:
        step, count = self.norm_s.modulation.rows_at_a_time(shared), shared.shape[3]
        out = shared.new_empty(1, TILE, TILE, *shared.shape[3:6], self.shortcut_weight.shape[1])
        for first in range(0, count, step):
            last = min(first + step, count)
            rows = self.norm_s.rows(normed[:, :, :, first:last], shared, first, last)
            out[:, :, :, first:last] = rows @ self.shortcut_weight
        return out


class TransformedGenerator(nn.Module):
    """The generator on tiled maps."""

    def __init__(self, generator: SpadeGenerator, precision: torch.dtype = torch.float32) -> None:
        """generator: with spectral norm folded and a picture of eight times the features' size."""
        super().__init__()
        self.first = _residual_convolution(generator.fc)
        self.middle = nn.ModuleList(TransformedSpadeBlock(block, precision) for block in generator.middle)
        self.up_0 = TransformedUpBlock(generator.up_0, 2, precision, bias=False)
        self.up_1 = TransformedUpBlock(generator.up_1, 4, precision, bias=True)
        self.last = _residual_convolution(generator.conv_img[0], bias=True)
        self.upscale = generator.parameters_used.upscale

    def forward(self, features: Tensor, check: Check = go_on) -> Tensor:
        """Return the (3, 8 H, 8 W) picture in 0..1 of a (1, 4, 4, H / 4, 1, W / 4, 256) map."""
        x = self.first(features)
        for block in self.middle:
            check()
            x = block(x, features)
        single = retiled(features, (1, 1, 1))
        for block in (self.up_0, self.up_1):
            check()
            x = block(x, single)
        colours = untiled(self.last(F.leaky_relu_(x, NEGATIVE_SLOPE)))[0].permute(2, 0, 1)
        return F.pixel_shuffle(colours, self.upscale).sigmoid()
