"""A clip's latents to its frames, a latent frame at a time, in memory for one copy of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from ...types import ProgressCallback
from ..block_checks import CheckCallback
from .autoencoder import decoded_chunks
from .colour import ColourStatistics, DriftCorrection, corrected_chunks, log_window_colours
from .frame_rules import RELEASE_FRAMES, video_frames
from .tiled_decoding import TileSizes, tiled_chunks


def decoded_frames(
    autoencoder: AutoencoderKLWan,
    latents: Tensor,
    kept: int | None = None,
    colour_keeping: float = 0.0,
    reference: ColourStatistics | None = None,
    tiles: TileSizes | None = None,
    progress: ProgressCallback | None = None,
    check: CheckCallback | None = None,
    windows: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Return frames (N, H, W, 3) float32 in 0..1, on the CPU, of normalised latents (C, F, h, w).

    kept: N, counted from the first; None keeps all 4 (F - 1) + 1. colour_keeping: 0..1, how much of the colours' drift
    is taken away. reference: the colour that is kept, of a picture in -1..1; None is the first frame's. tiles: decode
    in tiles, as the release does, in place of whole frames. progress: called with the latent frames done, and all.
    check: called between; what it raises ends the work. windows: (first, end) of the frames of each window the clip was
    sampled in, whose mean colours are logged; None is stretches of 81 frames.
    Raises ValueError for latents of another form, a number of frames that they do not hold, or colour_keeping out of
    range; FloatingPointError when the decoder overflowed.
    """
    kept = _checked_count(kept, video_frames(latents.shape[1]))
    made = decoded_parts(autoencoder, latents, kept, colour_keeping, reference, tiles, progress, check)
    frames = _collected(made, kept)
    stretches = [(first, first + RELEASE_FRAMES) for first in range(0, kept, RELEASE_FRAMES)]
    log_window_colours(frames.permute(3, 0, 1, 2), stretches if windows is None else windows)
    return frames


def decoded_parts(
    autoencoder: AutoencoderKLWan,
    latents: Tensor,
    kept: int | None = None,
    colour_keeping: float = 0.0,
    reference: ColourStatistics | None = None,
    tiles: TileSizes | None = None,
    progress: ProgressCallback | None = None,
    check: CheckCallback | None = None,
) -> Iterator[Tensor]:
    """Yield what `decoded_frames` returns in parts (n, H, W, 3), a latent frame each, of which one is in memory.

    progress: called with the latent frames done, and all, before each part. Raises as `decoded_frames`; the colours of
    windows are not logged.
    """
    correction = DriftCorrection(colour_keeping)
    total = latents.shape[1]
    kept = _checked_count(kept, video_frames(total))
    chunks = (
        decoded_chunks(autoencoder, latents, check)
        if tiles is None
        else tiled_chunks(autoencoder, latents, tiles, check, "cpu")
    )
    if colour_keeping:
        chunks = _colour_kept(chunks, reference, correction)
    done_frames = 0
    for done, chunk in enumerate(chunks, 1):
        part = (chunk.permute(1, 2, 3, 0).float().cpu() + 1).div(2).clamp(0, 1)[: kept - done_frames]
        done_frames += len(part)
        if progress is not None:
            progress(done, total)
        yield part
        if done_frames == kept:
            break


def _checked_count(kept: int | None, held: int) -> int:
    if kept is None:
        return held
    if not 1 <= kept <= held:
        raise ValueError(f"{kept} frames are to be kept, but the latents hold {held}: expected 1 to {held}")
    return kept


def _colour_kept(
    chunks: Iterable[Tensor], reference: ColourStatistics | None, correction: DriftCorrection
) -> Iterator[Tensor]:
    chunks = iter(chunks)
    first = next(chunks)
    kept = reference or ColourStatistics.of_picture(first[:, 0])
    return corrected_chunks(chain([first], chunks), kept, correction)


def _collected(parts: Iterable[Tensor], count: int) -> Tensor:
    """Return parts (n, H, W, 3) as one (count, H, W, 3), in memory for one copy of them and a part."""
    frames, start = None, 0
    for part in parts:
        if frames is None:
            frames = torch.empty(count, *part.shape[1:])
        frames[start : start + len(part)] = part
        start += len(part)
    return frames
