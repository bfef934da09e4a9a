"""Decoding in tiles, blended as the release of FantasyTalking does: memory bounded in space as well as in time.

The release decodes each tile for the whole clip and then blends. Here every tile keeps what its decoder looks back at,
and one latent frame of all tiles is blended at a time: the same pixels, without a clip in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from .autoencoder import (
    CheckCallback,
    FrameCache,
    decoded_frame,
    fresh_cache,
    in_pixel_range,
    require_latents,
)

TileDecoder = Callable[[int, Tensor], Tensor]
"""Takes a tile's number and its latents (C, n, h, w); returns pixels (channels, frames, height, width)."""


@dataclass(frozen=True)
class TileSizes:
    """Sizes of tiles in latent cells; the defaults are the release's: they overlap by half.

    height, width: of a tile. row_stride, column_stride: from the start of a tile to that of the next.
    Raises ValueError for a stride below 1 or above the size.
    """

    height: int = 30
    width: int = 52
    row_stride: int = 15
    column_stride: int = 26

    def __post_init__(self) -> None:
        for size, stride in (("height", "row_stride"), ("width", "column_stride")):
            if not 1 <= getattr(self, stride) <= getattr(self, size):
                raise ValueError(
                    f"{stride} is {getattr(self, stride)}, expected 1 to the tile's {size}, {getattr(self, size)}"
                )


RELEASED_TILES = TileSizes()


def tile_starts(cells: int, size: int, stride: int) -> list[int]:
    """Return where tiles start along one side: every `stride` cells, until a tile reaches the end."""
    return [start for start in range(0, cells, stride) if start == 0 or start - stride + size < cells]


def tile_ramp(length: int, border: int, rises: bool, falls: bool) -> Tensor:
    """Return the weights (length,) of a tile along one side: 1, or linear (i + 1) / border towards a neighbour.

    rises, falls: whether a neighbour is before, behind. Where both ramps meet, the falling one counts.
    """
    weights = torch.ones(length)
    if border:
        ramp = torch.arange(1, border + 1) / border
        if rises:
            weights[:border] = ramp[:length]
        if falls:
            weights[-border:] = ramp.flip(0)[-length:]
    return weights


def blended_frames(
    decode: TileDecoder, latents: Tensor, tiles: TileSizes = RELEASED_TILES, pixels_per_latent: int = 8
) -> Tensor:
    """Return pixels (channels, frames, H, W) of latents (C, n, h, w), decoded tile by tile, float32.

    decode: decodes one tile, which it may know by its number (0 and up, the same in every call). Where tiles overlap,
    pixels are their mean, weighted by the smaller of the ramps along height and width.
    """
    cells = latents.shape[-2:]
    total = weight = None
    for number, (rows, columns) in enumerate(_tile_slices(*cells, tiles)):
        pixels = decode(number, latents[..., rows, columns]).float()
        if total is None:
            height, width = (side * pixels_per_latent for side in cells)
            total, weight = (
                pixels.new_zeros(*pixels.shape[:2], height, width),
                pixels.new_zeros(height, width),
            )
        share = _tile_weights(rows, columns, cells, tiles, pixels_per_latent).to(pixels.device)
        place = tuple(
            slice(side.start * pixels_per_latent, side.stop * pixels_per_latent) for side in (rows, columns)
        )
        total[(..., *place)] += pixels * share
        weight[place] += share
    return total / weight


def _tile_slices(height: int, width: int, tiles: TileSizes) -> list[tuple[slice, slice]]:
    return [
        (slice(top, min(top + tiles.height, height)), slice(left, min(left + tiles.width, width)))
        for top in tile_starts(height, tiles.height, tiles.row_stride)
        for left in tile_starts(width, tiles.width, tiles.column_stride)
    ]


def _tile_weights(
    rows: slice, columns: slice, cells: tuple[int, int], tiles: TileSizes, pixels_per_latent: int
) -> Tensor:
    """Weights (height, width) of a tile's pixels."""
    borders = (tiles.height - tiles.row_stride, tiles.width - tiles.column_stride)
    down, across = (
        tile_ramp(
            (side.stop - side.start) * pixels_per_latent,
            border * pixels_per_latent,
            side.start > 0,
            side.stop < size,
        )
        for side, border, size in zip((rows, columns), borders, cells, strict=True)
    )
    return torch.minimum(down[:, None], across[None, :])


def tiled_chunks(
    autoencoder: AutoencoderKLWan,
    latents: Tensor,
    tiles: TileSizes = RELEASED_TILES,
    check: CheckCallback | None = None,
    caches_on: torch.device | str | None = None,
) -> Iterator[Tensor]:
    """Yield the video of normalised latents (C, F, h, w) as (3, n, H, W) float32 in -1..1, one latent frame each.

    The counterpart of `decoded_chunks`, which it equals where one tile is enough. check: called before each tile of
    each latent frame. caches_on: where what tiles look back at waits; "cpu" leaves one tile's on the autoencoder's
    device, None leaves all of them there.
    Raises ValueError for latents of another form, and FloatingPointError when the decoder overflowed.
    """
    require_latents(autoencoder, latents[None])
    caches: dict[int, FrameCache] = {}
    for index in range(latents.shape[1]):

        def decode(number: int, tile: Tensor, first: bool = index == 0) -> Tensor:
            if check is not None:
                check()
            cache = caches.setdefault(number, fresh_cache(autoencoder.decoder))
            pixels = decoded_frame(autoencoder, tile[None], cache, first)[0]
            _move(cache, caches_on)
            return pixels

        with torch.no_grad():  # ends before the caller goes on
            blended = blended_frames(
                decode, latents[:, index : index + 1], tiles, autoencoder.config.scale_factor_spatial
            )
        yield in_pixel_range(blended, autoencoder.dtype)


def _move(cache: FrameCache, device: torch.device | str | None) -> None:
    """Move what a cache holds; each convolution takes its part back when it comes to it."""
    if device is not None:
        cache[:] = [value.to(device) if isinstance(value, Tensor) else value for value in cache]
