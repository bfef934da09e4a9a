"""Driving in implicit keypoints: what each mode means, and every input it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.motion.kalman_smoothing import kalman_smoothed
from talking_portrait.core_models.motion.keypoint_driving import (
    DrivingParameters,
    drive_keypoints,
    motion_between,
    moved_readings,
    nearest_rotation,
    with_keypoints,
)
from talking_portrait.core_models.motion.keypoint_geometry import (
    KeypointReadings,
    extractor_rotation,
    head_angles,
    keypoint_rotation,
)
from talking_portrait.core_models.motion.keypoint_readings import motion_from_readings
from talking_portrait.core_models.motion.track import resample_motion
from talking_portrait.core_models.rendering.liveportrait.retargeting import RetargetingNetworks
from talking_portrait.core_models.types import BLENDSHAPES, FaceMotion


def made_readings(seed: int, count: int) -> KeypointReadings:
    rng = np.random.default_rng(seed)
    return KeypointReadings(
        canonical=np.repeat(rng.uniform(-0.5, 0.5, (1, 21, 3)), count, axis=0),
        expression=rng.normal(0, 0.02, (count, 21, 3)),
        rotation=extractor_rotation(rng.normal(0, 12, (count, 3))),
        translation=rng.normal(0, 0.05, (count, 3)) * [1, 1, 0],
        scale=rng.uniform(1.3, 1.7, count),
        openings=rng.uniform(0.05, 0.5, (count, 3)),
    )


PLAIN = DrivingParameters(stitching=False)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return RetargetingNetworks().eval()


@given(st.lists(st.floats(-80, 80), min_size=3, max_size=3))
def test_angles_of_both_conventions_are_one_rotation(angles):
    """Pitch means the same in both; yaw and roll of the extractor turn the other way."""
    rotation = extractor_rotation(np.array(angles))
    np.testing.assert_allclose(keypoint_rotation(head_angles(rotation)), rotation, atol=1e-9)
    for axis, sign in ((0, 1), (1, -1), (2, -1)):
        single = np.zeros(3)
        single[axis] = angles[axis]
        np.testing.assert_allclose(head_angles(extractor_rotation(single)), sign * single, atol=1e-6)


class TestModes:
    def test_a_driver_at_rest_moves_nothing(self):
        source, driver = made_readings(0, 1), made_readings(1, 1)
        still = motion_from_readings(driver.rows(np.zeros(4, int)), 25.0)
        driven = drive_keypoints(source, still, PLAIN)
        np.testing.assert_allclose(driven.keypoints, np.repeat(source.keypoints, 4, axis=0), atol=1e-6)

    def test_relative_driving_by_oneself_is_oneself(self):
        """The first frame of a film, driven by that film, becomes that film."""
        film = made_readings(2, 6)
        driven = drive_keypoints(film.rows(np.array([0])), motion_from_readings(film, 25.0), PLAIN)
        np.testing.assert_allclose(driven.keypoints, film.keypoints, atol=1e-5)

    def test_absolute_driving_takes_the_drivers_pose(self):
        source, driver = made_readings(0, 1), made_readings(1, 5)
        driven = drive_keypoints(source, motion_from_readings(driver, 25.0), replace(PLAIN, mode="absolute"))
        np.testing.assert_allclose(driven.rotation, driver.rotation, atol=1e-6)
        np.testing.assert_allclose(driven.scale, np.repeat(source.scale, 5))
        np.testing.assert_allclose(driven.expression[:, 14], driver.expression[:, 14], atol=1e-6)
        np.testing.assert_allclose(
            driven.expression[:, 0], np.repeat(source.expression[:, 0], 5, axis=0), atol=1e-6
        )

    @pytest.mark.parametrize(
        ("region", "points"), [("lips", (6, 12, 14, 17, 19, 20)), ("eyes", (11, 13, 15, 16, 18))]
    )
    def test_a_region_moves_its_points_only(self, region, points):
        source, driver = made_readings(0, 1), made_readings(1, 5)
        driven = drive_keypoints(source, motion_from_readings(driver, 25.0), replace(PLAIN, region=region))
        moved = np.abs(driven.keypoints - source.keypoints).max(axis=(0, 2)) > 1e-6
        assert set(np.flatnonzero(moved)) == set(points)

    @pytest.mark.parametrize("mode", ["relative", "absolute"])
    def test_pose_leaves_the_expression(self, mode):
        source, driver = made_readings(0, 1), made_readings(1, 5)
        driven = drive_keypoints(
            source, motion_from_readings(driver, 25.0), replace(PLAIN, region="pose", mode=mode)
        )
        np.testing.assert_allclose(driven.expression, np.repeat(source.expression, 5, axis=0), atol=1e-6)
        assert np.abs(driven.rotation - source.rotation).max() > 0.05

    @given(st.floats(0, 3))
    @settings(max_examples=20)
    def test_strength_scales_the_whole_movement(self, strength):
        source, motion = made_readings(0, 1), motion_from_readings(made_readings(1, 3), 25.0)
        once = drive_keypoints(source, motion, PLAIN).keypoints - source.keypoints
        scaled = (
            drive_keypoints(source, motion, replace(PLAIN, strength=strength)).keypoints - source.keypoints
        )
        np.testing.assert_allclose(scaled, strength * once, atol=1e-6)

    @pytest.mark.parametrize("strength", [0.0, 0.5, 1.5])
    def test_the_pose_on_the_wire_is_the_one_that_is_shown(self, strength):
        """So that a later node that holds the head still really does, whatever was fitted before."""
        source = made_readings(0, 1)
        turning = replace(
            made_readings(1, 3), rotation=extractor_rotation(np.array([[0, 0, 0], [0, 10, 0], [0, 20, 0]]))
        )
        motion = motion_from_readings(turning, 25.0)
        fitted = motion_between(
            source, drive_keypoints(source, motion, replace(PLAIN, strength=strength)), 25.0
        )
        np.testing.assert_allclose(fitted.rotation, strength * motion.rotation, atol=0.01)

    def test_dropped_motion_turns_no_head(self, networks):
        source, motion = made_readings(0, 1), motion_from_readings(made_readings(1, 4), 25.0)
        dropped = replace(PLAIN, eye_retargeting=True)
        fitted = motion_between(source, drive_keypoints(source, motion, dropped, networks), 25.0)
        np.testing.assert_allclose(fitted.rotation, 0, atol=1e-4)
        np.testing.assert_allclose(fitted.scale, 1, atol=1e-6)

    def test_fitting_leaves_a_motion_that_begins_at_rest(self):
        source, motion = made_readings(0, 1), motion_from_readings(made_readings(1, 4), 25.0)
        plain = drive_keypoints(source, motion, PLAIN).keypoints
        fitted = drive_keypoints(source, motion, replace(PLAIN, fit_expression=True)).keypoints
        np.testing.assert_allclose(fitted, plain, atol=1e-6)

    def test_retargeting_drops_the_motion_unless_it_is_kept(self, networks):
        source, motion = made_readings(0, 1), motion_from_readings(made_readings(1, 4), 25.0)
        dropped = replace(PLAIN, eye_retargeting=True)
        kept = replace(dropped, keep_motion=True)
        still = replace(motion, expression=0 * motion.expression, rotation=0 * motion.rotation)
        still = replace(still, translation=0 * motion.translation, scale=np.ones(4))
        of_still = drive_keypoints(source, still, kept, networks).keypoints
        np.testing.assert_allclose(
            drive_keypoints(source, motion, dropped, networks).keypoints, of_still, atol=1e-6
        )
        assert np.abs(drive_keypoints(source, motion, kept, networks).keypoints - of_still).max() > 0.05

    def test_a_film_keeps_its_own_place_in_relative_mode(self):
        film, motion = made_readings(0, 5), motion_from_readings(made_readings(1, 5), 25.0)
        driven = drive_keypoints(film, motion, PLAIN)
        np.testing.assert_allclose(driven.translation, film.translation, atol=1e-9)
        np.testing.assert_allclose(driven.scale, film.scale)

    def test_a_picture_drives_every_frame_of_a_film(self):
        """Its expression is added to each frame's own; the film keeps its head movement."""
        film, picture = made_readings(0, 5), motion_from_readings(made_readings(1, 1), 25.0)
        driven = drive_keypoints(film, picture, PLAIN)
        assert driven.frame_count == 5
        np.testing.assert_allclose(driven.rotation, film.rotation, atol=1e-6)
        added = driven.expression[:, 20] - film.expression[:, 20]
        np.testing.assert_allclose(added, np.repeat(added[:1], 5, axis=0), atol=1e-6)
        assert np.abs(added).max() > 1e-3

    def test_nothing_is_changed_in_place(self, networks):
        source, motion = made_readings(0, 1), motion_from_readings(made_readings(1, 4), 25.0)
        source.translation[:, 2] = 0.3  # the release writes its zero into what it was given
        before = {name: np.copy(getattr(source, name)) for name in ("expression", "rotation", "translation")}
        drive_keypoints(source, motion, DrivingParameters(close_lips=True), networks)
        for name, values in before.items():
            np.testing.assert_array_equal(getattr(source, name), values)


