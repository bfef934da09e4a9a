"""A small picture of motion while it is made: the head's angles and the mouth as curves along the clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

PICTURE_SIZE = (512, 160)
"""Width and height in pixels."""
PreviewCallback = Callable[[np.ndarray], None]
"""Called with a picture, (H, W, 3) uint8 RGB, of how far long work has come."""

_BACKGROUND, _LINE = (32, 32, 36), (70, 70, 76)
_COLOURS = ((240, 180, 70), (110, 200, 250), (150, 220, 130), (240, 120, 130))
_MARGIN = 14


def curve_picture(curves: Mapping[str, np.ndarray], total: int) -> np.ndarray:
    """Return (160, 512, 3) uint8 RGB: each curve, as far as it is known, in a colour and a lane of its own.

    curves: {name: (N,) values}, at most four. total: frames of the whole clip; N frames take up N / total of the width.
    A lane is as high as its curve's own range.
    """
    width, height = PICTURE_SIZE
    picture = np.full((height, width, 3), _BACKGROUND, np.uint8)
    lane = (height - 2 * _MARGIN / 2) / max(len(curves), 1)
    for index, (name, values) in enumerate(curves.items()):
        top = _MARGIN / 2 + index * lane
        _draw_lane(
            picture, name, np.asarray(values, float), total, (top, lane), _COLOURS[index % len(_COLOURS)]
        )
    return picture


def frames_between(total: int) -> int:
    """Return every how many frames a point is enough, so that a long clip costs no more than a short one."""
    return -(-total // PICTURE_SIZE[0])


def _draw_lane(
    picture: np.ndarray,
    name: str,
    values: np.ndarray,
    total: int,
    place: tuple[float, float],
    colour: tuple[int, int, int],
) -> None:
    top, lane = place
    width = picture.shape[1]
    middle = round(top + lane / 2)
    cv2.line(picture, (0, middle), (width, middle), _LINE, 1)
    reach = float(np.abs(values - values.mean()).max()) or 1.0
    x = (np.arange(len(values)) + 0.5) / max(total, len(values)) * width
    y = top + lane / 2 - 0.42 * lane * (values - values.mean()) / reach
    points = np.stack([x, y], axis=1).round().astype(np.int32)
    cv2.polylines(picture, [points[:, None]], False, colour, 1, cv2.LINE_AA)
    cv2.putText(picture, name, (4, round(top + 11)), cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, 1, cv2.LINE_AA)
