"""A portrait that speaks, by KDTalker: what was sampled, shaped as a director asks, at the video's own rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..audio.frame_clock import frame_count
from ..motion.blendshape_retargeting import FaceGeometry, face_geometry, retarget_motion
from ..motion.curve_picture import PreviewCallback
from ..motion.keypoint_blinking import LONGEST_STARE, add_missing_blinks
from ..motion.keypoint_driving import moved_readings
from ..motion.keypoint_geometry import KeypointReadings
from ..motion.pose_track import fitted_track, with_angle_gains, with_pose_of
from ..motion.region_names import MOTION_REGIONS
from ..motion.regions import LARGEST_GAIN, scale_motion
from ..motion.track import motion_for_duration
from ..rendering.liveportrait.portrait_reading import read_portrait
from ..types import (
    BLENDSHAPES,
    AudioEmbedding,
    FaceMotion,
    Portrait,
    PortraitVideo,
    ProgressCallback,
    portraits_of,
)
from .kdtalker import KDTALKER_FPS, KDTalkerModel
from .kdtalker_sampler import (
    KDTalkerSamplingParameters,
    motion_of_portrait,
    require_speakable,
    sample_readings,
)
from .motion_vectors import POSE, motion_vectors

if TYPE_CHECKING:
    from ..motion.motion_extractor import MotionExtractor

_GAINS = ("strength", "mouth", "brows", "head_motion", "pitch", "yaw", "roll")


@dataclass(frozen=True)
class PerformanceParameters:
    """What becomes of the motion that was sampled. Gains are 0..3: 1 leaves what was made, 0 is the portrait at rest.

    fps: of the result; KDTalker's own is 25. strength: of everything. mouth: lips and jaw. brows, head_motion: those.
    pitch, yaw, roll: of each head angle, on top of head_motion. blinks_per_minute: how often blinks are added where
    the model makes none for `longest_stare` seconds; 0 adds none.
    """

    fps: float = KDTALKER_FPS
    strength: float = 1.0
    mouth: float = 1.0
    brows: float = 1.0
    head_motion: float = 1.0
    pitch: float = 1.0
    yaw: float = 1.0
    roll: float = 1.0
    blinks_per_minute: float = 14.0
    longest_stare: float = LONGEST_STARE

    def __post_init__(self) -> None:
        for name in _GAINS:
            if not 0 <= getattr(self, name) <= LARGEST_GAIN:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to {LARGEST_GAIN:g}")
        if not 0 <= self.blinks_per_minute <= 30:
            raise ValueError(f"blinks_per_minute is {self.blinks_per_minute}, expected 0 to 30")
        if not (math.isfinite(self.longest_stare) and self.longest_stare > 0):
            raise ValueError(f"longest_stare is {self.longest_stare}, expected a positive number of seconds")


@dataclass(frozen=True)
class KDTalkerOptions:
    """How to sample, and what becomes of it."""

    sampling: KDTalkerSamplingParameters = field(default_factory=KDTalkerSamplingParameters)
    performance: PerformanceParameters = field(default_factory=PerformanceParameters)

    @classmethod
    def of(cls, sampling: dict[str, Any], performance: dict[str, Any]) -> KDTalkerOptions:
        """Return options of fields by their names; the rest keeps its defaults."""
        return cls(KDTalkerSamplingParameters(**sampling), PerformanceParameters(**performance))

    def with_settings(self, settings: dict[str, Any]) -> KDTalkerOptions:
        """Return options with the settings whose names are fields of either part; others are not KDTalker's."""

        def changed(part: Any) -> Any:
            names = {one.name for one in fields(part)}
            return replace(part, **{name: value for name, value in settings.items() if name in names})

        return KDTalkerOptions(changed(self.sampling), changed(self.performance))


def speaking_portrait(
    model: KDTalkerModel,
    portrait: Portrait | PortraitVideo,
    extractor: MotionExtractor,
    embedding: AudioEmbedding,
    options: KDTalkerOptions | None = None,
    pose: FaceMotion | None = None,
    progress: ProgressCallback | None = None,
    compiled: bool = False,
    preview: PreviewCallback | None = None,
) -> list[FaceMotion]:
    """Return `speaking_motion` of a portrait, which the motion extractor reads first.

    Raises ValueError for a film or features of another encoder, before anything is read.
    """
    require_speakable(len(portraits_of(portrait)), embedding)
    source = read_portrait(portrait, extractor)
    geometry = face_geometry(portraits_of(portrait)[0])
    return speaking_motion(model, source, embedding, options, pose, geometry, progress, compiled, preview)


def speaking_motion(
    model: KDTalkerModel,
    source: KeypointReadings,
    embedding: AudioEmbedding,
    options: KDTalkerOptions | None = None,
    pose: FaceMotion | None = None,
    geometry: FaceGeometry | None = None,
    progress: ProgressCallback | None = None,
    compiled: bool = False,
    preview: PreviewCallback | None = None,
) -> list[FaceMotion]:
    """Return the motion, in implicit keypoints, of a portrait that speaks; one per variation, as long as the sound.

    source: the portrait's reading. pose: a track whose head pose is taken as it is, instead of a sampled one, in either
    space; it is known to the model at every step. geometry: of the portrait, for a pose in blendshapes.
    preview: as `sample_readings` has it.
    Raises ValueError as `sample_readings` does.
    """
    options = options or KDTalkerOptions()
    sampling, performance = options.sampling, options.performance
    if pose is not None and pose.space == BLENDSHAPES:
        pose = retarget_motion(pose, geometry=geometry)
    rows = None if pose is None else pose_rows(source, pose, embedding)
    tracks = sample_readings(
        model, source, embedding, sampling, pose=rows, progress=progress, compiled=compiled, preview=preview
    )
    motions = [motion_of_portrait(source, made, sampling.mode) for made in tracks]
    return [
        shaped(motion, performance, seed, embedding.duration, pose)
        for motion, seed in zip(motions, sampling.seeds, strict=True)
    ]


def pose_rows(source: KeypointReadings, pose: FaceMotion, embedding: AudioEmbedding) -> np.ndarray:
    """Return (N, 6) yaw, pitch, roll (the extractor's degrees) and translation of the portrait under a pose track."""
    frames = frame_count(embedding.duration, KDTALKER_FPS)
    moved = moved_readings(source, fitted_track(pose, KDTALKER_FPS, frames))
    return motion_vectors(moved)[:, POSE]


def shaped(
    motion: FaceMotion,
    performance: PerformanceParameters,
    seed: int,
    duration: float,
    pose: FaceMotion | None = None,
) -> FaceMotion:
    """Return the motion with missing blinks, gains, a given pose and the rate of a performance.

    seed: of the blinks. pose: taken as it is; the gains are of what was made.
    """
    p = performance
    if p.blinks_per_minute > 0:
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        motion = add_missing_blinks(motion, rng, p.blinks_per_minute, p.longest_stare)
    gains = dict.fromkeys(MOTION_REGIONS, p.strength)
    for region, gain in (("lips", p.mouth), ("jaw", p.mouth), ("brows", p.brows), ("pose", p.head_motion)):
        gains[region] = min(p.strength * gain, LARGEST_GAIN)
    motion = with_angle_gains(scale_motion(motion, gains), p.pitch, p.yaw, p.roll)
    motion = motion if pose is None else with_pose_of(motion, pose)
    return motion_for_duration(motion, p.fps, duration)
