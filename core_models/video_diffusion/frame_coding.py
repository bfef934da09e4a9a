"""Pictures to latents and back, a few frames at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..types import ProgressCallback

PUBLISHED_CHUNK = 10
"""Frames decoded together by the released ACTalker; chunks do not overlap."""


def encoded_picture(autoencoder: Any, picture: np.ndarray) -> Tensor:
    """Return the latents (C, h, w) float32 of a picture (H, W, 3) uint8: the mode, not scaled.

    autoencoder: diffusers' `AutoencoderKLTemporalDecoder`. Where it says so (`force_upcast`), half precision is left
    for the time of the call.
    """
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None] / 127.5 - 1
    dtype = autoencoder.dtype
    raised = autoencoder.config.force_upcast and dtype != torch.float32
    try:
        if raised:
            autoencoder.to(torch.float32)
        with torch.no_grad():
            return (
                autoencoder.encode(pixels.to(autoencoder.device, autoencoder.dtype))
                .latent_dist.mode()[0]
                .float()
            )
    finally:
        if raised:
            autoencoder.to(dtype)


def decoded_frames(
    autoencoder: Any,
    latents: Tensor,
    chunk: int = PUBLISHED_CHUNK,
    overlap: int = 0,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return (N, H, W, 3) float32 frames in 0..1, on the CPU, of scaled latents (N, C, h, w).

    chunk: frames decoded together; memory goes with it, not with N. overlap: frames that neighbouring chunks share and
    are faded across, so that no seam shows; 0 is what the released code does.
    Raises ValueError unless 0 <= overlap < chunk, and FloatingPointError when the decoder overflowed.
    """
    frames, start = None, 0
    for part in decoded_parts(autoencoder, latents, chunk, overlap, progress):
        if frames is None:
            frames = part.new_empty(len(latents), *part.shape[1:])
        frames[start : start + len(part)] = part
        start += len(part)
    return frames


def decoded_parts(
    autoencoder: Any,
    latents: Tensor,
    chunk: int = PUBLISHED_CHUNK,
    overlap: int = 0,
    progress: ProgressCallback | None = None,
) -> Iterator[Tensor]:
    """Yield what `decoded_frames` returns in parts (n, H, W, 3), one after the other, of which one is in memory.

    progress: called with the chunks decoded, and all, before each part. Raises as `decoded_frames`.
    """
    if not 0 <= overlap < chunk:
        raise ValueError(f"a chunk of {chunk} frames cannot share {overlap}: give 0 to {chunk - 1}")
    step = chunk - overlap
    starts = range(0, max(len(latents) - overlap, 1), step)
    share = (torch.arange(1, overlap + 1) / (overlap + 1)).view(-1, 1, 1, 1)
    fading: Tensor | None = None
    for done, start in enumerate(starts, 1):
        part = _decoded(autoencoder, latents[start : start + chunk])
        if fading is not None:
            part[:overlap] = torch.lerp(fading, part[:overlap], share)
        whole = len(part) if done == len(starts) else step
        fading = part[whole:].clone()
        if progress is not None:
            progress(done, len(starts))
        yield part[:whole]


def _decoded(autoencoder: Any, latents: Tensor) -> Tensor:
    scaled = (latents.float() / autoencoder.config.scaling_factor).to(autoencoder.device, autoencoder.dtype)
    with torch.no_grad():
        pixels = autoencoder.decode(scaled, num_frames=len(scaled)).sample.float()
    if not torch.isfinite(pixels).all():
        raise FloatingPointError(
            f"the decoder gave infinity or NaN in {str(autoencoder.dtype).removeprefix('torch.')}: choose bfloat16 or "
            "float32 as precision"
        )
    return (pixels * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu()
