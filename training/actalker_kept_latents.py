"""Latents of a file of clips, encoded once and kept beside it for as long as clips and autoencoder stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKLTemporalDecoder

from ..core_models.types import ProgressCallback
from .actalker_data import ControlledClip
from .actalker_latents import encode_clips
from .autoencoder_training import clips_digest
from .kept_arrays import kept_arrays, network_digest

LATENTS_SUFFIX = ".latents.npz"
"""In place of the .npz of the clips."""
_KIND = "actalker_latents_1"


def latents_path(clips: Path) -> Path:
    """Return where the latents of a file of clips are kept."""
    return clips.with_suffix(LATENTS_SUFFIX)


def latents_digest(clips: Sequence[ControlledClip], autoencoder: AutoencoderKLTemporalDecoder) -> str:
    """Return a SHA-256 of the clips' frames, the autoencoder's weights and its scaling factor."""
    return network_digest(autoencoder, f"{clips_digest(clips)} {autoencoder.config.scaling_factor!r}")


def kept_latents(
    path: Path,
    clips: Sequence[ControlledClip],
    autoencoder: AutoencoderKLTemporalDecoder,
    digest: str,
    progress: ProgressCallback | None = None,
) -> np.ndarray:
    """Return (clips, frames, C, h, w) float16 as `encode_clips`: read from a file, or encoded and written there.

    digest: `latents_digest` of clips and autoencoder; a file with another one, or a damaged one, is written anew.
    progress: called with (clips encoded, clips). Raises ValueError for no clips or clips of several lengths, OSError
    when the file cannot be written.
    """
    names = ("latents",)
    kept = kept_arrays(
        path, _KIND, digest, names, lambda: {"latents": _encoded(clips, autoencoder, progress)}
    )
    return kept["latents"]


def _encoded(
    clips: Sequence[ControlledClip],
    autoencoder: AutoencoderKLTemporalDecoder,
    progress: ProgressCallback | None,
) -> np.ndarray:
    lengths = sorted({len(clip) for clip in clips})
    if len(lengths) != 1:
        raise ValueError(f"clips of one length are encoded, but these have {lengths or 'none'} frames")
    latents = []
    for clip in clips:
        latents.append(encode_clips(autoencoder, [clip])[0])
        if progress is not None:
            progress(len(latents), len(clips))
    return np.stack(latents)
