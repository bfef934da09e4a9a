"""What to do about frames of a driving video in which the face is missing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from ..face.landmarker import FaceNotFoundError
from ..types import FaceMotion, ProgressCallback
from .track import map_frames, motion_at

MISSING_FACE_POLICIES = ("error", "previous", "interpolate", "skip")
_NAMED_FRAMES = 10

Found = TypeVar("Found")

logger = logging.getLogger(__name__)


def require_known_policy(policy: str) -> None:
    """Raise ValueError unless `policy` is one of MISSING_FACE_POLICIES."""
    if policy not in MISSING_FACE_POLICIES:
        raise ValueError(f"on_missing_face is {policy!r}; choose one of {', '.join(MISSING_FACE_POLICIES)}")


def faces_under_policy(
    faces: Iterable[Found | None],
    fps: float,
    policy: str,
    frame_total: int | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[Found | None]:
    """Yield what was found in each frame, None where the face is missing, reporting progress.

    Raises FaceNotFoundError when the policy is "error" and a frame lacks the face, or at the end when all do;
    ValueError when there are no frames.
    """
    count, known = 0, 0
    for index, face in enumerate(faces):
        if face is None and policy == "error":
            raise FaceNotFoundError(
                f"no face in frame {index} of the video (at {index / fps:.2f} s): use a video that shows the "
                "face throughout, or set on_missing_face to previous, interpolate or skip"
            )
        count, known = count + 1, known + (face is not None)
        yield face
        if progress is not None:
            progress(index + 1, max(frame_total or 0, index + 1))
    if not count:
        raise ValueError("the video has no frames")
    if not known:
        raise FaceNotFoundError(
            f"no face in any of the video's {count} frames: use a video in which a face fills at least "
            "5 % of the width"
        )


def report_missing(found: np.ndarray, policy: str, fps: float) -> None:
    """Say in the log which frames, False in `found` (frames,), lack the face, and what is done about it."""
    missing = np.flatnonzero(~found)
    if not len(missing):
        return
    times = ", ".join(f"{index} ({index / fps:.2f} s)" for index in missing[:_NAMED_FRAMES])
    more = f" and {len(missing) - _NAMED_FRAMES} more" if len(missing) > _NAMED_FRAMES else ""
    logger.warning(
        "no face in %d of %d frames: %s%s; policy: %s", len(missing), len(found), times, more, policy
    )


def previous_rows(found: np.ndarray) -> np.ndarray:
    """Return (frames,) for each frame the row, among those found, of the last one; before the first, that."""
    known = np.flatnonzero(found)
    return np.maximum(np.searchsorted(known, np.arange(len(found)), side="right") - 1, 0)


def filled_motion(motion: FaceMotion, found: np.ndarray, policy: str) -> FaceMotion:
    """Return motion for every frame from the motion of those that have the face, or that itself, skipping.

    found: (frames,) bool, as many True as the motion has frames. Between frames rotations go along the shortest
    arc; before the first and after the last face the motion is held.
    """
    report_missing(found, policy, motion.fps)
    if found.all() or policy == "skip":
        return motion
    if policy == "previous":
        rows = previous_rows(found)
        return map_frames(motion, lambda values: values[rows])
    positions = np.interp(np.arange(len(found)), np.flatnonzero(found), np.arange(motion.frame_count))
    return motion_at(motion, positions, motion.fps)
