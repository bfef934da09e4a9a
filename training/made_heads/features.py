"""Eyes, brows, nose, lips and lines of age, painted where the landmarks say."""

from __future__ import annotations

import numpy as np

from ...core_models.face.topology import (
    EYE_LEFT_LOWER,
    EYE_LEFT_LOWER_RING_1,
    EYE_LEFT_UPPER,
    EYE_LEFT_UPPER_RING_1,
    EYE_LEFT_UPPER_RING_2,
    EYE_RIGHT_LOWER,
    EYE_RIGHT_LOWER_RING_1,
    EYE_RIGHT_UPPER,
    EYE_RIGHT_UPPER_RING_1,
    EYE_RIGHT_UPPER_RING_2,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_LOWER_INNER,
    LIPS_LOWER_OUTER,
    LIPS_UPPER_INNER,
    LIPS_UPPER_OUTER,
)
from .canvas import Canvas, curve, ramp
from .head_shape import IRIS_RADIUS
from .identity import MadeIdentity

EYES = (
    (
        EYE_RIGHT_UPPER,
        EYE_RIGHT_LOWER,
        EYE_RIGHT_UPPER_RING_1,
        EYE_RIGHT_UPPER_RING_2,
        EYE_RIGHT_LOWER_RING_1,
        IRIS_RIGHT,
    ),
    (
        EYE_LEFT_UPPER,
        EYE_LEFT_LOWER,
        EYE_LEFT_UPPER_RING_1,
        EYE_LEFT_UPPER_RING_2,
        EYE_LEFT_LOWER_RING_1,
        IRIS_LEFT,
    ),
)
BROWS = (
    ((70, 63, 105, 66, 107), (46, 53, 52, 65, 55)),
    ((300, 293, 334, 296, 336), (276, 283, 282, 295, 285)),
)
"""Upper and lower edge of each brow, from its outer to its inner end."""
EYE_WHITE = np.array([236, 231, 227], np.float32)
LASH = np.array([28, 20, 18], np.float32)
NOSTRILS = ((98, 2), (327, 2))
WINGS = ((129, 64, 98), (358, 294, 327))
"""The crease behind each nostril."""
SMILE_LINES = ((129, 203, 206, 216, 212), (358, 423, 426, 436, 432))
CROWS_FEET = ((33, -1), (263, 1))


def draw_eyes(canvas: Canvas, points: np.ndarray, identity: MadeIdentity, shade: np.ndarray) -> None:
    """Paint both eyes at landmarks (478, 2). shade: (3,) how bright and of what colour the light is, about 1."""
    for number, (upper, lower, ring, fold, under, iris) in enumerate(EYES):
        upper_lid, lower_lid = curve(points[list(upper)]), curve(points[list(lower)])
        outline = np.concatenate([upper_lid, lower_lid[-2:0:-1]])
        opening = canvas.shape_mask(outline, 0.02)
        inner = points[upper[-1]]
        canvas.blend(opening, np.clip(EYE_WHITE * shade, 0, 250))
        pink = canvas.dot_mask(inner + 0.12 * (points[upper[0]] - inner), (0.26, 0.22), 0.07)
        canvas.blend(opening * pink, np.array([206, 140, 128]) * shade, 0.75)
        draw_iris(canvas, points[iris[0]], opening, identity, shade)
        canvas.multiply(
            opening * canvas.line_mask(upper_lid, 0.42, 0.10, taper=False), (0.5, 0.48, 0.48), 0.75
        )
        canvas.multiply(opening * canvas.line_mask(lower_lid, 0.2, 0.07, taper=False), (0.78, 0.72, 0.7), 0.6)
        light = points[iris[0]] + np.array([0.22 * np.sign(identity.light[0]), -0.2]) * canvas.pixels_per_cm
        canvas.blend(opening * canvas.dot_mask(light, (0.12, 0.13), 0.025), (252, 252, 250), 0.92)
        _draw_lids(canvas, points, identity, number, upper_lid, lower_lid, ring, fold, under)


def draw_iris(
    canvas: Canvas, middle: np.ndarray, opening: np.ndarray, identity: MadeIdentity, shade: np.ndarray
) -> None:
    """Paint one iris about a pixel (2,), within the opening of the lids."""
    colour = np.array(identity.iris) * shade
    radius = IRIS_RADIUS
    canvas.blend(opening * canvas.dot_mask(middle, (radius, radius), 0.03), colour * 0.42)
    canvas.blend(opening * canvas.dot_mask(middle, (0.84 * radius, 0.84 * radius), 0.06), colour * 0.95)
    low = middle + np.array([-0.12 * np.sign(identity.light[0]), 0.2]) * radius * canvas.pixels_per_cm
    canvas.blend(
        opening * canvas.dot_mask(low, (0.5 * radius, 0.45 * radius), 0.12),
        np.clip(colour * 1.35 + 12, 0, 255),
        0.8,
    )
    canvas.blend(opening * canvas.dot_mask(middle, (0.40 * radius, 0.40 * radius), 0.03), (12, 10, 10))


