"""How far eyes and lips are open: the ratios LivePortrait's retargeting networks are told.

An eye's ratio is the distance between the middles of its lids over that between its corners; the lips' ratio is
the distance between the inner lips' middles over that between the mouth's outer corners. All are measured on the
picture, so they shrink and grow a little as the head turns. Left is the viewer's left (the subject's right eye),
as the order of the points in the public code has it.

Calibration of the 478 points (no scale, no offset). The reference measures 203 points of its own network, which
was not at hand, and no picture was found for which its ratios are published, so what was compared are
distributions: KDTalker's published statistics of the reference's ratios over its training clips (mean left eye
0.358, right eye 0.350, lips 0.160; standard deviations 0.146, 0.136, 0.116) and the ratios kept in the five
driving templates of LivePortrait, against ours over 3433 frames of its twelve driving clips (means 0.332, 0.335,
0.152; standard deviations 0.128, 0.131, 0.179; the clips' means scatter by 0.08, so their mean is known to 0.024).

* Open: the means agree within one standard error, 7 % for the eyes and 5 % for the lips. Eyes wide open read
  0.3..0.5 in both.
* Closed: blinks fall to 0.002..0.02 in the templates and to 0.002..0.04 with ours; lips at rest to
  0.001..0.006 in both. So an offset is smaller than 0.02 for the eyes and 0.005 for the lips, and the thresholds
  below mean with our points what they mean in the release.

The uncertainty that is left is about 10 % in scale on average over people; single faces may differ more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..types import LANDMARK_COUNT
from .topology import MESH_POINT_COUNT

CLOSED_LIPS_RATIO = 0.03
"""Lips below this count as closed; the release closes those of a source that are at or above it."""
NARROWED_EYES_RATIO = 0.18
"""Eyes below this, on average of both, count as not open."""
OPEN_EYES_RATIO = 0.39
"""What the release opens the eyes of a source video to when its first frame shows them narrowed."""

_LEAST_WIDTH = 1e-6
"""Pixels added to the distance between the corners, as in the release."""


@dataclass(frozen=True)
class OpeningPoints:
    """The four points one ratio is measured on: middle of the upper and lower edge, and the two corners."""

    upper: int
    lower: int
    first_corner: int
    second_corner: int


OPENINGS_203 = (OpeningPoints(6, 18, 0, 12), OpeningPoints(30, 42, 24, 36), OpeningPoints(90, 102, 48, 66))
"""Left eye, right eye, lips of LivePortrait's 203 points."""
OPENINGS_478 = (
    OpeningPoints(159, 145, 33, 133),
    OpeningPoints(386, 374, 362, 263),
    OpeningPoints(13, 14, 61, 291),
)
"""The same of the face mesh."""


def opening_ratios(landmarks: np.ndarray) -> np.ndarray:
    """Return (N, 3) float32 ratios of left eye, right eye and lips; left is the viewer's left.

    landmarks: (N, 478 or 468, 2 or 3), or one face without N; any unit, as z is not looked at.
    Raises ValueError for another shape, or for NaN or infinity in the points that count.
    """
    return _ratios(_checked(landmarks, (LANDMARK_COUNT, MESH_POINT_COUNT)), OPENINGS_478)


def opening_ratios_203(landmarks: np.ndarray) -> np.ndarray:
    """Return (N, 3) float32 ratios as `opening_ratios` does, of LivePortrait's own (N, 203, 2) points."""
    return _ratios(_checked(landmarks, (203,)), OPENINGS_203)


def _checked(landmarks: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """Return (N, P, 2) float64."""
    points = np.asarray(landmarks, np.float64)
    points = points[None] if points.ndim == 2 else points
    if points.ndim != 3 or points.shape[1] not in counts or points.shape[2] not in (2, 3):
        raise ValueError(
            f"landmarks have shape {np.shape(landmarks)}; expected (frames, "
            f"{' or '.join(map(str, counts))}, 2 or 3)"
        )
    return points[..., :2]


def _ratios(points: np.ndarray, openings: tuple[OpeningPoints, ...]) -> np.ndarray:
    ratios = [
        _distances(points, opening.upper, opening.lower)
        / (_distances(points, opening.first_corner, opening.second_corner) + _LEAST_WIDTH)
        for opening in openings
    ]
    found = np.stack(ratios, axis=1).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        raise ValueError(
            f"the landmarks of frame {bad[0]} hold NaN or infinity: leave out frames without a face, or fill "
            "them first"
        )
    return found


def _distances(points: np.ndarray, first: int, second: int) -> np.ndarray:
    return np.linalg.norm(points[:, first] - points[:, second], axis=1)
