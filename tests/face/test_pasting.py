"""Pasting crops of a portrait back."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.face.crop import (
    apply_affine,
    crop_face,
    invert_affine,
    square_crop_to_frame,
)
from talking_portrait.core_models.face.pasting import (
    NETWORK_CROP_FEATHER,
    edge_mask,
    paste_back,
    paste_crops,
    plan_paste_back,
)
from talking_portrait.core_models.types import PortraitVideo

WHITE = np.full((96, 96, 3), 255, np.uint8)


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def in_crop(affine, width, height):
    """Where each pixel of a frame lies in the crop, (height, width, 2)."""
    rows, columns = np.mgrid[:height, :width]
    points = apply_affine(invert_affine(affine), np.stack([columns.ravel(), rows.ravel()], axis=1))
    return points.reshape(height, width, 2)


def test_edge_mask_fades_to_the_border_only():
    mask = edge_mask(100, 0.1)
    assert (mask[11:-11, 11:-11] == 1).all()
    assert mask[0].max() < 0.01
    assert (np.diff(mask[50, :12]) >= 0).all()
    assert (edge_mask(8, 0) == 1).all()


@pytest.mark.parametrize("size", [256, 512, 700])
def test_a_crop_of_any_size_lands_where_it_came_from(astronaut_portrait, size):
    portrait = astronaut_portrait
    crop = crop_face(portrait.frame, portrait.crop_to_frame, portrait.crop_size)
    resized = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    (pasted,) = paste_crops(portrait, [resized], 1)
    assert np.abs(pasted.astype(int) - portrait.frame).mean() < 1.5


def test_outside_the_mask_nothing_changes(astronaut_portrait):
    black = np.zeros((512, 512, 3), np.uint8)
    mask = np.zeros((1, 512, 512), np.float32)
    mask[0, 200:300, 200:300] = 1
    one, two = paste_crops(astronaut_portrait, [black, black], 2, mask)
    np.testing.assert_array_equal(one, two)
    changed = (one != astronaut_portrait.frame).any(axis=2)
    assert 0 < changed.sum() < 0.1 * changed.size


def test_what_does_not_fit_is_refused(astronaut_portrait):
    crop = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="2 masks for 3 crops"):
        list(paste_crops(astronaut_portrait, [crop] * 3, 3, np.ones((2, 64, 64), np.float32)))
    with pytest.raises(ValueError, match="must be square"):
        list(paste_crops(astronaut_portrait, [crop[:32]], 1))
    with pytest.raises(ValueError, match="from 0 to"):
        edge_mask(64, 0.7)


@settings(deadline=None, max_examples=40)
@given(
    st.floats(-180, 180),
    st.floats(10, 400),
    st.tuples(st.floats(-80, 300), st.floats(-80, 300)),
    st.sampled_from([(200, 120), (120, 200), (64, 64)]),
    st.booleans(),
)
def test_plan_leaves_what_is_outside(angle, side, centre, size, sharp):
    """Turned crops partly or wholly outside portrait and landscape pictures: outside, every bit stays."""
    frame = noise(*size)
    affine = square_crop_to_frame(centre, side, angle, 96)
    pasted = plan_paste_back(size, 96, affine, sharp=sharp).paste(frame, WHITE)
    places = in_crop(affine, *size)
    outside = ((places < -1) | (places > 96)).any(axis=2)
    np.testing.assert_array_equal(pasted[outside], frame[outside])
    inside = ((places > 5) & (places < 90)).all(axis=2)
    assert (pasted[inside] == 255).all()


def test_plan_of_many_frames_is_that_of_one():
    affine = square_crop_to_frame((90, 70), 100, 12, 96)
    plan = plan_paste_back((200, 160), 96, affine, edge_mask(96, 0.08), sharp=True)
    for seed in range(3):
        frame, crop = noise(200, 160, seed), noise(96, 96, seed + 10)
        single = paste_back(frame, crop, affine, edge_mask(96, 0.08))
        np.testing.assert_array_equal(plan.paste(frame, crop), single)
    assert not plan.share.flags.writeable


def test_blend_is_the_weighted_mean():
    """At whole-pixel places the result is the formula, within rounding."""
    frame, crop = noise(128, 128), noise(96, 96, 1)
    affine = np.array([[1.0, 0, 20], [0, 1.0, 10]])
    mask = np.random.default_rng(2).uniform(0, 1, (96, 96)).astype(np.float32)
    pasted = plan_paste_back((128, 128), 96, affine, mask).paste(frame, crop)
    share = mask[..., None]
    wanted = share * crop + (1 - share) * frame[10:106, 20:116]
    assert np.abs(pasted[10:106, 20:116] - wanted).max() <= 0.51


def test_default_mask_is_white_with_a_soft_border():
    plan = plan_paste_back((512, 512), 512, np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    border = round(512 * NETWORK_CROP_FEATHER)
    assert (plan.share[border:-border, border:-border] == 1).all()
    assert plan.share[0].max() < 1 / 255
    assert (np.diff(plan.share[256, : border + 1]) > 0).all()


def test_mask_of_bytes_is_that_of_floats():
    affine = square_crop_to_frame((90, 70), 100, 12, 96)
    soft = np.rint(edge_mask(96, 0.2) * 255)
    first = plan_paste_back((200, 160), 96, affine, soft.astype(np.uint8))
    second = plan_paste_back((200, 160), 96, affine, (soft / 255).astype(np.float32))
    frame = noise(200, 160)
    difference = first.paste(frame, WHITE).astype(int) - second.paste(frame, WHITE)
    assert np.abs(difference).max() <= 1


def test_a_little_overshoot_of_a_mask_is_cut_off():
    affine = square_crop_to_frame((90, 70), 100, 12, 96)
    ones = np.ones((96, 96), np.float32)
    first = plan_paste_back((200, 160), 96, affine, ones)
    second = plan_paste_back((200, 160), 96, affine, ones * np.float32(1.0005))
    np.testing.assert_array_equal(first.share, second.share)


def test_paste_within_a_box_only():
    frame = noise(200, 160)
    affine = square_crop_to_frame((90, 70), 100, 12, 96)
    whole = plan_paste_back((200, 160), 96, affine).paste(frame, WHITE)
    plan = plan_paste_back((200, 160), 96, affine, within=(70, -20, 110, 60))
    pasted = plan.paste(frame, WHITE)
    np.testing.assert_array_equal(pasted[:60, 70:110], whole[:60, 70:110])
    pasted[:60, 70:110] = frame[:60, 70:110]
    np.testing.assert_array_equal(pasted, frame)
    nothing = plan_paste_back((200, 160), 96, affine, within=(300, 300, 400, 400))
    np.testing.assert_array_equal(nothing.paste(frame, WHITE), frame)


def test_region_is_no_larger_than_what_is_seen():
    mask = np.zeros((96, 96), np.float32)
    mask[40:50, 30:60] = 1
    plan = plan_paste_back((96, 96), 96, np.array([[1.0, 0, 0], [0, 1.0, 0]]), mask)
    assert plan.box == (30, 40, 60, 50)
    assert plan.share.shape == (10, 30)
    assert (plan.share == 1).all()


def test_large_regions_are_blended_in_bands_without_seams():
    frame = noise(40, 1300)
    affine = np.array([[20.0, 0, -10], [0, 20.0, -10]])
    flat = np.full((96, 96, 3), 90, np.uint8)
    pasted = plan_paste_back((40, 1300), 96, affine, np.ones((96, 96), np.float32)).paste(frame, flat)
    assert (pasted == 90).all()


def test_crops_shown_small_are_averaged():
    """A checkerboard of single pixels becomes grey."""
    y, x = np.mgrid[:96, :96]
    board = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    affine = square_crop_to_frame((30, 30), 13, 0, 96)
    pasted = plan_paste_back((60, 60), 96, affine, np.ones((96, 96), np.float32), sharp=True)
    assert pasted.sampled_size == 13
    found = pasted.paste(np.full((60, 60, 3), 128, np.uint8), board)
    assert np.abs(found.astype(int) - 128).max() < 16


def test_crops_of_a_film_land_in_their_own_frames(astronaut_portrait):
    first = astronaut_portrait
    shifted = np.roll(first.frame, 20, axis=1)
    moved = np.array(first.crop_to_frame)
    moved[0, 2] += 20
    film = PortraitVideo((first, replace(first, frame=shifted, crop_to_frame=moved)), 25.0)
    crops = [crop_face(one.frame, one.crop_to_frame, one.crop_size) for one in film.portraits]
    frames = list(paste_crops(film, [*crops, crops[0]], 3))
    for frame, one in zip(frames, (*film.portraits, film.portraits[0]), strict=True):
        assert np.abs(frame.astype(int) - one.frame).mean() < 0.5
    (single,) = paste_crops(first, crops[:1], 1)
    np.testing.assert_array_equal(frames[0], single)
    small = [cv2.resize(crop, (256, 256), interpolation=cv2.INTER_AREA) for crop in crops]
    for frame, one in zip(paste_crops(film, small, 2), film.portraits, strict=True):
        assert np.abs(frame.astype(int) - one.frame).mean() < 1.5
    with pytest.raises(ValueError, match="more crops than the 1"):
        list(paste_crops(film, crops, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.full((96, 96), np.nan, np.float32)}, "mask values range over nan"),
        ({"mask": np.full((96, 96), 1.5, np.float32)}, r"range over 1\.5\.\.1\.5; expected 0\.\.1"),
        ({"mask": np.ones((95, 96), np.float32)}, r"shape \(95, 96\)"),
        ({"crop_to_frame": np.full((2, 3), np.nan)}, "finite numbers"),
        ({"crop_to_frame": np.ones((2, 3))}, "flatten"),
        ({"crop_to_frame": np.ones((2, 2))}, r"expected \(2, 3\)"),
    ],
)
def test_plans_that_cannot_be(changes, message):
    arguments = {"crop_to_frame": square_crop_to_frame((90, 70), 100, 12, 96), **changes}
    with pytest.raises(ValueError, match=message):
        plan_paste_back((200, 160), 96, **arguments)


def test_what_was_not_planned_is_refused():
    plan = plan_paste_back((200, 160), 96, square_crop_to_frame((90, 70), 100, 12, 96))
    with pytest.raises(ValueError, match=r"frame has shape \(200, 160, 3\).*planned for \(160, 200, 3\)"):
        plan.paste(noise(160, 200), WHITE)
    with pytest.raises(ValueError, match=r"crop has shape \(64, 64, 3\)"):
        plan.paste(noise(200, 160), WHITE[:64, :64])
    with pytest.raises(ValueError, match="float64"):
        plan.paste(noise(200, 160), WHITE.astype(np.float64))
