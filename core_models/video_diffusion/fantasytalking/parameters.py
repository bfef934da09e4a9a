"""Sizes of a FantasyTalking model and what it was trained for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..actalker.portrait_encoder import PortraitEncoderParameters
from ..wan.frame_rules import FEWEST_FRAMES, FRAMES_PER_LATENT
from ..wan.transformer import WAN_I2V_14B, WanParameters
from .audio_projection import AudioProjectionParameters
from .identity_branch import IdentityBranchParameters
from .intensity_network import IntensityParameters


@dataclass(frozen=True)
class ClipDefaults:
    """What a model was trained for, and so what is sampled unless said otherwise; the released model's.

    fps: frames per second. window: frames at once, 4 k + 1. steps, shift: of the sampler. prompt_guidance,
    audio_guidance: how far the result is pushed towards the prompt and towards the sound. image_size: of the longer
    side, pixels; both sides become multiples of size_multiple.
    Raises ValueError for values out of range.
    """

    fps: float = 23.0
    window: int = 81
    steps: int = 30
    shift: float = 5.0
    prompt_guidance: float = 5.0
    audio_guidance: float = 5.0
    image_size: int = 512
    size_multiple: int = 16

    def __post_init__(self) -> None:
        for name in ("fps", "shift"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}, expected a positive number")
        for name in ("prompt_guidance", "audio_guidance"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}, expected a finite number")
        for name in ("steps", "image_size", "size_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.window < FEWEST_FRAMES or (self.window - 1) % FRAMES_PER_LATENT:
            raise ValueError(
                f"window is {self.window} frames, expected 4 k + 1, at least {FEWEST_FRAMES}, such as 81"
            )


@dataclass(frozen=True)
class FantasyTalkingParameters:
    """Sizes of all the parts; the defaults are the published ones.

    identity, intensity: of the branches that the release does not have; None, absent. listening: name of the audio
    embedding that the projection reads. portrait_encoder: of a model that was trained with its own in place of face
    recognition.
    Raises ValueError when the parts do not fit each other.
    """

    wan: WanParameters = WAN_I2V_14B
    audio: AudioProjectionParameters = field(default_factory=AudioProjectionParameters)
    identity: IdentityBranchParameters | None = None
    intensity: IntensityParameters | None = None
    listening: str = "wav2vec2"
    defaults: ClipDefaults = field(default_factory=ClipDefaults)
    portrait_encoder: PortraitEncoderParameters | None = None

    def __post_init__(self) -> None:
        if self.intensity is not None and self.intensity.width != self.wan.width:
            raise ValueError(
                f"the intensity network gives {self.intensity.width} numbers, the time embedding has {self.wan.width}"
            )
        if self.portrait_encoder is None:
            return
        if self.identity is None:
            raise ValueError("a portrait encoder is of use only to an identity branch: give its sizes too")
        if self.portrait_encoder.features != self.identity.features:
            raise ValueError(
                f"the portrait encoder gives {self.portrait_encoder.features} features, the identity branch takes "
                f"{self.identity.features}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FantasyTalkingParameters:
        """Rebuild from `to_dict`; raises TypeError, KeyError or ValueError for values that do not fit."""
        identity, intensity, encoder = (
            values[name] for name in ("identity", "intensity", "portrait_encoder")
        )
        return cls(
            wan=WanParameters.from_dict(values["wan"]),
            audio=AudioProjectionParameters(**values["audio"]),
            identity=None if identity is None else IdentityBranchParameters(**identity),
            intensity=None if intensity is None else IntensityParameters(**intensity),
            listening=values["listening"],
            defaults=ClipDefaults(**values["defaults"]),
            portrait_encoder=None if encoder is None else PortraitEncoderParameters(**encoder),
        )


PUBLISHED_FANTASYTALKING = FantasyTalkingParameters()
"""The released model: sound only."""
