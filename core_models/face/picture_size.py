"""Pictures and portraits of a size that renders quickly and that video files can hold."""

from __future__ import annotations

import cv2
import numpy as np

from ..types import HeadPose, Portrait

SMALLEST_SIDE = 64
"""Pixels; the least that a picture may be asked to shrink to."""


def shrunk_frame(frame: np.ndarray, largest_side: int) -> np.ndarray:
    """Return an (H, W, 3) uint8 frame whose longer side is at most `largest_side` pixels; 0 leaves it.

    Pixels are averaged, so that fine patterns do not alias.
    Raises ValueError for a side that is neither 0 nor at least 64.
    """
    width, height = _shrunk_size((frame.shape[1], frame.shape[0]), largest_side)
    if (width, height) == (frame.shape[1], frame.shape[0]):
        return frame
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def _shrunk_size(size: tuple[int, int], largest_side: int) -> tuple[int, int]:
    if largest_side != 0 and largest_side < SMALLEST_SIDE:
        raise ValueError(
            f"the largest side is {largest_side} px: give at least {SMALLEST_SIDE}, or 0 to leave the "
            "picture as it is"
        )
    if largest_side == 0 or max(size) <= largest_side:
        return size
    factor = largest_side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def fit_portrait(portrait: Portrait, largest_side: int = 0) -> Portrait:
    """Return the portrait at a size a video file can hold, with all its coordinates.

    The picture's longer side becomes at most `largest_side` pixels (0: any); an odd last row or column is
    left out, because mp4 needs even sides. A portrait that fits already is returned as it is.
    Raises ValueError for a side that is neither 0 nor at least 64, or a picture one pixel wide or high.
    """
    frame = shrunk_frame(portrait.frame, largest_side)
    height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
    if 0 in (width, height):
        raise ValueError(f"a picture of {frame.shape[1]} x {frame.shape[0]} px is too small for a video")
    if (width, height) == portrait.size:
        return portrait
    scale = np.array([frame.shape[1] / portrait.size[0], frame.shape[0] / portrait.size[1]])
    return _scaled(portrait, frame[:height, :width], scale)


def _scaled(portrait: Portrait, frame: np.ndarray, scale: np.ndarray) -> Portrait:
    """Return the portrait with another picture, whose x and y are `scale` (2,) times the old ones.

    Coordinates are of pixel centres: x becomes (x + 0.5) * scale - 0.5.
    """
    shift = (scale - 1) / 2
    mean = float(np.sqrt(scale[0] * scale[1]))
    landmarks = np.array(portrait.landmarks) * np.append(scale, mean)
    landmarks[:, :2] += shift
    crop_to_frame = np.array(portrait.crop_to_frame) * scale[:, None]
    crop_to_frame[:, 2] += shift
    translation = np.array(portrait.pose.translation) * np.append(scale, mean)
    translation[:2] += shift * (1, -1)  # the pose's y points up
    return Portrait(
        frame=frame,
        landmarks=landmarks,
        blendshapes=portrait.blendshapes,
        pose=HeadPose(portrait.pose.rotation, translation, portrait.pose.scale * mean),
        crop_to_frame=crop_to_frame,
        crop_size=portrait.crop_size,
        presence=portrait.presence,
    )
