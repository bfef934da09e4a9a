"""How much a face and a body move in a video, as two coefficients in 0..1 (FantasyTalking, arXiv 2504.04842).

The paper takes the variance of face landmarks and of body joints over time, each brought to 0..1, and says no more.
Ours: positions in units of the person (distance between the outer corners of the eyes; width of the shoulders),
variance over about three seconds, mean over the points, and then the share of training clips that move less. The face
is measured about the top of the neck in each frame, so that a head that the body carries along counts as body alone.
The body is measured by the joints of neck and shoulders where they are known, else by the neck that the head shows.
Arms are not measured: the clips that a coefficient compares with have none, and an arm moves more than a trunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..face.pose import fit_head_pose, pivot_position
from ..face.topology import EYE_OUTER_CORNER_LEFT, EYE_OUTER_CORNER_RIGHT, MESH_POINT_COUNT
from ..types import LANDMARK_COUNT
from ..wan_types import NEUTRAL_INTENSITY
from .body_joints import NECK_JOINT, SHOULDER_JOINTS

if TYPE_CHECKING:
    from ..face.landmarker import DetectedFace

WINDOW_SECONDS = 3.0
"""Longer videos are measured in parts of about this length: variance grows with time, and clips have this length."""
TRUNK_JOINTS = (NECK_JOINT, *SHOULDER_JOINTS)
"""Joints that move with a trunk, as the neck of the training clips does."""
SHOULDER_CENTIMETRES = 35.0
"""Between the shoulder joints of a grown person, where only the head's scale is known."""
TABLE_POINTS = 21
"""Quantiles of a distribution that is fitted: every twentieth."""


class UnseenMotionError(ValueError):
    """Fewer than two frames show what is measured."""


class MotionCoefficients(NamedTuple):
    """How much face and body move, 0..1 each."""

    face: float
    body: float


@dataclass(frozen=True)
class EmpiricalDistribution:
    """Quantiles of what was measured on many clips.

    values: 2 or more, increasing. shares: as many, increasing from 0 to 1: of the clips that lie below each value.
    Raises ValueError for other tables.
    """

    values: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("values", "shares"):
            row = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, row)
            if len(row) < 2 or not (np.isfinite(row).all() and (np.diff(row) > 0).all()):
                raise ValueError(f"{name} of a distribution must be 2 or more increasing numbers, got {row}")
        if len(self.values) != len(self.shares) or (self.shares[0], self.shares[-1]) != (0.0, 1.0):
            raise ValueError(
                f"a distribution has {len(self.values)} values and {len(self.shares)} shares from {self.shares[0]:g} "
                f"to {self.shares[-1]:g}, expected as many of both, from 0 to 1"
            )

    @classmethod
    def fitted(cls, measured: Sequence[float], points: int = TABLE_POINTS) -> EmpiricalDistribution:
        """Return the quantiles of measured numbers, at most `points`.

        Raises ValueError for NaN, infinity, or fewer than two different numbers.
        """
        row = np.asarray(measured, np.float64)
        if row.ndim != 1 or not np.isfinite(row).all() or len(np.unique(row)) < 2:
            raise ValueError(
                f"a distribution is fitted to a row of at least two different finite numbers, got {row[:8]} of shape "
                f"{row.shape}"
            )
        shares = np.linspace(0, 1, points)
        values, first = np.unique(np.quantile(row, shares), return_index=True)
        kept = shares[first]
        kept[-1] = 1.0
        return cls(tuple(values), tuple(kept))

    def share(self, value: float) -> float:
        """Return 0..1: the share of clips below a value, in between the table's. Raises ValueError for NaN."""
        if np.isnan(value):
            raise ValueError("a movement of NaN has no place in a distribution")
        return float(np.interp(value, self.values, self.shares))


@dataclass(frozen=True)
class IntensityScale:
    """What turns movements into coefficients. face: of `face_variance`. body: of `neck_variance`, or `trunk_variance`.

    A trunk that is moved about whole has the same of both.
    """

    face: EmpiricalDistribution
    body: EmpiricalDistribution

    def coefficients(self, face: float, body: float | None) -> MotionCoefficients:
        """Return the coefficients of two variances; a body that is not known is neutral."""
        known = NEUTRAL_INTENSITY if body is None else self.body.share(body)
        return MotionCoefficients(self.face.share(face), known)