class TestOnTheWire:
    @given(st.integers(0, 10_000), st.integers(1, 6))
    @settings(max_examples=25)
    def test_motion_between_goes_there(self, seed, count):
        source, moved = made_readings(seed, 1), made_readings(seed + 1, count)
        moved = replace(moved, canonical=np.repeat(source.canonical, count, axis=0))
        again = moved_readings(source, motion_between(source, moved, 25.0))
        np.testing.assert_allclose(again.keypoints, moved.keypoints, atol=1e-5)

    def test_any_keypoints_can_be_carried(self):
        readings = made_readings(0, 3)
        wanted = np.random.default_rng(5).normal(0, 0.4, (3, 21, 3))
        np.testing.assert_allclose(with_keypoints(readings, wanted).keypoints, wanted, atol=1e-9)

    def test_nearest_rotation_is_a_rotation(self):
        rotation = extractor_rotation(np.array([10.0, -20.0, 5.0]))
        found = nearest_rotation(rotation + np.random.default_rng(0).normal(0, 0.02, (3, 3)))
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(found) == pytest.approx(1)
        assert np.abs(found - rotation).max() < 0.05

    def test_resampled_rotations_stay_rotations(self):
        """A turn of 90 degrees at half the rate: entry-wise averages would shrink the head."""
        turning = replace(
            made_readings(0, 10), rotation=extractor_rotation(np.linspace([0, 0, 0], [0, 90, 0], 10))
        )
        motion = resample_motion(motion_from_readings(turning, 30.0), 12.0)
        rotation = keypoint_rotation(motion.rotation)
        np.testing.assert_allclose(
            rotation @ np.swapaxes(rotation, 1, 2), np.broadcast_to(np.eye(3), rotation.shape), atol=1e-6
        )
        assert motion.frame_count == 4
        assert motion.openings.shape == (4, 3)
        assert motion.rest is not None


