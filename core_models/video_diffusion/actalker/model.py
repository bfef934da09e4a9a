"""ACTalker's trained parts together: the UNet and what turns conditions into its tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from ...audio.embedding import WHISPER
from ...video_types import BLENDSHAPE_MOTION, EXPRESSION_AND_POSE
from .condition_projections import (
    AudioProjection,
    AudioProjectionParameters,
    IdentityProjection,
    IdentityProjectionParameters,
    MotionProjection,
    MotionProjectionParameters,
)
from .guidance import GuidanceScales
from .portrait_encoder import PortraitEncoder, PortraitEncoderParameters
from .pose_guider import PoseGuider, PoseGuiderParameters
from .unet import ACTalkerUNet, UNetParameters


@dataclass(frozen=True)
class ListeningWindow:
    """Which rows of an audio embedding a frame hears.

    encoder: name of the audio embedding. rows: of a frame. before: rows before the one at which the frame begins.
    Raises ValueError unless rows >= 1 and 0 <= before < rows.
    """

    encoder: str = WHISPER
    rows: int = 10
    before: int = 4

    def __post_init__(self) -> None:
        if self.rows < 1 or not 0 <= self.before < self.rows:
            raise ValueError(
                f"a frame hears {self.rows} rows, {self.before} of them before its own, expected at least 1 row and "
                "fewer before than rows"
            )


@dataclass(frozen=True)
class ClipDefaults:
    """What a model was trained for, and so what is sampled unless said otherwise; the released model's.

    fps: frames per second. window: frames at once. shift: frames that the windows move on by from step to step, so
    that their edges never stay in one place. motion_buckets: how much head and expression move, told to the model.
    steps, sigma_min, sigma_max, guidance: of the sampler. image_size: of the shorter side, pixels.
    Raises ValueError for values out of range.
    """

    fps: float = 12.5
    window: int = 25
    shift: int = 7
    motion_buckets: tuple[float, float] = (12.0, 20.0)
    steps: int = 25
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    guidance: GuidanceScales = field(default_factory=GuidanceScales)
    image_size: int = 576

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps is {self.fps}, expected a positive number")
        for name, least in (("window", 1), ("shift", 0), ("steps", 1), ("image_size", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min is {self.sigma_min} and sigma_max {self.sigma_max}, expected 0 < sigma_min < sigma_max"
            )


@dataclass(frozen=True)
class ACTalkerParameters:
    """Sizes of all the parts; the defaults are the published ones.

    portrait_encoder: of a model that was trained with its own in place of face recognition. motion: what its motion
    signal holds. Raises ValueError when the parts do not fit each other.
    """

    unet: UNetParameters = field(default_factory=UNetParameters)
    pose: PoseGuiderParameters = field(default_factory=PoseGuiderParameters)
    audio: AudioProjectionParameters = field(default_factory=AudioProjectionParameters)
    identity: IdentityProjectionParameters = field(default_factory=IdentityProjectionParameters)
    motion: MotionProjectionParameters = field(default_factory=MotionProjectionParameters)
    portrait_encoder: PortraitEncoderParameters | None = None
    listening: ListeningWindow = field(default_factory=ListeningWindow)
    motion_kind: str = EXPRESSION_AND_POSE
    defaults: ClipDefaults = field(default_factory=ClipDefaults)

    def __post_init__(self) -> None:
        widths = {self.audio.width, self.identity.width, self.motion.width, self.unet.condition_width}
        if len(widths) > 1:
            raise ValueError(f"tokens of audio, identity, motion and UNet differ in width: {sorted(widths)}")
        if self.pose.channels != self.unet.channels[0]:
            raise ValueError(
                f"the pose guider gives {self.pose.channels} channels, the UNet takes {self.unet.channels[0]}"
            )
        if self.portrait_encoder is not None and self.portrait_encoder.features != self.identity.features:
            raise ValueError(
                f"the portrait encoder gives {self.portrait_encoder.features} features, the identity projection "
                f"takes {self.identity.features}"
            )
        if self.motion_kind not in (EXPRESSION_AND_POSE, BLENDSHAPE_MOTION):
            raise ValueError(f"unknown kind of motion {self.motion_kind!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ACTalkerParameters:
        """Rebuild from `to_dict`; raises TypeError, KeyError or ValueError for values that do not fit."""
        defaults = dict(values["defaults"])
        defaults["guidance"] = GuidanceScales(**defaults["guidance"])
        encoder = values["portrait_encoder"]
        return cls(
            unet=UNetParameters(**_tuples(values["unet"])),
            pose=PoseGuiderParameters(**_tuples(values["pose"])),
            audio=AudioProjectionParameters(**values["audio"]),
            identity=IdentityProjectionParameters(**values["identity"]),
            motion=MotionProjectionParameters(**values["motion"]),
            portrait_encoder=None if encoder is None else PortraitEncoderParameters(**_tuples(encoder)),
            listening=ListeningWindow(**values["listening"]),
            motion_kind=values["motion_kind"],
            defaults=ClipDefaults(**_tuples(defaults)),
        )


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


class ACTalkerModel(nn.Module):
    """The UNet, the pose guider and the projections; in models trained here also the portrait encoder.

    Each part has the keys of its published file. Loaded, some parameters stay in float32 while the others are in half
    precision, so it must not be cast as a whole.
    """

    keeps_its_dtypes = True
    """Whoever holds networks leaves the dtypes of this one as they were loaded."""

    def __init__(self, parameters: ACTalkerParameters = ACTalkerParameters()) -> None:
        super().__init__()
        self.parameters_used = p = parameters
        self.unet = ACTalkerUNet(p.unet)
        self.pose_guider = PoseGuider(p.pose)
        self.audio_projection = AudioProjection(p.audio)
        self.identity_projection = IdentityProjection(p.identity)
        self.motion_projection = MotionProjection(p.motion)
        self.portrait_encoder = None if p.portrait_encoder is None else PortraitEncoder(p.portrait_encoder)
