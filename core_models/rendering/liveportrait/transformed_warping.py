"""LivePortrait's warping module with transformed convolutions, for processors: same results, far fewer products.

Built from a WarpingModule; batch norms are folded, maps are tiled and channels come last. One frame at a time.

Where a precision is asked for, it is that of the hourglass but its last convolution. In bfloat16 it changes the
picture by 0.1 %; the last convolution and that of the moved volume would change it by 1 % or more in transformed
form, and stay in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import ConvolutionBlock3d
from .dense_motion import DenseMotionNetwork, Hourglass
from .fourier_convolution import FourierConvolution3d
from .prepared_source import (
    Check,
    PreparedSource,
    axis_heat,
    folded_batch_norm,
    go_on,
    interpolation_weights,
    without_tiny_heat,
)
from .tiled_map import TileSize, averaged_2x2, retiled, tiled, untiled
from .warping import WARPED_NEGATIVE_SLOPE, WarpingModule
from .winograd import TransformedConvolution, nearest_axis, picture_axes, winograd_axes, winograd_axis


@dataclass(frozen=True)
class HourglassTiles:
    """Depth, rows and columns of the output tiles at each level, the finest first.

    Coarse levels hold most weights and little work: small tiles keep their transformed weights small there.
    """

    encoder: tuple[TileSize, ...] = ((4, 4, 4), (4, 4, 4), (4, 4, 4), (2, 2, 2), (1, 2, 2))
    decoder_depths: tuple[int, ...] = (1, 1, 4, 4, 4)
    """Of the blocks on the way up, the coarsest first; rows and columns are those of one input."""
    last: TileSize = (4, 4, 4)


def _block_convolution(
    block: ConvolutionBlock3d, axes: tuple, precision: torch.dtype
) -> TransformedConvolution:
    return TransformedConvolution(*folded_batch_norm(block.conv, block.norm), axes, precision)


class TransformedHourglass(nn.Module):
    """The hourglass on tiled maps."""

    def __init__(self, hourglass: Hourglass, tiles: HourglassTiles, precision: torch.dtype) -> None:
        super().__init__()
        self.tiles = tiles
        self.down = nn.ModuleList(
            _block_convolution(block, winograd_axes(size), precision)
            for block, size in zip(hourglass.encoder.down_blocks, tiles.encoder, strict=True)
        )
        self.up = nn.ModuleList(
            _block_convolution(block, (winograd_axis(depth), nearest_axis(2), nearest_axis(2)), precision)
            for block, depth in zip(hourglass.decoder.up_blocks, tiles.decoder_depths, strict=True)
        )
        weight, bias = folded_batch_norm(hourglass.decoder.conv, hourglass.decoder.norm)
        self.last = TransformedConvolution(weight, bias, winograd_axes(tiles.last))

    def forward(self, candidates: Tensor) -> Tensor:
        """Return a map of 142 channels, tiled as `last` says, for a map of 110."""
        found = [candidates]
        for convolution, size in zip(self.down, self.tiles.encoder, strict=True):
            found.append(averaged_2x2(convolution(retiled(found[-1], size)).relu_()))
        x = found.pop()
        for convolution, depth, size in zip(
            self.up,
            self.tiles.decoder_depths,
            reversed((self.tiles.last, *self.tiles.encoder[1:])),
            strict=True,
        ):
            x = convolution(retiled(x, (depth, 1, 1))).relu_()
            x = torch.cat([retiled(x, size), retiled(found.pop(), size)], dim=-1)
        return self.last(x).relu_()


class OcclusionConvolution(nn.Module):
    """A convolution of all depths and channels to one number: a product for each tap, then sums of shifted maps."""

    def __init__(self, weight: Tensor, bias: Tensor, depth: int) -> None:
        """weight: (1, channels * depth, k, k). bias: (1,)."""
        super().__init__()
        self.kernel = weight.shape[-1]
        taps = weight[0].flip(1, 2).unflatten(0, (-1, depth)).flatten(2)
        self.register_buffer("taps", taps.permute(1, 0, 2).float().contiguous())
        self.register_buffer("bias", bias.float().clone())

    def forward(self, volume: Tensor) -> Tensor:
        """Return (H, W) of a (D, H, W, C) volume."""
        _, height, width, _ = volume.shape
        by_tap = torch.bmm(volume.flatten(1, 2), self.taps).sum(dim=0)
        summed = F.fold(by_tap.T[None], (height, width), self.kernel, padding=self.kernel // 2)
        return summed[0, 0] + self.bias


class TransformedDenseMotion(nn.Module):
    """The dense motion network on tiled maps."""

    def __init__(self, network: DenseMotionNetwork, precision: torch.dtype, tiles: HourglassTiles) -> None:
        super().__init__()
        self.tile = tiles.last
        weight, bias = folded_batch_norm(network.compress, network.norm)
        self.register_buffer("compress_weight", weight.flatten(1))
        self.register_buffer("compress_bias", bias)
        self.hourglass = TransformedHourglass(network.hourglass, tiles, precision)
        depth = network.parameters_used.volume_depth
        self.mask = FourierConvolution3d(network.mask.weight, network.mask.bias, depth)
        self.occlusion = OcclusionConvolution(network.occlusion.weight, network.occlusion.bias, depth)

    def prepare(self, feature_3d: Tensor, keypoints: Tensor) -> PreparedSource:
        """Return what the source contributes; feature_3d: (1, 32, D, H, W), keypoints: (1, K, 3), float32."""
        compressed = torch.einsum("kc,czyx->yzkx", self.compress_weight, feature_3d[0])
        compressed = (compressed + self.compress_bias[:, None]).relu_().contiguous()
        size = feature_3d.shape[2:]
        unmoved = self._samples(compressed, keypoints.new_zeros(1, 3), size)
        identity = unmoved.permute(3, 6, 1, 2, 4, 7, 0, 5).flatten(6).contiguous()
        heatmaps = self._heatmaps(keypoints[0], size)
        return PreparedSource(feature_3d, keypoints, compressed, heatmaps, identity)

    def forward(self, source: PreparedSource, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """Return the deformation (D, H, W, 3) and the occlusion map (H, W) of (K, 3) driving keypoints."""
        size = source.feature_3d.shape[2:]
        shifts = source.keypoints[0] - keypoints
        volume = untiled(self.hourglass(self.candidates(source, keypoints, shifts)))
        mask = self.mask(volume).softmax(dim=-1)
        z, y, x = (torch.linspace(-1, 1, length, device=keypoints.device) for length in size)
        deformation = mask[..., 1:] @ shifts
        deformation[..., 0] += x
        deformation[..., 1] += y[:, None]
        deformation[..., 2] += z[:, None, None]
        return deformation, self.occlusion(volume).sigmoid()

    def candidates(self, source: PreparedSource, keypoints: Tensor, shifts: Tensor) -> Tensor:
        """Return the tiled map of 22 heatmaps, each followed by the four channels its motion samples."""
        size = source.feature_3d.shape[2:]
        samples = self._samples(source.compressed, shifts, size)
        motions, channels = len(shifts) + 1, samples.shape[5]
        heatmaps = self._heatmaps(keypoints, size).sub_(source.heatmaps)
        out = heatmaps.new_empty(*heatmaps.shape[:6], motions, 1 + channels)
        out[..., 0, 0] = 0
        out[..., 0, 1:] = source.identity_sample
        out[..., 1:, 0] = heatmaps
        out[..., 1:, 1:] = samples.permute(3, 6, 1, 2, 4, 7, 0, 5)
        return out.flatten(6)

    def _positions(self, size: torch.Size, device: torch.device) -> tuple[Tensor, ...]:
        """Positions along depth, rows, columns in the order of the tiled map: phase, then tile."""
        return tuple(
            torch.linspace(-1, 1, length, device=device).view(-1, phases).T.flatten()
            for length, phases in zip(size, self.tile, strict=True)
        )

    def _heatmaps(self, keypoints: Tensor, size: torch.Size) -> Tensor:
        """Gaussians around (K, 3) keypoints as a tiled map of K channels, each the product of its three axes."""
        pz, py, px = self.tile
        positions = self._positions(size, keypoints.device)
        z, y, x = (
            axis_heat(line, keypoints[:, axis]) for line, axis in zip(positions, (2, 1, 0), strict=True)
        )
        z, x = z.view(pz, 1, 1, 1, -1, 1, z.shape[-1]), x.view(1, px, 1, 1, 1, -1, x.shape[-1])
        return without_tiny_heat(z * x * y.view(1, 1, py, -1, 1, 1, y.shape[-1]))

    def _samples(self, compressed: Tensor, shifts: Tensor, size: torch.Size) -> Tensor:
        """The (Y, Z, C, X) volume moved by (M, 3) shifts: (M, Py, Ty, Pz, Tz, C, Px, Tx)."""
        positions = self._positions(size, shifts.device)
        z, y, x = (
            interpolation_weights(line, shifts[:, axis], length)
            for line, axis, length in zip(positions, (2, 1, 0), size, strict=True)
        )
        depth, height, width = size
        motions, channels = len(shifts), compressed.shape[2]
        out = y.flatten(0, 1) @ compressed.view(height, -1)
        out = torch.bmm(out.view(motions, -1, width), x.transpose(1, 2))
        out = torch.bmm(z.repeat_interleave(height, dim=0), out.view(motions * height, depth, -1))
        pz, py, px = self.tile
        return out.view(motions, py, height // py, pz, depth // pz, channels, px, width // px)


class TransformedWarping(nn.Module):
    """The warping module on tiled maps."""

    def __init__(
        self,
        module: WarpingModule,
        precision: torch.dtype = torch.float32,
        tiles: HourglassTiles | None = None,
    ) -> None:
        super().__init__()
        self.dense_motion = TransformedDenseMotion(
            module.dense_motion_network, precision, tiles or HourglassTiles()
        )
        depth = module.parameters_used.dense_motion.volume_depth
        weight, bias = folded_batch_norm(module.third.conv, module.third.norm)
        by_depth = weight.unflatten(1, (-1, depth)).transpose(1, 2).flatten(1, 2)
        self.third = TransformedConvolution(by_depth, bias, picture_axes(winograd_axis(4)))
        self.register_buffer("fourth_weight", module.fourth.weight.flatten(1).T.float().contiguous())
        self.register_buffer("fourth_bias", module.fourth.bias.float().clone())

    def forward(self, source: PreparedSource, keypoints: Tensor, check: Check = go_on) -> Tensor:
        """Return the moved features as a map of 256 channels in tiles of 4x4, for (K, 3) driving keypoints."""
        deformation, occlusion_map = self.dense_motion(source, keypoints)
        check()
        depth = len(deformation)  # sampled depth by depth: grid_sample works on batch entries in parallel
        volumes = source.feature_3d.expand(depth, -1, -1, -1, -1)
        moved = F.grid_sample(volumes, deformation[:, None], align_corners=False)
        moved = tiled(moved.flatten(0, 2).permute(1, 2, 0)[None], (1, 4, 4))
        out = F.leaky_relu_(self.third(moved), WARPED_NEGATIVE_SLOPE)
        out = torch.addmm(self.fourth_bias, out.flatten(0, 5), self.fourth_weight).view_as(out)
        return out.mul_(tiled(occlusion_map[None, :, :, None], (1, 4, 4)))
