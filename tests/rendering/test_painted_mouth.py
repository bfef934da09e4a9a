"""The painted inside of a mouth: dark slits, warm teeth that hang from the skull, none behind rounded lips."""

import numpy as np
import pytest
from talking_portrait.core_models.face.topology import LIPS_LOWER_INNER, LIPS_UPPER_INNER, canonical_face
from talking_portrait.core_models.rendering.lips import collapse_seam, mouth_width
from talking_portrait.core_models.rendering.painted_mouth import mouth_colours, painted_mouth

SKIN, LIP = np.array([205, 158, 130], np.float32), np.array([170, 95, 90], np.float32)
PIXEL = 0.05
CLOSED = collapse_seam(canonical_face().vertices)
SEAM = np.polyfit(CLOSED[list(LIPS_UPPER_INNER), 0], CLOSED[list(LIPS_UPPER_INNER), 1], 2)
X, Y = (
    part.astype(np.float32) for part in np.meshgrid(np.arange(-2.4, 2.4, PIXEL), np.arange(-2, -8, -PIXEL))
)


def painted(gap: float, rounding: float = 0.0, life: float = 1.0, skin: np.ndarray = SKIN) -> np.ndarray:
    shape = CLOSED.copy()
    across = np.sin(np.pi * np.arange(11) / 10)
    shape[list(LIPS_LOWER_INNER), 1] -= (gap * across).astype(np.float32)
    half_width = mouth_width(CLOSED) / 2
    return painted_mouth(mouth_colours(skin, LIP, life), X, Y, PIXEL, shape, SEAM, half_width, rounding)


def column(picture: np.ndarray, x: float, low: float, high: float) -> np.ndarray:
    """Return the brightness at x, from `low` to `high` centimetres below the resting lip, downwards."""
    below = np.polyval(SEAM, x) - Y[:, 0]
    return picture[(below > low) & (below < high), np.abs(X[0] - x).argmin()].mean(axis=1)


def test_a_narrow_slit_is_dark_and_shows_no_teeth():
    assert column(painted(0.10), 0.35, 0, 0.1).max() < 45


def test_an_open_mouth_shows_warm_teeth_above_a_dark_cavity():
    picture = painted(1.2)
    teeth = picture[
        np.abs(Y - (np.polyval(SEAM, 0.35) - 0.2)).argmin(axis=0)[0], np.abs(X[0] - 0.35).argmin()
    ]
    assert teeth[0] > teeth[1] > teeth[2]
    assert teeth.mean() > 90
    assert column(picture, 0.35, 0.6, 0.75).max() < 70


@pytest.mark.parametrize("gap", [0.6, 1.2, 2.0])
def test_teeth_belong_to_the_skull_and_end_above_the_lower_lip(gap):
    bright = column(painted(gap), 0.35, 0, gap) > 80
    length = bright.sum() * PIXEL
    assert 0.1 < length < 0.5
    assert length < 0.8 * gap


def test_teeth_fade_towards_the_corners():
    picture = painted(1.0)
    middle, side, corner = (column(picture, x, 0.0, 0.4).max() for x in (0.35, 1.2, 2.3))
    assert middle > side > corner
    assert corner < 50


def test_rounded_lips_and_statues_show_no_teeth():
    for picture in (painted(1.2, rounding=1.0), painted(1.2, life=0.0)):
        assert column(picture, 0.35, 0, 0.4).max() < 60


def test_teeth_take_the_colour_of_the_light():
    warm = mouth_colours(np.array([220, 150, 105], np.float32), LIP, 1.0).tooth
    cool = mouth_colours(np.array([170, 160, 165], np.float32), LIP, 1.0).tooth
    assert warm[0] / warm[2] > 1.3 > cool[0] / cool[2]
    dim = mouth_colours(0.4 * SKIN, LIP, 1.0).tooth
    assert dim.mean() < 0.7 * mouth_colours(SKIN, LIP, 1.0).tooth.mean()
