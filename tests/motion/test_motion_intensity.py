"""Coefficients of face and body movement: what they hang on, and what they do not."""

import numpy as np
import pytest
from talking_portrait.core_models.face.landmarker import DetectedFace
from talking_portrait.core_models.face.pose import HEAD_PIVOT, project_shape, rotation_matrix
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.motion import motion_intensity as intensity
from talking_portrait.core_models.motion.motion_intensity import (
    DEFAULT_INTENSITY_SCALE,
    EmpiricalDistribution,
    IntensityScale,
    body_variance,
    face_variance,
    motion_coefficients,
    neck_variance,
    trunk_variance,
)
from talking_portrait.core_models.types import HeadPose

FPS = 12.5
SECONDS = np.arange(37) / FPS


def heads(degrees: float = 0.0, shift: float = 0.0, scale: float = 10.0) -> np.ndarray:
    """(37, 468, 3) pixels of a head that shakes by degrees about the neck, which sways by so many centimetres."""
    shape = canonical_face().vertices.astype(np.float64)
    rows = []
    for phase in 2 * np.pi * 0.4 * SECONDS:
        angles = np.array([0, degrees * np.sin(phase), 0])
        neck = np.array([shift * np.sin(1.7 * phase), 0, 0])
        at = scale * (HEAD_PIVOT + neck - rotation_matrix(angles) @ HEAD_PIVOT)
        rows.append(project_shape(shape, HeadPose(angles, at + np.array([300, -200, 0]), scale)))
    return np.stack(rows)


def bodies(sway: float, width: float = 100.0) -> np.ndarray:
    """(37, 18, 2) of DWPose's joints that sway by so many widths of the shoulders."""
    joints = np.random.default_rng(0).normal(0, 3 * width, (1, 18, 2)).repeat(len(SECONDS), axis=0)
    joints[:, 2], joints[:, 5] = (-width / 2, 0), (width / 2, 0)
    return joints + sway * width * np.sin(2 * np.pi * SECONDS)[:, None, None] * (1, 0)


class TestFace:
    def test_a_still_face_is_zero(self):
        assert face_variance(heads()) == pytest.approx(0, abs=1e-20)
        assert motion_coefficients(heads(), FPS).face == 0

    def test_more_turning_is_more(self):
        found = [face_variance(heads(degrees)) for degrees in (0, 2, 4, 8)]
        assert found == sorted(found)
        assert found[2] == pytest.approx(4 * found[1], rel=0.03)  # a variance: small angles, squared

    def test_size_place_and_frame_rate_do_not_count(self):
        shaken = heads(5)
        same = (shaken * 3.7 + (100, -50, 9), heads(5, scale=37))
        for other in same:
            assert face_variance(other) == pytest.approx(face_variance(shaken))
        finer = np.repeat(shaken, 2, axis=0)
        coefficient = motion_coefficients(shaken, FPS).face
        assert 0 < coefficient < 1
        assert motion_coefficients(finer, 2 * FPS).face == pytest.approx(coefficient)

    def test_what_the_body_carries_along_does_not_count(self):
        assert face_variance(heads(0, shift=3)) == pytest.approx(0, abs=1e-12)
        assert face_variance(heads(4, shift=3)) == pytest.approx(face_variance(heads(4)))

    def test_other_landmarks_are_measured_as_they_stand(self):
        """Two points that swing between -1 and 1, 4 apart: variance 1 over 16."""
        points = np.array([[[0.0, 5], [4, 5]]]).repeat(10, axis=0)
        points[:, :, 0] += np.where(np.arange(10) % 2, 1, -1)[:, None]
        assert face_variance(points, (0, 1)) == pytest.approx(1 / 16)

    def test_missing_faces_are_left_out(self):
        shaken = heads(5)
        face = [DetectedFace(np.zeros((478, 3)), np.zeros(52), 1.0, (0, 0, 1, 1)), None]
        assert np.isnan(intensity.landmarks_of_faces(face)).all(axis=(1, 2)).tolist() == [False, True]
        gaps = np.insert(shaken, [3, 20, 37], np.nan, axis=0)
        assert face_variance(gaps) == pytest.approx(face_variance(shaken))

    def test_tracked_faces_become_landmarks(self):
        points = np.random.default_rng(0).normal(0, 1, (478, 3)).astype(np.float32)
        rows = intensity.landmarks_of_faces([DetectedFace(points, np.zeros(52), 1.0, (0, 0, 1, 1))])
        np.testing.assert_array_equal(rows[0], points)
        assert intensity.landmarks_of_faces([]).shape == (0, 478, 3)

    def test_a_long_video_is_the_mean_of_its_parts(self):
        """Slow drift over a minute is no movement within three seconds."""
        still, shaken = heads(), heads(6)
        both = np.concatenate([still[:37], shaken[:37]])
        half = intensity.mean_over_parts(both, FPS, face_variance)
        assert half == pytest.approx(face_variance(shaken) / 2)
        lost = np.concatenate([np.full_like(still, np.nan), shaken])
        assert intensity.mean_over_parts(lost, FPS, face_variance) == pytest.approx(face_variance(shaken))

    @pytest.mark.parametrize(
        ("landmarks", "message"),
        [
            (np.zeros((4, 99, 3)), r"\(4, 99, 3\).*corners of the eyes"),
            (np.zeros((4, 478, 2)), r"\(4, 478, 2\)"),
            (heads(2)[:1], "1 frames show a face"),
            (np.full((4, 468, 3), np.nan), "0 frames show a face"),
        ],
    )
    def test_bad_landmarks_are_refused(self, landmarks, message):
        with pytest.raises(ValueError, match=message):
            face_variance(landmarks)

    def test_eyes_at_one_place_are_refused(self):
        with pytest.raises(ValueError, match=r"corners of the eyes \(points 0 and 1\) are at one place"):
            face_variance(np.ones((4, 3, 2)), (0, 1))


