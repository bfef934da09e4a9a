"""Latents as ComfyUI's graph has them: what the autoencoder takes, before diffusion normalises each channel."""

from __future__ import annotations

import torch
from torch import Tensor

from .autoencoder import WanAutoencoderParameters


def core_latents(latents: Tensor, parameters: WanAutoencoderParameters) -> Tensor:
    """Return normalised latents (C, F, h, w) as core's VAE Decode takes them, (1, C, F, h, w) float32.

    parameters: of the autoencoder whose statistics normalised them. What ComfyUI's latent format for Wan 2.1 calls
    process_out.
    """
    mean, spread = _statistics(parameters)
    return (latents.float() * spread + mean)[None]


def normalised_core_latents(samples: Tensor, parameters: WanAutoencoderParameters) -> Tensor:
    """Return one clip of the graph, (1, C, F, h, w), as diffusion sees it, (C, F, h, w) float32.

    Raises ValueError for another shape, several clips, or latents of another autoencoder.
    """
    shape = tuple(getattr(samples, "shape", ()))
    if len(shape) != 5 or shape[:2] != (1, parameters.z_dim) or 0 in shape:
        raise ValueError(
            f"the latents are {shape}, expected (1, {parameters.z_dim}, frames, height, width), one clip of this "
            "model: connect FantasyTalking Sampler"
        )
    mean, spread = _statistics(parameters)
    return (samples[0].float().cpu() - mean) / spread


def _statistics(parameters: WanAutoencoderParameters) -> tuple[Tensor, Tensor]:
    """Return mean and spread, (C, 1, 1, 1) each."""
    return tuple(
        torch.tensor(values)[:, None, None, None]
        for values in (parameters.latents_mean, parameters.latents_std)
    )
