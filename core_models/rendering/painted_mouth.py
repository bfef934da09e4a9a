"""The painted inside of a mouth that the photo keeps shut: a dark cavity, a tongue, and teeth in the photo's light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..face.topology import LIPS_LOWER_INNER, LIPS_UPPER_INNER
from .displacement import smoothstep
from .lips import lip_gap

TEETH_LENGTH = 0.36
"""Centimetres of upper teeth below the resting lip line, at most."""
TEETH_SHARE_OF_GAP = 0.50
TEETH_FROM_GAP = (0.12, 0.38)
"""Centimetres between the lips over which teeth come into the light; a narrow slit is dark."""
TEETH_ARCH = 0.20
"""Centimetres the row of teeth rises from the middle to the corners."""
TEETH_ENDS = (0.66, 0.92)
"""Half mouth widths from the middle between which the row fades into the dark."""
ARCH_SHADE = 0.62
"""How much darker the teeth at the corners are, as the row curves back."""
LIP_SHADE = 0.55
LIP_SHADE_REACH = 0.26
"""Centimetres below the upper lip over which its shadow on the teeth fades."""
TOOTH_BORDERS = (0.0, 0.82, 1.42, 1.98, 2.45, 2.85)
"""Centimetres from the middle to the lines between teeth, narrowing as the row curves back."""
SCALLOP = 0.05
"""Centimetres by which a tooth's edge rises towards its neighbours."""
BORDER_SHADE = 0.22
BORDER_HALF_WIDTH = 0.06
EDGE_SOFTNESS = 0.05
HIDDEN_BY_ROUNDING = (0.05, 0.6)
"""Rounding of the lips (u, o, sh) over which they hide the teeth."""
TOOTH = (212.0, 197.0, 175.0)
"""Colour of teeth, a little in the shade of the lips, in the light in which skin has the colour below."""
REFERENCE_SKIN = (198.0, 152.0, 128.0)
LIGHT_SHARE = 0.75
"""Exponent: how much of a skin's difference from the reference is the light's and so the teeth's too."""
TOOTH_LIMITS = (55.0, 220.0)

FLESH = (118.0, 44.0, 40.0)
"""Colour of the inside of a mouth in full light, mixed into pale lips of living faces."""
CAVITY_DARKNESS = 0.19
SIDE_DARKNESS = 0.5

_UPPER, _LOWER = list(LIPS_UPPER_INNER), list(LIPS_LOWER_INNER)
_MIDDLE = len(_UPPER) // 2


@dataclass(frozen=True)
class MouthColours:
    """What a mouth is painted with.

    lip, tooth, flesh: (3,) float32 colours 0..255. teeth_strength: 0..1, 0 for carved faces.
    """

    lip: np.ndarray
    tooth: np.ndarray
    flesh: np.ndarray
    teeth_strength: float


def mouth_colours(skin: np.ndarray, lip: np.ndarray, life: float) -> MouthColours:
    """Return the colours for a face with this skin and these lips, (3,) 0..255.

    life: 0 for carved or colourless faces, which have a dark cavity and no white teeth, to 1.
    """
    light = (skin / np.array(REFERENCE_SKIN, np.float32)) ** LIGHT_SHARE
    flesh = np.array(FLESH, np.float32) * (0.35 + 0.65 * skin.mean() / 170)
    return MouthColours(
        lip=lip,
        tooth=np.clip(np.array(TOOTH, np.float32) * light, *TOOTH_LIMITS),
        flesh=lip + (0.5 * lip + 0.5 * flesh - lip) * life,
        teeth_strength=life,
    )


def painted_mouth(
    colours: MouthColours,
    x: np.ndarray,
    y: np.ndarray,
    pixel: float,
    shape: np.ndarray,
    resting_lip: np.ndarray,
    half_width: float,
    rounding: float,
) -> np.ndarray:
    """Return the inside of a mouth, (h, w, 3) float32: cavity, tongue, teeth, dark sides.

    x, y: (h, w) canonical centimetres of each pixel at the depth of the lips; pixel: centimetres per pixel.
    shape: (>= 468, 3) the moved face in canonical centimetres. resting_lip: (3,) polynomial y(x) of the
    upper lip at rest, from which the teeth hang: they belong to the skull. half_width: of the resting mouth.
    rounding: 0..1, how much the lips are pursed away from the teeth.
    """
    across = np.abs(x) * np.float32(1 / half_width)
    gap = lip_gap(shape)
    floor = float(shape[_LOWER[_MIDDLE], 1])
    colour = np.empty((*x.shape, 3), np.float32)
    colour[:] = CAVITY_DARKNESS * colours.flesh
    mix(colour, 0.5 * colours.flesh, 0.75 * _tongue(across, y, floor, gap))
    shown = colours.teeth_strength * float(1 - smoothstep(*HIDDEN_BY_ROUNDING, rounding))
    shown *= float(smoothstep(*TEETH_FROM_GAP, gap))
    if shown > 0:
        lip = np.polyval(np.polyfit(shape[_UPPER, 0], shape[_UPPER, 1], 2), x)
        hang = np.polyval(resting_lip, x) - min(TEETH_LENGTH, TEETH_SHARE_OF_GAP * gap)
        _paint_upper_teeth(colour, colours.tooth, x, y, across, lip, hang, shown, pixel)
    colour *= (1 - SIDE_DARKNESS * smoothstep(0.5, 1.0, across))[..., None]
    return colour


def _paint_upper_teeth(
    colour: np.ndarray,
    tooth: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    across: np.ndarray,
    lip: np.ndarray,
    hang: np.ndarray,
    shown: float,
    pixel: float,
) -> None:
    """Paint the upper row in place; lip, hang: (h, w) canonical y of the lip's and of the teeth's edge."""
    place = np.abs(x)
    borders = np.array(TOOTH_BORDERS, np.float32)
    nearest = np.abs(place[..., None] - borders).min(axis=2)
    border = 1 - smoothstep(0.0, max(BORDER_HALF_WIDTH, pixel), nearest)
    edge = hang + TEETH_ARCH * across**2 + SCALLOP * (1 - smoothstep(0.0, 0.35, nearest))
    soft = max(EDGE_SOFTNESS, 0.7 * pixel)
    weight = shown * (1 - smoothstep(*TEETH_ENDS, across)) * smoothstep(-soft, soft, y - edge)
    shade = 1 - LIP_SHADE * (1 - smoothstep(0.0, LIP_SHADE_REACH, lip - y))
    shade = shade * (1 - ARCH_SHADE * smoothstep(0.15, 0.9, across)) * (1 - BORDER_SHADE * border)
    colour += (tooth * shade[..., None] - colour) * weight[..., None]


def mix(colour: np.ndarray, other: np.ndarray, weight: np.ndarray) -> None:
    """Mix one colour (3,) into a picture (h, w, 3) float32 by a weight (h, w) 0..1, in place."""
    colour += (other.astype(np.float32) - colour) * weight[..., None]


def _tongue(across: np.ndarray, y: np.ndarray, floor: float, gap: float) -> np.ndarray:
    """Return (h, w) 0..1: a soft mound that lies on the jaw and follows it."""
    radius = np.hypot(across / 0.75, (y - floor + 0.12 * gap) / max(0.62 * gap, 1e-3))
    return 1 - smoothstep(0.2, 1.05, radius)
