"""What travels along the wires of the video diffusion systems: frozen dataclasses, as in `types`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .audio.frame_clock import frame_times
from .types import AudioEmbedding, ModelHandle, frozen_array

ARCFACE = "arcface"
"""Encoder of an identity by face recognition; models trained here name themselves."""

REGIONS, FULL = "regions", "full"
"""Joint control by region, as ACTalker's paper has it; or both signals everywhere, as its released script does it."""
REGION_MODES = (REGIONS, FULL)

EXPRESSION_AND_POSE, BLENDSHAPE_MOTION = "expression_and_pose", "blendshapes"
"""What a motion embedding holds: 518 numbers the released networks read from a film, or 64 made from a motion track."""

ACTALKER, ACTALKER_POCKET = "actalker", "actalker_pocket"
"""The published model, and the small one trained here."""


@dataclass(frozen=True)
class Identity:
    """Who a portrait shows, to a model.

    embedding: (C,) float32, as the encoder gives it, not normalised. crop: (S, S, 3) uint8 RGB, what the encoder saw.
    encoder: "arcface", or the name of a model that has its own.
    """

    embedding: np.ndarray
    crop: np.ndarray
    encoder: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "embedding", frozen_array(self.embedding))
        object.__setattr__(self, "crop", frozen_array(self.crop, np.uint8))
        if self.embedding.ndim != 1 or not np.isfinite(self.embedding).all():
            raise ValueError(f"Identity.embedding is {self.embedding.shape}, expected finite numbers (C,)")


@dataclass(frozen=True)
class MotionEmbedding:
    """How a face moves, as a video diffusion model takes it.

    features: (N, C) float32, a row for each frame. fps: of the rows, > 0. encoder: what made them, EXPRESSION_AND_POSE
    or BLENDSHAPE_MOTION.
    """

    features: np.ndarray
    fps: float
    encoder: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", frozen_array(self.features))
        if self.features.ndim != 2 or 0 in self.features.shape or not np.isfinite(self.features).all():
            raise ValueError(
                f"MotionEmbedding.features is {self.features.shape}, expected finite numbers (N, C)"
            )
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"MotionEmbedding.fps is {self.fps}, expected a positive rate")

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.features) / self.fps


@dataclass(frozen=True)
class Gate:
    """How far a signal is let through, over time.

    values: (K,) float32 in 0..1, at `times` (K,) increasing seconds; between them it goes evenly, outside it is held.
    """

    values: np.ndarray = field(default_factory=lambda: np.ones(1))
    times: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def __post_init__(self) -> None:
        for name in ("values", "times"):
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
        if self.values.ndim != 1 or self.values.shape != self.times.shape or not len(self.values):
            raise ValueError(
                f"a gate has {self.values.shape} values at {self.times.shape} times, expected (K,) each"
            )
        if not ((self.values >= 0) & (self.values <= 1)).all():
            raise ValueError(f"a gate must be in 0..1, got {self.values.tolist()}")
        if not np.isfinite(self.times).all() or (np.diff(self.times) <= 0).any():
            raise ValueError(f"the times of a gate must increase, got {self.times.tolist()}")

    @classmethod
    def constant(cls, value: float) -> Gate:
        """Return a gate that stays at one value."""
        return cls(np.array([value]))

    def on_frames(self, frames: int, fps: float) -> np.ndarray:
        """Return (frames,) float32: the gate at the start of each frame."""
        return np.interp(frame_times(frames, fps), self.times, self.values).astype(np.float32)

    @property
    def is_closed(self) -> bool:
        """Whether nothing comes through at any time."""
        return not self.values.any()


@dataclass(frozen=True)
class MaskedControl:
    """What steers which part of a face: signals, their regions, gates and guidance.

    audio, motion: the signals; None where there is none. face, mouth, motion_mask: (H, W) float32 in 0..1 at the
    portrait's size: the region of a signal that works alone, and those of sound and motion when both work.
    audio_gate, motion_gate: how far each is let through. audio_guidance, motion_guidance: how far the result is pushed
    towards the signal, 1 not at all; None is the model's own. regions: "regions" or "full".
    Raises ValueError for masks of different sizes or out of range, no signal at all, or all that is there closed.
    """

    face: np.ndarray
    mouth: np.ndarray
    motion_mask: np.ndarray
    audio: AudioEmbedding | None = None
    motion: MotionEmbedding | None = None
    audio_gate: Gate = field(default_factory=Gate)
    motion_gate: Gate = field(default_factory=Gate)
    audio_guidance: float | None = None
    motion_guidance: float | None = None
    regions: str = REGIONS

    def __post_init__(self) -> None:
        for name in ("face", "mouth", "motion_mask"):
            mask = frozen_array(getattr(self, name))
            object.__setattr__(self, name, mask)
            if mask.ndim != 2 or mask.shape != self.face.shape or 0 in mask.shape:
                raise ValueError(
                    f"the {name.removesuffix('_mask')} mask is {mask.shape}, the face mask {self.face.shape}: all "
                    "three must be of one size, the portrait's"
                )
            if not ((mask >= 0) & (mask <= 1)).all():
                raise ValueError(f"the {name.removesuffix('_mask')} mask holds values outside 0..1, or NaN")
        if self.regions not in REGION_MODES:
            raise ValueError(f"regions is {self.regions!r}, expected one of {', '.join(REGION_MODES)}")
        for name in ("audio_guidance", "motion_guidance"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                raise ValueError(f"{name} is {value}, expected a finite number")
        if self.audio is None and self.motion is None:
            raise ValueError(
                "there is neither sound nor motion to steer by: connect audio_embeds or motion_embeds"
            )
        if (self.audio is None or self.audio_gate.is_closed) and (
            self.motion is None or self.motion_gate.is_closed
        ):
            raise ValueError(
                "the gates of all that is connected are closed, so nothing steers the face: open the audio gate or "
                "the motion gate"
            )

    @property
    def duration(self) -> float:
        """Seconds: of the sound where it is heard at all, else of the motion."""
        if self.audio is not None and not (self.audio_gate.is_closed and self.motion is not None):
            return self.audio.duration
        return self.motion.duration


@dataclass(frozen=True)
class ACTalkerModels:
    """The networks of an ACTalker, as keys into the shared cache.

    kind: "actalker" or "actalker_pocket". model: UNet, pose guider and projections. autoencoder: of the frames.
    recognition, expression: what reads identities and driving films; None where the model needs neither.
    """

    kind: str
    model: ModelHandle
    autoencoder: ModelHandle
    recognition: ModelHandle | None = None
    expression: ModelHandle | None = None

    def __post_init__(self) -> None:
        if self.kind not in (ACTALKER, ACTALKER_POCKET):
            raise ValueError(
                f"ACTalkerModels.kind is {self.kind!r}, expected {ACTALKER} or {ACTALKER_POCKET}"
            )


ACTALKER_ENTRY = "actalker"
"""Entry of a file's metadata that holds the sizes of an ACTalker trained here."""
PUBLISHED_PARTS: dict[str, str] = {
    "unet": "actalker_unet",
    "pose_guider": "actalker_pose_guider",
    "audio_projection": "actalker_audio_linear",
    "identity_projection": "actalker_id_proj_model",
    "motion_projection": "actalker_vasa_linear",
}
"""Part of the published ACTalker -> the manifest row of its file, which names the file's layout too.

The published adapter file is not among them: the UNet's file holds the same projections.
"""
