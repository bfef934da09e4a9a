"""Lids close fully, in the right place, and only as asked."""

import numpy as np
import pytest
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.rendering.composition import compose_expression
from talking_portrait.core_models.rendering.lids import (
    EYES,
    MARGIN_COUNT,
    lid_strip_triangles,
    margin_triangles,
    margin_vertices,
    move_lids,
)
from talking_portrait.core_models.types import BLENDSHAPE_INDEX

MARGINS = np.array([0.4, 0.4])


def face_with_margins() -> np.ndarray:
    face = canonical_face().vertices
    return np.concatenate([face, margin_vertices(face, MARGINS)])


def with_lids(**asked: float) -> np.ndarray:
    row = np.zeros(52, np.float32)
    for name, value in asked.items():
        row[BLENDSHAPE_INDEX[name]] = value
    shape = face_with_margins()
    move_lids(shape, compose_expression(row, np.zeros(52)), MARGINS)
    return shape


def openings(shape: np.ndarray, side: int) -> np.ndarray:
    eye = EYES[side]
    return (shape[list(eye.upper), 1] - shape[list(eye.lower), 1])[1:-1]


def test_rest_moves_no_lid():
    np.testing.assert_allclose(with_lids(), face_with_margins(), atol=1e-6)


def test_a_full_blink_passes_the_lower_lid_and_leaves_the_other_eye():
    shape = with_lids(eyeBlinkLeft=1.0)
    assert (openings(shape, 0) < 0).all()
    np.testing.assert_allclose(openings(shape, 1), openings(face_with_margins(), 1))


def test_closing_is_steady():
    heights = [openings(with_lids(eyeBlinkRight=k), 1)[3] for k in np.linspace(0, 1, 11)]
    assert (np.diff(heights) < 0).all()


def test_the_fold_stays_while_the_lid_unrolls_from_it():
    shape = with_lids(eyeBlinkLeft=1.0)
    rows = slice(-MARGIN_COUNT, -MARGIN_COUNT + 9)
    edge, fold, before = shape[list(EYES[0].upper)], shape[rows], face_with_margins()[rows]
    assert np.abs(fold - before).max() < 0.1
    assert (fold[2:-2, 1] - edge[2:-2, 1] > 0.4).all()


@pytest.mark.parametrize(("name", "sign"), [("eyeWideLeft", 1), ("eyeSquintLeft", -1)])
def test_wide_opens_and_squint_narrows(name, sign):
    difference = openings(with_lids(**{name: 1.0}), 0) - openings(face_with_margins(), 0)
    assert sign * difference[3] > 0.1


def test_lids_follow_the_gaze_down():
    shape = with_lids(eyeLookDownLeft=1.0, eyeLookDownRight=1.0)
    assert (openings(shape, 0) < openings(face_with_margins(), 0)).all()


def test_margin_strips_take_the_place_of_the_canonical_ones():
    replaced = lid_strip_triangles(canonical_face().triangles)
    assert replaced.sum() == 2 * 16
    assert len(margin_triangles(468)) == 2 * 32
