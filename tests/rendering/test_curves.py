"""Masks follow their outline by fractions of a pixel."""

import numpy as np
import pytest
from talking_portrait.core_models.rendering.curves import outline_mask

WINDOW = (10, 20, 50, 44)


def box(top: float, bottom: float, left: float = 14.5, right: float = 44.5) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def test_a_mask_covers_what_lies_inside():
    mask = outline_mask(box(24.5, 38.5), WINDOW, 0.0)
    assert mask.shape == (24, 40)
    assert (mask[6:18, 6:34] == 1).all()
    assert mask[:3].max() == 0
    assert mask.sum() == pytest.approx(14 * 30, rel=0.05)


def test_a_level_edge_moves_by_fractions_of_a_pixel():
    areas = [outline_mask(box(24.5, 34.5 + shift), WINDOW, 0.0).sum() for shift in np.linspace(0, 1, 11)]
    steps = np.diff(areas) / 30
    assert steps.min() >= 0
    assert steps.max() < 0.35
    assert steps.sum() == pytest.approx(1.0, abs=0.1)


def test_a_mask_may_reach_beyond_its_window():
    mask = outline_mask(box(0, 100, -50, 200), WINDOW, 0.0)
    assert (mask == 1).all()
