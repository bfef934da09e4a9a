"""From a motion track and the expression the photo already shows to what the mesh must do.

A track's 0 is the relaxed face of whoever moved. Speech is absolute: the jaw opens as far as the track says,
whatever the photo shows. Feelings are added to the photo's own: a smiling photo keeps its smile. Lids start
from where the photo's lids are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..types import BLENDSHAPE_INDEX
from .displacement import smoothstep

JAW_LIMIT = 0.85
"""The jaw approaches this opening and never passes it; beyond it the mouth is too large to believe."""

GAZE_LIMIT = 0.6
LARGEST_TOTAL = 1.25
"""What a coefficient may add up to with the photo's own."""
ROUNDING_GAIN = 1.3
"""Pucker and funnel are under-read by the landmark network, so they are shown a little stronger."""

FROWN_UNDOES_SMILE = 2.0
BROW_DOWN_UNDOES_SMILE = 1.0
SNEER_UNDOES_SMILE = 1.2
ROUNDING_UNDOES_SMILE = 0.7
"""A photo's own smile gives way to what is its opposite, this much per unit asked for."""

ABSOLUTE_SHAPES = (
    *("jawOpen", "jawLeft", "jawRight", "jawForward", "mouthClose", "mouthLeft", "mouthRight"),
    *("mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft", "mouthLowerDownRight"),
)
OPEN_MOUTH_KEPT = (0.25, 0.45)
"""Own opening (gap over mouth width) kept whole at rest below the first, and given up above the second."""


def _rows(*names: str) -> list[int]:
    return [BLENDSHAPE_INDEX[name] for name in names]


_ABSOLUTE = _rows(*ABSOLUTE_SHAPES)
_EYES = [index for name, index in BLENDSHAPE_INDEX.items() if name.startswith("eye")]
_ROUNDING = _rows("mouthPucker", "mouthFunnel")
_SMILE = _rows("mouthSmileLeft", "mouthSmileRight")
_FROWN = _rows("mouthFrownLeft", "mouthFrownRight")
_BROW_DOWN = _rows("browDownLeft", "browDownRight")
_SNEER = _rows("noseSneerLeft", "noseSneerRight")
_PRESS = _rows("mouthPressLeft", "mouthPressRight")
_ROLL = _rows("mouthRollLower", "mouthRollUpper")
_JAW_OPEN = BLENDSHAPE_INDEX["jawOpen"]
_MOUTH_CLOSE = BLENDSHAPE_INDEX["mouthClose"]
_BLINK = _rows("eyeBlinkLeft", "eyeBlinkRight")
_WIDE = _rows("eyeWideLeft", "eyeWideRight")
_SQUINT = _rows("eyeSquintLeft", "eyeSquintRight")
_LOOK_LEFT = _rows("eyeLookOutLeft", "eyeLookInRight")
_LOOK_RIGHT = _rows("eyeLookInLeft", "eyeLookOutRight")
_LOOK_UP = _rows("eyeLookUpLeft", "eyeLookUpRight")
_LOOK_DOWN = _rows("eyeLookDownLeft", "eyeLookDownRight")


@dataclass(frozen=True)
class TargetExpression:
    """What one frame asks of the photo's face.

    change: (52,) float32, target coefficients minus the photo's own, for the linear basis.
    closure: (2,) 0 = the photo's own lids, 1 = closed; left eye (picture's right), then right.
    wide, squint: (2,) 0..1.
    gaze: (2,) both eyes together, in -1..1: towards the picture's right, and up.
    lip_seal: 0..1, how far any remaining gap between the lips is closed (p, b, m).
    lip_rounding: 0..1, how much the lips are pursed away from the teeth (u, o, sh).
    """

    change: np.ndarray
    closure: np.ndarray
    wide: np.ndarray
    squint: np.ndarray
    gaze: np.ndarray
    lip_seal: float
    lip_rounding: float

    @property
    def is_still(self) -> bool:
        """Whether the photo's face stays as it is."""
        moving = (self.change, self.closure, self.wide, self.squint, self.gaze)
        return self.lip_seal == 0 and not any(part.any() for part in moving)


