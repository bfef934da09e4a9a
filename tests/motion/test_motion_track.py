"""Tracks in time: resampling, slicing, joining and smoothing, in both motion spaces."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.audio.frame_clock import exact_rate, frame_count
from talking_portrait.core_models.face.pose import rotation_matrix
from talking_portrait.core_models.motion.rotation import (
    angles_from_quaternions,
    multiply,
    quaternions_from_angles,
    slerp,
)
from talking_portrait.core_models.motion.track import (
    join_motion,
    mouth_aperture,
    resample_motion,
    slice_motion,
    smooth_motion,
)
from talking_portrait.core_models.types import (
    BLENDSHAPE_INDEX,
    BLENDSHAPES,
    EXPRESSION_SIZE,
    IMPLICIT_KEYPOINTS,
    FaceMotion,
    KeypointRest,
)

RATES = (12.5, 23, 23.976, 24, 25, 29.97, 30, 50, 60)
SPACES = (BLENDSHAPES, IMPLICIT_KEYPOINTS)


def waving(count, fps, space=BLENDSHAPES, hertz=0.4):
    """Slow waves in every channel, with yaw that turns through +-180 degrees; mouth and lids stay open."""
    time = (np.arange(count) + 0.5) / float(exact_rate(fps))
    wave = np.sin(2 * np.pi * hertz * time)
    return FaceMotion(
        space=space,
        fps=fps,
        expression=0.3 + 0.2 * np.outer(wave, np.linspace(0.5, 1, EXPRESSION_SIZE[space])),
        rotation=np.stack([20 * wave, (170 + 30 * time + 180) % 360 - 180, 10 * wave], axis=1),
        translation=np.outer(wave, [0.1, 0.2, 0.3]),
        scale=np.exp(0.2 * wave),
    )


def degrees_apart(first, second):
    """The angle of the rotation between each pair of (pitch, yaw, roll)."""
    between = np.swapaxes(rotation_matrix(first), -1, -2) @ rotation_matrix(second)
    cosine = (np.trace(between, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def rows(motion, start, stop):
    return FaceMotion(
        motion.space,
        motion.fps,
        *(getattr(motion, name)[start:stop] for name in ("expression", "rotation", "translation", "scale")),
    )


def assert_equal_motion(first, second, tolerance=1e-5):
    assert (first.space, first.fps, first.frame_count) == (second.space, second.fps, second.frame_count)
    for name in ("expression", "translation", "scale"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=tolerance)
    assert degrees_apart(first.rotation, second.rotation).max() < 0.05


class TestResample:
    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("source", [12.5, 25, 29.97, 60])
    @pytest.mark.parametrize("wanted", RATES)
    def test_slow_motion_is_the_same_motion_at_any_rate(self, space, source, wanted):
        motion = waving(round(4 * source), source, space)
        resampled = resample_motion(motion, wanted)
        duration = motion.frame_count / float(exact_rate(source))
        assert resampled.fps == wanted
        assert resampled.frame_count == frame_count(duration, wanted)
        expected = waving(resampled.frame_count, wanted, space)
        inner = slice(3, -3)
        assert np.abs(resampled.expression - expected.expression)[inner].max() < 0.01
        assert np.abs(resampled.translation - expected.translation)[inner].max() < 0.01
        assert np.abs(resampled.scale / expected.scale - 1)[inner].max() < 0.01
        assert degrees_apart(resampled.rotation, expected.rotation)[inner].max() < 1.0

    @given(count=st.integers(1, 60), source=st.sampled_from(RATES), wanted=st.sampled_from(RATES))
    def test_length_is_the_frame_clocks(self, count, source, wanted):
        resampled = resample_motion(FaceMotion.at_rest(count, source), wanted)
        assert resampled.frame_count == frame_count(float(count / exact_rate(source)), wanted)
        assert not resampled.expression.any()
        np.testing.assert_allclose(resampled.scale, 1, atol=1e-6)

    @pytest.mark.parametrize("wanted", [50, 60, 12.5])
    def test_there_and_back(self, wanted):
        motion = waving(100, 25)
        back = resample_motion(resample_motion(motion, wanted), 25)
        inner = slice(4, -4)
        assert np.abs(back.expression - motion.expression)[inner].max() < 0.015
        assert degrees_apart(back.rotation, motion.rotation)[inner].max() < 0.5

    def test_the_same_rate_is_the_same_object(self):
        motion = waving(10, 29.97)
        assert resample_motion(motion, 30000 / 1001) is motion

    def test_rotation_goes_the_short_way_over_180_degrees(self):
        motion = FaceMotion.at_rest(2, 10)
        motion = FaceMotion(
            BLENDSHAPES, 10, motion.expression, [[0, 179, 0], [0, -179, 0]], motion.translation, motion.scale
        )
        turned = resample_motion(motion, 60)
        assert (np.abs(turned.rotation[:, 1]) >= 179 - 1e-3).all()

    def test_half_the_rate_is_the_mean_of_pairs(self):
        motion = FaceMotion.at_rest(4, 50)
        expression = motion.expression.copy()
        brow = BLENDSHAPE_INDEX["browInnerUp"]
        expression[:, brow] = [0, 1, 0, 1]
        halved = resample_motion(
            FaceMotion(BLENDSHAPES, 50, expression, motion.rotation, motion.translation, motion.scale), 25
        )
        # A flicker at the old Nyquist rate is gone, not frozen at 0 or 1.
        assert ((halved.expression[:, brow] > 0.2) & (halved.expression[:, brow] < 0.8)).all()

    @pytest.mark.parametrize("closed_frame", range(20, 30))
    @pytest.mark.parametrize("wanted", [12.5, 23, 25])
    def test_a_short_lip_closure_stays_closed(self, closed_frame, wanted):
        count = 60
        expression = np.zeros((count, 52))
        expression[:, BLENDSHAPE_INDEX["jawOpen"]] = 0.5
        expression[closed_frame, BLENDSHAPE_INDEX["jawOpen"]] = 0.1
        expression[closed_frame, BLENDSHAPE_INDEX["mouthClose"]] = 0.1
        expression[closed_frame, BLENDSHAPE_INDEX["mouthPressLeft"]] = 0.4
        rest = FaceMotion.at_rest(count, 60)
        motion = FaceMotion(BLENDSHAPES, 60, expression, rest.rotation, rest.translation, rest.scale)
        resampled = resample_motion(motion, wanted)
        aperture = mouth_aperture(resampled.expression)
        closed = np.flatnonzero(aperture < 0.06)
        assert len(closed) == 1
        assert abs((closed[0] + 0.5) / wanted - (closed_frame + 0.5) / 60) <= 0.5 / wanted + 0.5 / 60
        assert resampled.blendshape("mouthPressLeft")[closed[0]] == pytest.approx(0.4)

    def test_a_short_blink_stays_a_blink(self):
        expression = np.zeros((60, 52))
        expression[31, BLENDSHAPE_INDEX["eyeBlinkLeft"]] = 1.0
        rest = FaceMotion.at_rest(60, 60)
        motion = FaceMotion(BLENDSHAPES, 60, expression, rest.rotation, rest.translation, rest.scale)
        assert resample_motion(motion, 12.5).blendshape("eyeBlinkLeft").max() == 1.0

    def test_one_frame(self):
        assert resample_motion(waving(1, 25), 100).frame_count == 4
        assert resample_motion(waving(1, 25), 10).frame_count == 1

    def test_a_bad_rate_is_refused(self):
        with pytest.raises(ValueError, match="fps"):
            resample_motion(waving(10, 25), 0)


class TestSliceAndJoin:
    @pytest.mark.parametrize("space", SPACES)
    def test_slices_joined_are_the_whole(self, space):
        motion = waving(100, 25, space)
        parts = [slice_motion(motion, 0, 1.2), slice_motion(motion, 1.2, 3), slice_motion(motion, 3)]
        assert [part.frame_count for part in parts] == [30, 45, 25]
        assert_equal_motion(join_motion(parts), motion)

    def test_a_slice_starts_at_the_nearest_frame_and_ends_with_the_track(self):
        motion = waving(50, 25)
        part = slice_motion(motion, 1.41, 9.0)
        assert_equal_motion(part, rows(motion, 35, 50))

    @pytest.mark.parametrize(("start", "stop"), [(-1, 1), (1, 1), (2, 1), (2.0, 3.0), (5, 6)])
    def test_impossible_slices(self, start, stop):
        with pytest.raises(ValueError, match="cannot slice"):
            slice_motion(waving(50, 25), start, stop)

    def test_other_rates_are_resampled_to_the_first(self):
        joined = join_motion([waving(25, 25), waving(60, 60)])
        assert (joined.fps, joined.frame_count) == (25, 50)

    def test_a_cross_fade_has_no_jump(self):
        low = FaceMotion.at_rest(50, 25)
        high = FaceMotion(BLENDSHAPES, 25, np.ones((50, 52)), [[0, 30, 0]] * 50, [[1, 0, 0]] * 50, [2.0] * 50)
        hard, soft = join_motion([low, high]), join_motion([low, high], cross_fade=0.4)
        assert (hard.frame_count, soft.frame_count) == (100, 90)
        assert np.abs(np.diff(hard.expression[:, 0])).max() == 1
        for values in (
            soft.expression[:, 0],
            soft.rotation[:, 1] / 30,
            soft.translation[:, 0],
            soft.scale - 1,
        ):
            steps = np.diff(values)
            assert (steps > -1e-6).all()
            assert steps.max() < 0.2
            assert values[0] == pytest.approx(0, abs=1e-6)
            assert values[-1] == pytest.approx(1, abs=1e-5)

    def test_what_cannot_be_joined(self):
        with pytest.raises(ValueError, match="no motions"):
            join_motion([])
        with pytest.raises(ValueError, match="different spaces: blendshapes, implicit_keypoints"):
            join_motion([waving(5, 25), waving(5, 25, IMPLICIT_KEYPOINTS)])
        with pytest.raises(ValueError, match="shorter than the cross fade of 1"):
            join_motion([waving(50, 25), waving(5, 25)], cross_fade=1.0)
        with pytest.raises(ValueError, match="cross_fade is -1"):
            join_motion([waving(50, 25)], cross_fade=-1)


class TestSmooth:
    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("settings", [{"passes": 3}, {"sigma": 0.06}, {"passes": 1, "sigma": 0.04}])
    def test_jitter_goes_and_slow_motion_stays(self, space, settings):
        rng = np.random.default_rng(0)
        clean = waving(200, 25, space, hertz=0.2)
        noisy = FaceMotion(
            space,
            25,
            clean.expression + 0.05 * rng.standard_normal(clean.expression.shape),
            clean.rotation + rng.standard_normal(clean.rotation.shape),
            clean.translation + 0.05 * rng.standard_normal(clean.translation.shape),
            clean.scale,
        )
        smooth = smooth_motion(noisy, **settings)
        assert smooth.frame_count == 200
        channel = 0  # browDownLeft, or a keypoint's x
        before = np.abs(noisy.expression - clean.expression)[:, channel].mean()
        after = np.abs(smooth.expression - clean.expression)[:, channel].mean()
        assert after < 0.75 * before
        assert (
            degrees_apart(smooth.rotation, clean.rotation).mean()
            < 0.75 * degrees_apart(noisy.rotation, clean.rotation).mean()
        )

    def test_a_constant_track_is_not_changed(self):
        motion = waving(1, 25)
        still = FaceMotion(
            BLENDSHAPES,
            25,
            *(
                np.repeat(getattr(motion, name), 20, axis=0)
                for name in ("expression", "rotation", "translation", "scale")
            ),
        )
        assert_equal_motion(smooth_motion(still, passes=4, sigma=0.2), still)

    def test_blinks_are_kept_unless_eyes_are_named(self):
        rest = FaceMotion.at_rest(20, 25)
        expression = np.zeros((20, 52))
        expression[10] = 1
        motion = FaceMotion(BLENDSHAPES, 25, expression, rest.rotation, rest.translation, rest.scale)
        assert smooth_motion(motion, passes=1).blendshape("eyeBlinkLeft")[10] == 1
        assert smooth_motion(motion, passes=1).blendshape("jawOpen")[10] == 0.5
        eyes = smooth_motion(motion, passes=1, regions=["eyes"])
        assert eyes.blendshape("eyeBlinkLeft")[10] == 0.5
        assert eyes.blendshape("jawOpen")[10] == 1

    def test_only_the_pose(self):
        rng = np.random.default_rng(0)
        motion = waving(30, 25)
        shaky = FaceMotion(
            BLENDSHAPES,
            25,
            motion.expression,
            rng.uniform(-5, 5, (30, 3)),
            rng.uniform(-1, 1, (30, 3)),
            np.exp(rng.uniform(-1, 1, 30)),
        )
        smooth = smooth_motion(shaky, passes=2, regions=["pose"])
        np.testing.assert_allclose(smooth.expression, shaky.expression, atol=1e-6)
        for name in ("rotation", "translation", "scale"):
            assert getattr(smooth, name).std() < 0.8 * getattr(shaky, name).std()

    def test_bad_settings(self):
        with pytest.raises(ValueError, match="passes is -1"):
            smooth_motion(waving(10, 25), passes=-1)
        with pytest.raises(ValueError, match="unknown face region 'nose'"):
            smooth_motion(waving(10, 25), passes=1, regions=["nose"])

    def test_implicit_keypoints_of_the_eyes_are_kept(self):
        shaky = waving(30, 25, IMPLICIT_KEYPOINTS)
        smooth = smooth_motion(shaky, passes=2)
        changed = np.abs(smooth.expression - shaky.expression).reshape(30, 21, 3).max(axis=(0, 2)) > 1e-6
        assert not changed[[11, 13, 15, 16, 18]].any()


angles = st.tuples(st.floats(-89, 89), st.floats(-179, 179), st.floats(-179, 179)).map(np.array)


class TestRotation:
    @given(first=angles, second=angles)
    def test_quaternions_agree_with_the_project_matrices(self, first, second):
        product = multiply(quaternions_from_angles(first), quaternions_from_angles(second))
        np.testing.assert_allclose(
            rotation_matrix(angles_from_quaternions(product)),
            rotation_matrix(first) @ rotation_matrix(second),
            atol=1e-9,
        )

    @given(first=angles, second=angles, weight=st.floats(0, 1))
    def test_slerp_divides_the_angle(self, first, second, weight):
        between = slerp(quaternions_from_angles(first), quaternions_from_angles(second), weight)
        whole = degrees_apart(first, second)
        part = degrees_apart(first, angles_from_quaternions(between))
        assert part == pytest.approx(weight * whole, abs=1e-3)


@pytest.mark.parametrize("space", [BLENDSHAPES, IMPLICIT_KEYPOINTS])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["expression", "rotation", "translation", "scale", "openings"])
def test_a_track_never_holds_nan_or_infinity(space, name, bad):
    """It is refused where it would come into being, so that no node has to look for it."""
    motion = replace(waving(5, 25, space), openings=np.full((5, 3), 0.3))
    values = np.array(getattr(motion, name))
    values[3, ...] = bad
    with pytest.raises(ValueError, match=f"FaceMotion.{name} holds NaN or infinity"):
        replace(motion, **{name: values})


def test_what_the_rest_reads_is_finite_too():
    with pytest.raises(ValueError, match=r"KeypointRest\.expression holds NaN"):
        KeypointRest(np.full(63, np.nan), np.zeros(3), np.zeros(3), 1.5)
    with pytest.raises(ValueError, match=r"KeypointRest\.scale is nan"):
        KeypointRest(np.zeros(63), np.zeros(3), np.zeros(3), float("nan"))
    with pytest.raises(ValueError, match="the track holds blendshapes"):
        replace(waving(5, 25), rest=KeypointRest(np.zeros(63), np.zeros(3), np.zeros(3), 1.5))
