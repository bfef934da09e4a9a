"""Latents of a file of clips, encoded once and kept beside it for as long as clips and autoencoder stay the same."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKLTemporalDecoder

from ..core_models.types import ProgressCallback
from ..core_models.whole_file import renamed_when_whole
from .actalker_autoencoder import clips_digest
from .actalker_data import ControlledClip
from .actalker_latents import encode_clips

logger = logging.getLogger(__name__)

LATENTS_SUFFIX = ".latents.npz"
"""In place of the .npz of the clips."""
_KIND = "actalker_latents_1"


def latents_path(clips: Path) -> Path:
    """Return where the latents of a file of clips are kept."""
    return clips.with_suffix(LATENTS_SUFFIX)


def latents_digest(clips: Sequence[ControlledClip], autoencoder: AutoencoderKLTemporalDecoder) -> str:
    """Return a SHA-256 of the clips' frames, the autoencoder's weights and its scaling factor."""
    digest = hashlib.sha256(f"{clips_digest(clips)} {autoencoder.config.scaling_factor!r}".encode())
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
    kept = _read(path, digest)
    if kept is not None:
        return kept
    latents = _encoded(clips, autoencoder, progress)
    with renamed_when_whole(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, kind=np.array(_KIND), digest=np.array(digest), latents=latents)
    return latents


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


def _read(path: Path, digest: str) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["kind"]) == _KIND and str(archive["digest"]) == digest:
                return archive["latents"]
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s cannot be read (%s): it is made anew", path, error)
        return None
    logger.info("%s is of other clips or another autoencoder: it is made anew", path)
    return None
