"""Convolutions of three taps per axis with fewer multiplications, as products of matrices.

Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308): inputs and weights are transformed along each axis,
multiplied point by point (one matrix product over channels each), and transformed back. F(4, 3) needs 6
multiplications for 4 outputs instead of 12, on each axis. The same form computes a convolution after enlarging by
repetition: of the values x-, x, x+ around one input only w0 (x- - x), (w0 + w1 + w2) x and w2 (x+ - x) are needed,
however many outputs that input was repeated to. Exact but for rounding; the points are chosen for little of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .tiled_map import TileSize

CHUNK_BYTES = 16 << 20
"""Transformed inputs and products at a time: small enough to stay in a processor's last cache."""

POINTS: dict[int, tuple[Fraction, ...]] = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2)),
    6: tuple(Fraction(*value) for value in ((0, 1), (1, 1), (-1, 1), (2, 1), (-2, 1), (1, 2), (-1, 2))),
}
"""Where polynomials are evaluated, by outputs of a tile; infinity comes last. One is among them: see AxisTransform.
F(4, 3) with these loses half as many digits as with the usual 0, 1, -1, 2, -2."""


@dataclass(frozen=True)
class AxisTransform:
    """One axis of the algorithm: y = output ((weight w) * (data x)), all of them matrices.

    data: (points, inputs + 2) for the inputs of a tile with one neighbour on each side; the first neighbour counts
    only at the first point and the last only at the last. weight: (points, taps). output: (points, outputs)
    transposed, (outputs, points). unit_point: a point that every output takes exactly once, where a bias is added.
    """

    data: Tensor
    weight: Tensor
    output: Tensor
    unit_point: int

    @property
    def points(self) -> int:
        """Multiplications per tile."""
        return len(self.data)

    @property
    def inputs(self) -> int:
        """Values of a tile that goes in."""
        return self.data.shape[1] - 2

    @property
    def outputs(self) -> int:
        """Values of a tile that comes out."""
        return len(self.output)


def single_tap_axis() -> AxisTransform:
    """Return the axis that is not convolved: depth, for pictures."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return AxisTransform(F.pad(one, (1, 1)), one, one, 0)


def direct_axis() -> AxisTransform:
    """Return three multiplications for one output: nothing saved, no weights beyond the convolution's own."""
    identity = torch.eye(3, dtype=torch.float64)
    return AxisTransform(identity, identity, torch.ones(1, 3, dtype=torch.float64), 0)


def nearest_axis(scale: int) -> AxisTransform:
    """Return the convolution of inputs repeated `scale` times, at least twice."""
    data = torch.tensor([[1.0, -1, 0], [0, 1, 0], [0, -1, 1]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 0, 1]], dtype=torch.float64)
    output = torch.tensor([[0.0, 1, 0]], dtype=torch.float64).repeat(scale, 1)
    output[0, 0] = output[-1, 2] = 1
    return AxisTransform(data, weight, output, 1)


@lru_cache(maxsize=8)
def winograd_axis(outputs: int) -> AxisTransform:
    """Return F(outputs, 3) by Toom-Cook's construction at POINTS; 1 output is the direct convolution."""
    if outputs == 1:
        return direct_axis()
    points = POINTS[outputs]
    size = outputs + 2
    data, weight, output = (torch.zeros(rows, size, dtype=torch.float64) for rows in (size, 3, outputs))
    for index, point in enumerate(points):
        others = [other for other in points if other != point]
        divisor = Fraction(1)
        for other in others:
            divisor *= point - other
        data[index, : size - 1] = _polynomial(others)
        weight[:, index] = torch.tensor([float(point**power / divisor) for power in range(3)])
        output[:, index] = torch.tensor([float(point**power) for power in range(outputs)])
    data[-1] = _polynomial(list(points))
    weight[-1, -1] = output[-1, -1] = 1
    return AxisTransform(*_balanced(data, weight.T), output, points.index(Fraction(1)))


def _polynomial(roots: list[Fraction]) -> Tensor:
    """Coefficients, constant first, of the product of x - root."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*(-root * value for value in coefficients), 0]
        coefficients = [first + second for first, second in zip(shifted, scaled, strict=True)]
    return torch.tensor([float(value) for value in coefficients], dtype=torch.float64)


def _balanced(data: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Move powers of two between the transforms of data and weight, so that both keep sizes alike."""
    factor = torch.exp2(((data.norm(dim=1) / weight.norm(dim=1)).log2() / 2).round())[:, None]
    return data / factor, weight * factor


def winograd_axes(size: TileSize) -> tuple[AxisTransform, AxisTransform, AxisTransform]:
    """Return the transforms of depth, rows and columns for tiles of a size."""
    return tuple(winograd_axis(outputs) for outputs in size)


def picture_axes(rows_and_columns: AxisTransform) -> tuple[AxisTransform, AxisTransform, AxisTransform]:
    """Return the transforms of a two-dimensional convolution."""
    return single_tap_axis(), rows_and_columns, rows_and_columns


def transformed_weight(weight: Tensor, axes: tuple[AxisTransform, ...]) -> Tensor:
    """Return (points, in, out) for a (out, in, [depth,] rows, columns) weight; points run over depth, columns, rows."""
    weight = weight if weight.dim() == 5 else weight[:, :, None]
    z, y, x = (axis.weight.to(weight) for axis in axes)
    out = torch.einsum("kczyx,ax->kczya", weight, x)
    out = torch.einsum("kczya,by->kczab", out, y)
    return torch.einsum("kczab,dz->dabck", out, z).flatten(0, 2).contiguous()


