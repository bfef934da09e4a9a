"""The portrait and its masks at a model's size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.video_diffusion.actalker.prepared_picture import (
    FACE_SHARE,
    cut_out,
    face_square,
    model_size,
    prepared_picture,
)


def layers(height, width):
    frame = np.zeros((height, width, 3), np.uint8)
    face = np.zeros((height, width), np.float32)
    face[height // 8 : -height // 8, width // 8 : -width // 8] = 1
    mouth = np.zeros_like(face)
    mouth[height * 5 // 8 : height * 6 // 8, width * 3 // 8 : width * 5 // 8] = 1
    frame[face > 0], frame[mouth > 0] = (200, 150, 120), (180, 20, 20)
    return frame, (face, mouth, face - mouth)


@given(width=st.integers(65, 700), height=st.integers(65, 700))
@settings(max_examples=25, deadline=None)
def test_sides_are_multiples_and_the_shorter_is_as_asked(width, height):
    found = model_size(width, height, 576, 64)
    assert min(found) == 576
    assert all(side % 64 == 0 for side in found)
    longer = 576 * max(width, height) / min(width, height)
    assert abs(max(found) - longer) <= 32 + 1e-6


@pytest.mark.parametrize("size", [(333, 257), (64, 64), (1024, 600)])
def test_masks_stay_binary_and_on_what_they_marked(size):
    frame, masks = layers(*size)
    prepared = prepared_picture(frame, masks, 64, 16)
    assert min(prepared.picture.shape[:2]) == 64
    for mask in (prepared.face, prepared.mouth, prepared.motion):
        assert mask.shape == prepared.picture.shape[:2]
        assert set(np.unique(mask)) == {0.0, 1.0}
    red = (prepared.picture[..., 0] > 150) & (prepared.picture[..., 1] < 60)
    assert (red == (prepared.mouth > 0)).mean() > 0.97
    assert np.abs(prepared.face - prepared.mouth - prepared.motion).mean() < 0.02


def test_soft_masks_of_almost_one_are_taken_as_one():
    """0.999 selects nothing in the layer itself: here it becomes 1."""
    frame, masks = layers(128, 128)
    soft = prepared_picture(frame, tuple(mask * 0.999 for mask in masks), 64, 16)
    hard = prepared_picture(frame, masks, 64, 16)
    assert np.array_equal(soft.mouth, hard.mouth)
    assert hard.mouth.sum() > 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_masks_pass(value):
    frame, masks = layers(96, 96)
    same = tuple(np.full_like(mask, value) for mask in masks)
    prepared = prepared_picture(frame, same, 64, 16)
    assert np.unique(prepared.motion).tolist() == [value]


def test_the_input_is_left_as_it_was():
    frame, masks = layers(96, 80)
    before = frame.copy(), [mask.copy() for mask in masks]
    prepared_picture(frame, masks, 64, 16, landmarks=np.array([[20.0, 20], [60, 70]]))
    assert np.array_equal(frame, before[0])
    assert all(np.array_equal(mask, old) for mask, old in zip(masks, before[1], strict=True))


def test_a_picture_around_the_face_shows_it_at_its_share():
    points = np.array([[100.0, 50], [160, 50], [130, 140]])
    left, top, side = face_square(points)
    assert 90 / side == pytest.approx(FACE_SHARE, rel=0.02)
    assert left < 100
    assert left + side > 160
    assert top < 50
    assert top + side > 140


def test_a_square_that_leaves_the_picture_repeats_its_edge_and_empties_masks():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    wide = cut_out(picture, (-1, -1, 4))
    assert wide.shape == (4, 4, 3)
    assert np.array_equal(wide[0, 0], picture[0, 0])
    assert np.array_equal(wide[-1, -1], picture[-1, -1])
    mask = cut_out(np.ones((2, 2), np.float32), (-1, -1, 4))
    assert mask.sum() == 4
    assert mask[1:3, 1:3].min() == 1


def test_masks_of_another_picture_are_refused():
    frame, masks = layers(96, 80)
    with pytest.raises(ValueError, match="the mouth mask is 40 x 96 px, the portrait 80 x 96"):
        prepared_picture(frame, (masks[0], masks[1][:, :40], masks[2]), 64, 16)


def test_a_size_below_the_least_is_refused():
    with pytest.raises(ValueError, match="image size of 32 px is below the model's least, 64 px"):
        model_size(500, 500, 32, 64)
