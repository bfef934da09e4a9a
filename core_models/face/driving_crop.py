"""One crop for all frames of a driving video, as LivePortrait cuts it: upright, and it does not follow the head."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .anchored_crop import CROP_SIZE, FaceSquare, anchored_square

DRIVING_CROP_SCALE = 2.2
DRIVING_CROP_VY_RATIO = -0.1
"""The crop's side over the landmarks' box, and the share of the side by which its centre moves down (negative:
up)."""


def driving_crop_to_frame(landmarks: Iterable[np.ndarray | None], crop_size: int = CROP_SIZE) -> np.ndarray:
    """Return the (2, 3) float32 affine from driving crop pixels to frame pixels; see `driving_square`."""
    return driving_square(landmarks).crop_to_frame(crop_size)


def driving_square(
    landmarks: Iterable[np.ndarray | None],
    scale: float = DRIVING_CROP_SCALE,
    vy_ratio: float = DRIVING_CROP_VY_RATIO,
) -> FaceSquare:
    """Return the one upright square for all frames: the mean of the frames' boxes, before they are turned.

    landmarks: (N, P, 2 or 3) pixels, or one (P, 2 or 3) per frame, P as in CROP_ANCHORS; frames without a face
    are None, masked or hold NaN, and do not count.
    Raises ValueError when no frame has a face, or for another number of points.
    """
    frames = (_with_nan(points) for points in landmarks if points is not None)
    seen = (points for points in frames if np.isfinite(points).all())
    return average_square(anchored_square(points, scale, vy_ratio=vy_ratio) for points in seen)


def average_square(squares: Iterable[FaceSquare]) -> FaceSquare:
    """Return the upright square of mean centre and mean side. Raises ValueError when there is none."""
    rows = [(*square.centre, square.side) for square in squares]
    if not rows:
        raise ValueError("no frame has a face to crop around: use a driving video in which a face is seen")
    x, y, side = np.mean(rows, axis=0)
    return FaceSquare((float(x), float(y)), float(side))


def _with_nan(points: np.ndarray) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(points, np.float64), np.nan)
