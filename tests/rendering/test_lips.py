"""Lips part on their seam, meet, and never cross."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.face.topology import LIPS_LOWER_INNER, LIPS_UPPER_INNER, canonical_face
from talking_portrait.core_models.rendering.displacement import displacement_basis
from talking_portrait.core_models.rendering.lips import collapse_seam, mouth_opening, settle_lips

UPPER, LOWER = list(LIPS_UPPER_INNER), list(LIPS_LOWER_INNER)


def closed_face() -> np.ndarray:
    return collapse_seam(canonical_face().vertices)


def gaps(shape: np.ndarray) -> np.ndarray:
    return shape[UPPER, 1] - shape[LOWER, 1]


def test_collapsing_closes_the_mouth_on_its_midline_and_moves_nothing_else():
    face = canonical_face().vertices
    closed = collapse_seam(face)
    assert mouth_opening(closed) == 0
    others = np.setdiff1d(np.arange(468), UPPER + LOWER)
    np.testing.assert_array_equal(closed[others], face[others])
    np.testing.assert_allclose(closed[13], (face[13] + face[14]) / 2)


def test_an_open_mouth_is_left_as_it_is_without_a_seal():
    opened = closed_face()
    opened[LOWER[1:-1], 1] -= 1.0
    before = opened.copy()
    settle_lips(opened, 0.0, 0.0)
    np.testing.assert_array_equal(opened, before)


@pytest.mark.parametrize("seal", [0.25, 0.5, 1.0])
def test_a_seal_closes_its_share_of_the_gap(seal):
    opened = closed_face()
    opened[LOWER[1:-1], 1] -= 1.0
    settle_lips(opened, seal, 0.0)
    np.testing.assert_allclose(gaps(opened)[1:-1], 1 - seal, atol=1e-5)


def test_sealed_lips_of_an_open_photo_overlap():
    opened = closed_face()
    opened[LOWER[1:-1], 1] -= 0.6
    settle_lips(opened, 1.0, 0.14)
    assert gaps(opened)[5] == pytest.approx(-0.14, abs=1e-4)


@given(st.lists(st.floats(0, 1), min_size=52, max_size=52))
def test_no_expression_makes_the_lips_cross(values):
    change = np.array(values, np.float32)
    shape = closed_face() + np.tensordot(change, displacement_basis(), axes=1)
    settle_lips(shape, 0.0, 0.0)
    assert gaps(shape)[1:-1].min() > -1e-4