class TransformedConvolution(nn.Module):
    """A 3x3 or 3x3x3 convolution of zero-padded tiled maps, its weight already transformed.

    precision: of weights and products, float32 or bfloat16; maps and transforms are float32.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        axes: tuple[AxisTransform, AxisTransform, AxisTransform],
        precision: torch.dtype = torch.float32,
    ) -> None:
        """weight: (out, in, [3,] 3, 3) float32. bias: (out,) or None. axes: of depth, rows, columns."""
        super().__init__()
        self.register_buffer("weight", transformed_weight(weight, axes).to(precision))
        self.register_buffer("bias", None if bias is None else bias.float().clone())
        for name, axis in zip("zyx", axes, strict=True):
            self.register_buffer(f"data_{name}", axis.data.float())
            self.register_buffer(f"output_{name}", axis.output.float())
        z, y, x = axes
        self.neighbours = {
            name: (float(axis.data[0, 0]), float(axis.data[-1, -1]))
            for name, axis in zip("zyx", axes, strict=True)
        }
        self.points = (z.points, x.points, y.points)
        self.inputs = (z.inputs, x.inputs, y.inputs)
        self.unit_point = (z.unit_point * x.points + x.unit_point) * y.points + y.unit_point
        self.out_channels = len(weight)

    @property
    def out_phases(self) -> tuple[int, int, int]:
        """Size of an output tile: depth, columns, rows."""
        return len(self.output_z), len(self.output_x), len(self.output_y)

    def forward(self, tiles: Tensor) -> Tensor:
        """Return the convolved map of a map whose tiles have the axes' inputs."""
        step = self.rows_at_a_time(tiles)
        count = tiles.shape[3]
        if step >= count:
            return self.rows(tiles, 0, count)
        out = tiles.new_empty(*self.out_phases, *tiles.shape[3:6], self.out_channels)
        for first in range(0, count, step):
            last = min(first + step, count)
            out[:, :, :, first:last] = self.rows(tiles, first, last)
        return out

    def rows(self, tiles: Tensor, first: int, last: int) -> Tensor:
        """Return the convolved map for the tile rows first..last-1 alone."""
        return self.product(self.transformed(tiles, first, last), (last - first, *tiles.shape[4:6]))

    def rows_at_a_time(self, tiles: Tensor) -> int:
        """Return how many tile rows of a map keep intermediate results within CHUNK_BYTES, in equal parts.

        Weights larger than that allow as much, for they are read once for every part.
        """
        count = tiles.shape[3]
        row_bytes = 4 * len(self.weight) * tiles.shape[4] * tiles.shape[5] * sum(self.weight.shape[1:])
        fitting = max(1, max(CHUNK_BYTES, self.weight.nbytes) // row_bytes)
        return -(-count // -(-count // fitting))

    def transformed(self, tiles: Tensor, first: int, last: int) -> Tensor:
        """Return (points, tiles, in): rows first, whose neighbours are outside the chunk, then columns, then depth."""
        pz, px, py, ty, tz, tx, channels = tiles.shape
        nz, nx, ny = self.points
        rows, row = last - first, tz * tx * channels
        flat = tiles.view(pz * px, py, ty * row)
        out = _stage(self.data_y[:, 1:-1], flat[:, :, first * row : last * row])
        if ny > 1:
            by_row, chunk = flat.view(pz * px, py, ty, row), out.view(pz * px, ny, rows, row)
            above, below = int(first == 0), int(last == ty)
            before, after = self.neighbours["y"]
            chunk[:, 0, above:].add_(by_row[:, -1, first - 1 + above : last - 1], alpha=before)
            chunk[:, -1, : rows - below].add_(by_row[:, 0, first + 1 : last + 1 - below], alpha=after)
        out = _along(out.view(pz, px, ny * rows * tz, tx, channels), self.data_x, self.neighbours["x"])
        out = _along(out.view(1, pz, nx * ny * rows, tz, tx * channels), self.data_z, self.neighbours["z"])
        return out.view(nz * nx * ny, rows * tz * tx, channels)

    def product(self, transformed: Tensor, tiles: tuple[int, int, int]) -> Tensor:
        """Return the map of transformed inputs; tiles: rows, depth and columns of tiles they come from."""
        nz, nx, ny = self.points
        product = torch.bmm(transformed.to(self.weight.dtype), self.weight).float()
        if self.bias is not None:
            product[self.unit_point].add_(self.bias)
        product = _stage(self.output_y, product.view(nz * nx, ny, -1))
        product = _stage(self.output_x, product.view(nz, nx, -1))
        product = _stage(self.output_z, product.view(1, nz, -1))
        return product.view(*self.out_phases, *tiles, self.out_channels)


def _stage(matrix: Tensor, values: Tensor) -> Tensor:
    """Return (batch, outputs, n): the (outputs, inputs) matrix applied to each of (batch, inputs, n)."""
    if matrix.shape == (1, 1):  # the axis that is not convolved
        return values
    return torch.bmm(matrix.expand(len(values), -1, -1), values)


def _along(tiles: Tensor, data: Tensor, neighbours: tuple[float, float]) -> Tensor:
    """Transform (batch, phases, others, tiles of this axis, rest) along an axis that is whole in the chunk."""
    batch, phases, others, count, rest = tiles.shape
    if len(data) == 1:
        return tiles
    out = _stage(data[:, 1:-1], tiles.view(batch, phases, -1)).view(batch, -1, others, count, rest)
    out[:, 0, :, 1:].add_(tiles[:, -1, :, :-1], alpha=neighbours[0])
    out[:, -1, :, :-1].add_(tiles[:, 0, :, 1:], alpha=neighbours[1])
    return out
