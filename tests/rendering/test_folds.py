"""Folds lie where the skin creases, darken only as their blendshape rises, and are alike on both sides."""

import numpy as np
import pytest
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.rendering.folds import DEEPEST, FOLDS, draw_folds, placed_folds
from talking_portrait.core_models.types import BLENDSHAPE_INDEX

PIXELS_PER_CM = 10.0
SIZE = 240


def canvas_points() -> np.ndarray:
    return canonical_face().vertices[:, :2] * (PIXELS_PER_CM, -PIXELS_PER_CM) + SIZE / 2


def drawn(**values: float) -> np.ndarray:
    change = np.zeros(52, np.float32)
    for name, value in values.items():
        change[BLENDSHAPE_INDEX[name]] = value
    canvas = np.full((SIZE, SIZE, 3), 200, np.uint8)
    draw_folds(canvas, canvas_points(), change, PIXELS_PER_CM)
    return canvas[..., 0].astype(int)


def test_no_change_draws_nothing():
    assert (drawn() == 200).all()
    assert (drawn(browDownLeft=-0.5, noseSneerRight=0.1) == 200).all()


def test_folds_only_darken_and_never_beyond_the_deepest():
    shown = drawn(**dict.fromkeys(BLENDSHAPE_INDEX, 1.0))
    assert shown.max() == 200
    assert (1 - DEEPEST) ** 2 * 200 - 2 <= shown.min() < 170


@pytest.mark.parametrize("shape", sorted({fold.shape for fold in FOLDS if "Left" in fold.shape}))
def test_the_two_sides_mirror_each_other(shape):
    left, right = drawn(**{shape: 1.0}), drawn(**{shape.replace("Left", "Right"): 1.0})
    mirrored = right[:, ::-1]
    darkened = (200 - left).sum()
    assert darkened > 0
    assert np.abs(np.roll(mirrored, 1, axis=1) - left).sum() < 0.5 * darkened
    assert (200 - left)[:, : SIZE // 2 - 8].sum() < 0.05 * darkened


def test_each_fold_lies_on_its_line():
    vertices = canonical_face().vertices
    for fold, placed in zip(FOLDS, placed_folds(), strict=False):
        line = (vertices[placed.vertices] * placed.shares[..., None]).sum(axis=1)
        np.testing.assert_allclose(line[:, :2], fold.line, atol=1e-4)
        assert (line[:, 2] > 0).all()


def test_a_frown_deepens_steadily():
    depths = [200 - drawn(browDownLeft=value).min() for value in np.linspace(0, 1, 6)]
    assert (np.diff(depths) >= 0).all()
    assert depths[-1] > 20
