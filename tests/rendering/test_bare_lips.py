"""An open photo's mouth filled with lips, and the line between lips that meet."""

import numpy as np
import pytest
from talking_portrait.core_models.face.topology import (
    LIPS_LOWER,
    LIPS_LOWER_INNER,
    LIPS_UPPER,
    LIPS_UPPER_INNER,
)
from talking_portrait.core_models.rendering.bare_lips import draw_lip_seam, make_bare_lips
from talking_portrait.core_models.rendering.curves import opening_outline, outline_mask

SIZE = 200
SKIN, LIP, TEETH = (200, 160, 140), (170, 70, 80), (245, 245, 240)


def smiling_mouth() -> tuple[np.ndarray, np.ndarray]:
    """A picture of an open mouth with teeth, and the landmarks of its lips."""
    points = np.zeros((478, 2), np.float32)
    x = np.linspace(-1, 1, 11)
    arch = 1 - x**2
    middle, outer, inner = SIZE / 2, 60, 52
    for row, reach in ((LIPS_UPPER[0], -30), (LIPS_LOWER[0], 34)):
        points[list(row)] = np.stack([middle + outer * x, middle + reach * arch], axis=1)
    for row, reach in ((LIPS_UPPER_INNER, -14), (LIPS_LOWER_INNER, 14)):
        points[list(row)] = np.stack([middle + inner * x, middle + reach * arch], axis=1)
    picture = np.full((SIZE, SIZE, 3), SKIN, np.uint8)
    window = (0, 0, SIZE, SIZE)
    for rows, colour in (
        ((LIPS_UPPER[0], LIPS_LOWER[0]), LIP),
        ((LIPS_UPPER_INNER, LIPS_LOWER_INNER), TEETH),
    ):
        upper, lower = (points[list(row)] for row in rows)
        picture[outline_mask(opening_outline(upper, lower), window, 0.0) > 0.5] = colour
    return picture, points


def test_the_opening_is_filled_with_the_colour_of_the_lips_and_no_tooth_stays():
    picture, points = smiling_mouth()
    lips = make_bare_lips(picture, points)
    left, top = lips.origin
    height, width = lips.weight.shape
    mixed = picture[top : top + height, left : left + width] * (1 - lips.weight[..., None] / 255.0)
    mixed += lips.texture * (lips.weight[..., None] / 255.0)
    centre = mixed[SIZE // 2 - top, SIZE // 2 - left]
    np.testing.assert_allclose(centre, LIP, atol=6)
    assert mixed[..., 1].max() < 180


def test_nothing_far_from_the_opening_is_filled():
    picture, points = smiling_mouth()
    lips = make_bare_lips(picture, points)
    left, top = lips.origin
    for x, y in ((SIZE // 2, SIZE // 2 - 26), (SIZE // 2, SIZE // 2 + 30)):
        assert lips.weight[y - top, x - left] < 20


def test_a_mouth_outside_the_picture_has_no_bare_lips():
    picture, points = smiling_mouth()
    assert make_bare_lips(picture, points + 1000) is None


@pytest.mark.parametrize(("opening", "drawn"), [(-0.02, True), (0.0, True), (0.1, False)])
def test_the_seam_is_drawn_only_where_lips_touch(opening, drawn):
    picture, points = smiling_mouth()
    canvas = np.full_like(picture, LIP)
    draw_lip_seam(canvas, np.array([120.0, 60, 60]), points, opening, 1.0)
    assert (canvas[SIZE // 2, SIZE // 2].sum() < 0.7 * sum(LIP)) == drawn
    assert (canvas[SIZE // 2 - 12, SIZE // 2] == LIP).all()


def test_a_photo_at_rest_gets_no_seam():
    picture, points = smiling_mouth()
    canvas = picture.copy()
    draw_lip_seam(canvas, np.array([120.0, 60, 60]), points, 0.0, 0.0)
    np.testing.assert_array_equal(canvas, picture)
