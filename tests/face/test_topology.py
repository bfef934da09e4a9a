"""The mesh table against the bundle it came from, and its contours against geometry."""

import numpy as np
import pytest
from talking_portrait.core_models.face import topology
from talking_portrait.core_models.face.topology import (
    CanonicalFace,
    canonical_face,
    canonical_face_from_bundle,
    mirror_indices,
)


def test_table_equals_what_the_bundle_holds(face_bundle):
    """The shipped table is the bundle's own geometry, number for number."""
    shipped, read = canonical_face(), canonical_face_from_bundle(face_bundle)
    for name in CanonicalFace.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(shipped, name), getattr(read, name), err_msg=name)


def test_table_can_be_made_again(face_bundle, tmp_path):
    target = tmp_path / "canonical_face.npz"
    topology.write_canonical_face(face_bundle, target)
    with np.load(target) as table:
        np.testing.assert_array_equal(table["vertices"], canonical_face().vertices)


def test_sizes_and_axes():
    face = canonical_face()
    assert face.vertices.shape == (468, 3)
    assert face.triangles.shape == (898, 3)
    assert face.pose_indices.shape == face.pose_weights.shape == (33,)
    assert len(set(face.blendshape_indices.tolist())) == 146
    assert face.triangles.min() >= 0
    assert face.triangles.max() == 467
    forehead, chin, nose_tip = face.vertices[10], face.vertices[152], face.vertices[1]
    assert forehead[1] > chin[1]  # y up
    assert nose_tip[2] > forehead[2]  # z towards the camera
    subject_left, subject_right = face.vertices[263], face.vertices[33]
    assert subject_left[0] > 0 > subject_right[0]  # the subject's left is on the picture's right
    assert np.linalg.norm(subject_left - subject_right) == pytest.approx(8.9, abs=0.05)


def test_arrays_cannot_be_written_by_a_user():
    with pytest.raises(ValueError, match="read-only"):
        canonical_face().vertices[0, 0] = 1.0


def test_mirror_swaps_the_halves_and_undoes_itself():
    mirror = mirror_indices()
    np.testing.assert_array_equal(mirror[mirror], np.arange(478))
    assert mirror[33] == 263
    assert mirror[1] == 1  # nose tip
    vertices = canonical_face().vertices
    np.testing.assert_allclose(vertices[mirror[:468]] * [-1, 1, 1], vertices, atol=1e-6)


CONTOURS = [
    name
    for name, value in vars(topology).items()
    if name.startswith(("LIPS_", "EYE_", "IRIS_", "MOUTH_", "FACE_OVAL"))
    and isinstance(value, tuple)
    and isinstance(value[0], int)
]


@pytest.mark.parametrize("name", CONTOURS)
def test_contours_mirror_into_contours(name):
    """Each lip row mirrors into itself, each right eye row into the left eye's."""
    mirrored = {int(mirror_indices()[index]) for index in getattr(topology, name)}
    other = name.replace("RIGHT", "?").replace("LEFT", "RIGHT").replace("?", "LEFT")
    assert mirrored == set(getattr(topology, other))


def test_eye_rows_match_point_by_point():
    right, left = topology.EYE_RIGHT_UPPER_RING_2, topology.EYE_LEFT_UPPER_RING_2
    assert [int(mirror_indices()[index]) for index in right] == list(left)


def test_closed_contours_enclose_what_they_name():
    """The oval holds the eyes and lips; the lips hold the opening; areas are of one orientation."""
    import cv2

    points = canonical_face().vertices[:, :2] * [1, -1]

    def polygon(contour):
        return points[list(contour)].astype(np.float32)

    for inner in (topology.LIPS_CONTOUR, topology.EYE_LEFT_CONTOUR, topology.EYE_RIGHT_CONTOUR):
        for point in polygon(inner):
            assert cv2.pointPolygonTest(polygon(topology.FACE_OVAL), point.tolist(), False) > 0
    assert cv2.contourArea(polygon(topology.MOUTH_OPENING_CONTOUR)) < 0.5 * cv2.contourArea(
        polygon(topology.LIPS_CONTOUR)
    )
