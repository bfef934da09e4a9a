"""Face, mouth and motion masks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.face.masks import (
    binary_mask,
    face_mask,
    face_without_mouth,
    mask_preview,
    masks_of_frames,
    motion_mask,
    mouth_mask,
)

SIZE = (512, 512)


@pytest.fixture
def points(astronaut_landmarks):
    return astronaut_landmarks.landmarks


def polygon_area(points):
    x, y = points[:, 0].astype(float), points[:, 1].astype(float)
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_face_mask_covers_the_oval(points):
    from talking_portrait.core_models.face.topology import FACE_OVAL

    mask = face_mask(points, SIZE)
    assert mask.shape == (512, 512)
    assert mask.dtype == np.float32
    oval = points[list(FACE_OVAL), :2]
    # The raster counts the pixels the contour passes through, half a pixel more all around.
    perimeter = np.linalg.norm(np.diff(oval, axis=0, append=oval[:1]), axis=1).sum()
    assert mask.sum() == pytest.approx(polygon_area(oval) + perimeter / 2, rel=0.03)
    nose = np.rint(points[1, :2]).astype(int)
    assert mask[nose[1], nose[0]] == 1
    assert mask[5, 5] == 0


def test_face_mask_of_a_turned_face_takes_in_the_far_side():
    """Turned by 40 degrees, the nose reaches past the oval; the mask covers every point of the mesh."""
    from talking_portrait.core_models.face.pose import project_shape
    from talking_portrait.core_models.face.topology import canonical_face
    from talking_portrait.core_models.types import HeadPose

    points = project_shape(canonical_face().vertices, HeadPose((0, 40, 0), (256, -256, 0), 20.0))
    columns, rows = np.rint(points[:, :2]).astype(int).T
    assert (face_mask(points, SIZE, 1)[rows, columns] == 1).all()  # 1 pixel for the rounding of the points
    assert (face_mask(points, SIZE)[rows, columns] == 1).mean() > 0.97


def test_mouth_lies_in_the_face_and_motion_is_the_rest(points):
    face, mouth, motion = (draw(points, SIZE, 3, 5) for draw in (face_mask, mouth_mask, motion_mask))
    assert (mouth <= face).all()
    np.testing.assert_allclose(motion, face - mouth, atol=1e-6)
    lip = np.rint(points[13, :2]).astype(int)
    assert motion[lip[1], lip[0]] == 0
    assert 0.03 < mouth.sum() / face.sum() < 0.3


@settings(deadline=None, max_examples=30)
@given(grow=st.floats(0, 30), feather=st.floats(0, 30))
def test_range_and_reach(astronaut_landmarks, grow, feather):
    """Values stay in 0..1; within the grown contour 1; beyond the feather 0."""
    import cv2

    mask = mouth_mask(astronaut_landmarks.landmarks, SIZE, grow, feather)
    assert mask.min() >= 0
    assert mask.max() <= 1
    distance = cv2.distanceTransform(
        (mouth_mask(astronaut_landmarks.landmarks, SIZE) < 0.5).astype(np.uint8), 2, 5
    )
    assert (mask[distance > grow + feather + 2] == 0).all()
    if grow > 2:
        assert (mask[distance < grow - 1.5] == 1).all()


@pytest.mark.parametrize("draw", [face_mask, mouth_mask])
def test_growing_never_takes_away(points, draw):
    masks = [draw(points, SIZE, grow, 4) for grow in (-4, 0, 4, 8)]
    for smaller, larger in itertools.pairwise(masks):
        assert (larger >= smaller - 1e-6).all()
        assert larger.sum() > smaller.sum()


def test_the_same_mask_is_the_same_to_the_last_bit(points):
    # OpenCV's distances differ in their last digit with the place of their arrays in memory.
    first = draw_all(points)
    kept = [np.empty(size, np.uint8) for size in range(1, 40)]
    for _ in kept:
        np.testing.assert_array_equal(draw_all(points), first)


def draw_all(points):
    return np.stack([face_mask(points, (192, 192), 0, 2), mouth_mask(points, (192, 192), 0, 2)])


def test_feather_is_smooth(points):
    """No step from pixel to pixel is larger than the soft edge allows."""
    mask = face_mask(points, SIZE, 0, 20)
    assert np.abs(np.diff(mask, axis=0)).max() < 2.5 / 20
    assert np.abs(np.diff(mask, axis=1)).max() < 2.5 / 20


def test_face_outside_the_picture_gives_an_empty_mask(points):
    moved = points + np.array([2000, 0, 0], np.float32)
    assert face_mask(moved, SIZE, 5, 5).max() == 0


def test_face_over_the_border_is_cut_not_faded(points):
    """At the picture's edge the mask stays 1: the border is not the face's outline."""
    moved = points - np.array([points[:, 0].mean(), 0, 0], np.float32)
    mask = face_mask(moved, SIZE, 0, 10)
    row = int(moved[1, 1])
    assert mask[row, 0] == 1


def test_masks_of_frames_follow_the_landmarks(points):
    frames = [points, points + np.array([40, 10, 0], np.float32)]
    masks = masks_of_frames("mouth", frames, SIZE, 2, 3)
    assert masks.shape == (2, 512, 512)
    np.testing.assert_allclose(masks[1, 10:, 40:], masks[0, :-10, :-40], atol=1e-6)


def test_union_is_where_any_frame_has_it(points):
    frames = [points, points + np.array([40, 10, 0], np.float32)]
    face, mouth, motion = (
        masks_of_frames(kind, iter(frames), SIZE, 2, 3, union=True) for kind in ("face", "mouth", "motion")
    )
    assert face.shape == mouth.shape == motion.shape == (1, 512, 512)
    each = masks_of_frames("mouth", frames, SIZE, 2, 3)
    np.testing.assert_allclose(mouth[0], each.max(axis=0), atol=1e-6)
    np.testing.assert_allclose(motion, face - mouth, atol=1e-6)


def test_one_frame_is_its_own_union(points):
    for kind in ("face", "mouth", "motion"):
        single = masks_of_frames(kind, [points], SIZE, 0, 4)
        np.testing.assert_allclose(single, masks_of_frames(kind, [points], SIZE, 0, 4, union=True), atol=1e-6)
        assert single.shape == (1, 512, 512)


def test_a_mouth_outside_the_face_takes_nothing_else_away():
    """A mask drawn by hand need not be part of the face's: motion is then 0 there, not negative."""
    face, mouth = np.zeros((2, 5, 7), np.float32)
    face[:3], mouth[2:] = 1, 0.75
    motion = face_without_mouth(face, mouth)
    np.testing.assert_array_equal(motion[:, 0], [1, 1, 0.25, 0, 0])
    with pytest.raises(ValueError, match=r"\(5, 7\), the mouth's \(4, 7\)"):
        face_without_mouth(face, mouth[1:])


