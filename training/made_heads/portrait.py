"""The portrait of a made person: painted from its figures alone, every landmark known."""

from __future__ import annotations

import cv2
import numpy as np

from ...core_models.face.portrait import portrait_from_landmarks
from ...core_models.types import Portrait
from .canvas import Canvas, smooth_noise
from .features import draw_age, draw_brows, draw_eyes, draw_lips, draw_nose
from .hair import draw_beard, draw_hair_behind, draw_hair_front
from .head_shape import PlacedHead, placed_head
from .identity import MadeIdentity
from .skin import HeadField, Light, head_field, light_of, lit, skin_colour
from .surroundings import draw_backdrop, draw_body, draw_ears, draw_glasses

SMALLEST_SIZE, LARGEST_SIZE = 64, 256
SMALLEST_CANVAS = 320
"""Pixels; smaller portraits are painted this large and reduced."""
SUPERSAMPLING = 2


def draw_portrait(identity: MadeIdentity, size: int) -> Portrait:
    """Return the portrait of a made person, `size` x `size` pixels: a relaxed face, its mouth closed.

    The head is shown whole, with shoulders; the face's oval fills about 54 % of the height. Landmarks are those the
    picture was drawn from. The same identity and size give the same picture.
    Raises ValueError unless size is a whole number in 64..256.
    """
    _check_size(size)
    side = max(SUPERSAMPLING * size, SMALLEST_CANVAS)
    picture = cv2.resize(_painted(identity, side), (size, size), interpolation=cv2.INTER_AREA)
    frame = np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
    return portrait_from_landmarks(frame, placed_head(identity, size).landmarks)


def _check_size(size: int) -> None:
    if int(size) != size or not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise ValueError(
            f"the size is {size} px, expected a whole number from {SMALLEST_SIZE} to {LARGEST_SIZE}"
        )


def _painted(identity: MadeIdentity, side: int) -> np.ndarray:
    """Return the picture on a canvas of `side` pixels, (side, side, 3) float32 0..255."""
    rng = np.random.default_rng(identity.texture_seed)
    head = placed_head(identity, side)
    canvas = Canvas(side, head.pixels_per_cm)
    light = light_of(identity)
    draw_backdrop(canvas, identity, rng)
    draw_hair_behind(canvas, head, identity, light, rng)
    draw_body(canvas, head, identity, light, rng)
    draw_ears(canvas, head, identity, light)
    field = head_field(head)
    _draw_face(canvas, head, field, identity, light, rng)
    draw_hair_front(canvas, head, identity, light, rng)
    draw_glasses(canvas, head, identity)
    return canvas.pixels + 1.2 * smooth_noise(side, 1.5, rng)[..., None]


def _draw_face(
    canvas: Canvas,
    head: PlacedHead,
    field: HeadField,
    identity: MadeIdentity,
    light: Light,
    rng: np.random.Generator,
) -> None:
    skin = lit(skin_colour(field, identity, rng), field.normal, field.hollow, light, identity.shine)
    canvas.blend(field.mask, skin)
    points = head.landmarks[:, :2].astype(np.float64)
    shade = _mean_shade(skin, field, identity)
    draw_nose(canvas, points, identity)
    draw_age(canvas, points, identity, rng)
    draw_beard(canvas, field, identity, shade, rng)
    draw_lips(canvas, points, identity, shade)
    draw_eyes(canvas, points, identity, shade)
    brows = np.minimum(np.array(identity.hair) * 0.55, np.array(identity.skin) * 0.62) * shade
    draw_brows(canvas, points, identity, brows, rng)


def _mean_shade(skin: np.ndarray, field: HeadField, identity: MadeIdentity) -> np.ndarray:
    """Return (3,) how much brighter or darker than its own colour the face is lit, sRGB."""
    x, y = field.place[..., 0], field.place[..., 1]
    middle = (np.abs(x) < 5) & (np.abs(y) < 6) & (field.mask > 0.9)
    return np.clip(skin[middle].mean(axis=0) / np.array(identity.skin), 0.6, 1.1)
