"""Video autoencoders from files: Stable Video Diffusion's published one, and small ones of the same kind.

Both are diffusers' `AutoencoderKLTemporalDecoder`: frames are encoded each by itself, and decoded together. What
diffusion works on is the mode of the encoded distribution times `config.scaling_factor`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn

from ..strict_loading import UnreadableWeightsError, load_strict, read_metadata

VIDEO_AUTOENCODER_ENTRY = "video_autoencoder"
"""Entry of a file's metadata that holds the sizes; files without it are Stable Video Diffusion's."""
GROUPS = 32
"""Of every normalisation of diffusers' network as it is built: channels are multiples of it."""


@dataclass(frozen=True)
class VideoAutoencoderParameters:
    """Sizes of a video autoencoder; the defaults are Stable Video Diffusion's (its vae/config.json).

    block_out_channels: of each level, from the pictures' size down; every further level halves height and width.
    layers_per_block: residual blocks of a level of the encoder; the decoder has one more. latent_channels: of latents.
    scaling_factor: what latents are multiplied by, so that they spread by 1. force_upcast: encode in float32 always.
    groups: of every normalisation. Small networks want few: a group of one channel forgets how bright a picture is.
    Raises ValueError for channels that 32 does not divide, groups that do not divide 32, fewer than one level, layer
    or latent channel, or a factor not above 0.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    scaling_factor: float = 0.18215
    force_upcast: bool = True
    groups: int = GROUPS

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))
        channels = self.block_out_channels
        if not channels or any(value < GROUPS or value % GROUPS for value in channels):
            raise ValueError(
                f"block_out_channels is {channels}, expected multiples of {GROUPS}, at least one"
            )
        for name in ("layers_per_block", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.groups < 1 or GROUPS % self.groups:
            raise ValueError(f"groups is {self.groups}, expected a divisor of {GROUPS}")
        if not 0 < self.scaling_factor < float("inf"):
            raise ValueError(f"scaling_factor is {self.scaling_factor}, expected a number above 0")

    @property
    def reduction(self) -> int:
        """How many times smaller latents are than pictures, in height and in width."""
        return 2 ** (len(self.block_out_channels) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VideoAutoencoderParameters:
        """Rebuild from `to_dict`; raises TypeError for fields that do not exist."""
        return cls(**values)


PUBLISHED_AUTOENCODER = VideoAutoencoderParameters()
"""Stable Video Diffusion's, which ACTalker uses unchanged."""


def new_video_autoencoder(parameters: VideoAutoencoderParameters) -> AutoencoderKLTemporalDecoder:
    """Return an autoencoder of these sizes with weights drawn from torch's global generator."""
    autoencoder = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(parameters.block_out_channels),
        block_out_channels=parameters.block_out_channels,
        layers_per_block=parameters.layers_per_block,
        latent_channels=parameters.latent_channels,
        scaling_factor=parameters.scaling_factor,
        force_upcast=parameters.force_upcast,
    )
    for module in autoencoder.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = parameters.groups  # its weights are by channels, so their shapes stay
    return autoencoder


def autoencoder_parameters(path: str | os.PathLike[str]) -> VideoAutoencoderParameters:
    """Return the sizes that a safetensors file's metadata holds; the published ones for a file without them.

    Raises FileNotFoundError, and UnreadableWeightsError for a damaged file or sizes that cannot be read.
    """
    text = read_metadata(path).get(VIDEO_AUTOENCODER_ENTRY)
    if text is None:
        return PUBLISHED_AUTOENCODER
    try:
        return VideoAutoencoderParameters.from_dict(json.loads(text))
    except (AttributeError, TypeError, ValueError) as error:
        raise UnreadableWeightsError(f"{path}: its sizes ({text[:80]}) cannot be read: {error}") from error


def load_video_autoencoder(
    path: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> AutoencoderKLTemporalDecoder:
    """Return the autoencoder of a safetensors file, frozen, on the CPU, in evaluation mode.

    path: a file that our training exported, or Stable Video Diffusion's. dtype: of the weights.
    Raises FileNotFoundError, and ValueError for a file of another kind or any key that is missing, unexpected or
    misshapen (all of them are named).
    """
    parameters = autoencoder_parameters(path)
    return load_strict(lambda: new_video_autoencoder(parameters), path, dtype=dtype).requires_grad_(False)


def autoencoder_metadata(parameters: VideoAutoencoderParameters) -> dict[str, str]:
    """Return what a file's metadata holds so that `load_video_autoencoder` reads it."""
    return {VIDEO_AUTOENCODER_ENTRY: json.dumps(parameters.to_dict())}
