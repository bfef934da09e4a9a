"""Motion from a driving video in implicit keypoints, by LivePortrait's motion extractor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..face.anchored_crop import CROP_SIZE
from ..face.crop import crop_face
from ..face.driving_crop import driving_crop_to_frame
from ..face.opening_ratios import opening_ratios
from ..types import FaceMotion, ProgressCallback
from .keypoint_extraction import (
    batch_size,
    batched,
    joined_readings,
    network_picture,
    read_keypoints,
)
from .keypoint_geometry import KeypointReadings
from .keypoint_readings import motion_from_readings
from .missing_faces import faces_under_policy, filled_motion, require_known_policy
from .track import smooth_motion

if TYPE_CHECKING:
    from ..face.landmarker import DetectedFace
    from .motion_extractor import MotionExtractor

CROP_CHOICES = ("automatic", "always", "never")
CLOSE_ENOUGH = 0.8
"""A square video is taken whole when the crop around its face would be at least this share of its side."""

Frames = Callable[[], Iterable[np.ndarray]]
"""Gives the frames of the video, (H, W, 3) uint8 RGB, from the first one on, each time it is called."""


@dataclass(frozen=True)
class DriverParameters:
    """How a driver is read.

    crop: "automatic" cuts a square around the face, one for the whole video, unless the video is such a square
        already; "always", "never" (then frames are squeezed into a square, as the release does).
    on_missing_face: as for motion in blendshapes: "error", "previous", "interpolate" or "skip".
    rest_frame: which frame counts as the driver's rest, among those that have a face; LivePortrait takes the first.
    smoothing: passes of the kernel [1 2 1] / 4 along time over expression and head pose, but not over the eyes,
        whose blinks last only a few frames. LivePortrait does none.
    """

    crop: str = "automatic"
    on_missing_face: str = "error"
    rest_frame: int = 0
    smoothing: int = 0

    def __post_init__(self) -> None:
        require_known_policy(self.on_missing_face)
        for name in ("rest_frame", "smoothing"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if self.crop not in CROP_CHOICES:
            raise ValueError(f"crop is {self.crop!r}, expected one of {', '.join(CROP_CHOICES)}")


def keypoint_motion_from_frames(
    frames: Frames,
    faces: Iterable[DetectedFace | None],
    fps: float,
    extractor: MotionExtractor,
    frame_total: int,
    parameters: DriverParameters | None = None,
    progress: ProgressCallback | None = None,
) -> FaceMotion:
    """Return the motion of one face in a video, in implicit keypoints at the video's rate.

    faces: the face in each frame, None where it is missing; they may be found as they are asked for. From their
    landmarks come the crop and the opening ratios. The frames themselves are gone through afterwards, for the
    network; one batch of them is held at a time. progress counts both times.
    A video of one frame is a driving picture.
    Raises FaceNotFoundError (a ValueError) when no frame has a face, or one lacks it and the policy is "error".
    """
    parameters = parameters or DriverParameters()
    steps = None if progress is None else lambda done, _: progress(done, 2 * frame_total)
    policy = parameters.on_missing_face
    landmarks = [
        None if face is None else face.landmarks
        for face in faces_under_policy(faces, fps, policy, frame_total, steps)
    ]
    found = np.array([points is not None for points in landmarks])
    known = [points for points in landmarks if points is not None]
    pictures = _network_pictures(frames(), found, known, parameters.crop)
    steps = None if progress is None else lambda done: progress(frame_total + done, 2 * frame_total)
    readings = _read_in_batches(pictures, extractor, found, steps)
    readings = replace(readings, openings=opening_ratios(np.stack(known)))
    driven = motion_from_readings(readings, fps, parameters.rest_frame, is_picture=len(found) == 1)
    motion = filled_motion(driven, found, policy)
    return smooth_motion(motion, parameters.smoothing)


def _network_pictures(
    frames: Iterable[np.ndarray], found: np.ndarray, landmarks: list[np.ndarray], crop: str
) -> Iterator[np.ndarray]:
    """Yield (256, 256, 3) uint8 of every frame that has the face, all cut alike."""
    affine = None
    for index, (frame, has_face) in enumerate(zip(frames, found, strict=False)):
        if index == 0:
            affine = crop_affine(landmarks, frame.shape[1], frame.shape[0], crop)
        if has_face:
            square = frame if affine is None else crop_face(frame, affine, CROP_SIZE, cv2.BORDER_CONSTANT)
            yield network_picture(square, cv2.INTER_LINEAR)


def crop_affine(landmarks: list[np.ndarray], width: int, height: int, crop: str) -> np.ndarray | None:
    """Return the (2, 3) affine from crop to frame pixels for the whole video, None where it is taken whole."""
    if crop == "never":
        return None
    affine = driving_crop_to_frame(landmarks, CROP_SIZE)
    side = float(np.hypot(*affine[:, 0])) * CROP_SIZE
    is_portrait_square = width == height and side >= CLOSE_ENOUGH * width
    return None if crop == "automatic" and is_portrait_square else affine


def _read_in_batches(
    pictures: Iterable[np.ndarray],
    extractor: MotionExtractor,
    found: np.ndarray,
    progress: Callable[[int], None] | None,
) -> KeypointReadings:
    parts: list[KeypointReadings] = []
    positions = np.flatnonzero(found)
    done = 0
    for batch in batched(pictures, batch_size(extractor)):
        parts.append(read_keypoints(batch, extractor))
        done += len(batch)
        if progress is not None:
            progress(int(positions[done - 1]) + 1)
    if progress is not None:
        progress(len(found))
    return joined_readings(parts)
