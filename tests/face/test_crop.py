"""Crop geometry and paste-back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.face.anchored_crop import CROP_ANCHORS
from talking_portrait.core_models.face.crop import (
    apply_affine,
    crop_face,
    face_crop_to_frame,
    face_roll,
    invert_affine,
    square_crop_to_frame,
)
from talking_portrait.core_models.face.pasting import paste_back

squares = st.tuples(
    st.tuples(st.floats(-500, 3000), st.floats(-500, 3000)),
    st.floats(2, 3000),
    st.floats(-180, 180),
    st.integers(8, 1024),
)


def smooth_picture(width=200, height=160):
    """A picture without detail finer than a crop can carry."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / 31 + phase) * np.cos(y / 27 - phase) for phase in (0.0, 1.0, 2.0)]
    return np.stack(waves, axis=-1).astype(np.uint8)


@given(squares)
def test_affine_and_inverse_undo_each_other(square):
    centre, side, angle, size = square
    affine = square_crop_to_frame(centre, side, angle, size)
    points = np.random.default_rng(0).uniform(0, size, (20, 2))
    back = apply_affine(invert_affine(affine), apply_affine(affine, points))
    np.testing.assert_allclose(back, points, atol=2e-3 * max(1, size / side * 10))


@given(squares)
def test_crop_is_a_square_around_its_centre(square):
    centre, side, angle, size = square
    affine = square_crop_to_frame(centre, side, angle, size)
    middle = apply_affine(affine, np.array([[(size - 1) / 2] * 2]))
    np.testing.assert_allclose(middle[0], centre, atol=1e-2)
    corners = apply_affine(affine, np.array([[-0.5, -0.5], [size - 0.5, -0.5], [-0.5, size - 0.5]]))
    across, down = corners[1] - corners[0], corners[2] - corners[0]
    assert np.hypot(*across) == pytest.approx(side, rel=1e-3, abs=1e-2)
    assert across @ down == pytest.approx(0, abs=1e-3 * side * side + 1e-2)
    assert across[0] * down[1] - across[1] * down[0] > 0  # not mirrored


def test_depth_is_scaled_with_the_picture():
    affine = square_crop_to_frame((50, 50), 100, 30, 25)
    assert apply_affine(affine, np.array([[0.0, 0.0, 3.0]]))[0, 2] == pytest.approx(12)


def test_crop_of_whole_frame_is_the_frame():
    picture = smooth_picture(64, 64)
    np.testing.assert_array_equal(
        crop_face(picture, square_crop_to_frame((31.5, 31.5), 64, 0, 64), 64), picture
    )


def test_reducing_crop_averages_instead_of_sampling():
    """A one-pixel checkerboard becomes its mean grey, not black or white."""
    y, x = np.mgrid[:256, :256]
    board = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    crop = crop_face(board, square_crop_to_frame((127.5, 127.5), 256, 0, 32), 32)
    assert np.abs(crop.astype(int) - 127).max() <= 2


def test_reducing_crop_stays_in_place():
    """The middle of a bright spot is where the affine says, whatever the reduction."""
    picture = np.zeros((400, 400, 3), np.uint8)
    picture[200:240, 100:140] = 255
    affine = square_crop_to_frame((180, 190), 320, 0, 40)
    crop = crop_face(picture, affine, 40)[..., 0].astype(float)
    y, x = np.mgrid[:40, :40]
    spot = np.array([[(crop * x).sum(), (crop * y).sum()]]) / crop.sum()
    np.testing.assert_allclose(apply_affine(affine, spot)[0], (119.5, 219.5), atol=0.2)


@pytest.mark.parametrize("side", [0, -3, float("nan"), float("inf")])
def test_crop_without_a_size_is_refused(side):
    with pytest.raises(ValueError, match="positive side"):
        square_crop_to_frame((0, 0), side, 0, 64)


def test_flat_affine_has_no_inverse():
    with pytest.raises(ValueError, match="cannot be inverted"):
        invert_affine(np.array([[1.0, 0, 0], [2.0, 0, 0]]))


