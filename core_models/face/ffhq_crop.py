"""The face crop KDTalker was trained on: FFHQ's square around eyes and mouth, kept upright.

FFHQ's aligned square is turned with the face; the released KDTalker takes the upright rectangle around that square,
clips it at the picture's border and squeezes what is left into a square. Here it is not clipped: what lies outside is
black, and the face keeps its proportions. Where nothing is clipped both are the same to a pixel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..types import Portrait
from .anchored_crop import FaceSquare, checked_anchors
from .crop import face_crop_to_frame

EYE_DISTANCE_FACTOR, MOUTH_DISTANCE_FACTOR = 2.0, 1.8
"""Half the side is the larger of these times the distances between the eyes, and from the eyes to the mouth."""
DOWN_SHARE = 0.1
"""How far the centre lies below the eyes, as a share of the way to the mouth."""

LIVEPORTRAIT_CROP, KDTALKER_CROP = "LivePortrait", "KDTalker"
CROP_STYLES = (LIVEPORTRAIT_CROP, KDTALKER_CROP)


def ffhq_square(landmarks: np.ndarray) -> FaceSquare:
    """Return the upright square around FFHQ's, pixels.

    landmarks: (P, 2) or (P, 3) pixels, P as in `anchored_crop.CROP_ANCHORS`. The release uses dlib's 68 points.
    Raises ValueError for another number of points, NaN, or points that all fall together.
    """
    points, anchors = checked_anchors(landmarks)
    left, right = (points[list(eye)].mean(axis=0) for eye in (anchors.left_eye, anchors.right_eye))
    eyes, between = (left + right) / 2, right - left
    down = points[list(anchors.lips)].mean(axis=0) - eyes
    axis = between + np.array([down[1], -down[0]])
    length = np.linalg.norm(axis)
    half = max(EYE_DISTANCE_FACTOR * np.linalg.norm(between), MOUTH_DISTANCE_FACTOR * np.linalg.norm(down))
    upright = half * float(np.abs(axis).sum() / length) if length > 0 else 0.0
    centre = eyes + DOWN_SHARE * down
    return FaceSquare((float(centre[0]), float(centre[1])), 2 * upright)


def with_crop_style(portrait: Portrait, style: str) -> Portrait:
    """Return the portrait with the face crop of a system: "LivePortrait" or "KDTalker"."""
    if style not in CROP_STYLES:
        raise ValueError(f"crop is {style!r}, expected one of {', '.join(CROP_STYLES)}")
    if style == KDTALKER_CROP:
        affine = ffhq_square(portrait.landmarks).crop_to_frame(portrait.crop_size)
    else:
        affine = face_crop_to_frame(portrait.landmarks, portrait.crop_size)
    return replace(portrait, crop_to_frame=affine)