def test_binary_masks_reach_what_the_masked_layer_takes():
    soft = np.array([[0, 0.25, 0.49], [0.5, 0.999, 1]], np.float16)
    hard = binary_mask(soft)
    assert hard.dtype == np.float32
    np.testing.assert_array_equal(hard, [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(binary_mask(soft, 1.0), [[0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(binary_mask(hard), hard)
    np.testing.assert_array_equal(binary_mask(hard > 0), hard)
    assert soft[1, 1] == np.float16(0.999), "the input stays"


@settings(deadline=None, max_examples=20)
@given(threshold=st.floats(0.01, 1), higher=st.floats(0, 0.5))
def test_a_higher_threshold_never_takes_more(threshold, higher):
    mask = np.linspace(0, 1, 101).reshape(1, -1)
    assert (binary_mask(mask, min(1, threshold + higher)) <= binary_mask(mask, threshold)).all()


@pytest.mark.parametrize(
    ("mask", "threshold", "message"),
    [
        (np.array([[0.2, np.nan]]), 0.5, "NaN in 1 of 2 pixels"),
        (np.array([[0, 255]], np.uint8), 0.5, "from 0 to 255, expected 0..1"),
        (np.array([[-0.1, 1]]), 0.5, "from -0.1 to 1"),
        (np.array([[0, np.inf]]), 0.5, "from 0 to inf"),
        (np.zeros((0, 4)), 0.5, r"shape \(0, 4\) has no pixels"),
        (np.zeros((2, 2)), 0.0, "threshold of a mask is 0.0"),
        (np.zeros((2, 2)), float("nan"), "threshold of a mask is nan"),
    ],
)
def test_what_cannot_be_made_binary_is_refused(mask, threshold, message):
    with pytest.raises(ValueError, match=message):
        binary_mask(mask, threshold)


def test_preview_darkens_and_tints():
    frame = np.full((60, 80, 3), 100, np.uint8)
    face, mouth = np.zeros((2, 60, 80), np.float32)
    face[10:50, 20:60] = 1
    mouth[35:45, 30:50] = 1
    shown = mask_preview(frame, face, mouth, face - mouth).astype(int)
    assert shown.shape == (60, 80, 3)
    assert (shown[0, 0] < 40).all()
    assert np.ptp(shown[0, 0]) == 0
    assert shown[40, 40, 0] > shown[40, 40, 1] > shown[40, 40, 2], "the mouth is orange"
    assert shown[20, 40, 2] > shown[20, 40, 1] > shown[20, 40, 0], "motion is blue"
    assert (shown[10, 20:60] == 255).all(), "the face's edge is white"
    untouched = mask_preview(frame, np.ones_like(face), np.zeros_like(face), np.zeros_like(face))
    np.testing.assert_array_equal(untouched, frame)
    np.testing.assert_array_equal(frame, 100)


def test_preview_of_a_large_odd_picture_is_small(points):
    frame = np.zeros((1201, 801, 3), np.uint8)
    masks = [draw(points, (801, 1201), 0, 8) for draw in (face_mask, mouth_mask, motion_mask)]
    assert mask_preview(frame, *masks).shape == (512, 341, 3)
    assert mask_preview(frame, *masks, largest_side=0).shape == frame.shape


def test_preview_refuses_masks_of_another_picture(points):
    mask = face_mask(points, SIZE)
    with pytest.raises(
        ValueError, match=r"face mask has shape \(512, 512\), but the picture has \(512, 500\)"
    ):
        mask_preview(np.zeros((512, 500, 3), np.uint8), mask, mask, mask)
    with pytest.raises(ValueError, match="from 0 to 2"):
        mask_preview(np.zeros((512, 512, 3), np.uint8), mask, 2 * mask, mask)


def test_bad_requests_are_refused(points):
    with pytest.raises(ValueError, match=r"shape \(68, 3\)"):
        face_mask(points[:68], SIZE)
    with pytest.raises(ValueError, match="finite number"):
        mouth_mask(np.full_like(points, np.nan), SIZE)
    with pytest.raises(ValueError, match="nose"):
        masks_of_frames("nose", [points], SIZE)
    with pytest.raises(ValueError, match="no frames"):
        masks_of_frames("face", [], SIZE)
    with pytest.raises(ValueError, match="feather_px -1"):
        face_mask(points, SIZE, 0, -1)
    with pytest.raises(ValueError, match="no pixels"):
        face_mask(points, (0, 10))
