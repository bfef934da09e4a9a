"""Blendshapes as implicit keypoints: what each shape moves, closed lips, and a head that goes where it went."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.face.pose import pivot_position, rotation_matrix
from talking_portrait.core_models.motion.blendshape_retargeting import (
    FaceGeometry,
    RetargetingBasis,
    default_basis,
    estimated_openings,
    face_geometry,
    retarget_motion,
    speech_coefficients,
)
from talking_portrait.core_models.motion.blendshape_retargeting_table import DEFAULT_TABLE
from talking_portrait.core_models.motion.expression_editor import (
    ExpressionEdit,
    edit_blendshapes,
    edit_offsets,
)
from talking_portrait.core_models.motion.keypoint_driving import moved_readings
from talking_portrait.core_models.motion.keypoint_geometry import KeypointReadings, keypoint_rotation
from talking_portrait.core_models.types import (
    BLENDSHAPE_INDEX,
    BLENDSHAPE_NAMES,
    BLENDSHAPES,
    IMPLICIT_KEYPOINTS,
    FaceMotion,
)

OPENING = 3 * 19 + 1
"""(19, y): the lower lip, the direction in which a mouth opens."""
CLOSED = 0.006
"""How far (19, y) may be from rest when lips are shut; an open jaw moves it by 0.086."""


def coefficients(**values) -> np.ndarray:
    row = np.zeros(52)
    for name, value in values.items():
        row[BLENDSHAPE_INDEX[name]] = value
    return row


def track(rows, rotation=None, translation=None, scale=None) -> FaceMotion:
    rows = np.atleast_2d(rows)
    zeros = np.zeros((len(rows), 3))
    return FaceMotion(
        BLENDSHAPES,
        25,
        rows,
        zeros if rotation is None else rotation,
        zeros if translation is None else translation,
        np.ones(len(rows)) if scale is None else scale,
    )


def moved(**values) -> np.ndarray:
    """(21, 3) offsets of one frame with these coefficients."""
    return retarget_motion(track(coefficients(**values))).expression[0].reshape(21, 3)


def both(name, value=1.0):
    return {f"{name}Left": value, f"{name}Right": value}


class TestDefaultBasis:
    def test_the_table_names_only_arkit_shapes_and_real_components(self):
        assert set(DEFAULT_TABLE) <= set(BLENDSHAPE_NAMES)
        components = {component for row in DEFAULT_TABLE.values() for component in row}
        assert {point for point, _ in components} <= set(range(21))
        assert {axis for _, axis in components} <= set("xyz")

    def test_shapes_without_a_direction_move_nothing(self):
        still = [
            name for name, row in zip(BLENDSHAPE_NAMES, default_basis().matrix, strict=True) if not row.any()
        ]
        assert still == ["cheekPuff", "jawForward", "tongueOut"]

    def test_no_shape_moves_further_than_faces_do(self):
        """Published spreads of expression components are at most 0.036; five of them is far out."""
        assert np.abs(default_basis().matrix).max() < 0.1

    @pytest.mark.parametrize("kind", ["Blink", "Wide", "Squint", "LookUp", "LookDown"])
    def test_each_eye_has_its_own_points(self, kind):
        left, right = moved(**{f"eye{kind}Left": 1}), moved(**{f"eye{kind}Right": 1})
        assert set(np.flatnonzero(left.any(axis=1))) == {15, 16}
        assert set(np.flatnonzero(right.any(axis=1))) == {11, 13}
        np.testing.assert_allclose(left[[15, 16]], right[[11, 13]], atol=1e-7)

    def test_lids_meet(self):
        closed = moved(**both("eyeBlink"))
        assert closed[11, 1] > 0.015  # y is down: the upper lid falls
        assert closed[13, 1] < 0  # and the lower one rises
        assert moved(**both("eyeWide"))[11, 1] < -0.005

    def test_gaze(self):
        right_of_picture = moved(eyeLookOutLeft=1, eyeLookInRight=1)
        assert right_of_picture[15, 0] > right_of_picture[11, 0] > 0  # the outer eye turns further
        left_of_picture = moved(eyeLookOutRight=1, eyeLookInLeft=1)
        assert left_of_picture[11, 0] < left_of_picture[15, 0] < 0
        assert moved(**both("eyeLookUp"))[11, 1] < 0 < moved(**both("eyeLookDown"))[11, 1]

    def test_the_two_sides_of_the_mouth_differ_in_the_cheeks(self):
        left, right = moved(mouthSmileLeft=1), moved(mouthSmileRight=1)
        assert left[7, 1] < 0 == left[3, 1]
        assert right[3, 1] < 0 == right[7, 1]
        np.testing.assert_allclose(left[[14, 17, 20]], right[[14, 17, 20]])

    @pytest.mark.parametrize(
        ("edit", "least"),
        [
            ({"smile": 1}, 0.99),
            ({"smile": -1}, 0.99),
            ({"blink": 1}, 0.99),
            ({"blink": -1}, 0.99),
            ({"wink_left": 1}, 0.9),
            ({"wink_right": 1}, 0.9),
            ({"brows": 1}, 0.99),
            ({"brows": -1}, 0.99),
            ({"gaze_x": 1}, 0.99),
            ({"gaze_x": -1}, 0.99),
            ({"gaze_y": 1}, 0.99),
            ({"gaze_y": -1}, 0.99),
            ({"aaa": 1}, 0.98),
            ({"eee": 1}, 0.95),
            ({"woo": 1}, 0.8),
            ({"pout": 1}, 0.9),
        ],
    )
    def test_an_edit_means_the_same_in_both_spaces(self, edit, least):
        edit = ExpressionEdit(**edit)
        asked = edit_offsets(edit)
        found = retarget_motion(track(np.clip(edit_blendshapes(edit), 0, 1))).expression[0].astype(float)
        lengths = np.linalg.norm(asked), np.linalg.norm(found)
        assert asked @ found / (lengths[0] * lengths[1]) > least
        assert 0.7 < lengths[1] / lengths[0] < 1.35

    def test_rows_by_name(self):
        basis = default_basis()
        assert basis.row("jawOpen")[OPENING] > 0.05
        with pytest.raises(ValueError, match="unknown blendshape 'jaw'"):
            basis.row("jaw")


class TestSpeech:
    @settings(deadline=None)
    @given(close=st.floats(0, 1), other=st.floats(0, 0.3))
    def test_the_mouth_opens_with_the_jaw(self, close, other):
        jaws = np.linspace(0, 1, 21)
        rows = np.stack([coefficients(jawOpen=jaw, mouthClose=close, mouthPucker=other) for jaw in jaws])
        result = retarget_motion(track(rows))
        assert (np.diff(result.expression[:, OPENING]) >= -1e-7).all()
        assert (np.diff(result.openings[:, 2]) >= -1e-7).all()

    def test_an_open_jaw_opens_strictly(self):
        rows = np.stack([coefficients(jawOpen=jaw) for jaw in np.linspace(0, 1, 21)])
        assert (np.diff(retarget_motion(track(rows)).expression[:, OPENING]) > 0.003).all()

    @settings(deadline=None)
    @given(jaw=st.floats(0, 1))
    def test_lips_are_shut_when_mouth_close_equals_the_jaw(self, jaw):
        result = retarget_motion(track(coefficients(jawOpen=jaw, mouthClose=jaw)))
        assert abs(result.expression[0, OPENING]) < CLOSED
        assert result.openings[0, 2] == pytest.approx(0, abs=1e-6)

    @settings(deadline=None)
    @given(jaw=st.floats(0, 0.6), parting=st.floats(0, 0.5))
    def test_lips_are_shut_when_they_are_pressed(self, jaw, parting):
        """p, b and m of tracks that press instead of closing."""
        row = coefficients(jawOpen=jaw, **both("mouthPress", 0.5), **both("mouthLowerDown", parting))
        result = retarget_motion(track(row))
        assert abs(result.expression[0, OPENING]) < CLOSED
        assert result.openings[0, 2] == pytest.approx(0, abs=1e-6)

    @settings(deadline=None)
    @given(jaw=st.floats(0, 0.5), more=st.floats(0, 0.5))
    def test_mouth_close_never_crosses_the_lips(self, jaw, more):
        result = retarget_motion(track(coefficients(jawOpen=jaw, mouthClose=jaw + more)))
        assert abs(result.expression[0, OPENING]) < CLOSED

    def test_coefficients_of_an_open_mouth_stay(self):
        row = coefficients(jawOpen=0.6, mouthFunnel=0.3, mouthLowerDownLeft=0.2)
        np.testing.assert_allclose(speech_coefficients(row[None])[0], row)

    def test_strength_scales_the_mouth_and_leaves_lids_and_gaze(self):
        row = coefficients(jawOpen=0.5, eyeBlinkLeft=1, eyeLookUpRight=0.4)
        weak, strong = (retarget_motion(track(row), strength=s).expression[0] for s in (0.5, 2.0))
        assert strong[OPENING] == pytest.approx(4 * weak[OPENING])
        np.testing.assert_array_equal(
            strong.reshape(21, 3)[[11, 13, 15, 16]], weak.reshape(21, 3)[[11, 13, 15, 16]]
        )
        assert not retarget_motion(track(coefficients(jawOpen=1)), strength=0).expression.any()

    @pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
    def test_impossible_strength(self, strength):
        with pytest.raises(ValueError, match="strength"):
            retarget_motion(track(coefficients()), strength=strength)


class TestOpenings:
    def test_eyes_in_the_viewers_order(self):
        right_closed = estimated_openings(coefficients(eyeBlinkRight=1)[None])[0]
        np.testing.assert_allclose(right_closed, [0, 0.35, 0], atol=1e-9)

    def test_wider_and_narrower(self):
        wide, rest, narrow = estimated_openings(
            np.stack([coefficients(**both("eyeWide")), coefficients(), coefficients(**both("eyeSquint"))])
        )[:, 0]
        assert wide == pytest.approx(0.56)
        assert narrow < rest < wide

    def test_never_negative(self):
        row = coefficients(**both("eyeBlink"), **both("eyeSquint"))
        assert (estimated_openings(row[None]) >= 0).all()

    def test_lips_by_the_measured_line(self):
        assert estimated_openings(coefficients(jawOpen=0.6, mouthClose=0.2)[None])[0, 2] == pytest.approx(0.3)


POINTS = np.array(
    [[0, 0, 0], [0.3, 0.1, 0.1], [-0.3, 0.2, -0.2], [0.1, -0.4, 0.2], [-0.2, 0.3, 0.4], [0.15, 0.25, -0.3]]
)


def as_readings(points, origin, rest, scale=1.6):
    """Keypoints that are rigid points of a head, half sides with y up, as the extractor would read them."""
    canonical = np.zeros((1, 21, 3))
    flip = np.array([1.0, -1.0, -1.0])
    rotation = keypoint_rotation(rest)
    local = (points - origin) * flip / scale
    canonical[0, : len(points)] = local @ rotation.T
    translation = np.array([[*(origin * flip)[:2], 0.0]])
    return KeypointReadings(canonical, np.zeros((1, 21, 3)), rotation[None], translation, np.array([scale]))


ANGLES = st.tuples(*3 * [st.floats(-30, 30)])
SHIFTS = st.tuples(*3 * [st.floats(-0.5, 0.5)])


class TestHead:
    @settings(deadline=None)
    @given(rest=ANGLES, turn=ANGLES, shift=SHIFTS, scale=st.floats(0.7, 1.4), angle=st.floats(-40, 40))
    def test_every_point_of_a_rigid_head_goes_where_the_track_says(self, rest, turn, shift, scale, angle):
        """Points are moved about the neck in the picture, and by implicit keypoints in the turned crop."""
        unit, crop_turn = 0.5, rotation_matrix(np.array([0, 0, angle]))
        origin, pivot = np.array([0.02, -0.03, 0.0]), np.array([0.05, -0.4, -0.3])
        in_crop_rest = rotation_matrix(rest)
        turned = in_crop_rest @ rotation_matrix(turn) @ in_crop_rest.T
        neck = origin + pivot
        expected = neck + unit * crop_turn @ shift + scale * (POINTS - neck) @ turned.T
        geometry = FaceGeometry(unit, pivot, rest, angle)
        motion = retarget_motion(
            track(np.zeros((1, 52)), np.array([turn]), np.array([shift]), np.array([scale])), None, geometry
        )
        placed = moved_readings(as_readings(POINTS, origin, rest), motion).keypoints[0, : len(POINTS)]
        np.testing.assert_allclose(placed[:, :2] * [1, -1], expected[:, :2], atol=1e-5)

    def test_rotation_and_scale_are_the_same_in_both_spaces(self):
        motion = track(np.zeros((3, 52)), np.arange(9).reshape(3, 3), None, np.array([0.9, 1, 1.1]))
        result = retarget_motion(motion)
        assert result.space == IMPLICIT_KEYPOINTS
        np.testing.assert_array_equal(result.rotation, motion.rotation)
        np.testing.assert_array_equal(result.scale, motion.scale)
        assert result.rest is None

    def test_a_still_head_stays(self):
        assert np.abs(retarget_motion(track(np.zeros((2, 52)))).translation).max() < 1e-7

    def test_turning_to_the_pictures_right_takes_the_face_there(self):
        assert retarget_motion(track(np.zeros((1, 52)), np.array([[0, 15, 0]]))).translation[0, 0] > 0.05

    def test_a_nod_down_takes_the_face_down(self):
        assert retarget_motion(track(np.zeros((1, 52)), np.array([[15, 0, 0]]))).translation[0, 1] < -0.05


class TestGeometry:
    def test_of_a_portrait(self, astronaut_portrait):
        geometry = face_geometry(astronaut_portrait)
        assert 0.4 < geometry.face_unit < 0.7
        assert abs(geometry.pivot[0]) < 0.05
        assert -0.5 < geometry.pivot[1] < -0.25  # the neck is below the middle of the face
        assert -0.5 < geometry.pivot[2] < -0.15  # and behind it
        assert abs(geometry.rotation[2]) < 2  # the crop cancels the roll
        assert geometry.crop_angle == pytest.approx(3, abs=1.5)

    def test_the_pivot_is_the_neck_of_the_pose(self, astronaut_portrait):
        """Back from the crop to the picture."""
        geometry = face_geometry(astronaut_portrait, origin=(0.1, -0.05))
        size = astronaut_portrait.crop_size
        in_crop = (size - 1) / 2 + size / 2 * (geometry.pivot[:2] + np.array([0.1, -0.05])) * [1, -1]
        in_frame = astronaut_portrait.crop_to_frame @ [*in_crop, 1]
        expected = pivot_position(astronaut_portrait.pose)[:2] * [1, -1]
        np.testing.assert_allclose(in_frame, expected, atol=0.05)

    def test_the_unit_is_the_distance_of_the_outer_eye_corners(self, astronaut_portrait):
        corners = astronaut_portrait.landmarks[[33, 263]]
        half_side = 256 * np.hypot(*astronaut_portrait.crop_to_frame[:, 0])
        expected = np.linalg.norm(corners[0] - corners[1]) / half_side
        assert face_geometry(astronaut_portrait).face_unit == pytest.approx(expected, rel=1e-5)

    def test_a_picture_twice_as_large_is_the_same(self, astronaut_portrait):
        pose = astronaut_portrait.pose
        larger = replace(
            astronaut_portrait,
            landmarks=2 * astronaut_portrait.landmarks,
            crop_to_frame=2 * astronaut_portrait.crop_to_frame,
            pose=replace(pose, translation=2 * pose.translation, scale=2 * pose.scale),
        )
        one, other = face_geometry(astronaut_portrait), face_geometry(larger)
        np.testing.assert_allclose(one.pivot, other.pivot, atol=1e-5)
        assert one.face_unit == pytest.approx(other.face_unit, rel=1e-5)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"face_unit": 0}, "face_unit is 0, expected a positive number"),
            ({"face_unit": float("nan")}, "face_unit"),
            ({"pivot": (0, 1)}, "pivot .* expected three finite numbers"),
            ({"rotation": (0, 1, float("inf"))}, "rotation .* expected three finite numbers"),
            ({"crop_angle": float("nan")}, "crop_angle"),
        ],
    )
    def test_impossible(self, values, message):
        with pytest.raises(ValueError, match=message):
            FaceGeometry(**values)


class TestErrors:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"matrix": np.zeros((63, 52))}, r"shape \(63, 52\), expected \(52, 63\)"),
            ({"matrix": np.full((52, 63), np.nan)}, "NaN"),
            ({"weights_sha256": "abc"}, "expected 64 lower-case hexadecimal digits"),
            ({"weights_sha256": "G" * 64}, "expected 64 lower-case hexadecimal digits"),
        ],
    )
    def test_impossible_bases(self, values, message):
        with pytest.raises(ValueError, match=message):
            RetargetingBasis(**{"matrix": np.zeros((52, 63)), "name": "n", "made_from": "m", **values})

    def test_only_blendshapes_are_retargeted(self):
        with pytest.raises(ValueError, match="blendshapes space"):
            retarget_motion(FaceMotion.at_rest(3, 25, IMPLICIT_KEYPOINTS))
