"""A convolution with a large kernel as products of spectra, tile by tile (overlap-save).

A tile of 22 rows and columns holds the neighbourhood of 16x16 outputs of a 7x7x7 kernel; depth is transformed whole.
The transforms are products with small matrices of cosines and sines, channels last, which is several times faster
than fast transforms of so short a length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILE_OUTPUTS = 16


def real_fourier_matrix(size: int, inputs: int) -> Tensor:
    """Return (size // 2 + 1, 2, inputs): real and imaginary part of each frequency of `inputs` real values."""
    angle = _angles(size)[: size // 2 + 1, :inputs]
    return torch.stack([angle.cos(), -angle.sin()], dim=1)


def inverse_real_fourier_matrix(size: int, outputs: int) -> Tensor:
    """Return (outputs, size // 2 + 1, 2): the first real values from real and imaginary parts."""
    angle = _angles(size)[:outputs, : size // 2 + 1]
    counted = torch.full((size // 2 + 1,), 2.0, dtype=torch.float64)  # each frequency with its mirror image
    counted[0] = 1
    if size % 2 == 0:
        counted[-1] = 1
    return torch.stack([angle.cos(), -angle.sin()], dim=2) * counted[:, None] / size


def fourier_matrix(size: int, inputs: int) -> Tensor:
    """Return (size, 2, 2, inputs): frequency and part from part and position, complex values as pairs."""
    angle = _angles(size)[:, :inputs]
    return _complex_pairs(angle.cos(), -angle.sin())


def inverse_fourier_matrix(size: int, outputs: int) -> Tensor:
    """Return (2, outputs, size, 2): part and position from frequency and part."""
    angle = _angles(size)[:outputs]
    return _complex_pairs(angle.cos() / size, angle.sin() / size).permute(1, 0, 3, 2)


def _angles(size: int) -> Tensor:
    steps = torch.arange(size, dtype=torch.float64)
    return 2 * math.pi / size * (steps[:, None] * steps % size)


def _complex_pairs(real: Tensor, imaginary: Tensor) -> Tensor:
    """Multiplication by complex numbers as 2x2 real matrices: (rows, 2, 2, columns)."""
    return torch.stack([torch.stack([real, -imaginary], 1), torch.stack([imaginary, real], 1)], 1)


class FourierConvolution3d(nn.Module):
    """A zero-padded convolution with an odd cubic kernel over (D, H, W, C) volumes, its weight already a spectrum."""

    def __init__(self, weight: Tensor, bias: Tensor, depth: int) -> None:
        """weight: (out, in, k, k, k). bias: (out,). depth: of the volumes to come."""
        super().__init__()
        self.kernel, self.depth = weight.shape[-1], depth
        self.tile, self.tile_depth = TILE_OUTPUTS + self.kernel - 1, depth + self.kernel // 2
        self.register_buffer("spectrum", self._spectrum(weight))
        self.register_buffer("bias", bias.float().clone())
        z, tile = self.tile_depth, self.tile
        self.register_buffer("forward_x", real_fourier_matrix(tile, tile).flatten(0, 1).float())
        self.register_buffer("forward_y", fourier_matrix(tile, tile).flatten(2).flatten(0, 1).float())
        self.register_buffer("forward_z", fourier_matrix(z, depth).flatten(2).flatten(0, 1).float())
        self.register_buffer("inverse_z", inverse_fourier_matrix(z, depth).flatten(2).flatten(0, 1).float())
        self.register_buffer(
            "inverse_y", inverse_fourier_matrix(tile, TILE_OUTPUTS).flatten(2).flatten(0, 1).float()
        )
        self.register_buffer("inverse_x", inverse_real_fourier_matrix(tile, TILE_OUTPUTS).flatten(1).float())

    def _spectrum(self, weight: Tensor) -> Tensor:
        """Return (frequencies x, y, z, in, 2 out): real parts, then imaginary parts.

        Torch's convolution is a correlation, hence the conjugate. In depth the kernel's centre is moved to the first
        place; in rows and columns the tile begins with the neighbours, so that it need not be.
        """
        size = (self.tile_depth, self.tile, self.tile)
        padded = F.pad(weight.float(), [pad for side in reversed(size) for pad in (0, side - self.kernel)])
        padded = padded.roll(-(self.kernel // 2), dims=2)
        spectrum = torch.fft.rfftn(padded, dim=(2, 3, 4)).conj().permute(4, 3, 2, 1, 0)
        return torch.cat([spectrum.real, spectrum.imag], dim=-1).flatten(0, 2).contiguous()

    def forward(self, volume: Tensor) -> Tensor:
        """Return (D, H, W, out) of a (D, H, W, in) float32 volume."""
        _, height, width, _ = volume.shape
        down, across = -(-height // TILE_OUTPUTS), -(-width // TILE_OUTPUTS)
        margin = self.kernel // 2
        bottom, right = down * TILE_OUTPUTS - height, across * TILE_OUTPUTS - width
        padded = F.pad(volume, (0, 0, margin, margin + right, margin, margin + bottom))
        rows = [
            self._row_of_tiles(padded[:, TILE_OUTPUTS * row : TILE_OUTPUTS * row + self.tile], across)
            for row in range(down)
        ]
        return torch.cat(rows, dim=1)[:, :height, :width]

    def _row_of_tiles(self, rows: Tensor, across: int) -> Tensor:
        """Return (D, 16, 16 across, out) of (D, 22, 16 across + 6, in)."""
        tiles = rows.unfold(2, self.tile, TILE_OUTPUTS).permute(4, 1, 0, 2, 3).contiguous()
        products = torch.bmm(self._transformed(tiles), self.spectrum)
        return self._back(self._combined(products, across)) + self.bias

    def _transformed(self, tiles: Tensor) -> Tensor:
        """Return (frequencies, 2 tiles, in) of (x, y, z, tiles, in): real parts, then imaginary parts."""
        columns, rows, depth, count, channels = tiles.shape
        half = self.tile // 2 + 1
        out = self.forward_x @ tiles.view(columns, -1)
        out = self.forward_y @ out.view(half, 2 * rows, -1)
        out = self.forward_z @ out.view(half * rows, 2 * depth, -1)
        return out.view(-1, 2 * count, channels)

    def _combined(self, products: Tensor, count: int) -> Tensor:
        """Return (frequencies, 2, tiles, out): complex products from those of their parts."""
        by_parts = products.view(len(products), 2, count, 2, -1)
        real = by_parts[:, 0, :, 0] - by_parts[:, 1, :, 1]
        imaginary = by_parts[:, 0, :, 1] + by_parts[:, 1, :, 0]
        return torch.stack([real, imaginary], dim=1)

    def _back(self, spectra: Tensor) -> Tensor:
        """Return (D, 16, 16 tiles, out) of (frequencies, 2, tiles, out)."""
        count, channels = spectra.shape[2:]
        half, tile = self.tile // 2 + 1, self.tile
        out = self.inverse_z @ spectra.view(half * tile, self.tile_depth * 2, -1)
        out = self.inverse_y @ out.view(half, tile * 2, -1)
        out = self.inverse_x @ out.view(half * 2, -1)
        out = out.view(TILE_OUTPUTS, TILE_OUTPUTS, self.depth, count, channels)
        return out.permute(2, 1, 3, 0, 4).reshape(self.depth, TILE_OUTPUTS, count * TILE_OUTPUTS, channels)
