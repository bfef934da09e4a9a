"""Blinks in implicit keypoints: a face that stares blinks, one that blinks is left alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.motion.blinking import runs
from talking_portrait.core_models.motion.keypoint_blinking import (
    CLOSED_SHARE,
    add_missing_blinks,
    blink_offsets,
    lid_closure,
    stares,
)
from talking_portrait.core_models.types import IMPLICIT_KEYPOINTS, FaceMotion

FPS = 25.0


def staring(seconds: float) -> FaceMotion:
    """A face whose mouth and eyes tremble, without a blink."""
    still = FaceMotion.at_rest(round(seconds * FPS), FPS, IMPLICIT_KEYPOINTS)
    return replace(still, expression=np.random.default_rng(0).normal(0, 0.001, still.expression.shape))


def blinking_at(motion: FaceMotion, *seconds: float) -> FaceMotion:
    expression = motion.expression.copy()
    for time in seconds:
        frame = round(time * FPS)
        expression[frame - 1 : frame + 2] += np.array([[0.6], [1.0], [0.6]]) * blink_offsets()
    return replace(motion, expression=expression)


def blink_times(motion: FaceMotion) -> list[float]:
    closure = lid_closure(motion.expression, blink_offsets())
    return [(first + np.argmax(closure[first:stop])) / FPS for first, stop in runs(closure >= CLOSED_SHARE)]


def with_missing(motion: FaceMotion, seed: int = 0, **settings) -> FaceMotion:
    return add_missing_blinks(motion, np.random.default_rng(seed), **settings)


@pytest.mark.parametrize("seed", range(5))
def test_a_stare_gets_blinks_at_human_intervals(seed):
    times = blink_times(with_missing(staring(60), seed))
    assert 8 <= len(times) <= 22
    assert np.diff(times).max() <= 6.9
    assert times[0] <= 6


def test_lids_go_all_the_way_down_and_nothing_else_moves():
    before = staring(20)
    after = with_missing(before)
    changed = np.flatnonzero(np.abs(after.expression - before.expression).max(axis=0) > 0)
    assert set(changed // 3) == {11, 13, 15, 16}
    assert lid_closure(after.expression, blink_offsets()).max() > 0.9
    assert np.array_equal(after.rotation, before.rotation)


def test_a_face_that_blinks_is_left_alone():
    motion = blinking_at(staring(20), 2, 5.5, 9, 13, 17)
    assert with_missing(motion) is motion


def test_only_the_stretch_without_blinks_is_filled():
    times = blink_times(with_missing(blinking_at(staring(30), 2, 5, 8, 22, 26)))
    own, added = (
        {2, 5, 8, 22, 26},
        [time for time in times if min(abs(time - t) for t in (2, 5, 8, 22, 26)) > 0.1],
    )
    assert own <= {round(time, 2) for time in times}
    assert added
    assert all(8.6 <= time <= 21.4 for time in added)


@pytest.mark.parametrize("per_minute", [6, 14])
@pytest.mark.parametrize("seconds", [6.5, 7.0, 9.0])
def test_every_stare_between_two_blinks_gets_one(seconds, per_minute):
    motion = blinking_at(staring(seconds + 6), 3, 3 + seconds)
    for seed in range(40):
        times = blink_times(with_missing(motion, seed, per_minute=per_minute))
        assert any(3.5 < time < 2.5 + seconds for time in times), seed


def test_a_clip_shorter_than_a_stare_needs_none():
    motion = staring(5.9)
    assert with_missing(motion) is motion
    assert len(blink_times(with_missing(motion, longest_stare=2))) >= 1


def test_no_blinks_when_none_are_wanted():
    motion = staring(60)
    assert with_missing(motion, per_minute=0) is motion


@settings(max_examples=20)
@given(st.floats(-0.5, 0.5))
def test_eyes_that_are_always_narrow_are_no_blink(level):
    motion = staring(10)
    narrow = replace(motion, expression=motion.expression + level * blink_offsets())
    assert stares(lid_closure(narrow.expression, blink_offsets()), FPS).all()


def test_blendshapes_are_refused():
    with pytest.raises(ValueError, match="implicit_keypoints"):
        with_missing(FaceMotion.at_rest(10, FPS))
