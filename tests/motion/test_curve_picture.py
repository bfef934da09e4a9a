"""The preview of motion that is being made: curves as long as what is known, and not slower for long clips."""

import numpy as np
import pytest
from talking_portrait.core_models.motion.curve_picture import PICTURE_SIZE, curve_picture, frames_between


def coloured_columns(picture: np.ndarray) -> np.ndarray:
    """The columns below the names in which a curve is drawn: saturated pixels."""
    spread = picture.max(axis=2).astype(int) - picture.min(axis=2)
    return np.flatnonzero((spread > 60)[20:].any(axis=0))


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_curve_reaches_as_far_as_it_is_known(share):
    frames = round(200 * share)
    picture = curve_picture({"yaw": np.sin(np.arange(frames) / 9)}, 200)
    assert picture.shape == (PICTURE_SIZE[1], PICTURE_SIZE[0], 3)
    assert coloured_columns(picture).max() == pytest.approx(share * PICTURE_SIZE[0], abs=6)


def test_up_is_more():
    """A ramp rises from left to right."""
    picture = curve_picture({"": np.linspace(-1, 1, 100)}, 100)
    saturated = picture.max(axis=2).astype(int) - picture.min(axis=2) > 60
    left, right = np.flatnonzero(saturated[:, 10]), np.flatnonzero(saturated[:, -10])
    assert left.mean() > right.mean() + 20


def test_stillness_and_a_single_frame_can_be_drawn():
    curve_picture({"pitch": np.zeros(50), "mouth": np.zeros(50)}, 50)
    curve_picture({"pitch": np.zeros(1)}, 1)


@pytest.mark.parametrize(("frames", "every"), [(1, 1), (512, 1), (513, 2), (90_000, 176)])
def test_long_clips_are_thinned(frames, every):
    assert frames_between(frames) == every
