"""Lips without what shows between them, so that an open photo's mouth can close.

Where two lips meet, the softened warp passes quickly through what used to lie between them: teeth would
shine through as a pale band. So the photo's opening is filled with the colour of the lips, and wherever the
mouth moves, this filled picture is warped in place of the photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..face.topology import LIPS_LOWER, LIPS_LOWER_INNER, LIPS_UPPER, LIPS_UPPER_INNER
from .curves import blend, bounding_window, continued, opening_outline, outline_mask, smooth_curve
from .displacement import smoothstep
from .lips import mouth_width
from .warp import Texture

TEETH_SPILL = 0.02
"""Mouth widths around the opening whose pixels are mixed with teeth and are filled too."""
FEATHER = 0.02
SEAM_THICKNESS = 0.045
"""Mouth widths at the middle; the line tapers to the corners."""
THINNEST_SEAM = 1.3
"""Pixels."""
SEAM_DARKNESS = 0.50
"""Of the colour of the inside of the mouth."""
SEAM_STRENGTH = 0.85
SEAM_FADE = (0.008, 0.035)
"""Gap over mouth width between which the line of closed lips gives way to the mouth's inside."""

_UPPER, _LOWER = list(LIPS_UPPER_INNER), list(LIPS_LOWER_INNER)
_OUTLINE = [*LIPS_UPPER[0], *LIPS_LOWER[0]]


@dataclass(frozen=True)
class BareLips:
    """The neighbourhood of an open photo's mouth with lip colour in the opening.

    texture: (h, w, 3) uint8; weight: (h, w) uint8, 255 where it differs from the photo, feathered;
    origin: (x, y) picture pixel of the corner.
    """

    texture: np.ndarray
    weight: np.ndarray
    origin: tuple[int, int]


def make_bare_lips(picture: np.ndarray, points: np.ndarray) -> BareLips | None:
    """Return the lips of an (H, W, 3) uint8 picture with landmarks (>= 468, 2); None outside the picture."""
    width = mouth_width(points)
    window = bounding_window(points[_OUTLINE], 4 + 0.1 * width, picture.shape[1::-1])
    if window is None:
        return None
    left, top, right, bottom = window
    opening = outline_mask(opening_outline(points[_UPPER], points[_LOWER]), window, 0.0) > 0.3
    lips = outline_mask(
        opening_outline(points[list(LIPS_UPPER[0])], points[list(LIPS_LOWER[0])]), window, 0.0
    )
    spill = max(1, round(TEETH_SPILL * width))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * spill + 1, 2 * spill + 1))
    filled = cv2.dilate(opening.astype(np.uint8), kernel)
    known = ((lips > 0.6) & (filled == 0)).astype(np.uint8)
    if known.sum() < 12:
        return None
    texture = continued(picture[top:bottom, left:right], known)
    weight = cv2.GaussianBlur(filled.astype(np.float32), (0, 0), max(0.6, FEATHER * width))
    weight = np.maximum(weight, filled)
    return BareLips(
        np.rint(texture).astype(np.uint8), np.rint(255 * weight).astype(np.uint8), (int(left), int(top))
    )


def draw_bare_lips(
    canvas: np.ndarray,
    lips: BareLips,
    points: np.ndarray,
    source_map: np.ndarray,
    texture: Texture,
    strength: float,
) -> None:
    """Lay the filled lips over the warped canvas (h, w, 3) uint8 through the same warp, in place.

    points: (N, 2) moved mesh in canvas pixels; source_map: (h, w, 2) float32 coordinates of `texture`.
    """
    window = bounding_window(points[_OUTLINE], 6, canvas.shape[1::-1])
    if window is None or strength <= 0:
        return
    left, top, right, bottom = window
    places = source_map[top:bottom, left:right] / np.float32(texture.density)
    places += (texture.origin - lips.origin).astype(np.float32)
    filled = cv2.remap(lips.texture, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.remap(lips.weight, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    blend(canvas, window, filled.astype(np.float32), weight * np.float32(strength / 255))


def draw_lip_seam(
    canvas: np.ndarray, colour: np.ndarray, points: np.ndarray, opening: float, strength: float
) -> None:
    """Draw the dark line between lips that touch, in place.

    colour: (3,) of the inside of the mouth; points: (N, 2) moved mesh in canvas pixels; opening: gap over mouth width.
    """
    weight = SEAM_STRENGTH * strength * float(1 - smoothstep(*SEAM_FADE, opening))
    width = mouth_width(points)
    thickness = max(SEAM_THICKNESS * width, THINNEST_SEAM)
    line = smooth_curve((points[_UPPER] + points[_LOWER]) / 2)
    window = bounding_window(line, 2 + thickness, canvas.shape[1::-1])
    if weight <= 0 or window is None:
        return
    axis = (points[_UPPER[-1]] - points[_UPPER[0]]) / width
    down = np.array([-axis[1], axis[0]], np.float32)
    half = 0.5 * thickness * np.sin(np.linspace(0, np.pi, len(line)))[:, None] * down
    stroke = np.concatenate([line - half, (line + half)[-2:0:-1]])
    mask = outline_mask(stroke, window, 0.3 * thickness) * weight
    blend(canvas, window, np.broadcast_to(SEAM_DARKNESS * colour, (*mask.shape, 3)), mask)
