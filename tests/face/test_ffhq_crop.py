"""KDTalker's face crop: FFHQ's square, upright, and never out of proportion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.face.anchored_crop import CROP_ANCHORS
from talking_portrait.core_models.face.ffhq_crop import ffhq_square, with_crop_style

EYES, MOUTH = ((100.0, 100.0), (160.0, 100.0)), (130.0, 170.0)


def landmarks_at(left, right, mouth, count=68):
    """Landmarks whose anchors are where they are wanted."""
    points = np.full((count, 2), mouth, float)
    anchors = CROP_ANCHORS[count]
    points[list(anchors.left_eye)], points[list(anchors.right_eye)] = left, right
    points[list(anchors.lips)] = mouth
    return points


def turned(point, angle, about=(130.0, 100.0)):
    c, s = np.cos(angle), np.sin(angle)
    return tuple(np.array([[c, -s], [s, c]]) @ (np.array(point) - about) + about)


def test_an_upright_face():
    """Eyes 60 apart, mouth 70 below: half the side is max(2 * 60, 1.8 * 70) = 126, the centre 7 below the eyes."""
    square = ffhq_square(landmarks_at(*EYES, MOUTH))
    assert square.side == pytest.approx(252)
    assert square.centre == pytest.approx((130, 107))
    assert square.angle == 0


@pytest.mark.parametrize("degrees", [-30, 10, 45])
def test_a_turned_face_gets_the_upright_square_around_its_own(degrees):
    angle = np.radians(degrees)
    eyes, mouth = [turned(eye, angle) for eye in EYES], turned(MOUTH, angle)
    square = ffhq_square(landmarks_at(*eyes, mouth))
    assert square.side == pytest.approx(252 * (abs(np.cos(angle)) + abs(np.sin(angle))))
    assert square.centre == pytest.approx(turned((130, 107), angle))
    assert square.angle == 0


@given(st.floats(0.1, 10), st.floats(-500, 500))
def test_the_crop_moves_and_grows_with_the_face(scale, shift):
    base = ffhq_square(landmarks_at(*EYES, MOUTH))
    moved = ffhq_square(landmarks_at(*EYES, MOUTH) * scale + shift)
    assert moved.side == pytest.approx(base.side * scale)
    assert moved.centre == pytest.approx(tuple(np.array(base.centre) * scale + shift))


def test_a_portrait_gets_either_crop(astronaut_portrait):
    wide = with_crop_style(astronaut_portrait, "LivePortrait")
    assert np.allclose(wide.crop_to_frame, astronaut_portrait.crop_to_frame)
    crop = with_crop_style(astronaut_portrait, "KDTalker").crop_to_frame
    assert crop[0, 1] == crop[1, 0] == 0
    assert crop[0, 0] == crop[1, 1]
    inside = (astronaut_portrait.landmarks[:468, :2] - crop[:, 2]) / np.diag(crop[:, :2])
    assert (inside > 0).all()
    assert (inside < astronaut_portrait.crop_size).all()


def test_points_that_fall_together_are_refused():
    with pytest.raises(ValueError, match="side"):
        ffhq_square(np.ones((68, 2)))


def test_an_unknown_style_is_named(astronaut_portrait):
    with pytest.raises(ValueError, match="FFHQ"):
        with_crop_style(astronaut_portrait, "FFHQ")
