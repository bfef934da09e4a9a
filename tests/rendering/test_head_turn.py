"""Limits of the head's motion, and the rings that carry hair and shoulders."""

import numpy as np
import pytest
from talking_portrait.core_models.face.pose import rotation_angles, rotation_matrix
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.rendering import head_turn, warp

STILL = np.zeros(3)


def moved(rotation=STILL, translation=STILL, scale=1.0, source_yaw=0.0):
    return head_turn.limited_head_move(np.array(rotation), np.array(translation), scale, source_yaw, 8.9)


@pytest.mark.parametrize("yaw", [-80.0, 46.0])
def test_profiles_are_refused_with_the_angle(yaw):
    with pytest.raises(ValueError, match=f"{abs(yaw):.0f} degrees"):
        head_turn.check_source_yaw(yaw)


def test_faces_up_to_the_limit_are_accepted():
    head_turn.check_source_yaw(44.0)


def test_small_turns_pass_nearly_unchanged_and_large_ones_never_pass_the_limit():
    small = rotation_angles(moved((2, 3, 2)).rotation)
    np.testing.assert_allclose(small, (2, 3, 2), atol=0.15)
    large = rotation_angles(moved((80, 80, 80)).rotation)
    assert large[0] <= 12.01
    assert large[1] <= 14.01
    assert large[2] <= 14.01


def test_turned_sources_turn_less_and_hardly_back_to_the_camera():
    assert head_turn.yaw_limits(0.0) == (14.0, 14.0)
    towards, away = head_turn.yaw_limits(40.0)
    assert away == pytest.approx(3.0)
    assert towards < 0.5
    assert head_turn.yaw_limits(-40.0) == (away, towards)
    assert rotation_angles(moved((0, 10, 0), source_yaw=-45.0).rotation)[1] == pytest.approx(0, abs=1e-3)


def test_limits_shrink_steadily_with_the_source_yaw():
    limits = np.array([head_turn.yaw_limits(yaw) for yaw in np.arange(0, 46, 1.0)])
    assert (np.diff(limits, axis=0) <= 1e-9).all()


def test_translation_and_size_are_limited():
    far = moved(translation=(5, -5, 5), scale=3.0)
    assert np.abs(far.translation[:2]).max() <= 0.22 * 8.9 + 1e-4
    assert far.translation[2] == 0
    assert 1.0 < far.scale <= np.exp(0.14) + 1e-6
    near = moved(translation=(0.02, 0.0, 0.0))
    assert near.translation[0] == pytest.approx(0.02 * 8.9, rel=0.02)


def test_rest_is_still():
    assert moved().is_still
    assert not moved((0, 1, 0)).is_still


@pytest.mark.parametrize("yaw", [0.0, 20.0, -38.0])
def test_no_ring_triangle_is_folded_in_the_photo(yaw):
    face = canonical_face().vertices
    rotation = rotation_matrix(np.array([5.0, yaw, 4.0]))
    rings = head_turn.ring_layout(face, rotation)
    seen = (np.concatenate([face, rings.vertices]) @ rotation.T)[:, :2] * (1, -1)
    strips = head_turn.ring_triangles(len(face))[
        2 * head_turn.RING_SIZE :
    ]  # the first strip lies behind the face
    areas = warp.signed_areas(seen, strips) * head_turn.RING_ORIENTATION
    assert (areas > -1e-3).all()


def test_the_last_ring_is_still_and_the_shoulders_nearly():
    rings = head_turn.ring_layout(canonical_face().vertices, np.eye(3))
    weights = rings.rigid_weights.reshape(-1, head_turn.RING_SIZE)
    assert (weights[0] == 1).all()
    assert (weights[-1] == 0).all()
    top, bottom = weights[:, 0], weights[:, head_turn.RING_SIZE // 2]
    assert (bottom[1:] <= top[1:]).all()
    assert bottom[2] < 0.3 < top[2]


def test_ring_expression_fades_outwards():
    face_basis = np.ones((52, 468, 3), np.float32)
    basis = head_turn.ring_basis(face_basis, head_turn.ring_layout(canonical_face().vertices, np.eye(3)))
    per_ring = basis[0, :, 0].reshape(-1, head_turn.RING_SIZE).mean(axis=1)
    np.testing.assert_allclose(per_ring, [1.0, 0.55, 0.15, 0.0, 0.0], atol=1e-6)
