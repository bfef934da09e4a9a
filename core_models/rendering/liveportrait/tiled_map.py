"""Feature maps cut into tiles, the layout in which Winograd convolutions need no gathering.

A tiled map is a tensor (Pz, Px, Py, Ty, Tz, Tx, C): value [pz, px, py, ty, tz, tx, c] belongs to depth Pz tz + pz,
row Py ty + py, column Px tx + px and channel c. Two-dimensional maps have Pz = Tz = 1. Rows of tiles are contiguous
within a phase, so that a convolution can work on a few of them while they are in the processor's cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

TileSize = tuple[int, int, int]
"""Depth, rows and columns of a tile."""


def tiled(volume: Tensor, size: TileSize) -> Tensor:
    """Return the tiled map of a (D, H, W, C) volume whose sides are multiples of the tile's."""
    depth, height, width, channels = volume.shape
    pz, py, px = size
    split = volume.reshape(depth // pz, pz, height // py, py, width // px, px, channels)
    return split.permute(1, 5, 3, 2, 0, 4, 6).contiguous()


def untiled(tiles: Tensor) -> Tensor:
    """Return the (D, H, W, C) volume of a tiled map."""
    pz, px, py, ty, tz, tx, channels = tiles.shape
    return tiles.permute(4, 0, 3, 2, 5, 1, 6).reshape(tz * pz, ty * py, tx * px, channels)


def retiled(tiles: Tensor, size: TileSize) -> Tensor:
    """Return the map cut into tiles of another size; itself when it has that size."""
    pz, px, py = tiles.shape[:3]
    return tiles if (pz, py, px) == tuple(size) else tiled(untiled(tiles), size)


def averaged_2x2(tiles: Tensor) -> Tensor:
    """Return the average over 2x2 of rows and columns; tiles get half as many of both."""
    pz, px, py, *rest = tiles.shape
    pairs = tiles.view(pz, px // 2, 2, py // 2, 2, *rest)
    return torch.add(pairs[:, :, 0], pairs[:, :, 1]).sum(dim=3).mul_(0.25)
