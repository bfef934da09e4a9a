"""The same face in every frame of a film that is to be edited."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from ..motion.missing_faces import MISSING_FACE_POLICIES, faces_under_policy, previous_rows, report_missing
from ..motion.track import smoothed_rows
from ..types import Portrait, PortraitVideo, ProgressCallback
from .anchored_crop import FaceSquare, anchored_square
from .crop import FACE_CROP_RISE, FACE_CROP_SCALE, FACE_CROP_SIZE
from .landmarker import DetectedFace, FaceLandmarker, checked_frame
from .pose import fit_head_pose
from .tracking import follow_face

VIDEO_POLICIES = tuple(policy for policy in MISSING_FACE_POLICIES if policy != "skip")
"""A frame of the film cannot be left out: its sound would no longer fit."""


def portrait_video(
    frames: Iterable[np.ndarray],
    fps: float,
    landmarker: FaceLandmarker,
    frame_total: int | None = None,
    on_missing_face: str = "interpolate",
    face_index: int | None = None,
    smoothing: int = 2,
    progress: ProgressCallback | None = None,
) -> PortraitVideo:
    """Return a film with its face in every frame; all frames are kept, as (H, W, 3) uint8.

    frames: (H, W, 3) uint8 RGB at the constant rate `fps`. on_missing_face: "error", "previous" or "interpolate".
    face_index: which face of the first frame that has any, 0 the largest. smoothing: passes of the kernel
    [1 2 1] / 4 over the place, size and roll of the crop, so that its edge does not tremble; landmarks stay.
    Raises FaceNotFoundError (a ValueError) when no frame has a face, or one lacks it and the policy is "error";
    ValueError for an unknown policy.
    """
    if on_missing_face not in VIDEO_POLICIES:
        raise ValueError(
            f"on_missing_face is {on_missing_face!r}; of a film choose one of {', '.join(VIDEO_POLICIES)}"
        )
    kept: deque[np.ndarray] = deque()
    followed = follow_face(_kept(frames, kept), landmarker, face_index)
    faces = list(faces_under_policy(followed, fps, on_missing_face, frame_total, progress))
    landmarks, blendshapes = _filled(faces, on_missing_face, fps)
    squares = [anchored_square(points, FACE_CROP_SCALE, vy_ratio=-FACE_CROP_RISE) for points in landmarks]
    crops = [square.crop_to_frame(FACE_CROP_SIZE) for square in smoothed_squares(squares, smoothing)]
    rows = zip(landmarks, blendshapes, crops, strict=True)
    return PortraitVideo(
        tuple(  # a portrait has a copy of its frame, so the other is given up at once
            Portrait(kept.popleft(), points, shown, fit_head_pose(points), crop, FACE_CROP_SIZE)
            for points, shown, crop in rows
        ),
        fps,
    )


def _kept(frames: Iterable[np.ndarray], kept: deque[np.ndarray]) -> Iterable[np.ndarray]:
    for frame in frames:
        kept.append(checked_frame(frame))
        yield kept[-1]


def _filled(faces: list[DetectedFace | None], policy: str, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Return landmarks (N, 478, 3) and blendshapes (N, 52) of every frame."""
    found = np.array([face is not None for face in faces])
    report_missing(found, policy, fps)
    known = [face for face in faces if face is not None]
    rows = np.stack([np.concatenate([face.landmarks.ravel(), face.blendshapes]) for face in known])
    if policy == "previous":
        rows = rows[previous_rows(found)]
    elif not found.all():
        wanted, places = np.arange(len(found)), np.flatnonzero(found)
        rows = np.stack([np.interp(wanted, places, column) for column in rows.T], axis=1)
    count = known[0].landmarks.size
    return rows[:, :count].reshape(len(rows), -1, 3), rows[:, count:]


def smoothed_squares(squares: list[FaceSquare], passes: int) -> list[FaceSquare]:
    """Return squares whose centre, side and angle are smoothed along time by `passes` of [1 2 1] / 4."""
    rows = np.array([(*square.centre, square.side, square.angle) for square in squares])
    rows[:, 3] = np.unwrap(rows[:, 3])
    return [FaceSquare((x, y), side, angle) for x, y, side, angle in smoothed_rows(rows, passes).tolist()]
