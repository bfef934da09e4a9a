"""Blinks, gaze shifts and head drift: as people do them, and the same for the same seed."""

import numpy as np
import pytest
from talking_portrait.core_models.motion.blinking import (
    add_blinks,
    add_head_drift,
    add_saccades,
    blink_track,
    drift_track,
    gaze_track,
)
from talking_portrait.core_models.types import BLENDSHAPE_INDEX, BLENDSHAPES, IMPLICIT_KEYPOINTS, FaceMotion

MINUTES = 20


def peaks(closure):
    return np.flatnonzero(closure > 0.999)


class TestBlinks:
    @pytest.mark.parametrize("fps", [12.5, 25, 29.97, 60])
    def test_eight_to_twenty_a_minute_with_pauses_of_two_to_six_seconds(self, fps):
        closure = blink_track(round(MINUTES * 60 * fps), fps, np.random.default_rng(0))
        times = peaks(closure) / fps
        assert 8 * MINUTES <= len(times) <= 20 * MINUTES
        assert np.diff(times).min() >= 2 - 1 / fps
        assert np.diff(times).max() <= 6 + 1 / fps

    def test_every_single_minute_is_natural(self):
        for seed in range(30):
            assert 8 <= len(peaks(blink_track(1500, 25, np.random.default_rng(seed)))) <= 20

    def test_a_blink_closes_faster_than_it_opens_and_lasts_150_to_300_ms(self):
        fps = 500
        closure = blink_track(60 * fps, fps, np.random.default_rng(1))
        for peak in peaks(closure)[:5]:
            before = peak - np.flatnonzero(closure[:peak] == 0)[-1]
            after = np.flatnonzero(closure[peak:] == 0)[0]
            assert before < after
            assert 0.14 <= (before + after) / fps <= 0.31
        assert closure.min() >= 0
        assert closure.max() <= 1

    def test_seeds(self):
        first, second = (blink_track(1000, 25, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert (first != blink_track(1000, 25, np.random.default_rng(4))).any()

    def test_none_when_none_are_wanted(self):
        assert not blink_track(5000, 25, np.random.default_rng(0), per_minute=0).any()

    @pytest.mark.parametrize("per_minute", [-1, 31, float("nan")])
    def test_impossible_rates(self, per_minute):
        with pytest.raises(ValueError, match="per_minute"):
            blink_track(100, 25, np.random.default_rng(0), per_minute)

    def test_added_to_a_motion_only_the_lids_move(self):
        motion = FaceMotion(
            "blendshapes", 25, np.full((500, 52), 0.3), np.zeros((500, 3)), np.zeros((500, 3)), np.ones(500)
        )
        blinking = add_blinks(motion, np.random.default_rng(0))
        assert blinking.blendshape("eyeBlinkLeft").max() == 1
        np.testing.assert_array_equal(
            blinking.blendshape("eyeBlinkLeft"), blinking.blendshape("eyeBlinkRight")
        )
        assert blinking.blendshape("eyeBlinkLeft").min() == pytest.approx(0.3)
        assert blinking.blendshape("eyeWideLeft").min() == 0
        changed = np.flatnonzero((blinking.expression != motion.expression).any(axis=0))
        assert {
            BLENDSHAPE_INDEX[f"eye{what}{side}"] for what in ("Blink", "Wide") for side in ("Left", "Right")
        } == set(changed)
        assert motion.blendshape("eyeBlinkLeft").max() == pytest.approx(0.3)  # the wire's object is as it was

    def test_no_second_blink_beside_one_that_is_there(self):
        expression = np.zeros((3000, 52))
        expression[::20, BLENDSHAPE_INDEX["eyeBlinkLeft"]] = 1
        motion = FaceMotion(
            "blendshapes", 25, expression, np.zeros((3000, 3)), np.zeros((3000, 3)), np.ones(3000)
        )
        np.testing.assert_array_equal(
            add_blinks(motion, np.random.default_rng(0)).expression, motion.expression
        )


class TestGaze:
    def test_fixations_with_quick_jumps_and_returns_to_the_viewer(self):
        gaze = gaze_track(60 * 25, 25, np.random.default_rng(0))
        moving = np.abs(np.diff(gaze, axis=0)).max(axis=1) > 1e-9
        assert moving.mean() < 0.1
        assert (np.abs(gaze).max(axis=1) < 1e-9).mean() > 0.25
        assert np.abs(gaze).max() <= 0.5 + 1e-9
        assert gaze[:, 0].std() > gaze[:, 1].std()  # people look aside more than up

    def test_both_eyes_look_the_same_way(self):
        motion = add_saccades(FaceMotion.at_rest(1500, 25), np.random.default_rng(0))
        np.testing.assert_array_equal(
            motion.blendshape("eyeLookOutLeft"), motion.blendshape("eyeLookInRight")
        )
        np.testing.assert_array_equal(
            motion.blendshape("eyeLookInLeft"), motion.blendshape("eyeLookOutRight")
        )
        np.testing.assert_array_equal(motion.blendshape("eyeLookUpLeft"), motion.blendshape("eyeLookUpRight"))
        for one, other in (("eyeLookOutLeft", "eyeLookInLeft"), ("eyeLookUpLeft", "eyeLookDownLeft")):
            assert not (motion.blendshape(one) * motion.blendshape(other)).any()
            assert motion.blendshape(one).max() > 0.05

    def test_gaze_adds_to_what_is_there(self):
        expression = np.zeros((500, 52))
        expression[:, BLENDSHAPE_INDEX["eyeLookDownLeft"]] = 0.4
        motion = FaceMotion(
            "blendshapes", 25, expression, np.zeros((500, 3)), np.zeros((500, 3)), np.ones(500)
        )
        looked = add_saccades(motion, np.random.default_rng(0))
        assert np.median(looked.blendshape("eyeLookDownLeft")) == pytest.approx(0.4, abs=0.06)

    def test_none_when_none_are_wanted(self):
        assert not gaze_track(500, 25, np.random.default_rng(0), per_minute=0).any()


class TestDrift:
    def test_slow_and_as_wide_as_asked(self):
        tracks = [drift_track(3000, 25, np.random.default_rng(seed)) for seed in range(20)]
        spread = np.concatenate(tracks).std(axis=0)
        np.testing.assert_allclose(spread, [1.8, 3.2, 1.4], rtol=0.15)
        assert max(np.abs(np.diff(track, axis=0)).max() for track in tracks) < 1.0  # degrees a frame

    def test_added_to_a_motion_of_either_space(self):
        for space in (BLENDSHAPES, IMPLICIT_KEYPOINTS):
            motion = add_head_drift(FaceMotion.at_rest(500, 25, space), np.random.default_rng(0))
            np.testing.assert_allclose(
                motion.rotation, drift_track(500, 25, np.random.default_rng(0)), atol=1e-3
            )
            assert not motion.expression.any()

    def test_activity_scales_it_over_time(self):
        activity = np.linspace(0, 1, 100)
        motion = add_head_drift(FaceMotion.at_rest(100, 25), np.random.default_rng(0), activity=activity)
        assert not motion.rotation[0].any()
        assert np.abs(motion.rotation[50:]).max() > 0


def test_blinks_and_gaze_need_blendshapes():
    keypoints = FaceMotion.at_rest(10, 25, IMPLICIT_KEYPOINTS)
    for add in (add_blinks, add_saccades):
        with pytest.raises(ValueError, match="choose LivePortrait"):
            add(keypoints, np.random.default_rng(0))
