"""Portraits at a size that renders quickly and that mp4 can hold."""

from dataclasses import replace

import numpy as np
import pytest
from talking_portrait.core_models.face.crop import crop_face
from talking_portrait.core_models.face.picture_size import fit_portrait, shrunk_frame
from talking_portrait.core_models.face.portrait import portrait_from_landmarks
from talking_portrait.core_models.face.pose import fit_head_pose


def test_a_portrait_that_fits_is_left_alone(astronaut_portrait):
    assert fit_portrait(astronaut_portrait, 512) is astronaut_portrait
    assert fit_portrait(astronaut_portrait) is astronaut_portrait


def test_everything_shrinks_with_the_picture(astronaut_portrait):
    small = fit_portrait(astronaut_portrait, 256)
    assert small.size == (256, 256)
    np.testing.assert_allclose(
        small.landmarks[:, :2], (astronaut_portrait.landmarks[:, :2] + 0.5) / 2 - 0.5, atol=1e-3
    )
    refitted = fit_head_pose(small.landmarks)
    np.testing.assert_allclose(small.pose.rotation, refitted.rotation, atol=0.01)
    np.testing.assert_allclose(small.pose.translation, refitted.translation, atol=0.01)
    np.testing.assert_allclose(small.pose.scale, refitted.scale, rtol=1e-4)


def test_the_crop_shows_the_same_face(astronaut_portrait):
    small = fit_portrait(astronaut_portrait, 256)
    crops = [crop_face(p.frame, p.crop_to_frame, p.crop_size) for p in (astronaut_portrait, small)]
    difference = np.abs(crops[0].astype(int) - crops[1])
    assert difference.mean() < 6  # one is blurred by half the size; a pixel of offset gives more than 10


def test_odd_sides_lose_one_pixel(astronaut, astronaut_landmarks):
    portrait = portrait_from_landmarks(astronaut[:511, :509].copy(), astronaut_landmarks.landmarks)
    even = fit_portrait(portrait)
    assert even.size == (508, 510)
    np.testing.assert_array_equal(even.frame, astronaut[:510, :508])
    np.testing.assert_array_equal(even.landmarks, portrait.landmarks)


def test_wide_pictures_keep_their_proportions():
    frame = np.zeros((600, 800, 3), np.uint8)
    assert shrunk_frame(frame, 400).shape == (300, 400, 3)
    assert shrunk_frame(frame, 0) is frame
    assert shrunk_frame(frame, 800) is frame


def test_impossible_sizes_are_refused(astronaut_portrait):
    with pytest.raises(ValueError, match="at least 64"):
        fit_portrait(astronaut_portrait, 10)
    sliver = replace(astronaut_portrait, frame=astronaut_portrait.frame[:, :1])
    with pytest.raises(ValueError, match="too small for a video"):
        fit_portrait(sliver)
