"""Scaling and mixing by region of the face."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.face.pose import rotation_matrix
from talking_portrait.core_models.motion.regions import (
    MOTION_REGIONS,
    mix_motion,
    region_columns,
    scale_motion,
)
from talking_portrait.core_models.types import (
    BLENDSHAPE_NAMES,
    BLENDSHAPES,
    IMPLICIT_KEYPOINTS,
    FaceMotion,
)

ALL = tuple(MOTION_REGIONS)


def random_motion(seed, count=40, fps=25.0):
    rng = np.random.default_rng(seed)
    return FaceMotion(
        space=BLENDSHAPES,
        fps=fps,
        expression=rng.uniform(0, 1, (count, 52)),
        rotation=rng.uniform(-40, 40, (count, 3)),
        translation=rng.uniform(-1, 1, (count, 3)),
        scale=np.exp(rng.uniform(-0.5, 0.5, count)),
    )


def assert_same(first, second):
    np.testing.assert_allclose(first.expression, second.expression, atol=1e-6)
    np.testing.assert_allclose(first.rotation, second.rotation, atol=1e-3)
    np.testing.assert_allclose(first.translation, second.translation, atol=1e-6)
    np.testing.assert_allclose(first.scale, second.scale, atol=1e-5)


def test_every_coefficient_is_in_exactly_one_region():
    names = [name for region in MOTION_REGIONS.values() for name in region]
    assert sorted(names) == sorted(BLENDSHAPE_NAMES)
    assert tuple(MOTION_REGIONS) == ("lips", "jaw", "eyes", "brows", "cheeks", "pose")


class TestMix:
    def test_closed_gates_are_the_base_and_open_ones_the_other(self):
        base, other = random_motion(0), random_motion(1)
        assert_same(mix_motion(base, other, {}), base)
        assert_same(mix_motion(base, other, dict.fromkeys(ALL, 0.0)), base)
        assert_same(mix_motion(base, other, dict.fromkeys(ALL, 1.0)), other)

    @pytest.mark.parametrize("region", ALL)
    def test_one_gate_moves_its_region_only(self, region):
        base, other = random_motion(0), random_motion(1)
        mixed = mix_motion(base, other, {region: 1.0})
        inside = region_columns([region])
        outside = [index for index in range(52) if index not in inside]
        np.testing.assert_array_equal(mixed.expression[:, outside], base.expression[:, outside])
        np.testing.assert_allclose(mixed.expression[:, inside], other.expression[:, inside], atol=1e-6)
        pose = other if region == "pose" else base
        np.testing.assert_allclose(mixed.rotation, pose.rotation, atol=1e-3)
        np.testing.assert_allclose(mixed.scale, pose.scale, rtol=1e-5)

    @given(gate=st.floats(0, 1))
    def test_a_half_open_gate_is_in_between(self, gate):
        base, other = random_motion(2), random_motion(3)
        mixed = mix_motion(base, other, {"lips": gate, "pose": gate})
        lips = region_columns(["lips"])
        expected = (1 - gate) * base.expression[:, lips] + gate * other.expression[:, lips]
        np.testing.assert_allclose(mixed.expression[:, lips], expected, atol=1e-5)
        np.testing.assert_allclose(
            np.log(mixed.scale), (1 - gate) * np.log(base.scale) + gate * np.log(other.scale), atol=1e-5
        )

    def test_poses_near_180_degrees_mix_the_short_way(self):
        rest = FaceMotion.at_rest(3, 25)
        base = FaceMotion(BLENDSHAPES, 25, rest.expression, [[0, 175, 0]] * 3, rest.translation, rest.scale)
        other = FaceMotion(BLENDSHAPES, 25, rest.expression, [[0, -175, 0]] * 3, rest.translation, rest.scale)
        mixed = mix_motion(base, other, {"pose": 0.5})
        np.testing.assert_allclose(
            rotation_matrix(mixed.rotation), rotation_matrix([[0, 180, 0]] * 3), atol=1e-5
        )

    def test_a_gate_over_time(self):
        base, other = random_motion(0), random_motion(1)
        gate = np.zeros(40)
        gate[20:] = 1
        mixed = mix_motion(base, other, {"jaw": gate, "pose": gate})
        jaw = region_columns(["jaw"])
        np.testing.assert_allclose(mixed.expression[:20, jaw], base.expression[:20, jaw], atol=1e-6)
        np.testing.assert_allclose(mixed.expression[20:, jaw], other.expression[20:, jaw], atol=1e-6)
        np.testing.assert_allclose(mixed.rotation[20:], other.rotation[20:], atol=1e-3)

    def test_rate_and_length_are_the_bases(self):
        base = FaceMotion.at_rest(50, 25)
        other = random_motion(1, count=600, fps=60)
        mixed = mix_motion(base, other, dict.fromkeys(ALL, 1.0))
        assert (mixed.fps, mixed.frame_count) == (25, 50)

    def test_a_shorter_track_hands_over_to_the_base(self):
        base = FaceMotion.at_rest(50, 25)
        open_mouth = FaceMotion(
            BLENDSHAPES, 25, np.full((25, 52), 0.8), np.zeros((25, 3)), np.zeros((25, 3)), np.ones(25)
        )
        jaw = mix_motion(base, open_mouth, {"jaw": 1.0}).blendshape("jawOpen")
        assert jaw[19] == pytest.approx(0.8)
        assert (np.diff(jaw) <= 1e-6).all()
        assert np.abs(np.diff(jaw)).max() < 0.25
        assert not jaw[25:].any()

    @pytest.mark.parametrize(
        ("gates", "message"),
        [
            ({"mouth": 1.0}, "unknown face region 'mouth'; known: lips, jaw, eyes, brows, cheeks, pose"),
            ({"lips": 1.5}, "the gate of 'lips' reaches from 1.5 to 1.5"),
            ({"lips": float("nan")}, "the gate of 'lips'"),
            ({"lips": np.ones(39)}, r"shape \(39,\), expected one number or 40"),
        ],
    )
    def test_bad_gates(self, gates, message):
        with pytest.raises(ValueError, match=message):
            mix_motion(random_motion(0), random_motion(1), gates)

    def test_the_other_space_needs_retargeting(self):
        keypoints = FaceMotion.at_rest(40, 25, IMPLICIT_KEYPOINTS)
        for pair in ((random_motion(0), keypoints), (keypoints, random_motion(0))):
            with pytest.raises(ValueError, match="Retarget Motion"):
                mix_motion(*pair, {"lips": 1.0})


class TestScale:
    def test_gains_of_one_change_nothing_and_zero_is_rest(self):
        motion = random_motion(5)
        assert_same(scale_motion(motion, dict.fromkeys(ALL, 1.0)), motion)
        assert_same(scale_motion(motion, dict.fromkeys(ALL, 0.0)), FaceMotion.at_rest(40, 25))

    def test_only_the_named_region_grows_and_stays_within_one(self):
        motion = random_motion(5)
        scaled = scale_motion(motion, {"brows": 3.0})
        brows = region_columns(["brows"])
        np.testing.assert_allclose(
            scaled.expression[:, brows], np.minimum(3 * motion.expression[:, brows], 1), atol=1e-6
        )
        others = [index for index in range(52) if index not in brows]
        np.testing.assert_array_equal(scaled.expression[:, others], motion.expression[:, others])
        np.testing.assert_array_equal(scaled.rotation, motion.rotation)

    def test_the_pose_turns_further_about_the_same_axis(self):
        motion = random_motion(5)
        doubled = scale_motion(motion, {"pose": 2.0})
        once = rotation_matrix(motion.rotation)
        np.testing.assert_allclose(rotation_matrix(doubled.rotation), once @ once, atol=1e-5)
        np.testing.assert_allclose(doubled.scale, motion.scale**2, rtol=1e-5)
        np.testing.assert_allclose(doubled.translation, 2 * motion.translation, atol=1e-6)

    @pytest.mark.parametrize("gain", [-0.1, 3.1, float("nan")])
    def test_gains_out_of_range(self, gain):
        with pytest.raises(ValueError, match=r"the gain of 'lips' is .*expected 0 to 3"):
            scale_motion(random_motion(0), {"lips": gain})

    def test_unknown_regions(self):
        with pytest.raises(ValueError, match="unknown face region 'ears', 'hair'"):
            scale_motion(random_motion(0), {"hair": 1, "ears": 1})
