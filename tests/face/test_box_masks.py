"""Masks of boxes, as ACTalker defines them."""

import itertools
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.face.box_masks import (
    EMPTY_BOX,
    BoxParameters,
    PixelBox,
    box_mask,
    box_masks_of_frames,
    enclosing_box,
    face_box,
    lower_half,
    mouth_box,
)
from talking_portrait.core_models.face.masks import (
    MASK_KINDS,
    binary_mask,
    face_mask,
    mouth_mask,
    outline_mask,
)
from talking_portrait.core_models.face.topology import LIPS_CONTOUR

SIZE = (512, 512)
TIGHT = BoxParameters(extension=1.0)


@pytest.fixture
def points(astronaut_landmarks):
    return astronaut_landmarks.landmarks


def moved(points, right, down):
    return points + np.array([right, down, 0], np.float32)


def masks(points, size=SIZE, parameters=None, union=False):
    frames = points if isinstance(points, list) else [points]
    return [box_masks_of_frames(kind, frames, size, parameters, union) for kind in MASK_KINDS]


def pixels_of(mask):
    rows, columns = np.nonzero(mask)
    return PixelBox(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_tight_boxes_are_those_of_the_landmarks(points):
    for box, part in (
        (face_box(points, SIZE, TIGHT), points[:468]),
        (mouth_box(points, SIZE, TIGHT), points[list(LIPS_CONTOUR)]),
    ):
        (left, top), (right, bottom) = part[:, :2].min(axis=0), part[:, :2].max(axis=0)
        expected = [round(float(value)) for value in (left, top, right, bottom)]
        assert [box.left, box.top, box.right - 1, box.bottom - 1] == expected


def test_tight_boxes_are_those_of_the_contours(points):
    """To the pixel that the raster of the contours may add."""
    for kind, contour in (("face", face_mask), ("mouth", mouth_mask)):
        box = pixels_of(box_masks_of_frames(kind, [points], SIZE, TIGHT)[0])
        inside = pixels_of(contour(points, SIZE) == 1)
        np.testing.assert_allclose(astuple(inside), astuple(box), atol=1)


@settings(deadline=None, max_examples=30)
@given(extension=st.floats(1, 3))
def test_extension_scales_about_the_centre(astronaut_landmarks, extension):
    """Sides times the factor, centre unmoved, to the pixel; both boxes."""
    large = (4000, 4000)
    points = moved(astronaut_landmarks.landmarks, 1700, 1700)
    for box_of, part in ((face_box, points[:468]), (mouth_box, points[list(LIPS_CONTOUR)])):
        box = box_of(points, large, BoxParameters(extension=extension))
        lowest, highest = part[:, :2].min(axis=0), part[:, :2].max(axis=0)
        wanted = extension * (highest - lowest)
        np.testing.assert_allclose([box.right - box.left, box.bottom - box.top], wanted + 1, atol=1.001)
        centre = [(box.left + box.right - 1) / 2, (box.top + box.bottom - 1) / 2]
        np.testing.assert_allclose(centre, (lowest + highest) / 2, atol=0.501)


def test_lower_half_is_the_lower_half():
    """The middle row by (top + bottom) // 2; the release's top + bottom // 2 would start at row 100."""
    assert lower_half(PixelBox(3, 40, 30, 120)) == PixelBox(3, 80, 30, 120)
    assert lower_half(PixelBox(3, 40, 30, 121)) == PixelBox(3, 80, 30, 121)
    assert lower_half(EMPTY_BOX).is_empty


def test_lower_half_of_the_face(points):
    face, mouth, motion = (
        mask[0] for mask in masks(points, parameters=BoxParameters(mouth_box="lower half"))
    )
    whole, half = pixels_of(face), pixels_of(mouth)
    assert (half.left, half.right, half.bottom) == (whole.left, whole.right, whole.bottom)
    assert abs(int(mouth.sum()) - int(motion.sum())) <= whole.right - whole.left
    lips = np.rint(points[list(LIPS_CONTOUR), :2]).astype(int)
    assert (mouth[lips[:, 1], lips[:, 0]] == 1).all()


@settings(deadline=None, max_examples=40)
@given(
    extension=st.floats(1, 3),
    grow=st.floats(-40, 60),
    feather=st.floats(0, 40),
    half=st.booleans(),
    right=st.integers(-400, 400),
    down=st.integers(-400, 400),
    union=st.booleans(),
)
def test_face_is_mouth_and_motion_everywhere(
    astronaut_landmarks, extension, grow, feather, half, right, down, union
):
    """Wherever the face lies, at the picture's edge and past it too, of an odd size."""
    frames = [astronaut_landmarks.landmarks, moved(astronaut_landmarks.landmarks, right, down)]
    parameters = BoxParameters(extension, "lower half" if half else "lips", grow, feather)
    face, mouth, motion = masks(frames, (301, 257), parameters, union)
    assert face.shape == mouth.shape == motion.shape == ((1 if union else 2), 257, 301)
    assert face.dtype == mouth.dtype == motion.dtype == np.float32
    assert (mouth <= face).all()
    np.testing.assert_array_equal(motion, face - mouth)
    assert motion.min() >= 0
    assert face.max() <= 1


def test_masks_are_binary_before_feathering(points):
    for mask in masks(points):
        assert set(np.unique(mask)) == {0, 1}
        np.testing.assert_array_equal(mask, binary_mask(mask))


def test_soft_masks_made_binary_keep_their_box(points):
    """A feather adds less than half of its width on each side, and takes nothing away."""
    hard, soft = (
        box_masks_of_frames("mouth", [points], SIZE, BoxParameters(feather_px=feather))[0]
        for feather in (0, 8)
    )
    assert (soft[hard == 1] == 1).all()
    inner, outer = pixels_of(hard), pixels_of(binary_mask(soft))
    assert 0 < inner.left - outer.left <= 4
    assert 0 < outer.bottom - inner.bottom <= 4


def test_small_mouths_still_reach_the_coarsest_tokens(points):
    """The layer's deepest grid has 32 pixels a token; bicubic, and only values of 1 and more count."""
    import torch

    for mask in (mouth[0] for mouth in masks(points, parameters=BoxParameters())):
        pixels = torch.tensor(binary_mask(mask))[None, None]
        tokens = torch.nn.functional.interpolate(pixels, size=(16, 16), mode="bicubic").int()
        assert tokens.any()


@pytest.mark.parametrize("feather", [0.0, 1.0, 12.0])
def test_soft_edges_are_those_of_contours(feather):
    """A rectangle drawn as an outline has the same mask."""
    box = PixelBox(10, 20, 41, 38)
    corners = np.array([[[10, 20], [40, 20], [40, 37], [10, 37]]], np.float64)
    np.testing.assert_allclose(
        box_mask(box, (73, 61), feather), outline_mask(corners, (73, 61), 0.0, feather), atol=1e-5
    )


def test_growing_moves_every_side(points):
    plain, grown = (face_box(points, SIZE, BoxParameters(grow_px=grow)) for grow in (0, 7))
    assert (grown.left, grown.top) == (plain.left - 7, plain.top - 7)
    assert (grown.right, grown.bottom) == (plain.right + 7, plain.bottom + 7)


def test_a_box_shrunk_to_nothing_is_empty(points):
    face, mouth, motion = masks(points, parameters=BoxParameters(extension=1, grow_px=-20))
    assert mouth.max() == 0
    np.testing.assert_array_equal(motion, face)
    assert face.max() == 1
    assert all(mask.max() == 0 for mask in masks(points, parameters=BoxParameters(grow_px=-200)))


def test_boxes_end_at_the_pictures_edge(points):
    low, high = points[:468, :2].min(axis=0), points[:468, :2].max(axis=0)
    cut = moved(points, -(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2)  # the nose in the corner
    box = face_box(cut, SIZE, BoxParameters())
    assert (box.left, box.top) == (0, 0)
    np.testing.assert_allclose([box.right, box.bottom], 0.6 * (high - low) + 1, atol=1)
    assert box_masks_of_frames("face", [cut], SIZE, BoxParameters(feather_px=10))[0, 0, 0] == 1
    whole = face_box(points, (200, 90), BoxParameters(extension=3))
    assert (whole.right, whole.bottom) == (200, 90)


def test_a_face_outside_the_picture_gives_empty_masks(points):
    away = moved(points, 2000, 0)
    assert face_box(away, SIZE, BoxParameters()) == EMPTY_BOX
    assert all(mask.max() == 0 for mask in masks(away, parameters=BoxParameters(feather_px=30)))


def test_a_picture_of_one_pixel(points):
    face, mouth, motion = masks(points - points.mean(axis=0), (1, 1))
    assert face.shape == (1, 1, 1)
    assert face[0, 0, 0] == mouth[0, 0, 0] + motion[0, 0, 0] == 1


def test_enclosing_box_is_the_smallest():
    boxes = [PixelBox(5, 9, 12, 20), EMPTY_BOX, PixelBox(8, 2, 30, 15)]
    assert enclosing_box(boxes) == PixelBox(5, 2, 30, 20)
    assert enclosing_box([EMPTY_BOX]) == enclosing_box([]) == EMPTY_BOX


def test_union_of_a_clip_is_one_rectangle_around_every_frame(points):
    frames = [moved(points, right, down) for right, down in ((0, 0), (60, 15), (-30, 40), (5000, 0))]
    for kind in ("face", "mouth"):
        each = box_masks_of_frames(kind, frames, SIZE)
        union = box_masks_of_frames(kind, iter(frames), SIZE, union=True)
        assert union.shape == (1, 512, 512)
        seen = each.max(axis=0)
        assert (union[0] >= seen).all()
        assert pixels_of(union[0]) == pixels_of(seen), "and not larger"
        box = pixels_of(union[0])
        assert union.sum() == (box.right - box.left) * (box.bottom - box.top), "a rectangle"
    face, mouth, motion = masks(frames, union=True)
    np.testing.assert_array_equal(motion, face - mouth)


def test_one_frame_is_its_own_union(points):
    for single, union in zip(masks([points]), masks([points], union=True), strict=True):
        np.testing.assert_array_equal(single, union)


def test_more_extension_never_takes_away(points):
    faces = [
        box_masks_of_frames("face", [points], SIZE, BoxParameters(extension)) for extension in (1, 1.2, 2)
    ]
    for smaller, larger in itertools.pairwise(faces):
        assert (larger >= smaller).all()
        assert larger.sum() > smaller.sum()


def test_irises_and_depth_do_not_matter(points):
    other = np.array(points[:468])
    other[:, 2] = 0
    for one, another in zip(masks(points), masks(other), strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"extension": 0.9}, "extension is 0.9: give a finite factor of at least 1"),
        ({"extension": float("nan")}, "extension is nan"),
        ({"extension": float("inf")}, "extension is inf"),
        ({"mouth_box": "nose"}, "mouth_box is 'nose'; choose one of lips, lower half"),
        ({"grow_px": float("inf")}, "grow_px inf"),
        ({"feather_px": -1.0}, "feather_px -1"),
    ],
)
def test_bad_parameters_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        BoxParameters(**settings_)


def test_bad_requests_are_refused(points):
    with pytest.raises(ValueError, match="nose"):
        box_masks_of_frames("nose", [points], SIZE)
    with pytest.raises(ValueError, match="no frames"):
        box_masks_of_frames("motion", [], SIZE)
    with pytest.raises(ValueError, match="0 x 10 px has no pixels"):
        box_masks_of_frames("face", [points], (0, 10))
    with pytest.raises(ValueError, match=r"shape \(68, 3\)"):
        face_box(points[:68], SIZE, TIGHT)
    with pytest.raises(ValueError, match="finite number"):
        mouth_box(np.full_like(points, np.nan), SIZE, TIGHT)
    with pytest.raises(ValueError, match="feather_px nan"):
        box_mask(EMPTY_BOX, SIZE, float("nan"))
