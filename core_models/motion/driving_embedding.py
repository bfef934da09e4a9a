"""The motion of a driving video as the released ACTalker takes it, frames without a face included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..types import ProgressCallback
from ..video_types import EXPRESSION_AND_POSE, MotionEmbedding
from .expression_and_pose import POSE_SIZE, ExpressionAndPoseNetworks, driving_crops, expression_and_pose
from .missing_faces import faces_under_policy, previous_rows, report_missing, require_known_policy
from .row_interpolation import interpolated_rows

if TYPE_CHECKING:
    from ..face.landmarker import DetectedFace


@dataclass(frozen=True)
class _ChosenFrames(Sequence):
    """Some of the frames, taken when they are asked for."""

    frames: Sequence[np.ndarray]
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.frames[self.chosen[index]]


def driving_embedding(
    networks: ExpressionAndPoseNetworks,
    frames: Sequence[np.ndarray],
    faces: Iterable[DetectedFace | None],
    fps: float,
    on_missing_face: str = "error",
    progress: ProgressCallback | None = None,
) -> MotionEmbedding:
    """Return the motion of one face in a video, (N, 518) at the video's rate: see `expression_and_pose`.

    frames: (H, W, 3) uint8 RGB each, which may be made when they are asked for. faces: in each frame, None where it is
    missing; what happens then is as for motion in blendshapes ("error", "previous", "interpolate", "skip"). progress
    counts the search for faces and the networks' reading.
    Raises FaceNotFoundError (a ValueError) when no frame has a face, or one lacks it and the policy is "error".
    """
    require_known_policy(on_missing_face)
    total = len(frames)
    steps = None if progress is None else lambda done, _: progress(done, 2 * total)
    landmarks = [
        None if face is None else face.landmarks
        for face in faces_under_policy(faces, fps, on_missing_face, total, steps)
    ]
    found = np.array([points is not None for points in landmarks])
    chosen = _ChosenFrames(frames, np.flatnonzero(found))
    crops = driving_crops(chosen, [points for points in landmarks if points is not None])
    steps = (
        None if progress is None else lambda done, whole: progress(total + total * done // whole, 2 * total)
    )
    rows = expression_and_pose(networks, crops, steps).numpy()
    report_missing(found, on_missing_face, fps)
    return MotionEmbedding(filled_rows(rows, found, on_missing_face), fps, EXPRESSION_AND_POSE)


def filled_rows(rows: np.ndarray, found: np.ndarray, policy: str) -> np.ndarray:
    """Return (N, 518) for every frame of (K, 518) for those that have the face; skipping, the rows themselves.

    found: (N,) bool, K of them True. Between frames angles go the shorter way round; before the first and after the
    last face the rows are held.
    """
    if found.all() or policy == "skip":
        return rows
    if policy == "previous":
        return rows[previous_rows(found)]
    known, wanted = np.flatnonzero(found), np.arange(len(found))
    angles = slice(rows.shape[1] - POSE_SIZE, rows.shape[1] - POSE_SIZE // 2)
    filled = interpolated_rows(rows, known, wanted, angles)
    filled[known] = rows
    return filled.astype(np.float32)