def test_face_crop_holds_the_face_upright(astronaut, astronaut_landmarks):
    points = astronaut_landmarks.landmarks
    affine = face_crop_to_frame(points, 512)
    in_crop = apply_affine(invert_affine(affine), points)
    assert in_crop[:, :2].min() > 0
    assert in_crop[:, :2].max() < 511
    assert abs(face_roll(in_crop)) < 0.5
    assert abs(face_roll(points)) > 1  # the photo itself is tilted
    # The face without its forehead takes 1 / 2.3 of the crop and lies an eighth below where LivePortrait
    # puts the crop's centre.
    box = in_crop[list(CROP_ANCHORS[478].box), :2]
    assert np.ptp(box, axis=0).max() == pytest.approx(512 / 2.3, rel=1e-3)
    np.testing.assert_allclose((box.min(axis=0) + box.max(axis=0)) / 2, (256, 256 + 64), atol=0.1)


def test_face_crop_may_leave_the_roll(astronaut_landmarks):
    """Then the square keeps its place and size."""
    points = astronaut_landmarks.landmarks
    upright = face_crop_to_frame(points, 512, cancel_roll=False)
    assert upright[0, 1] == upright[1, 0] == 0
    middle = np.array([[256.0, 256.0]])
    turned = face_crop_to_frame(points, 512)
    np.testing.assert_allclose(apply_affine(upright, middle), apply_affine(turned, middle), atol=1e-3)
    assert np.hypot(*turned[:, 0]) == pytest.approx(upright[0, 0], rel=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.floats(-60, 60), st.floats(0.5, 3.0), st.floats(20, 180), st.floats(20, 140))
def test_pasting_a_crop_back_changes_nothing(angle, magnification, x, y):
    """An unchanged crop of a smooth picture pastes back within rounding; outside the mask bits are equal."""
    picture = smooth_picture()
    affine = square_crop_to_frame((x, y), 96 / magnification, angle, 96)
    mask = np.zeros((96, 96), np.float32)
    mask[20:76, 20:76] = 1
    before = picture.copy()
    pasted = paste_back(picture, crop_face(picture, affine, 96), affine, mask)
    np.testing.assert_array_equal(picture, before)
    assert np.abs(pasted.astype(int) - picture).max() <= 6


@settings(deadline=None, max_examples=25)
@given(st.floats(-60, 60), st.floats(0.5, 3.0), st.floats(-50, 250), st.floats(-50, 200))
def test_outside_the_mask_every_bit_stays(angle, magnification, x, y):
    picture = smooth_picture()
    affine = square_crop_to_frame((x, y), 96 / magnification, angle, 96)
    mask = np.zeros((96, 96), np.float32)
    mask[30:60, 30:60] = 1
    pasted = paste_back(picture, np.full((96, 96, 3), 255, np.uint8), affine, mask)
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    in_crop = apply_affine(invert_affine(affine), np.stack([columns.ravel(), rows.ravel()], axis=1))
    outside = ((in_crop < 28.5) | (in_crop > 60.5)).any(axis=1).reshape(picture.shape[:2])
    np.testing.assert_array_equal(pasted[outside], picture[outside])
    inside = ((in_crop > 31.5) & (in_crop < 57.5)).all(axis=1).reshape(picture.shape[:2])
    assert (pasted[inside] >= 254).all()


def test_mask_in_frame_pixels():
    picture = smooth_picture()
    affine = square_crop_to_frame((100, 80), 80, 10, 96)
    mask = np.zeros(picture.shape[:2], np.float32)
    mask[75:85, 90:110] = 1
    pasted = paste_back(picture, np.zeros((96, 96, 3), np.uint8), affine, mask)
    assert (pasted[mask == 1] == 0).all()
    np.testing.assert_array_equal(pasted[mask == 0], picture[mask == 0])


def test_mask_of_another_size_is_refused():
    picture = smooth_picture()
    affine = square_crop_to_frame((100, 80), 80, 10, 96)
    with pytest.raises(ValueError, match=r"shape \(10, 10\)"):
        paste_back(picture, np.zeros((96, 96, 3), np.uint8), affine, np.zeros((10, 10), np.float32))
