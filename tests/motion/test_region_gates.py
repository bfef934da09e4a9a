"""Gates over time, and many tracks mixed by them, in both motion spaces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.motion.region_gates import gates_from_text, gates_over_frames, mix_motions
from talking_portrait.core_models.motion.regions import KEYPOINT_REGIONS, MOTION_REGIONS, mix_motion
from talking_portrait.core_models.types import BLENDSHAPES, IMPLICIT_KEYPOINTS, FaceMotion, KeypointRest

SPACES = (BLENDSHAPES, IMPLICIT_KEYPOINTS)


def constant_motion(value: float, space: str, count: int = 50, fps: float = 25.0) -> FaceMotion:
    size = {BLENDSHAPES: 52, IMPLICIT_KEYPOINTS: 63}[space]
    pose = np.full((count, 3), value)
    rest = KeypointRest(np.zeros(63), np.zeros(3), np.zeros(3), 1.5) if space == IMPLICIT_KEYPOINTS else None
    return FaceMotion(
        space, fps, np.full((count, size), value), 10 * pose, pose, np.exp(pose[:, 0]), rest, pose / 2
    )


def test_keypoint_regions_hold_every_point_once():
    assert sorted(point for points in KEYPOINT_REGIONS.values() for point in points) == list(range(21))
    assert set(KEYPOINT_REGIONS) == set(MOTION_REGIONS)


class TestText:
    def test_keys_of_a_region_in_order(self):
        keys = gates_from_text("2: lips 0.5 + jaw=1\n0: lips 0")
        assert keys == {"lips": ((0.0, 0.0), (2.0, 0.5)), "jaw": ((2.0, 1.0),)}

    def test_without_a_time_a_gate_holds_throughout(self):
        assert gates_from_text("eyes 1 + brows") == {"eyes": ((0.0, 1.0),), "brows": ((0.0, 1.0),)}
        assert gates_from_text("  ") == {}

    def test_equal_signs_as_the_expression_editor_has_them(self):
        assert gates_from_text("0: lips=1 jaw = 0.5") == gates_from_text("0: lips 1 + jaw 0.5")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("soon: lips 1", "cannot read the time"),
            ("-1: lips 1", "cannot read the time"),
            ("0: nose 1", "unknown face region 'nose'"),
            ("0: lips 2", "expected 0 to 1"),
            ("0: lips many", "'many' in '0: lips many' is not a number"),
            ("0: lips 1 2", "cannot read the gate"),
            ("0: lips 1, 0: lips 0", "two gates of 'lips' at 0 s"),
            ("0:", "cannot read the gate"),
            ("2: lips 1, jaw 1", "some gates in .* have a time and others none"),
        ],
    )
    def test_what_cannot_be_read(self, text, message):
        with pytest.raises(ValueError, match=message):
            gates_from_text(text)

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(2, 60))
    def test_between_keys_nothing_overshoots_and_nothing_jumps(self, gates, frames):
        keys = {"lips": tuple((float(index), gate) for index, gate in enumerate(gates))}
        track = gates_over_frames(keys, frames, 25.0)["lips"]
        assert track.min() >= min(gates) - 1e-9
        assert track.max() <= max(gates) + 1e-9
        assert np.abs(np.diff(track)).max(initial=0) <= np.pi / 2 / 25 + 1e-9

    def test_the_ends_are_held(self):
        track = gates_over_frames({"lips": ((0.5, 0.0), (1.0, 1.0))}, 50, 25.0)["lips"]
        assert (track[:12] == 0).all()
        assert (track[25:] == 1).all()
        assert (np.diff(track) >= 0).all()


@pytest.mark.parametrize("space", SPACES)
class TestMixing:
    def test_later_tracks_lie_on_top(self, space):
        base, second, third = (constant_motion(value, space) for value in (0.1, 0.5, 0.9))
        mixed = mix_motions(base, [second, third], [{"lips": 1.0, "eyes": 1.0}, {"eyes": 1.0}])
        of_region = {name: mix_motion(base, third, {name: 1.0}) for name in MOTION_REGIONS}
        eyes = of_region["eyes"].expression != base.expression
        lips = mix_motion(base, third, {"lips": 1.0}).expression != base.expression
        np.testing.assert_allclose(mixed.expression[eyes], 0.9)
        np.testing.assert_allclose(mixed.expression[lips], 0.5)
        np.testing.assert_allclose(mixed.expression[~eyes & ~lips], 0.1)
        assert mixed.rest == base.rest

    def test_a_cross_fade_over_time(self, space):
        base, other = constant_motion(0.0, space), constant_motion(1.0, space)
        keys = gates_from_text("0: pose 0, 2: pose 1")
        mixed = mix_motions(base, [other], [{}], [keys])
        assert (np.diff(mixed.rotation[:, 1]) >= 0).all()
        assert mixed.rotation[0, 1] < 0.1
        assert mixed.rotation[-1, 1] > 9.8

    def test_opening_ratios_follow_the_eyes_and_the_jaw(self, space):
        base, other = constant_motion(0.2, space), constant_motion(0.8, space)
        mixed = mix_motion(base, other, {"eyes": 1.0})
        np.testing.assert_allclose(mixed.openings[0], [0.4, 0.4, 0.1], atol=1e-6)
        np.testing.assert_allclose(
            mix_motion(base, other, {"jaw": 1.0}).openings[0], [0.1, 0.1, 0.4], atol=1e-6
        )

    def test_tracks_of_other_rate_and_length(self, space):
        base, other = constant_motion(0.0, space), constant_motion(1.0, space, count=15, fps=12.5)
        mixed = mix_motion(base, other, {"pose": 1.0})
        assert mixed.frame_count == base.frame_count
        assert mixed.rotation[5, 1] == pytest.approx(10, abs=1e-3)
        assert mixed.rotation[-1, 1] == pytest.approx(0, abs=1e-6)

    def test_a_still_edit_holds_throughout(self, space):
        mixed = mix_motion(constant_motion(0.0, space), constant_motion(0.7, space, count=1), {"lips": 1.0})
        lips = np.abs(mixed.expression).max(axis=1)
        np.testing.assert_allclose(lips, 0.7, atol=1e-6)


def test_two_spaces_are_not_mixed():
    with pytest.raises(ValueError, match="Retarget Motion"):
        mix_motion(constant_motion(0, BLENDSHAPES), constant_motion(0, IMPLICIT_KEYPOINTS), {"lips": 1})


def test_as_many_gates_as_tracks():
    motion = constant_motion(0, BLENDSHAPES)
    with pytest.raises(ValueError, match="2 motions to mix in, but gates for 1"):
        mix_motions(motion, [motion, motion], [{}])