class TestRefused:
    def test_blendshapes(self):
        with pytest.raises(ValueError, match="Retarget Motion"):
            drive_keypoints(made_readings(0, 1), FaceMotion.at_rest(3, 25.0, BLENDSHAPES), PLAIN)

    def test_a_film_of_another_length(self):
        with pytest.raises(ValueError, match="the source film has 5 frames and the motion 3"):
            drive_keypoints(made_readings(0, 5), motion_from_readings(made_readings(1, 3), 25.0), PLAIN)

    def test_absolute_without_a_rest(self):
        motion = replace(motion_from_readings(made_readings(1, 3), 25.0), rest=None)
        with pytest.raises(ValueError, match="use the relative mode"):
            drive_keypoints(made_readings(0, 1), motion, replace(PLAIN, mode="absolute"))

    def test_stitching_without_networks(self):
        with pytest.raises(ValueError, match="connect Load LivePortrait"):
            drive_keypoints(made_readings(0, 1), motion_from_readings(made_readings(1, 3), 25.0))

    @pytest.mark.parametrize("missing", ["source", "driver"])
    def test_retargeting_without_ratios(self, missing, networks):
        source, motion = made_readings(0, 1), motion_from_readings(made_readings(1, 3), 25.0)
        if missing == "source":
            source = replace(source, openings=None)
        else:
            motion = replace(motion, openings=None)
        with pytest.raises(ValueError, match="opening ratios"):
            drive_keypoints(source, motion, replace(PLAIN, lip_retargeting=True), networks)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"mode": "sideways"}, "mode is 'sideways'"),
            ({"region": "ears"}, "region is 'ears'"),
            ({"strength": -1.0}, "strength is -1"),
            ({"smoothing": float("nan")}, "smoothing is nan"),
        ],
    )
    def test_settings_that_do_not_exist(self, settings, message):
        with pytest.raises(ValueError, match=message):
            DrivingParameters(**settings)

    def test_nan_readings(self):
        readings = made_readings(0, 2)
        readings.expression[1, 3, 0] = np.nan
        with pytest.raises(ValueError, match="expression holds NaN"):
            replace(readings, scale=readings.scale)

    @pytest.mark.parametrize("frame", [3, -4])
    def test_a_rest_that_is_not_there(self, frame):
        with pytest.raises(ValueError, match="a driver with 3 frames"):
            motion_from_readings(made_readings(1, 3), 25.0, frame)


class TestKalman:
    @given(st.integers(0, 1000))
    @settings(max_examples=20)
    def test_smoothing_calms_and_keeps_constants(self, seed):
        rows = np.random.default_rng(seed).normal(size=(30, 4))
        smooth = kalman_smoothed(rows, observation_variance=1e-3)
        assert np.abs(np.diff(smooth, axis=0)).sum() < np.abs(np.diff(rows, axis=0)).sum()
        np.testing.assert_allclose(kalman_smoothed(np.ones((9, 2)), 1.0), 1.0)

    def test_no_observation_noise_changes_nothing(self):
        rows = np.random.default_rng(0).normal(size=(5, 3))
        np.testing.assert_array_equal(kalman_smoothed(rows, 0.0), rows)

    @pytest.mark.parametrize(("observation", "process"), [(-1e-9, 1e-5), (1e-5, 0.0), (float("inf"), 1e-5)])
    def test_variances_that_make_no_sense(self, observation, process):
        with pytest.raises(ValueError, match="variance is"):
            kalman_smoothed(np.zeros((3, 1)), observation, process)
