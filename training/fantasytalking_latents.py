"""Made clips to the latents that FantasyTalking's diffusion works on, and back; kept beside the clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from ..core_models.types import ProgressCallback
from ..core_models.video_diffusion.wan.autoencoder import decoded_chunks, encoded_condition
from ..core_models.video_diffusion.wan.image_conditions import condition_video
from .actalker_latents import frames_of_pictures, pictures_of_frames
from .autoencoder_training import clips_digest
from .fantasytalking_data import TalkingClip
from .kept_arrays import kept_arrays, network_digest

LATENTS_SUFFIX = ".latents.npz"
"""In place of the .npz of the clips."""
_KIND = "fantasytalking_latents_1"
_NAMES = ("latents", "starts")


def latents_path(clips: Path) -> Path:
    """Return where the latents of a file of clips are kept."""
    return clips.with_suffix(LATENTS_SUFFIX)


def latents_digest(clips: Sequence[TalkingClip], autoencoder: AutoencoderKLWan) -> str:
    """Return a SHA-256 of the clips' frames, the autoencoder's weights and what its latents are normalised by."""
    config = autoencoder.config
    statistics = f"{tuple(config.latents_mean)!r} {tuple(config.latents_std)!r}"
    return network_digest(autoencoder, f"{clips_digest(clips)} {statistics}")


def clip_latents(autoencoder: AutoencoderKLWan, frames: np.ndarray) -> np.ndarray:
    """Return normalised latents (C, F, h, w) float16 of frames (N, H, W, 3) uint8, N = 4 (F - 1) + 1."""
    video = pictures_of_frames(frames).transpose(0, 1)
    return encoded_condition(autoencoder, video).cpu().half().numpy()


def start_latents(autoencoder: AutoencoderKLWan, frame: np.ndarray, count: int) -> Tensor:
    """Return latents (C, F, h, w) float32 of a frame (H, W, 3) uint8 with grey behind it: the condition of `count`
    frames."""
    image = pictures_of_frames(frame[None])[0]
    return encoded_condition(autoencoder, condition_video(image, count)).cpu()


def frames_of_latents(autoencoder: AutoencoderKLWan, latents: Tensor | np.ndarray) -> np.ndarray:
    """Return (N, H, W, 3) uint8 frames of one clip's normalised latents (C, F, h, w)."""
    chunks = decoded_chunks(autoencoder, torch.as_tensor(latents))
    return np.concatenate([frames_of_pictures(chunk.transpose(0, 1)) for chunk in chunks])


def kept_latents(
    path: Path,
    clips: Sequence[TalkingClip],
    autoencoder: AutoencoderKLWan,
    digest: str,
    progress: ProgressCallback | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return latents of clips and of their first frames' conditions, both (clips, C, F, h, w) float16.

    They are read from a file, or encoded and written there. digest: `latents_digest` of clips and autoencoder; a file
    with another one, or a damaged one, is written anew. progress: called with (clips encoded, clips).
    Raises ValueError for no clips, clips of several lengths, or lengths that are not 4 k + 1; OSError when the file
    cannot be written.
    """
    kept = kept_arrays(path, _KIND, digest, _NAMES, lambda: _encoded(clips, autoencoder, progress))
    return kept["latents"], kept["starts"]


def _encoded(
    clips: Sequence[TalkingClip], autoencoder: AutoencoderKLWan, progress: ProgressCallback | None
) -> dict[str, np.ndarray]:
    lengths = sorted({len(clip) for clip in clips})
    if len(lengths) != 1:
        raise ValueError(f"clips of one length are encoded, but these have {lengths or 'none'} frames")
    latents, starts = [], []
    for clip in clips:
        latents.append(clip_latents(autoencoder, clip.frames))
        starts.append(start_latents(autoencoder, clip.frames[0], len(clip)).half().numpy())
        if progress is not None:
            progress(len(latents), len(clips))
    return {"latents": np.stack(latents), "starts": np.stack(starts)}
