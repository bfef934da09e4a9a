"""Motion that does not come from speech, and what can be done with motion: mixed, retargeted, stitched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core_models.driving_video import driving_frames
from ..core_models.face.tracking import follow_face
from ..core_models.motion.emotion import emotion_from_keyframes
from ..core_models.motion.keypoints_from_video import DriverParameters
from ..core_models.motion.region_gates import gates_from_text, mix_motions
from ..core_models.types import (
    Emotion,
    FaceMotion,
    Portrait,
    PortraitVideo,
    ProgressCallback,
    RendererModels,
)
from ..runtime.driving_motion import driving_motion
from ..runtime.faces import face_detector, face_landmarker
from ..runtime.liveportrait_motion import fitted_motion, motion_for_renderer
from .work import cancellable, progress_of

READING_SIDE = 512
"""Pixels of a driving film's longer side that are enough to read a face."""


def emotion(text: str) -> Emotion:
    """Return the emotion that a text describes: "happy", "sad 0.6 + angry 0.3", or over time "0: neutral, 2: happy".

    Strengths are 0 to 2, 1 where none is given; times are seconds. Raises ValueError for a text of another form.
    """
    return emotion_from_keyframes(text if ":" in text else f"0: {text}")


@cancellable()
def read_motion(
    film: str | os.PathLike[str] | Sequence[np.ndarray],
    renderer: RendererModels | None = None,
    *,
    fps: float | None = None,
    start: float = 0.0,
    duration: float | None = None,
    face: int | None = None,
    on_missing_face: str = "interpolate",
    smoothing: int = 1,
    calibrate: bool = True,
    crop: str = "automatic",
    rest_frame: int = 0,
    largest_side: int = READING_SIDE,
    download: bool = False,
    progress: ProgressCallback | None = None,
) -> FaceMotion:
    """Return the motion of the face in a film, away from the driver's resting face, so that it fits any portrait.

    film: a file, of which a few frames at a time are in memory, or frames, (H, W, 3) uint8 RGB each, with their `fps`.
    renderer: LivePortrait makes it implicit keypoints, none blendshapes. fps: of a file, the rate it is read at; None
    is its own. start, duration: the part of a file taken, seconds. face: which face, 0 the largest; None takes the only
    one, or the one clearly largest. on_missing_face: "error", "previous", "interpolate" or "skip". smoothing: passes.
    calibrate: of blendshapes, take the driver's resting face as the rest. crop, rest_frame: LivePortrait's, see
    `DriverParameters`. largest_side: frames of a file are shrunk to this many pixels on their longer side.
    Raises FaceNotFoundError (a ValueError) as the policy says, WeightNotFoundError (an OSError) when the face detector
    is not here, ValueError for frames without fps, and as `driving_frames`.
    """
    parameters = DriverParameters(crop, on_missing_face, rest_frame, smoothing)
    if isinstance(film, (str, os.PathLike)):
        frames = driving_frames(film, start, duration, largest_side, fps)
        rate, total = frames.fps, frames.frame_total
    elif fps is None:
        raise ValueError("frames have no rate of their own: give their fps")
    else:
        frames, rate, total = film, fps, len(film)
    shown = progress_of(progress, total).update
    with face_landmarker(face_detector(download=download, progress=shown)) as landmarker:
        faces = follow_face(frames, landmarker, face)
        return driving_motion(lambda: frames, faces, rate, total, parameters, calibrate, renderer, shown)


def mix(base: FaceMotion, other: FaceMotion, over_time: str = "", **gates: float) -> FaceMotion:
    """Return `base` with `other` mixed in by region, at the rate and length of `base`.

    gates: lips, jaw, eyes, brows, cheeks, pose: 0 keeps the base, 1 takes the other; a region not named stays the
    base's. over_time: gates at times, such as "0: lips 0, 2: lips 1"; they come before the constant ones.
    Raises ValueError for no gate at all, an unknown region, a gate outside 0..1, or motions of different spaces.
    """
    if not gates and not over_time.strip():
        raise ValueError(
            "no gate is given, so nothing would be mixed: name regions, such as eyes=1, brows=1, pose=1"
        )
    return mix_motions(base, [other], [gates], [gates_from_text(over_time)])


def retarget(
    motion: FaceMotion,
    portrait: Portrait | PortraitVideo,
    renderer: RendererModels | None = None,
    *,
    strength: float = 1.0,
    calibration: str | os.PathLike[str] | None = None,
) -> FaceMotion:
    """Return motion in the space that a renderer draws: blendshapes become implicit keypoints for LivePortrait.

    portrait, strength, calibration: see `motion_for_renderer`, which raises as this does.
    """
    file = None if calibration is None else Path(calibration)
    return motion_for_renderer(motion, portrait, renderer or RendererModels(), strength, file)


@cancellable()
def stitch(
    motion: FaceMotion,
    portrait: Portrait | PortraitVideo,
    renderer: RendererModels | None = None,
    *,
    progress: ProgressCallback | None = None,
    **settings: Any,
) -> FaceMotion:
    """Return a driver's motion fitted to a portrait as LivePortrait does; for the mesh renderer it stays as it is.

    settings: fields of `DrivingParameters` by name, such as mode, region, strength, lip_retargeting.
    Raises ValueError for motion in another space than the renderer's, and as `stitched_motion`.
    """
    shown = progress_of(progress).update
    return fitted_motion(motion, portrait, renderer or RendererModels(), settings, shown)
