"""LivePortrait's warping module and generator on a device's own convolutions, for GPUs: batched, weights in half.

Built from the plain networks; batch norms are folded, what depends on the source is taken from PreparedSource, and
convolutions of one input are joined. Coordinates, heatmaps, softmax and the statistics of norms are float32 whatever
the precision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dense_motion import DenseMotionNetwork
from .generator import NEGATIVE_SLOPE, SpadeBlock, SpadeGenerator, SpadeNorm
from .prepared_source import (
    Check,
    PreparedSource,
    axis_heat,
    folded_batch_norm,
    go_on,
    interpolation_weights,
    without_tiny_heat,
)
from .warping import WARPED_NEGATIVE_SLOPE, WarpingModule

CHANNEL_MULTIPLE = 16
"""Half-precision units work on so many channels at a time; odd counts are filled up with zeros."""


class Convolution(nn.Module):
    """A convolution of given weights in a precision, its input brought to it; 2-D weights are channels last."""

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: torch.dtype) -> None:
        super().__init__()
        layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        self.register_buffer("weight", weight.to(precision).contiguous(memory_format=layout))
        self.register_buffer("bias", None if bias is None else bias.to(precision))

    def forward(self, x: Tensor) -> Tensor:
        convolution = F.conv2d if self.weight.dim() == 4 else F.conv3d
        return convolution(
            x.to(self.weight.dtype), self.weight, self.bias, padding=self.weight.shape[-1] // 2
        )


def _filled_up(size: int) -> int:
    return -(-size // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def _with_channels(tensor: Tensor, *sizes: int) -> Tensor:
    """Zeros appended to the first axes up to the sizes."""
    missing = [(0, size - length) for size, length in zip(sizes, tensor.shape, strict=False)]
    tail = [(0, 0)] * (tensor.dim() - len(sizes))
    return F.pad(tensor, [pad for pair in reversed(missing + tail) for pad in pair])


class DirectDenseMotion(nn.Module):
    """The dense motion network, batched over driving frames."""

    def __init__(self, network: DenseMotionNetwork, precision: torch.dtype) -> None:
        super().__init__()
        self.compress = Convolution(*folded_batch_norm(network.compress, network.norm), torch.float32)
        encoder, decoder = network.hourglass.encoder, network.hourglass.decoder
        self.down, self.up = (
            nn.ModuleList(
                Convolution(*folded_batch_norm(block.conv, block.norm), precision) for block in blocks
            )
            for blocks in (encoder.down_blocks, decoder.up_blocks)
        )
        weight, bias = folded_batch_norm(decoder.conv, decoder.norm)
        channels, motions = _filled_up(len(weight)), network.parameters_used.motions
        self.last = Convolution(_with_channels(weight, channels), _with_channels(bias, channels), precision)
        self.motions, outputs = motions, _filled_up(motions)
        self.mask = Convolution(
            _with_channels(network.mask.weight, outputs, channels),
            _with_channels(network.mask.bias, outputs),
            precision,
        )
        occlusion = network.occlusion.weight.unflatten(1, (len(weight), -1))
        occlusion = _with_channels(occlusion, 1, channels).flatten(1, 2)
        self.occlusion = Convolution(occlusion, network.occlusion.bias, precision)

    def prepare(self, feature_3d: Tensor, keypoints: Tensor) -> PreparedSource:
        """Return what the source contributes; feature_3d: (1, 32, D, H, W), keypoints: (1, K, 3), float32."""
        compressed = self.compress(feature_3d).relu_()
        identity = _moved(compressed, keypoints.new_zeros(1, 1, 3))
        heatmaps = _heatmaps(keypoints, feature_3d.shape[2:])
        return PreparedSource(feature_3d, keypoints, compressed, heatmaps, identity)

    def forward(self, source: PreparedSource, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """Return deformation (B, D, H, W, 3) and occlusion map (B, 1, H, W) of (B, K, 3) driving keypoints."""
        shifts = source.keypoints - keypoints
        x = self._hourglass(self._candidates(source, keypoints, shifts).to(self.last.weight.dtype))
        mask = self.mask(x)[:, : self.motions].float().softmax(dim=1)
        size = source.feature_3d.shape[2:]
        z, y, x_positions = (torch.linspace(-1, 1, length, device=keypoints.device) for length in size)
        deformation = torch.einsum("bkzyx,bka->bzyxa", mask[:, 1:], shifts).contiguous()
        deformation[..., 0] += x_positions
        deformation[..., 1] += y[:, None]
        deformation[..., 2] += z[:, None, None]
        return deformation, self.occlusion(x.flatten(1, 2)).float().sigmoid()

    def _candidates(self, source: PreparedSource, keypoints: Tensor, shifts: Tensor) -> Tensor:
        heatmaps = _heatmaps(keypoints, source.feature_3d.shape[2:]).sub_(source.heatmaps)
        samples = _moved(source.compressed, shifts)
        identity = source.identity_sample.expand(len(samples), -1, -1, -1, -1, -1)
        heatmaps = F.pad(heatmaps, (0, 0, 0, 0, 0, 0, 1, 0))[:, :, None]
        return torch.cat([heatmaps, torch.cat([identity, samples], dim=1)], dim=2).flatten(1, 2)

    def _hourglass(self, x: Tensor) -> Tensor:
        found = [x]
        for convolution in self.down:
            x = convolution(found[-1]).relu_()
            found.append(F.avg_pool2d(x.flatten(1, 2), 2).unflatten(1, x.shape[1:3]))
        x = found.pop()
        for convolution in self.up:
            x = convolution(_doubled(x)).relu_()
            x = torch.cat([x, found.pop()], dim=1)
        return self.last(x).relu_()


def _doubled(x: Tensor) -> Tensor:
    """Rows and columns repeated."""
    return x[..., :, None, :, None].expand(*x.shape[:-1], 2, x.shape[-1], 2).flatten(-4, -3).flatten(-2)


def _heatmaps(keypoints: Tensor, size: torch.Size) -> Tensor:
    """(B, K, D, H, W) Gaussians around (B, K, 3) keypoints, each the product of its three axes."""
    z, y, x = (
        axis_heat(torch.linspace(-1, 1, length, device=keypoints.device), keypoints[..., axis]).transpose(
            1, 2
        )
        for length, axis in zip(size, (2, 1, 0), strict=True)
    )
    return without_tiny_heat(z[..., None, None] * y[..., None, :, None] * x[..., None, None, :])


def _moved(compressed: Tensor, shifts: Tensor) -> Tensor:
    """(B, M, C, D, H, W): the (1, C, D, H, W) volume moved by (B, M, 3) shifts."""
    z, y, x = (
        interpolation_weights(torch.linspace(-1, 1, length, device=shifts.device), shifts[..., axis], length)
        for length, axis in zip(compressed.shape[2:], (2, 1, 0), strict=True)
    )
    out = torch.einsum("bmxj,czyj->bmczyx", x, compressed[0])
    out = torch.einsum("bmyj,bmczjx->bmczyx", y, out)
    return torch.einsum("bmzj,bmcjyx->bmczyx", z, out)


class DirectWarping(nn.Module):
    """The warping module, batched over driving frames."""

    def __init__(self, module: WarpingModule, precision: torch.dtype) -> None:
        super().__init__()
        self.dense_motion = DirectDenseMotion(module.dense_motion_network, precision)
        self.third = Convolution(*folded_batch_norm(module.third.conv, module.third.norm), precision)
        self.fourth = Convolution(module.fourth.weight, module.fourth.bias, precision)

    def forward(self, source: PreparedSource, keypoints: Tensor, check: Check = go_on) -> Tensor:
        """Return moved features (B, 256, H, W) in the precision, for (B, K, 3) driving keypoints."""
        deformation, occlusion_map = self.dense_motion(source, keypoints)
        check()
        volume = source.feature_3d.expand(len(keypoints), -1, -1, -1, -1)
        moved = F.grid_sample(volume, deformation, align_corners=False).flatten(1, 2)
        moved = moved.contiguous(memory_format=torch.channels_last)
        out = self.fourth(F.leaky_relu_(self.third(moved), WARPED_NEGATIVE_SLOPE))
        return out * occlusion_map.to(out.dtype)


class DirectSpadeBlock(nn.Module):
    """A residual block; the features of its norms are convolved once, together."""

    def __init__(self, block: SpadeBlock, precision: torch.dtype) -> None:
        super().__init__()
        norms = [block.norm_0, block.norm_1, *([block.norm_s] if block.has_shortcut else [])]
        self.shared = _joined([norm.mlp_shared[0] for norm in norms], precision)
        self.modulations = nn.ModuleList(_modulation(norm, precision) for norm in norms)
        self.conv_0 = Convolution(block.conv_0.weight, block.conv_0.bias, precision)
        self.conv_1 = Convolution(block.conv_1.weight, block.conv_1.bias, precision)
        self.conv_s = Convolution(block.conv_s.weight, None, precision) if block.has_shortcut else None

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the output for x and features of one size."""
        shared = self.shared(features).relu_().chunk(len(self.modulations), dim=1)
        normed = _instance_normed(x)
        out = self.conv_0(F.leaky_relu_(self._modulated(0, normed, shared), NEGATIVE_SLOPE))
        out = self.conv_1(F.leaky_relu_(self._modulated(1, _instance_normed(out), shared), NEGATIVE_SLOPE))
        return out + (x if self.conv_s is None else self.conv_s(self._modulated(2, normed, shared)))

    def _modulated(self, index: int, normed: Tensor, shared: tuple[Tensor, ...]) -> Tensor:
        gain, offset = self.modulations[index](shared[index]).chunk(2, dim=1)
        return torch.addcmul(offset, normed, gain)