class TestBody:
    def test_a_sway_is_its_variance_in_widths_of_shoulders(self):
        assert body_variance(bodies(0.2)) == pytest.approx(0.04 * np.sin(2 * np.pi * SECONDS).var())
        assert body_variance(bodies(0.2, width=7)) == pytest.approx(body_variance(bodies(0.2)))
        assert body_variance(bodies(0) + 55) == pytest.approx(0)

    def test_joints_that_are_hardly_seen_do_not_count(self):
        joints = bodies(0.2)
        joints[3:, 9] = np.nan
        joints[:3, 9] = 1e6 * np.arange(3)[:, None]
        assert body_variance(joints) == pytest.approx(body_variance(bodies(0.2)))
        with pytest.raises(ValueError, match="0 frames show both shoulders"):
            body_variance(np.full((5, 18, 2), np.nan))

    def test_frames_without_the_person_are_left_out(self):
        """Most of them."""
        gaps = np.concatenate([bodies(0.2), np.full((60, 18, 2), np.nan)])
        assert body_variance(gaps) == pytest.approx(body_variance(bodies(0.2)))

    def test_joints_that_are_never_seen_together_tell_nothing(self):
        joints = bodies(0.2)
        joints[2:, [2, 5]] = np.nan
        for number in range(18):
            joints[2:, number] = np.where(np.arange(35)[:, None] % 18 == number, joints[2:, number], np.nan)
        with pytest.raises(intensity.UnseenMotionError, match="no joint is seen in half of 37 frames"):
            body_variance(joints)

    @pytest.mark.parametrize("count", [18, 25])
    def test_of_a_trunk_arms_and_legs_do_not_count(self, count):
        joints = np.concatenate([bodies(0.2), np.zeros((len(SECONDS), count - 18, 2))], axis=1)
        joints[:, [0, 3, 4, 6, 7, *range(8, count)]] += 1000 * np.sin(SECONDS)[:, None, None]
        assert trunk_variance(joints) == pytest.approx(0.04 * np.sin(2 * np.pi * SECONDS).var())
        with pytest.raises(ValueError, match=r"\(37, 5, 2\), expected at least 6 in OpenPose's order"):
            trunk_variance(joints[:, :5])

    def test_a_trunk_that_carries_its_head_is_the_same_by_joints_as_by_the_neck(self):
        """Shoulders 35 cm apart that sway with the neck: the same coefficient from both."""
        faces = heads(6, shift=1)
        trunk = np.zeros((len(SECONDS), 18, 2))
        trunk[:, 2, 0], trunk[:, 5, 0] = -175, 175
        trunk[..., 0] += 10 * np.sin(1.7 * 2 * np.pi * 0.4 * SECONDS)[:, None]
        by_neck, by_joints = (
            motion_coefficients(faces, FPS, joints, from_neck=True) for joints in (None, trunk)
        )
        assert 0.3 < by_neck.body < 1
        assert by_joints == pytest.approx(by_neck, rel=1e-4)

    def test_hidden_shoulders_say_what_to_do(self):
        with pytest.raises(
            intensity.UnseenMotionError, match="use a video that shows them, or leave the joints out"
        ):
            motion_coefficients(heads(5), FPS, np.full((37, 18, 2), np.nan))

    def test_parts_with_hidden_shoulders_are_passed_over(self):
        """The other joints are seen in them all the time."""
        swaying, hidden = bodies(0.2), bodies(0.2)
        hidden[:, 2] = np.nan
        whole = np.concatenate([swaying, hidden, swaying])
        assert intensity.mean_over_parts(whole, FPS, body_variance) == pytest.approx(body_variance(swaying))
        faces = np.concatenate([heads(5)] * 3)
        found, seen = (
            motion_coefficients(faces, FPS, joints) for joints in (whole, np.tile(swaying, (3, 1, 1)))
        )
        assert found == pytest.approx(seen)
        with pytest.raises(intensity.UnseenMotionError, match="0 frames show both shoulders"):
            intensity.mean_over_parts(np.concatenate([hidden] * 3), FPS, body_variance)

    def test_parts_that_show_too_little_are_not_put_together(self):
        lone = np.full((74, 468, 3), np.nan)
        lone[[5, 60]] = heads(6)[[5, 20]]
        with pytest.raises(intensity.UnseenMotionError, match="1 frames show a face"):
            intensity.mean_over_parts(lone, FPS, face_variance)

    def test_the_neck_tells_swaying_from_turning(self):
        sway = (3 / 35) ** 2 * np.sin(2 * np.pi * 0.4 * 1.7 * SECONDS).var()
        assert neck_variance(heads(0, shift=3)) == pytest.approx(sway, rel=1e-5)
        assert neck_variance(heads(6)) == pytest.approx(0, abs=1e-12)
        assert neck_variance(heads(6, shift=3)) == pytest.approx(sway, rel=1e-5)

    def test_a_body_that_is_not_known_is_neutral(self):
        assert motion_coefficients(heads(5), FPS).body == 0.5
        assert motion_coefficients(heads(5), FPS, from_neck=True).body == 0
        still, swaying = (motion_coefficients(heads(5), FPS, bodies(sway)).body for sway in (0, 0.03))
        assert still == 0
        assert 0.3 < swaying < 0.9

    def test_bad_input_is_refused(self):
        with pytest.raises(ValueError, match="joints of 3 frames and landmarks of 37"):
            motion_coefficients(heads(), FPS, bodies(0)[:3])
        with pytest.raises(ValueError, match="fps is 0"):
            motion_coefficients(heads(), 0)
        with pytest.raises(ValueError, match=r"joints have shape \(5, 18\)"):
            body_variance(np.zeros((5, 18)))
        with pytest.raises(ValueError, match="frames show a face"):
            motion_coefficients(np.full((9, 478, 3), np.nan), FPS)