_FACE_MILLIONTHS = (
    *(175, 364, 576, 752, 1050, 1610, 2100, 2830, 3370, 4380, 5180),
    *(7290, 8340, 9530, 11000, 12000, 13100, 14400, 16200, 18100, 26000),
)
_BODY_MILLIONTHS = (
    *(0.5, 11.2, 28.7, 71.2, 116, 175, 250, 342, 453, 548, 650),
    *(773, 869, 952, 1030, 1180, 1240, 1340, 1520, 1640, 1930),
)
DEFAULT_INTENSITY_SCALE = IntensityScale(
    *(
        EmpiricalDistribution(
            tuple(1e-6 * value for value in row), tuple(i / (len(row) - 1) for i in range(len(row)))
        )
        for row in (_FACE_MILLIONTHS, _BODY_MILLIONTHS)
    )
)
"""Measured on 400 clips of made heads of 2.96 s, whose heads turn and shift by an amount drawn evenly (ours; the
paper's is not public). The body's is of the neck, as `neck_variance` has it. Four real clips of seated men, of 3 to
6 s, lie at 0.09, 0.19, 0.33 and 0.40 of the face's and at 0.08 to 0.14 of the body's: people in front of a camera
are in the lower half. Their trunks, by MediaPipe's joints, lie at 0.09 to 0.18 of the body's; with arms counted the
one who gestures would lie at 0.53 instead of 0.09.
"""


def landmarks_of_faces(faces: Iterable[DetectedFace | None]) -> np.ndarray:
    """Return (N, 478, 3) float64 landmarks of tracked faces (see `face.tracking`), NaN where one is missing."""
    missing = np.full((LANDMARK_COUNT, 3), np.nan)
    rows = [missing if face is None else np.asarray(face.landmarks, np.float64) for face in faces]
    return np.stack(rows) if rows else np.empty((0, LANDMARK_COUNT, 3))


def face_variance(landmarks: np.ndarray, eye_corners: tuple[int, int] | None = None) -> float:
    """Return how much a face moves: variance over time, in squared distances between the corners of the eyes.

    landmarks: (N, 478 or 468, 3) of the face mesh in any unit, z at the scale of x, measured about the top of the neck
    in each frame; or, with eye_corners, (N, K, 2 or 3) of any kind, measured as they stand. Frames with NaN are left
    out. eye_corners: the two points whose distance is the unit; None for the outer corners of the face mesh.
    The mean over the points of the variances of x and y together. It hangs neither on the face's size or place nor on
    the frame rate.
    Raises ValueError for another shape, fewer than two frames with a face, or eyes that are at one place.
    """
    points = _checked(landmarks, "landmarks") if eye_corners is not None else _checked_mesh(landmarks)
    known = points[np.isfinite(points).all(axis=(1, 2))]
    _require_frames(len(known), "a face")
    if eye_corners is None:
        eye_corners = (EYE_OUTER_CORNER_RIGHT, EYE_OUTER_CORNER_LEFT)
        unit = _mean_distance(known, eye_corners, "the corners of the eyes")
        return _variance(known[..., :2] - neck_places(known)[0][:, None], unit)
    return _variance(known[..., :2], _mean_distance(known, eye_corners, "the corners of the eyes"))


def body_variance(joints: np.ndarray, shoulders: tuple[int, int] = SHOULDER_JOINTS) -> float:
    """Return how much a body moves: variance over time, in squared widths of the shoulders.

    joints: (N, J, 2 or 3) in any unit; z is not looked at; NaN where a joint was not seen. Frames that show none of
    them are left out, and then joints that are seen in less than half of the frames. shoulders: the two joints whose
    distance is the unit. The mean over the joints of the variances of x and y together.
    Raises ValueError for another shape, fewer than two frames, or shoulders that are hardly seen or at one place.
    """
    points = _checked(joints, "joints")[..., :2]
    _require_frames(len(points), "joints")
    seen = np.isfinite(points).all(axis=2)
    both = seen[:, shoulders[0]] & seen[:, shoulders[1]]
    _require_frames(
        int(both.sum()), "both shoulders", ": use a video that shows them, or leave the joints out"
    )
    width = _mean_distance(points[both], shoulders, "the shoulders")
    often = 2 * seen.sum(axis=0) >= seen.any(axis=1).sum()
    kept = [points[seen[:, joint], joint] for joint in np.flatnonzero(often)]
    if not kept:
        raise UnseenMotionError(f"no joint is seen in half of {len(points)} frames: leave the joints out")
    return float(np.mean([_variance(track[:, None], width) for track in kept]))


def trunk_variance(joints: np.ndarray) -> float:
    """Return how much a trunk moves: `body_variance` of neck and shoulders alone, in squared widths of the shoulders.

    joints: (N, J, 2 or 3) in any unit, in OpenPose's order; NaN where a joint was not seen. Raises what `body_variance`
    raises, and ValueError for joints that end before the shoulders.
    """
    points = _checked(joints, "joints")
    if points.shape[1] <= max(TRUNK_JOINTS):
        raise ValueError(
            f"joints have shape {points.shape}, expected at least {max(TRUNK_JOINTS) + 1} in OpenPose's order"
        )
    return body_variance(points[:, TRUNK_JOINTS], tuple(map(TRUNK_JOINTS.index, SHOULDER_JOINTS)))