def _draw_lids(
    canvas: Canvas,
    points: np.ndarray,
    identity: MadeIdentity,
    number: int,
    upper_lid: np.ndarray,
    lower_lid: np.ndarray,
    ring: tuple[int, ...],
    fold: tuple[int, ...],
    under: tuple[int, ...],
) -> None:
    down = np.array([0, canvas.pixels_per_cm])
    count = len(upper_lid)
    along = np.linspace(0, 1, count)
    crease = curve(0.55 * points[list(ring)] + 0.45 * points[list(fold)])[1:-1]
    lid_top = curve(points[list(ring)])
    if identity.make_up > 0.3:
        lid = np.concatenate([upper_lid, lid_top[::-1]])
        canvas.multiply(canvas.shape_mask(lid, 0.12), (0.72, 0.64, 0.66), 0.8 * (identity.make_up - 0.2))
    canvas.multiply(canvas.line_mask(crease, 0.17, 0.06), (0.62, 0.52, 0.48), 0.62)
    outer_weight = ramp(1.15, 0.0, along)
    thickness = (0.07 + 0.07 * identity.lashes) * (0.55 + 0.75 * outer_weight)
    lash_line = upper_lid - 0.015 * down
    canvas.line(lash_line, thickness, LASH, 0.025, 0.72 + 0.28 * identity.lashes)
    canvas.line(lower_lid + 0.03 * down, 0.06, (110, 70, 60), 0.04, 0.35 + 0.25 * identity.lashes)
    bag = curve(points[list(under)])[3:-3] + 0.22 * down
    canvas.multiply(canvas.line_mask(bag, 0.16, 0.09), (0.74, 0.66, 0.64), 0.12 + 0.55 * identity.eye_bags)
    if identity.lashes > 0.3:
        _draw_lashes(canvas, upper_lid, identity, -1 if number == 0 else 1)


def _draw_lashes(canvas: Canvas, lid: np.ndarray, identity: MadeIdentity, outward: int) -> None:
    strokes = []
    for place in np.linspace(0.03, 0.8, 16):
        root = lid[int(place * (len(lid) - 1))]
        lean = outward * (0.9 - 1.0 * place)
        length = (0.16 + 0.24 * identity.lashes) * (1.1 - 0.7 * place) * canvas.pixels_per_cm
        tip = root + length * np.array([lean, -1.0]) / np.hypot(lean, 1)
        bend = (root + tip) / 2 + np.array([0.12 * outward, 0.12]) * length
        strokes.append(curve(np.array([root, bend, tip]), 6))
    canvas.blend(canvas.strokes_mask(strokes, 0.045), LASH, 0.8 * identity.lashes)


