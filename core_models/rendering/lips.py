"""Lips as geometry: the seam of a closed photo, lips that meet and never cross."""

from __future__ import annotations

import numpy as np

from ..face.topology import LIPS_LOWER, LIPS_LOWER_INNER, LIPS_UPPER, LIPS_UPPER_INNER
from .displacement import smoothstep

CLOSED_OPENING = 0.07
"""Gap over mouth width up to which a photo's mouth counts as closed."""
UPPER_SHARE = 0.35
"""Of a correction of the gap, how much the upper lip takes; the lower lip takes the rest."""
ROW_SHARES = (0.45, 0.65, 0.85, 1.0)
"""How much of the inner contour's correction each of a lip's four rows takes, from the skin inwards."""
CLOSED_OVERLAP = 0.08
"""Centimetres the lips of an open photo overlap when sealed, so that no pale seam stays."""

_UPPER, _LOWER = list(LIPS_UPPER_INNER), list(LIPS_LOWER_INNER)


def mouth_width(points: np.ndarray) -> float:
    """Return the distance between the inner corners of the mouth, in the unit of `points` (N, 2 or 3)."""
    return max(float(np.linalg.norm(points[_UPPER[-1]] - points[_UPPER[0]])), 1e-6)


def mouth_opening(points: np.ndarray) -> float:
    """Return the largest gap between the inner lips over the mouth's width; a pure number."""
    gaps = np.linalg.norm(points[_UPPER] - points[_LOWER], axis=1)
    return float(gaps.max()) / mouth_width(points)


def lip_gap(shape: np.ndarray) -> float:
    """Return the largest height between the inner lips of a face shape (N, 3), negative where they overlap."""
    return float((shape[_UPPER, 1] - shape[_LOWER, 1])[1:-1].max())


def collapse_seam(shape: np.ndarray) -> np.ndarray:
    """Return a copy of a face shape (N, 3) whose inner lips meet on their midline.

    On a closed photo the two inner contours enclose nothing but noise; collapsed, it opens at the lip line.
    """
    collapsed = shape.copy()
    middle = (shape[_UPPER] + shape[_LOWER]) / 2
    collapsed[_UPPER], collapsed[_LOWER] = middle, middle
    return collapsed


def settle_lips(shape: np.ndarray, seal: float, overlap: float) -> None:
    """Make the lips of a moved face shape (N, 3) meet rather than cross, and seal them as asked, in place.

    seal: 0..1 share of any gap to close. overlap: centimetres the lips overlap when fully sealed.
    """
    gap = shape[_UPPER, 1] - shape[_LOWER, 1]
    wanted = np.maximum(gap, 0.0) * (1 - seal) - overlap * seal * _between_corners(len(gap))
    correction = wanted - gap
    if not correction.any():
        return
    for row, share in zip(LIPS_UPPER, ROW_SHARES, strict=True):
        shape[list(row[1:-1]), 1] += UPPER_SHARE * share * correction[1:-1]
    for row, share in zip(LIPS_LOWER, ROW_SHARES, strict=True):
        shape[list(row[1:-1]), 1] -= (1 - UPPER_SHARE) * share * correction[1:-1]


def _between_corners(count: int) -> np.ndarray:
    return smoothstep(0.0, 0.3, np.sin(np.pi * np.arange(count) / (count - 1)))
