"""The motion of a driving film: frames without a face, and angles that go the shorter way round."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.face.landmarker import DetectedFace, FaceNotFoundError
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.motion.driving_embedding import driving_embedding, filled_rows
from talking_portrait.core_models.motion.expression_and_pose import ExpressionAndPoseNetworks
from talking_portrait.core_models.motion.expression_network import ExpressionNetworkParameters
from talking_portrait.core_models.motion.head_pose_network import HeadPoseNetworkParameters

ROTATION = slice(-6, -3)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    expression = ExpressionNetworkParameters((1, 1), (4, 8), features=5)
    pose = HeadPoseNetworkParameters((1, 1), (4, 8), groups=2)
    return ExpressionAndPoseNetworks(expression, pose).eval().requires_grad_(False)


def face():
    points = np.zeros((478, 3), np.float32)
    points[:468] = canonical_face().vertices * [1, -1, 1] * 4
    points[468:] = points[6]
    points[:, :2] += 80
    return DetectedFace(points, np.zeros(52, np.float32), 1.0, (0.0, 0.0, 1.0, 1.0))


def film(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 160, 160, 3), np.uint8)


def rows_of(*yaws):
    rows = np.zeros((len(yaws), 11), np.float32)
    rows[:, 0] = np.arange(len(yaws))
    rows[:, ROTATION.start + 1] = yaws
    return rows


def test_every_frame_is_read_as_by_itself(networks):
    frames = film(3)
    together = driving_embedding(networks, frames, [face()] * 3, 25.0)
    alone = driving_embedding(networks, frames[1:2], [face()], 25.0)
    assert (together.features.shape, together.fps, together.encoder) == ((3, 11), 25.0, "expression_and_pose")
    np.testing.assert_allclose(together.features[1], alone.features[0], atol=1e-5)


def test_policies(networks):
    frames, faces = film(4), [face(), None, face(), face()]

    def read(policy):
        return driving_embedding(networks, frames, faces, 25.0, policy).features

    assert len(read("skip")) == 3
    np.testing.assert_array_equal(read("previous")[1], read("previous")[0])
    between = read("interpolate")
    np.testing.assert_allclose(between[1, :5], (between[0, :5] + between[2, :5]) / 2, atol=1e-5)
    np.testing.assert_array_equal(between[[0, 2, 3]], read("skip"))
    with pytest.raises(FaceNotFoundError, match="no face in frame 1"):
        read("error")
    with pytest.raises(ValueError, match="on_missing_face is 'hope'"):
        read("hope")
    with pytest.raises(FaceNotFoundError, match="no face in any"):
        driving_embedding(networks, frames, [None] * 4, 25.0, "skip")


def test_angles_go_the_shorter_way_round():
    found = np.array([True, False, True])
    filled = filled_rows(rows_of(170, -170), found, "interpolate")
    assert abs(filled[1, ROTATION.start + 1]) == pytest.approx(180)
    assert filled[1, 0] == pytest.approx(0.5)
    np.testing.assert_array_equal(filled[[0, 2]], rows_of(170, -170))


def test_before_the_first_face_and_after_the_last_the_rows_are_held():
    found = np.array([False, True, True, False])
    for policy in ("previous", "interpolate"):
        filled = filled_rows(rows_of(10, 20), found, policy)
        np.testing.assert_allclose(filled[:, ROTATION.start + 1], [10, 10, 20, 20])


def test_progress_counts_both_passes_and_ends_at_the_total(networks):
    steps = []
    driving_embedding(
        networks, film(3), [face(), None, face()], 25.0, "previous", lambda *step: steps.append(step)
    )
    assert steps[-1] == (6, 6)
    assert steps == sorted(steps)