def draw_brows(
    canvas: Canvas, points: np.ndarray, identity: MadeIdentity, hair: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint both brows as strokes over a soft ground; hair: (3,) their colour."""
    for upper, lower in BROWS:
        top, bottom = curve(points[list(upper)]), curve(points[list(lower)])
        spread = 0.42 + 0.5 * identity.brow_thickness
        middle = 0.5 * (top + bottom)
        along = np.linspace(0, 1, len(middle))[:, None]
        body = spread * (0.35 + 0.65 * ramp(0.0, 0.45, along))
        top, bottom = middle + body * (top - middle), middle + body * (bottom - middle)
        ground = canvas.shape_mask(np.concatenate([top, bottom[::-1]]), 0.10)
        canvas.blend(ground, hair, 0.42 * identity.brow_darkness)
        strokes = []
        for _ in range(int(70 + 70 * identity.brow_thickness)):
            place, height = rng.uniform(0.02, 1.0), rng.uniform(0.0, 1.0)
            index = place * (len(top) - 1)
            root = _between(top, bottom, index, height)
            ahead = _between(
                top, bottom, max(index - 9, 0), np.clip(height - 0.25 * ramp(0.55, 1, place), 0, 1)
            )
            rise = np.array([0, -1.0]) * ramp(0.7, 1.0, place) * 0.28 * canvas.pixels_per_cm
            tip = root + 0.75 * (ahead - root) * rng.uniform(0.7, 1.2) + rise
            strokes.append(np.array([root, 0.5 * (root + tip) + 0.1 * rise, tip]))
        canvas.blend(canvas.strokes_mask(strokes, 0.05), hair, 0.85 * identity.brow_darkness)


def _between(top: np.ndarray, bottom: np.ndarray, index: float, height: float) -> np.ndarray:
    place = int(np.clip(index, 0, len(top) - 1))
    return top[place] * (1 - height) + bottom[place] * height


def draw_nose(canvas: Canvas, points: np.ndarray, identity: MadeIdentity) -> None:
    """Paint nostrils and the creases behind them."""
    pixels = canvas.pixels_per_cm
    dark = np.array(identity.skin) * (0.36, 0.24, 0.22)
    for wing, middle in NOSTRILS:
        place = 0.56 * points[wing] + 0.44 * points[middle] + np.array([0, 0.04 * pixels])
        canvas.blend(canvas.dot_mask(place, (0.40, 0.17), 0.07), dark, 0.8)
    for wing in WINGS:
        line = curve(points[list(wing)])
        canvas.multiply(canvas.line_mask(line, 0.22, 0.12), (0.62, 0.5, 0.46), 0.6)
    base = curve(points[[98, 97, 2, 326, 327]])
    canvas.multiply(
        canvas.line_mask(base + np.array([0, 0.12 * pixels]), 0.36, 0.16), (0.66, 0.55, 0.52), 0.5
    )


def draw_lips(canvas: Canvas, points: np.ndarray, identity: MadeIdentity, shade: np.ndarray) -> None:
    """Paint closed lips in two tones, their seam, and the shade beneath."""
    pixels = canvas.pixels_per_cm
    outer_top, outer_low = (
        curve(points[list(LIPS_UPPER_OUTER)], 60),
        curve(points[list(LIPS_LOWER_OUTER)], 60),
    )
    seam = curve((points[list(LIPS_UPPER_INNER)] + points[list(LIPS_LOWER_INNER)]) / 2, 60)
    outer_top[:, 1] = np.minimum(outer_top[:, 1], seam[:, 1])
    colour = np.array(identity.lips) * shade
    soft = 0.07 - 0.03 * identity.make_up
    under = points[17] + np.array([0, 0.42 * pixels])
    canvas.multiply(canvas.dot_mask(under, (1.15, 0.22), 0.2), (0.70, 0.6, 0.58), 0.55)
    canvas.fill(np.concatenate([seam, outer_low[::-1]]), np.clip(colour * 1.04, 0, 255), soft, 0.92)
    canvas.fill(np.concatenate([outer_top, seam[::-1]]), colour * 0.84, soft, 0.92)
    gleam = 0.45 * seam + 0.55 * outer_low
    canvas.blend(canvas.line_mask(gleam[16:-16], 0.34, 0.14), np.clip(colour * 1.3 + 26, 0, 255), 0.5)
    canvas.multiply(
        canvas.line_mask(outer_low[10:-10] - [0, 0.06 * pixels], 0.18, 0.09), (0.8, 0.72, 0.72), 0.6
    )
    bow = outer_top[12:-12] - [0, 0.05 * pixels]
    canvas.blend(
        canvas.line_mask(bow, 0.1, 0.05), np.clip(np.array(identity.skin) * shade * 1.1, 0, 255), 0.3
    )
    canvas.line(seam, 0.13, np.array([74, 30, 30]) * np.array(identity.lips) / 190, 0.035, 0.88)
    for corner in (seam[0], seam[-1]):
        canvas.multiply(canvas.dot_mask(corner, (0.22, 0.16), 0.12), (0.55, 0.42, 0.4), 0.55)
    groove = curve(points[[2, 164, 0]])
    canvas.multiply(canvas.line_mask(groove, 0.42, 0.15), (0.84, 0.77, 0.75), 0.4)


def draw_age(canvas: Canvas, points: np.ndarray, identity: MadeIdentity, rng: np.random.Generator) -> None:
    """Paint smile lines, more with age, and the wrinkles of forehead and eyes."""
    pixels, amount = canvas.pixels_per_cm, identity.wrinkles
    for line in SMILE_LINES:
        path = curve(points[list(line)])
        canvas.multiply(canvas.line_mask(path, 0.42, 0.2), (0.72, 0.62, 0.58), 0.16 + 0.45 * amount)
        canvas.multiply(canvas.line_mask(path, 0.1, 0.05), (0.62, 0.5, 0.46), 0.65 * amount)
    if amount < 0.08:
        return
    for height in np.linspace(0.28, 0.72, 3) + rng.uniform(-0.05, 0.05, 3):
        row = (
            points[[105, 66, 107, 336, 296, 334]] * (1 - height)
            + points[[103, 67, 109, 338, 297, 332]] * height
        )
        path = curve(row + rng.normal(0, 0.05 * pixels, row.shape))
        canvas.multiply(canvas.line_mask(path, 0.12, 0.06), (0.68, 0.56, 0.52), 0.5 * amount)
        canvas.multiply(
            canvas.line_mask(path + np.array([0, 0.16 * pixels]), 0.14, 0.07), (1.12, 1.1, 1.08), 0.4 * amount
        )
    for corner, side in CROWS_FEET:
        for lift in (-0.35, 0.0, 0.35):
            start = points[corner] + np.array([side * 0.35, 0.6 * lift]) * pixels
            path = start + np.linspace(0, 1, 12)[:, None] * np.array([side * 0.9, lift * 1.1]) * pixels
            canvas.multiply(canvas.line_mask(path, 0.08, 0.05), (0.66, 0.55, 0.5), 0.6 * amount)
    frown = curve(points[[9, 8]] + [[0.0, 0.0], [0.0, 0.0]], 10)
    for shift in (-0.4, 0.4):
        canvas.multiply(
            canvas.line_mask(frown + np.array([shift * pixels, 0]), 0.1, 0.06),
            (0.7, 0.58, 0.54),
            0.45 * amount,
        )