class TestDistribution:
    def test_shares_are_of_what_lies_below(self):
        measured = np.random.default_rng(0).exponential(2.0, 4000)
        fitted = EmpiricalDistribution.fitted(measured)
        for value in (0.3, 1.0, 5.0):
            assert fitted.share(value) == pytest.approx((measured < value).mean(), abs=0.015)
        assert fitted.share(measured.min()) == fitted.share(-1) == 0
        assert fitted.share(measured.max()) == fitted.share(1e9) == 1

    def test_shares_never_fall(self):
        fitted = EmpiricalDistribution.fitted([0, 0, 0, 0, 1, 2, 2, 2, 5])
        shares = [fitted.share(value) for value in np.linspace(-1, 6, 200)]
        assert (np.diff(shares) >= 0).all()
        assert fitted.share(0) == 0
        assert fitted.share(5) == 1

    def test_the_default_spreads_evenly(self):
        for part in (DEFAULT_INTENSITY_SCALE.face, DEFAULT_INTENSITY_SCALE.body):
            assert part.share(0) == 0
            assert part.share(part.values[10]) == pytest.approx(0.5)

    def test_a_scale_of_ones_own_is_used(self):
        line = EmpiricalDistribution((0.0, 1.0), (0.0, 1.0))
        found = motion_coefficients(heads(5), FPS, bodies(0.3), IntensityScale(line, line))
        assert found.face == pytest.approx(face_variance(heads(5)))
        assert found.body == pytest.approx(body_variance(bodies(0.3)))

    @pytest.mark.parametrize(
        ("values", "shares", "message"),
        [
            ((1.0,), (0.0,), "2 or more increasing"),
            ((1.0, 1.0), (0.0, 1.0), "values of a distribution"),
            ((0.0, float("nan")), (0.0, 1.0), "values of a distribution"),
            ((0.0, 1.0), (0.0, 0.9), "from 0 to 0.9"),
            ((0.0, 1.0, 2.0), (0.0, 1.0), "3 values and 2 shares"),
        ],
    )
    def test_bad_tables_are_refused(self, values, shares, message):
        with pytest.raises(ValueError, match=message):
            EmpiricalDistribution(values, shares)

    @pytest.mark.parametrize("measured", [[], [1.0, 1.0], [1.0, np.nan], [[1.0, 2.0]]])
    def test_what_cannot_be_fitted_is_refused(self, measured):
        with pytest.raises(ValueError, match="at least two different finite numbers"):
            EmpiricalDistribution.fitted(measured)

    def test_a_movement_of_nan_is_refused(self):
        with pytest.raises(ValueError, match="NaN"):
            DEFAULT_INTENSITY_SCALE.coefficients(float("nan"), None)