def _instance_normed(x: Tensor) -> Tensor:
    return F.instance_norm(x.float()).to(x.dtype)


def _joined(convolutions: list[nn.Conv2d], precision: torch.dtype) -> Convolution:
    weight = torch.cat([convolution.weight for convolution in convolutions])
    return Convolution(weight, torch.cat([convolution.bias for convolution in convolutions]), precision)


def _modulation(norm: SpadeNorm, precision: torch.dtype) -> Convolution:
    """Gain (one added) and offset by one convolution."""
    weight = torch.cat([norm.mlp_gamma.weight, norm.mlp_beta.weight])
    return Convolution(weight, torch.cat([norm.mlp_gamma.bias + 1, norm.mlp_beta.bias]), precision)


class DirectGenerator(nn.Module):
    """The generator, batched over frames."""

    def __init__(self, generator: SpadeGenerator, precision: torch.dtype) -> None:
        super().__init__()
        self.first = Convolution(generator.fc.weight, generator.fc.bias, precision)
        self.middle = nn.ModuleList(DirectSpadeBlock(block, precision) for block in generator.middle)
        self.up = nn.ModuleList(
            DirectSpadeBlock(block, precision) for block in (generator.up_0, generator.up_1)
        )
        self.last = Convolution(generator.conv_img[0].weight, generator.conv_img[0].bias, precision)
        self.upscale = generator.parameters_used.upscale

    def forward(self, features: Tensor, check: Check = go_on) -> Tensor:
        """Return (B, 3, 8 H, 8 W) float32 pictures in 0..1 of (B, 256, H, W) features."""
        x = self.first(features)
        for block in self.middle:
            check()
            x = block(x, features)
        for block in self.up:
            check()
            x, features = _enlarged(x), _enlarged(features)
            x = block(x, features)
        colours = self.last(F.leaky_relu_(x, NEGATIVE_SLOPE)).float()
        return F.pixel_shuffle(colours, self.upscale).sigmoid()


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
