"""Frames to the latents that diffusion works on, and back: what a video autoencoder makes of made clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor

from .actalker_data import ControlledClip

FRAMES_AT_ONCE = 64
"""Frames that are encoded, or decoded, together where nothing else is said."""


def pictures_of_frames(frames: np.ndarray) -> Tensor:
    """Return (N, 3, H, W) float32 in -1..1 of frames (N, H, W, 3) uint8."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def frames_of_pictures(pictures: Tensor) -> np.ndarray:
    """Return (N, H, W, 3) uint8 of pictures (N, 3, H, W) in -1..1; what lies beyond is cut off."""
    levels = ((pictures.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).contiguous().to(torch.uint8).numpy()


def measured_scaling_factor(
    autoencoder: AutoencoderKLTemporalDecoder, clips: Sequence[ControlledClip], every: int = 4
) -> float:
    """Return what latents of the clips, `every` so many of their frames, are multiplied by to spread by 1.

    That is each channel's spread about its own mean, on average over the channels.
    """
    modes = torch.cat([mode for clip in clips for mode in _modes(autoencoder, clip.frames[::every])])
    return 1 / float(modes.std(dim=(0, 2, 3)).mean())


@torch.no_grad()
def _modes(autoencoder: AutoencoderKLTemporalDecoder, frames: np.ndarray) -> Iterator[Tensor]:
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        pictures = pictures_of_frames(frames[first : first + FRAMES_AT_ONCE]).to(autoencoder.device)
        yield autoencoder.encode(pictures).latent_dist.mode().float().cpu()


def encode_clips(autoencoder: AutoencoderKLTemporalDecoder, clips: Sequence[ControlledClip]) -> np.ndarray:
    """Return (clips, frames, 4, 16, 16) float16: the modes of all frames' latents times the scaling factor.

    Raises ValueError for no clips or clips of several lengths.
    """
    lengths = sorted({len(clip) for clip in clips})
    if len(lengths) != 1:
        raise ValueError(f"clips of one length are encoded, but these have {lengths or 'none'} frames")
    factor = autoencoder.config.scaling_factor
    return np.stack([torch.cat([*_modes(autoencoder, c.frames)]).mul(factor).half().numpy() for c in clips])


@torch.no_grad()
def decode_latents(
    autoencoder: AutoencoderKLTemporalDecoder, latents: np.ndarray | Tensor, at_once: int = FRAMES_AT_ONCE
) -> np.ndarray:
    """Return (N, 64, 64, 3) uint8 RGB of one clip's latents (N, 4, 16, 16), which were multiplied by the factor.

    at_once: frames that are decoded together; each part knows nothing of the others.
    """
    whole = (
        torch.as_tensor(latents).to(autoencoder.device, autoencoder.dtype) / autoencoder.config.scaling_factor
    )
    parts = [autoencoder.decode(part, num_frames=len(part)).sample for part in whole.split(at_once)]
    return np.concatenate([frames_of_pictures(part) for part in parts])