def neck_places(landmarks: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (N, 2) x and y of the top of the neck in each frame, and how long a centimetre is there on average.

    landmarks: (N, 478 or 468, 3) of the face mesh, without NaN, in any unit; z at the scale of x.
    """
    poses = [fit_head_pose(points) for points in landmarks]
    places = np.array([pivot_position(pose)[:2] for pose in poses])
    return places * (1, -1), float(np.mean([pose.scale for pose in poses]))


def neck_variance(landmarks: np.ndarray) -> float:
    """Return how much the top of the neck moves, in squared widths of shoulders of 35 cm.

    It stands in for `trunk_variance` where no joints are known. landmarks: (N, 478 or 468, 3) in any unit, z at the
    scale of x; frames with NaN are left out. Raises ValueError for another shape or fewer than two frames with a face.
    """
    points = _checked_mesh(landmarks)
    known = points[np.isfinite(points).all(axis=(1, 2))]
    _require_frames(len(known), "a face")
    necks, scale = neck_places(known)
    return _variance(necks[:, None], SHOULDER_CENTIMETRES * scale)


def motion_coefficients(
    landmarks: np.ndarray,
    fps: float,
    joints: np.ndarray | None = None,
    scale: IntensityScale | None = None,
    from_neck: bool = False,
) -> MotionCoefficients:
    """Return how much face and body move in a video, on average over its parts of about three seconds.

    landmarks: as for `face_variance`, of the face mesh. joints: as for `trunk_variance`, as many frames, or None.
    scale: what to compare with; None for DEFAULT_INTENSITY_SCALE. from_neck: without joints the body is judged by the
    neck; else it is the neutral 0.5.
    Raises ValueError for other shapes, a frame rate not above 0, or no part with two frames that show the face.
    """
    if not fps > 0:
        raise ValueError(f"fps is {fps}, expected above 0")
    chosen = DEFAULT_INTENSITY_SCALE if scale is None else scale
    face = mean_over_parts(np.asarray(landmarks, np.float64), fps, face_variance)
    body = None
    if joints is not None:
        if len(joints) != len(landmarks):
            raise ValueError(f"there are joints of {len(joints)} frames and landmarks of {len(landmarks)}")
        body = mean_over_parts(np.asarray(joints, np.float64), fps, trunk_variance)
    elif from_neck:
        body = mean_over_parts(np.asarray(landmarks, np.float64), fps, neck_variance)
    return chosen.coefficients(face, body)


def mean_over_parts(points: np.ndarray, fps: float, variance: Callable[[np.ndarray], float]) -> float:
    """Return the mean of a variance over the video's equal parts of about three seconds.

    points: (N, K, 2 or 3). variance: of one part; raises UnseenMotionError where fewer than two frames show what it
    measures, such as both shoulders. Such parts are passed over; raises UnseenMotionError when all are.
    """
    count = max(round(len(points) / fps / WINDOW_SECONDS), 1)
    found: list[float] = []
    unseen: list[UnseenMotionError] = []
    for part in np.array_split(points, count):
        try:
            found.append(variance(part))
        except UnseenMotionError as error:
            unseen.append(error)
    if not found:
        raise unseen[0]
    return float(np.mean(found))


def _checked(points: np.ndarray, name: str) -> np.ndarray:
    places = np.asarray(points, np.float64)
    if places.ndim != 3 or places.shape[1] < 2 or places.shape[2] not in (2, 3):
        raise ValueError(f"{name} have shape {places.shape}, expected (frames, points, 2 or 3)")
    return places


def _checked_mesh(landmarks: np.ndarray) -> np.ndarray:
    places = np.asarray(landmarks, np.float64)
    if places.ndim != 3 or places.shape[1:] not in ((LANDMARK_COUNT, 3), (MESH_POINT_COUNT, 3)):
        raise ValueError(
            f"landmarks have shape {places.shape}, expected (frames, {LANDMARK_COUNT}, 3) of the face mesh; of others, "
            "say which two are the corners of the eyes"
        )
    return places


def _require_frames(count: int, what: str, advice: str = "") -> None:
    if count < 2:
        raise UnseenMotionError(f"{count} frames show {what}: at least 2 are needed to see movement{advice}")


def _mean_distance(points: np.ndarray, pair: tuple[int, int], name: str) -> float:
    distance = float(np.linalg.norm((points[:, pair[0]] - points[:, pair[1]])[:, :2], axis=1).mean())
    if not distance > 0:
        raise ValueError(
            f"{name} (points {pair[0]} and {pair[1]}) are at one place: there is no unit to measure in"
        )
    return distance


def _variance(points: np.ndarray, unit: float) -> float:
    return float((points / unit).var(axis=0).sum(axis=-1).mean())
