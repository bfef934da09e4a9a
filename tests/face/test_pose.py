"""Head pose: angles, the rigid fit, and the face's own shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.face.pose import (
    canonical_shape,
    fit_head_pose,
    project_shape,
    rotation_angles,
    rotation_matrix,
)
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.types import HeadPose

angles = st.tuples(*(st.floats(-limit, limit) for limit in (80, 170, 170)))
head_angles = st.tuples(*(st.floats(-limit, limit) for limit in (40, 60, 60)))


@given(angles)
def test_angles_survive_the_matrix(pitch_yaw_roll):
    matrix = rotation_matrix(np.array(pitch_yaw_roll))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    np.testing.assert_allclose(rotation_angles(matrix), pitch_yaw_roll, atol=1e-6)


def test_signs_of_the_convention():
    """pitch > 0 looks down, yaw > 0 towards the picture's right, roll > 0 tilts anticlockwise."""
    forward, right = np.array([0, 0, 1.0]), np.array([1.0, 0, 0])
    assert (rotation_matrix([20, 0, 0]) @ forward)[1] < 0
    assert (rotation_matrix([0, 20, 0]) @ forward)[0] > 0
    assert (rotation_matrix([0, 0, 20]) @ right)[1] > 0


def test_order_of_the_rotations():
    pitch, yaw, roll = (rotation_matrix(np.eye(3)[axis] * 30) for axis in range(3))
    np.testing.assert_allclose(rotation_matrix([30, 30, 30]), yaw @ pitch @ roll, atol=1e-12)


def test_many_rotations_at_once():
    rows = np.array([[10, 20, 30], [-5, 0, 5]], float)
    np.testing.assert_allclose(rotation_matrix(rows)[1], rotation_matrix(rows[1]))
    np.testing.assert_allclose(rotation_angles(rotation_matrix(rows)), rows, atol=1e-9)


@given(head_angles, st.floats(0.5, 200), st.tuples(*[st.floats(-3000, 3000)] * 3))
def test_fit_recovers_the_pose_that_made_the_landmarks(pitch_yaw_roll, scale, translation):
    pose = HeadPose(rotation=pitch_yaw_roll, translation=translation, scale=scale)
    landmarks = project_shape(canonical_face().vertices, pose)
    fitted = fit_head_pose(landmarks)
    np.testing.assert_allclose(fitted.rotation, pose.rotation, atol=1e-2)
    np.testing.assert_allclose(fitted.translation, pose.translation, atol=1e-3 * (scale + 100))
    assert fitted.scale == pytest.approx(scale, rel=1e-4)


@given(head_angles, st.floats(0.5, 200))
def test_shape_and_projection_undo_each_other(pitch_yaw_roll, scale):
    pose = HeadPose(rotation=pitch_yaw_roll, translation=(300, -200, 10), scale=scale)
    shape = canonical_face().vertices
    np.testing.assert_allclose(canonical_shape(project_shape(shape, pose), pose), shape, atol=1e-4)


def test_turned_canonical_face_moves_its_nose_the_right_way():
    """On the picture: yaw to the right moves the nose right of the eyes' middle, pitch down moves it down."""

    def nose_offset(rotation):
        points = project_shape(canonical_face().vertices, HeadPose(rotation, (0, 0, 0), 10.0))
        return points[1, :2] - points[[33, 263], :2].mean(axis=0)

    assert nose_offset((0, 25, 0))[0] > nose_offset((0, 0, 0))[0] + 5
    assert nose_offset((25, 0, 0))[1] > nose_offset((0, 0, 0))[1] + 5


def test_pose_of_a_near_frontal_photo(astronaut_landmarks):
    pose = fit_head_pose(astronaut_landmarks.landmarks)
    assert abs(pose.rotation[1]) < 5
    assert abs(pose.rotation[2]) < 6


def test_landmarks_on_one_point_have_no_pose():
    with pytest.raises(ValueError, match="one point"):
        fit_head_pose(np.full((478, 3), 7.0))
