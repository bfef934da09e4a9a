"""Pictures to latents and back, a few frames at a time."""

from __future__ import annotations

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
    if not 0 <= overlap < chunk:
        raise ValueError(f"a chunk of {chunk} frames cannot share {overlap}: give 0 to {chunk - 1}")
    count, step = len(latents), chunk - overlap
    frames: Tensor | None = None
    starts = range(0, max(count - overlap, 1), step)
    for done, start in enumerate(starts, 1):
        part = _decoded(autoencoder, latents[start : start + chunk])
        if frames is None:
            frames = part.new_empty(count, *part.shape[1:])
        shared = min(overlap, len(part)) if start else 0
        if shared:
            share = (torch.arange(1, shared + 1) / (shared + 1)).view(-1, 1, 1, 1)
            part[:shared] = torch.lerp(frames[start : start + shared], part[:shared], share)
        frames[start : start + len(part)] = part
        if progress is not None:
            progress(done, len(starts))
    return frames


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
