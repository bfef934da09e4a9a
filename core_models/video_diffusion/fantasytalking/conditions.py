"""What one evaluation of FantasyTalking's network is given beside noisy latents and timestep, and whether it fits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .parameters import FantasyTalkingParameters

IDENTITY_SCALE = 0.5
"""Weight of the identity attention beside the others (the paper's lambda 2)."""


@dataclass(frozen=True)
class DenoiserConditions:
    """Conditions of B streams; F latent frames.

    image: (B, 4 + C, F, h, w), the mask and the latents of the first frame's video. text: (B, T, text_dim). picture:
    (B, 257, image_dim) CLIP tokens, for networks that look at them. audio: (B, F, W, width), a window for each latent
    frame, or (B, L, width), all of it for all frames; projected; None, no sound. audio_lengths: real tokens of each
    window, (B, F) or (B,); None, all take part, as in the release without flash-attn. audio_scale: (B,); None is 1, and
    0 is the same as no sound. Both may lie on the CPU. identity: (B, Q, width), from `identity_tokens` of the model.
    identity_scale: weight of its attention. intensity: (B, 2) in 0..1, face and body; None adds nothing.
    """

    image: Tensor
    text: Tensor
    picture: Tensor | None = None
    audio: Tensor | None = None
    audio_lengths: Tensor | None = None
    audio_scale: Tensor | None = None
    identity: Tensor | None = None
    identity_scale: float = IDENTITY_SCALE
    intensity: Tensor | None = None


def require_fitting(
    latents: Tensor, timesteps: Tensor, conditions: DenoiserConditions, parameters: FantasyTalkingParameters
) -> None:
    """Raise ValueError, with shapes, unless latents, timesteps and conditions fit each other and the network."""
    p, c = parameters.wan, conditions
    if latents.ndim != 5 or latents.shape[1] != p.out_channels:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}, expected (B, {p.out_channels}, F, h, w)"
        )
    batch, _, frames, height, width = latents.shape
    if height % p.patch_size[1] or width % p.patch_size[2] or 0 in latents.shape:
        raise ValueError(
            f"latents are {height} x {width}, expected multiples of the patches, {p.patch_size[1]} x {p.patch_size[2]}"
        )
    _require("timesteps", timesteps, (batch,))
    _require("image", c.image, (batch, p.condition_channels, frames, height, width))
    _require("text", c.text, (batch, None, p.text_dim))
    _require_picture(batch, conditions, parameters)
    _require_audio(batch, frames, conditions, parameters)
    _require_branches(batch, conditions, parameters)


def _require(name: str, value: Tensor, shape: tuple[int | None, ...]) -> None:
    fits = len(shape) == value.ndim and all(
        wanted in (None, found) for wanted, found in zip(shape, value.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if one is None else str(one) for one in shape)
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({wanted})")


def _require_picture(batch: int, c: DenoiserConditions, parameters: FantasyTalkingParameters) -> None:
    p = parameters.wan
    if p.image_dim is None:
        if c.picture is not None:
            raise ValueError("the network does not look at the picture through CLIP: give no picture tokens")
        return
    if c.picture is None:
        raise ValueError("the network looks at the picture through CLIP: give its picture tokens")
    _require("picture", c.picture, (batch, None, p.image_dim))
    if c.text.shape[1] > p.text_length:
        raise ValueError(
            f"text has {c.text.shape[1]} tokens, the network reads {p.text_length}: shorten the prompt"
        )


def _require_audio(
    batch: int, frames: int, c: DenoiserConditions, parameters: FantasyTalkingParameters
) -> None:
    if c.audio_scale is not None:
        _require("audio_scale", c.audio_scale, (batch,))
    if c.audio is None:
        return
    width, per_frame = parameters.audio.width, c.audio.ndim == 4
    _require("audio", c.audio, (batch, frames, None, width) if per_frame else (batch, None, width))
    if 0 in c.audio.shape:
        raise ValueError(
            f"audio has shape {tuple(c.audio.shape)}, expected at least one token: None is no sound"
        )
    if c.audio_lengths is not None:
        _require("audio_lengths", c.audio_lengths, (batch, frames) if per_frame else (batch,))


def _require_branches(batch: int, c: DenoiserConditions, parameters: FantasyTalkingParameters) -> None:
    if c.identity is not None:
        if parameters.identity is None:
            raise ValueError(
                "this model has no identity branch (the release has none): give no identity, or load a model that has "
                "one"
            )
        _require("identity", c.identity, (batch, None, parameters.identity.width))
    if not math.isfinite(c.identity_scale):
        raise ValueError(f"identity_scale is {c.identity_scale}, expected a finite number")
    if c.intensity is not None:
        if parameters.intensity is None:
            raise ValueError(
                "this model has no intensity network (the release has none): give no intensity, or load a model that "
                "has one"
            )
        _require("intensity", c.intensity, (batch, 2))
