"""The joints of one person's body over a video: found among all people by the face that is followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..types import frozen_array
from .pose_keypoints import JOINT_COUNTS
from .row_interpolation import interpolated_rows

NOSE_JOINT, NECK_JOINT = 0, 1
"""Of OpenPose's joints; the neck is the middle between the shoulders."""
SHOULDER_JOINTS = (2, 5)
"""Right and left shoulder."""
SEEN_CONFIDENCE = 0.3
"""A joint counts where its confidence is above this, as DWPose itself decides."""
FACE_REACH = 2.0
"""How far a person's nose or neck may lie from the middle of their own face, in the larger side of its landmarks."""


@dataclass(frozen=True)
class BodyJoints:
    """A person's joints over a video, in OpenPose's order.

    positions: (N, J, 2) float32, x and y in pixels of the frames, J 18 or 25; NaN where a joint was not found, and in
    all of them where the person was not. confidence: (N, J) float32, 0 there.
    Raises ValueError for other shapes.
    """

    positions: np.ndarray
    confidence: np.ndarray

    def __post_init__(self) -> None:
        for name in ("positions", "confidence"):
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
        shape = self.positions.shape
        if len(shape) != 3 or shape[1] not in JOINT_COUNTS or shape[2] != 2:
            raise ValueError(
                f"positions of joints have shape {shape}, expected (frames, {JOINT_COUNTS[0]} or {JOINT_COUNTS[1]}, 2)"
            )
        if self.confidence.shape != shape[:2]:
            raise ValueError(
                f"confidence has shape {self.confidence.shape}, expected {shape[:2]} as the positions"
            )

    @property
    def seen_positions(self) -> np.ndarray:
        """(N, J, 2) float32: the positions, NaN where the confidence is not above SEEN_CONFIDENCE."""
        return np.where(self.confidence[..., None] > SEEN_CONFIDENCE, self.positions, np.float32(np.nan))

    def frames_that_show(self, joints: Sequence[int]) -> int:
        """Return in how many frames all of some joints are seen."""
        seen = np.isfinite(self.seen_positions[:, list(joints)])
        return int(seen.all(axis=(1, 2)).sum())


def joints_of_person(people: Sequence[np.ndarray], landmarks: np.ndarray | None = None) -> BodyJoints:
    """Return the joints of one person out of all people in a video.

    people: for each frame (P, J, 3), as `pose_keypoints.people_of_frames` gives them. landmarks: (N, K, 2 or 3) of the
    face that is followed, in pixels of the same frames; NaN where it was missed, where its place is taken from the
    frames around. In each frame that person is chosen whose nose, or else neck, is nearest to the face, and nobody
    where all are too far away. Without any face it is the person of whom most was found with confidence in one frame,
    and in the others who is nearest to where they were.
    Raises ValueError for another number of landmarks, or a video in which nobody is at the face.
    """
    faces = None if landmarks is None else _face_places(landmarks, len(people))
    chosen = _followed(people) if faces is None else _at_faces(people, faces)
    if all(number is None for number in chosen):
        where = "" if faces is None else " at the face"
        raise ValueError(
            f"the POSE_KEYPOINT shows nobody{where} in any of {len(people)} frames: give both nodes the same frames, "
            "or leave the joints out"
        )
    missing = np.full((people[0].shape[1], 3), (np.nan, np.nan, 0.0))
    rows = np.stack([missing if n is None else frame[n] for frame, n in zip(people, chosen, strict=True)])
    return BodyJoints(rows[..., :2], rows[..., 2])


def _face_places(landmarks: np.ndarray, frame_count: int) -> np.ndarray | None:
    """Return (N, 3) x and y of the face's middle, and its larger side, in each frame; None where it is in none."""
    points = np.asarray(landmarks, np.float64)[..., :2]
    if len(points) != frame_count:
        raise ValueError(f"there are landmarks of {len(points)} frames and joints of {frame_count}")
    known = np.flatnonzero(np.isfinite(points).all(axis=(1, 2)))
    if not len(known):
        return None
    low, high = points[known].min(axis=1), points[known].max(axis=1)
    places = np.concatenate([(low + high) / 2, (high - low).max(axis=1, keepdims=True)], axis=1)
    return interpolated_rows(places, known, np.arange(frame_count))


def _heads(people: np.ndarray) -> np.ndarray:
    """Return (P, 2) where the nose of each of people (P, J, 3) is, or else the neck; NaN where neither was found."""
    nose, neck = people[:, NOSE_JOINT, :2], people[:, NECK_JOINT, :2]
    return np.where(np.isfinite(nose), nose, neck)


def _nearest(people: np.ndarray, place: np.ndarray, limit: float = np.inf) -> int | None:
    """Return the number of the person whose head is nearest to a place (2,), if one is within the limit."""
    distances = np.linalg.norm(_heads(people) - place, axis=1)
    within = np.flatnonzero(distances <= limit)  # NaN never is
    return int(within[distances[within].argmin()]) if len(within) else None


def _at_faces(people: Sequence[np.ndarray], faces: np.ndarray) -> list[int | None]:
    return [
        _nearest(frame, face[:2], FACE_REACH * face[2]) for frame, face in zip(people, faces, strict=True)
    ]


def _followed(people: Sequence[np.ndarray]) -> list[int | None]:
    """Return the numbers of one person, followed both ways from the frame in which most of them was found."""
    chosen: list[int | None] = [None] * len(people)
    scores = [_scores(frame).max(initial=0.0) for frame in people]
    if not any(scores):
        return chosen
    start = int(np.argmax(scores))
    chosen[start] = int(_scores(people[start]).argmax())
    for way in (range(start + 1, len(people)), range(start - 1, -1, -1)):
        last = _heads(people[start])[chosen[start]]
        for index in way:
            chosen[index] = _nearest(people[index], last)
            if chosen[index] is not None:
                last = _heads(people[index])[chosen[index]]
    return chosen


def _scores(people: np.ndarray) -> np.ndarray:
    """Return (P,) the summed confidence of people whose head was found, 0 of others."""
    return np.where(np.isfinite(_heads(people)).all(axis=1), people[..., 2].sum(axis=1), 0.0)
