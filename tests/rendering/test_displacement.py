"""The blendshape basis moves the right parts of the face, the right way, and equally on both sides."""

import numpy as np
import pytest
from talking_portrait.core_models.face import topology
from talking_portrait.core_models.face.topology import canonical_face, mirror_indices
from talking_portrait.core_models.rendering.displacement import displacement_basis, smoothstep
from talking_portrait.core_models.types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES

CHIN, UPPER_LIP, LOWER_LIP = 152, 13, 14
LEFT_CORNER, RIGHT_CORNER = 291, 61
LEFT_BROW = 334
NOSE_BRIDGE = 6


def shape(name: str) -> np.ndarray:
    return displacement_basis()[BLENDSHAPE_INDEX[name]]


def test_basis_covers_every_vertex_and_is_read_only():
    basis = displacement_basis()
    assert basis.shape == (52, 468, 3)
    assert np.isfinite(basis).all()
    with pytest.raises(ValueError, match="read-only"):
        basis[0, 0, 0] = 1


def test_eyes_are_not_in_the_linear_basis():
    eyes = [row for name, row in BLENDSHAPE_INDEX.items() if name.startswith("eye")]
    assert not displacement_basis()[eyes].any()


def test_every_other_shape_but_the_tongue_moves_something():
    still = [n for n in BLENDSHAPE_NAMES if not n.startswith("eye") and not shape(n).any()]
    assert still == ["tongueOut"]


@pytest.mark.parametrize(
    "left", [n for n in BLENDSHAPE_NAMES if n.endswith("Left") and not n.startswith("eye")]
)
def test_right_shapes_mirror_left_ones(left):
    mirror = mirror_indices()[: topology.MESH_POINT_COUNT]
    mirrored = shape(left)[mirror] * (-1, 1, 1)
    np.testing.assert_allclose(shape(left.replace("Left", "Right")), mirrored, atol=0.05)


def test_jaw_drops_chin_and_lower_lip_but_not_the_upper_lip():
    jaw = shape("jawOpen")
    assert -2.6 < jaw[CHIN, 1] < -1.8
    assert -3.7 < jaw[LOWER_LIP, 1] < -2.6
    assert abs(jaw[UPPER_LIP, 1]) < 0.05
    assert abs(jaw[NOSE_BRIDGE]).max() < 0.01


def test_jaw_draws_the_corners_in():
    jaw = shape("jawOpen")
    assert jaw[LEFT_CORNER, 0] < -0.2
    assert jaw[RIGHT_CORNER, 0] > 0.2


@pytest.mark.parametrize(
    ("name", "vertex", "axis", "sign"),
    [
        ("mouthSmileLeft", LEFT_CORNER, 1, 1),
        ("mouthSmileLeft", LEFT_CORNER, 0, 1),
        ("mouthFrownLeft", LEFT_CORNER, 1, -1),
        ("mouthStretchLeft", LEFT_CORNER, 0, 1),
        ("mouthPucker", LEFT_CORNER, 0, -1),
        ("mouthPucker", LOWER_LIP, 2, 1),
        ("mouthFunnel", LOWER_LIP, 1, -1),
        ("mouthFunnel", UPPER_LIP, 1, 1),
        ("mouthUpperUpLeft", 310, 1, 1),
        ("mouthLowerDownLeft", 318, 1, -1),
        ("mouthClose", LOWER_LIP, 1, 1),
        ("browDownLeft", LEFT_BROW, 1, -1),
        ("browOuterUpLeft", LEFT_BROW, 1, 1),
        ("mouthLeft", UPPER_LIP, 0, 1),
        ("jawLeft", CHIN, 0, 1),
    ],
)
def test_shapes_move_the_named_part_the_named_way(name, vertex, axis, sign):
    assert sign * shape(name)[vertex, axis] > 0.1


def test_one_sided_shapes_leave_the_other_side():
    assert abs(shape("mouthSmileLeft")[RIGHT_CORNER]).max() < 0.02
    assert abs(shape("browDownLeft")[105]).max() < 0.02


def test_brows_do_not_move_the_mouth_nor_the_mouth_the_brows():
    lips = list(topology.LIPS_CONTOUR)
    brows = [name for name in BLENDSHAPE_NAMES if name.startswith("brow")]
    mouth = [name for name in BLENDSHAPE_NAMES if name.startswith(("mouth", "jaw"))]
    forehead = canonical_face().vertices[:, 1] > 4
    assert all(abs(shape(name)[lips]).max() < 1e-3 for name in brows)
    assert all(abs(shape(name)[forehead]).max() < 1e-3 for name in mouth)


def test_smoothstep_is_clamped_and_symmetric():
    assert smoothstep(1, 3, 0) == 0
    assert smoothstep(1, 3, 5) == 1
    assert smoothstep(1, 3, 2) == pytest.approx(0.5)
