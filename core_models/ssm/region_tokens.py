"""Where on a grid of tokens a mask lies: how strongly at each token, and which tokens it selects.

Matches what ACTalker's released code does with its masks, slips included. It finds the grid's size from the number of
tokens, and misses it where roundings meet: 7 x 18 tokens under 448 x 1152 pixels become 6 x 21. Who knows the grid says
so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def token_grid(count: int, mask_height: int, mask_width: int) -> tuple[int, int]:
    """Return (rows, columns) of `count` tokens that lie over a mask of the given size.

    Rows are the root of count x height / width, one more when they do not divide the count. Raises ValueError for
    sizes below 1.
    """
    if min(count, mask_height, mask_width) < 1:
        raise ValueError(f"no grid of {count} tokens fits a mask of {mask_width} x {mask_height} pixels")
    rows = max(int(math.sqrt(count / (mask_width / mask_height))), 1)
    rows += count % rows != 0
    return rows, count // rows


def mask_on_tokens(mask: Tensor, count: int, grid: tuple[int, int] | None = None) -> Tensor:
    """Return how much of a mask lies on each token: (count,) float32, row by row.

    mask: (H, W) in 0..1. grid: (rows, columns) of the tokens; None is the `token_grid`. Brought to the grid by bicubic
    interpolation, so soft edges stay soft and may overshoot; a `token_grid` of fewer or more tokens than `count` is
    filled up with 0 or cut. Raises ValueError for a mask of another shape, or a grid of other than `count` tokens.
    """
    if mask.ndim != 2:
        raise ValueError(f"a region's mask has shape {tuple(mask.shape)}, expected (height, width)")
    if grid is not None and grid[0] * grid[1] != count:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} tokens does not have {count} of them")
    grid = token_grid(count, *mask.shape) if grid is None else grid
    values = functional.interpolate(mask.float()[None, None], size=grid, mode="bicubic").flatten()
    return functional.pad(values, (0, max(count - len(values), 0)))[:count]


def selected_tokens(values: Tensor) -> Tensor:
    """Return the indices, (n,) int64, of the tokens a mask covers whole: its value there is at least 1 (or -1 at most).

    values: (count,) from `mask_on_tokens`. A mask with 0.999 in it selects nothing there, as in the released code:
    make masks binary first.
    """
    return (values.abs() >= 1).nonzero().flatten()


def region_on_tokens(mask: Tensor, count: int, grid: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Return `mask_on_tokens` and the `selected_tokens` of it."""
    values = mask_on_tokens(mask, count, grid)
    return values, selected_tokens(values)


def pasted(tokens: Tensor, selected: Tensor, values: Tensor) -> Tensor:
    """Return tokens (B, L, C) with `values` (B, n, C) in place of those at `selected` (n,); the input is left as is."""
    return torch.index_copy(tokens, 1, selected, values.to(tokens.dtype))