def compose_expression(
    asked: np.ndarray,
    photo: np.ndarray,
    opening: float = 0.0,
    closed_opening: float = 0.07,
    strength: float = 1.0,
) -> TargetExpression:
    """Return what to do to a photo so that it shows one frame of a track.

    asked: (52,) the track's coefficients, 0 = relaxed.
    photo: (52,) the photo's own coefficients.
    opening: the photo's own gap between the lips over its mouth width; at most `closed_opening` counts as
        closed, and then its own small readings are its rest and are not undone.
    strength: multiplies every coefficient but those of lids and gaze.
    """
    asked = np.clip(np.asarray(asked, np.float32), 0.0, 1.0)
    change = asked * np.float32(strength)
    change[_ROUNDING] *= ROUNDING_GAIN
    change[_JAW_OPEN] = soft_limit(change[_JAW_OPEN], JAW_LIMIT)
    change[_ABSOLUTE] = _absolute_change(change[_ABSOLUTE], photo[_ABSOLUTE], opening, closed_opening)
    change[_SMILE] -= photo[_SMILE] * _smile_given_up(asked)
    change[_EYES] = 0.0
    change = np.minimum(change, np.maximum(LARGEST_TOTAL - photo, 0.0))
    return TargetExpression(
        change=change,
        closure=asked[_BLINK],
        wide=asked[_WIDE] * (1 - asked[_BLINK]),
        squint=asked[_SQUINT],
        gaze=_gaze(asked),
        lip_seal=max(lip_seal(asked), _smile_closed(asked, photo)),
        lip_rounding=float(smoothstep(0.1, 0.7, asked[_ROUNDING].sum())),
    )


def displeasure(asked: np.ndarray) -> float:
    """Return 0..1: how far a frame is out of keeping with a smile: frowns, drawn brows, a wrinkled nose."""
    frown = FROWN_UNDOES_SMILE * asked[_FROWN].mean()
    brows = BROW_DOWN_UNDOES_SMILE * asked[_BROW_DOWN].mean()
    sneer = SNEER_UNDOES_SMILE * asked[_SNEER].mean()
    unsmiling = 1.0 - smoothstep(0.1, 0.5, asked[_SMILE].mean())
    return float(min(1.0, max(frown, brows, sneer)) * unsmiling)


def _smile_given_up(asked: np.ndarray) -> float:
    """Return 0..1: how much of the photo's own smile goes, to frown or to round the lips."""
    return float(min(1.0, max(displeasure(asked), ROUNDING_UNDOES_SMILE * asked[_ROUNDING].sum())))


def _smile_closed(asked: np.ndarray, photo: np.ndarray) -> float:
    """Return 0..1: how far a toothy smile closes as it turns into a frown, unless the jaw opens."""
    shut = 1.0 - smoothstep(0.02, 0.12, asked[_JAW_OPEN])
    toothy = smoothstep(0.2, 0.5, photo[_SMILE].mean())
    return float(smoothstep(0.2, 0.8, displeasure(asked)) * toothy * shut)


def soft_limit(value: np.ndarray | float, limit: float) -> np.ndarray | float:
    """Return `limit` * tanh(value / limit): nearly `value` when small, never beyond `limit`."""
    return limit * np.tanh(np.asarray(value) / limit)


def lip_seal(asked: np.ndarray) -> float:
    """Return 0..1: how surely a frame means closed lips, from press, roll, and mouthClose against the jaw."""
    pressed = smoothstep(0.08, 0.30, asked[_PRESS].mean() + 0.5 * asked[_ROLL].mean())
    jaw, close = asked[_JAW_OPEN], asked[_MOUTH_CLOSE]
    closed = smoothstep(0.40, 0.85, close / (jaw + 0.05)) * smoothstep(0.02, 0.10, close)
    return float(max(pressed, closed))


def _absolute_change(
    asked: np.ndarray, photo: np.ndarray, opening: float, closed_opening: float
) -> np.ndarray:
    """Return target minus own for the absolute shapes.

    Small own readings are the photo's rest: they are reached, not added to, and not undone. Only a mouth that
    hangs open gives its opening up.
    """
    kept = 1.0 - smoothstep(*OPEN_MOUTH_KEPT, opening) if opening > closed_opening else 1.0
    rest = kept * photo
    return np.maximum(asked, rest) - photo


def _gaze(asked: np.ndarray) -> np.ndarray:
    """Return (2,) the two eyes' common gaze; eyes are kept parallel, as separate readings cross them."""
    across = asked[_LOOK_LEFT].mean() - asked[_LOOK_RIGHT].mean()
    up = asked[_LOOK_UP].mean() - asked[_LOOK_DOWN].mean()
    return np.asarray(soft_limit(np.array([across, up]), GAZE_LIMIT), np.float32)
