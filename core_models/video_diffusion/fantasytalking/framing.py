"""What FantasyTalking sees of a portrait: the whole picture, as in the release, or a square around the face."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..actalker.prepared_picture import AROUND_FACE, FACE_SHARE, FRAMINGS, cut_out, face_square
from ..wan.frame_rules import prepared_image

FACE_HEIGHT = 0.66
"""Height of the face over the side of a square around it, which leaves the head room to move."""


def roomy_square(landmarks: np.ndarray) -> tuple[int, int, int]:
    """Return left, top and side of the square around a face, whose height is FACE_HEIGHT of it; it may leave the
    picture.

    landmarks: (K, 2 or more) pixels.
    """
    left, top, side = face_square(landmarks)
    wider = round(side * FACE_SHARE / FACE_HEIGHT)
    margin = (wider - side) // 2
    return left - margin, top - margin, wider


def framed_picture(frame: np.ndarray, landmarks: np.ndarray, framing: str) -> np.ndarray:
    """Return what a framing leaves of a picture (H, W, 3) uint8; outside of the picture its edge is repeated.

    landmarks: (K, 2 or more) pixels. framing: one of FRAMINGS. Raises ValueError for another framing.
    """
    if framing not in FRAMINGS:
        raise ValueError(f"framing is {framing!r}; choose one of {', '.join(FRAMINGS)}")
    return cut_out(frame, roomy_square(landmarks)) if framing == AROUND_FACE else frame


def framed_image(
    frame: np.ndarray, landmarks: np.ndarray, framing: str, image_size: int, multiple: int
) -> Tensor:
    """Return the first frame of a clip, (3, H, W) float32 in -1..1: the framed picture at the model's size.

    image_size, multiple: as for `prepared_image`. Raises what it and `framed_picture` raise.
    """
    return prepared_image(framed_picture(frame, landmarks, framing), image_size, multiple)
