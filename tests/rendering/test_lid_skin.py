"""A closed lid has the colour of skin, whatever is above the eye, and only the lid is painted."""

import numpy as np
import pytest
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.rendering.composition import compose_expression
from talking_portrait.core_models.rendering.lid_skin import draw_lid_skin, make_lid_skin
from talking_portrait.core_models.rendering.lids import EYES, margin_vertices, move_lids
from talking_portrait.core_models.types import BLENDSHAPE_INDEX

SCALE, SIZE = 16.0, 260
SKIN = np.array([205, 160, 130], np.uint8)
MARGINS = np.array([0.4, 0.4])
GRAIN = np.zeros((16, 16), np.float32)


def placed(shape: np.ndarray) -> np.ndarray:
    return (shape[:, :2] * (SCALE, -SCALE) + SIZE / 2).astype(np.float32)


def closed_points(closure: float) -> np.ndarray:
    face = canonical_face().vertices
    shape = np.concatenate([face, margin_vertices(face, MARGINS)])
    asked = np.zeros(52, np.float32)
    asked[[BLENDSHAPE_INDEX["eyeBlinkLeft"], BLENDSHAPE_INDEX["eyeBlinkRight"]]] = closure
    move_lids(shape, compose_expression(asked, np.zeros(52)), MARGINS)
    return placed(shape)


@pytest.mark.parametrize("side", [0, 1])
def test_an_even_skin_gives_a_lid_of_its_colour(side):
    picture = np.broadcast_to(SKIN, (SIZE, SIZE, 3)).copy()
    skin = make_lid_skin(picture, placed(canonical_face().vertices), EYES[side])
    np.testing.assert_allclose(skin.edge, np.tile(SKIN, (9, 1)), atol=3)
    np.testing.assert_allclose(skin.fold, np.tile(SKIN, (9, 1)), atol=3)


def test_black_rims_above_the_eye_do_not_make_a_black_lid():
    points = placed(canonical_face().vertices)
    picture = np.broadcast_to(SKIN, (SIZE, SIZE, 3)).copy()
    picture[: int(points[list(EYES[0].upper), 1].min())] = 8
    skin = make_lid_skin(picture, points, EYES[0])
    assert skin.edge[4].mean() > 0.6 * SKIN.mean()
    assert skin.fold[4].mean() < skin.edge[4].mean()


def test_only_the_lid_between_fold_and_edge_is_painted():
    picture = np.broadcast_to(SKIN, (SIZE, SIZE, 3)).copy()
    skin = make_lid_skin(picture, placed(canonical_face().vertices), EYES[0])
    points = closed_points(1.0)
    canvas = np.zeros_like(picture)
    draw_lid_skin(canvas, skin, points, EYES[0], 0, 1.0, GRAIN)
    painted = canvas.max(axis=2) > 0
    rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
    edge = points[list(EYES[0].upper)]
    assert edge[:, 0].min() - 2 <= columns.min()
    assert columns.max() <= edge[:, 0].max() + 2
    assert rows.max() <= edge[:, 1].max() + 2
    assert canvas.max(axis=2)[painted].max() > 0.8 * SKIN.max()


def test_an_open_eye_has_no_painted_lid():
    picture = np.broadcast_to(SKIN, (SIZE, SIZE, 3)).copy()
    skin = make_lid_skin(picture, placed(canonical_face().vertices), EYES[0])
    canvas = np.zeros_like(picture)
    draw_lid_skin(canvas, skin, closed_points(0.0), EYES[0], 0, 0.0, GRAIN)
    assert not canvas.any()
