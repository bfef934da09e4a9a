"""What an ARKit coefficient of 1 is in implicit keypoints: the default table, which no network was asked for.

Sources:

* Directions: the steps of LivePortrait's own slider page (expression_sliders.py), which its authors chose by looking.
* Travels of lids and lips, and which point is whose eye: the published motion templates of LivePortrait that hold
  opening ratios (five clips of 16 to 275 frames). Left and right eye separate cleanly there: with head pose, position
  and size regressed out, the first ratio moves (11, y) by -0.044 and (15, y) by +0.008 per unit, the second (11, y)
  by 0.000 and (15, y) by -0.049; held-out clips are predicted with r 0.59 to 0.98 (median 0.94). (13, y) and (16, y)
  follow with +0.011 and +0.010. The lips' ratio moves (19, y) by +0.11 (r 0.78 and 0.79 in the two clips that speak;
  0.12 in each alone), (17, y) by -0.013, (20, y) by -0.02, less surely.
* Ratios of coefficients: twelve driving clips of LivePortrait (4400 frames) read by the face landmark network. With
  jaw = max(jawOpen - mouthClose, 0), lips' ratio = 0.75 jaw + 0.25 mouthLowerDown + 0.18 mouthUpperUp + 0.59
  mouthFunnel + 0.02 (r 0.98); an eye at rest reads 0.36 and falls by 0.30 to 0.33 from eyeBlink 0 to 1 (r 0.91).

Points whose part is not known from these, and shapes for which no direction is published, are left at 0: cheekPuff,
jawForward and tongueOut do nothing. Brows have one direction up and one down for both sides, and the mouth is not
split into sides except by the cheeks and lids that go with it. What the renderer makes of all this can be measured:
see retargeting_calibration.py.
"""

from __future__ import annotations

from .expression_sliders import (
    BROWS_DOWN,
    BROWS_UP,
    GRIN,
    LIPS_OPEN,
    LOOK_LEFT_OF_PICTURE,
    LOOK_RIGHT_OF_PICTURE,
    LOOK_UP,
    PURSED_LIPS,
    SMILE,
    Component,
    combined,
)

UPPER_LID_TRAVEL_PER_RATIO = 0.0465
"""How far (11, y) and (15, y) go up per unit of their eye's opening ratio."""
LOWER_LID_TRAVEL_PER_RATIO = 0.0105
"""How far (13, y) and (16, y) go down meanwhile."""
LIP_TRAVEL_PER_RATIO = 0.115
"""How far (19, y) goes down per unit of the lips' opening ratio."""

OPEN_EYE_RATIO = 0.35
"""An eye's opening ratio at rest; closed it is 0."""
WIDE_EYE_RATIO = 0.56
"""That of the widest eyes in the templates, which eyeWide 1 stands for."""
SQUINT_RATIO = 0.06
"""What eyeSquint 1 takes from it."""
LIP_RATIO_OF_SHAPES: dict[str, float] = {
    "mouthLowerDownLeft": 0.125,
    "mouthLowerDownRight": 0.125,
    "mouthUpperUpLeft": 0.09,
    "mouthUpperUpRight": 0.09,
    "mouthFunnel": 0.4,
}
"""By how much the lips part at coefficient 1. mouthFunnel is less than measured, as the network under-reads it."""
LIP_RATIO_OF_JAW = 0.75
"""By how much they part at jawOpen 1, mouthClose 0."""

UPPER_LIP_SHARE = 0.13
"""How far (20, y) goes up for what (19, y) goes down; clips differ between -0.1 and 0.25."""
GAZE_UNITS = (20.0, 40.0)
"""Release units of gaze, sideways and up, at an eyeLook coefficient of 1."""
SMILE_UNITS, FROWN_UNITS = 1.25, -0.5
"""Release units of the smile slider at 1 of both sides."""
BROW_UNITS = 18.75
"""Release units of the brow slider with all shapes of a direction at 1."""
CHEEK_RAISE = 0.0035
"""How far cheekSquint 1 raises its lower lid; the smile gives it up."""

_LEFT_LIDS, _RIGHT_LIDS = (15, 16), (11, 13)
"""Upper and lower lid; the subject's left eye is at the picture's right."""
_LEFT_CHEEK, _RIGHT_CHEEK = 7, 3


def _only(components: dict[Component, float], *points: int) -> dict[Component, float]:
    return {component: amount for component, amount in components.items() if component[0] in points}


def _without(components: dict[Component, float], *points: int) -> dict[Component, float]:
    return {component: amount for component, amount in components.items() if component[0] not in points}


def _lids(points: tuple[int, int], ratio_change: float) -> dict[Component, float]:
    """Return one eye's lids for a change of its opening ratio."""
    upper, lower = points
    return {
        (upper, "y"): -UPPER_LID_TRAVEL_PER_RATIO * ratio_change,
        (lower, "y"): LOWER_LID_TRAVEL_PER_RATIO * ratio_change,
    }


def _parted_lips(ratio: float, upper_share: float = UPPER_LIP_SHARE) -> dict[Component, float]:
    """Return lips that are apart by `ratio` more; the lower one moves, the upper by a share of it."""
    travel = LIP_TRAVEL_PER_RATIO * ratio
    return combined((travel / LIPS_OPEN[(19, "y")], LIPS_OPEN), (1.0, {(20, "y"): -upper_share * travel}))


def _smile(units: float, lids: tuple[int, int], cheek: int, raised: float = 0.0) -> dict[Component, float]:
    """Return half a smile: half of what is in the middle, and one side's cheek and lower lid."""
    middle = _without(SMILE, 3, 7, 13, 16)
    side = _only(SMILE, cheek, lids[1])
    return combined((units / 2, middle), (units, side), (-raised, {(lids[1], "y"): -1.0}))


def _both(name: str, components: dict[Component, float]) -> dict[str, dict[Component, float]]:
    """Return a pair of shapes that have half of a common direction each."""
    half = combined((0.5, components))
    return {f"{name}Left": half, f"{name}Right": half}


_OPEN_JAW = _parted_lips(LIP_RATIO_OF_JAW)

DEFAULT_TABLE: dict[str, dict[Component, float]] = {
    # eyes
    "eyeBlinkLeft": _lids(_LEFT_LIDS, -OPEN_EYE_RATIO),
    "eyeBlinkRight": _lids(_RIGHT_LIDS, -OPEN_EYE_RATIO),
    "eyeWideLeft": _lids(_LEFT_LIDS, WIDE_EYE_RATIO - OPEN_EYE_RATIO),
    "eyeWideRight": _lids(_RIGHT_LIDS, WIDE_EYE_RATIO - OPEN_EYE_RATIO),
    "eyeSquintLeft": combined((1.0, _lids(_LEFT_LIDS, -SQUINT_RATIO)), (-0.002, {(16, "y"): 1.0})),
    "eyeSquintRight": combined((1.0, _lids(_RIGHT_LIDS, -SQUINT_RATIO)), (-0.002, {(13, "y"): 1.0})),
    "eyeLookOutLeft": combined((GAZE_UNITS[0], _only(LOOK_RIGHT_OF_PICTURE, 15))),
    "eyeLookInRight": combined((GAZE_UNITS[0], _only(LOOK_RIGHT_OF_PICTURE, 11))),
    "eyeLookInLeft": combined((-GAZE_UNITS[0], _only(LOOK_LEFT_OF_PICTURE, 15))),
    "eyeLookOutRight": combined((-GAZE_UNITS[0], _only(LOOK_LEFT_OF_PICTURE, 11))),
    "eyeLookUpLeft": combined((GAZE_UNITS[1], _only(LOOK_UP, *_LEFT_LIDS))),
    "eyeLookUpRight": combined((GAZE_UNITS[1], _only(LOOK_UP, *_RIGHT_LIDS))),
    "eyeLookDownLeft": combined((-GAZE_UNITS[1], _only(LOOK_UP, *_LEFT_LIDS))),
    "eyeLookDownRight": combined((-GAZE_UNITS[1], _only(LOOK_UP, *_RIGHT_LIDS))),
    # brows, cheeks, nose
    **_both("browDown", combined((-BROW_UNITS, BROWS_DOWN))),
    "browInnerUp": combined((BROW_UNITS / 2, BROWS_UP)),
    **_both("browOuterUp", combined((BROW_UNITS / 2, BROWS_UP))),
    "cheekSquintLeft": {(16, "y"): -CHEEK_RAISE, (7, "y"): -0.001},
    "cheekSquintRight": {(13, "y"): -CHEEK_RAISE, (3, "y"): -0.001},
    **_both("noseSneer", combined((3.0, GRIN))),
    # jaw and lips apart
    "jawOpen": _OPEN_JAW,
    "mouthClose": combined((-1.0, _OPEN_JAW)),
    "mouthLowerDownLeft": _parted_lips(LIP_RATIO_OF_SHAPES["mouthLowerDownLeft"], 0.0),
    "mouthLowerDownRight": _parted_lips(LIP_RATIO_OF_SHAPES["mouthLowerDownRight"], 0.0),
    **_both("mouthUpperUp", combined((10.0, GRIN), (1.0, {(20, "y"): -0.005}))),
    # closed lips; small, as they are closed already
    **_both("mouthPress", {(19, "y"): -0.004, (20, "y"): 0.002}),
    "mouthRollLower": {(19, "y"): -0.006},
    "mouthRollUpper": {(20, "y"): 0.004},
    "mouthShrugLower": {(19, "y"): -0.006, (20, "y"): -0.003},
    "mouthShrugUpper": {(20, "y"): -0.004},
    # shapes of the lips
    "mouthFunnel": combined((4.0, PURSED_LIPS), (1.0, _parted_lips(LIP_RATIO_OF_SHAPES["mouthFunnel"]))),
    "mouthPucker": combined((9.0, PURSED_LIPS)),
    "mouthSmileLeft": _smile(SMILE_UNITS, _LEFT_LIDS, _LEFT_CHEEK, CHEEK_RAISE / 2),
    "mouthSmileRight": _smile(SMILE_UNITS, _RIGHT_LIDS, _RIGHT_CHEEK, CHEEK_RAISE / 2),
    "mouthFrownLeft": _smile(FROWN_UNITS, _LEFT_LIDS, _LEFT_CHEEK),
    "mouthFrownRight": _smile(FROWN_UNITS, _RIGHT_LIDS, _RIGHT_CHEEK),
    **_both("mouthDimple", combined((3.0, GRIN))),
    **_both("mouthStretch", combined((5.0, GRIN), (-3.0, PURSED_LIPS))),
    # sideways
    "jawLeft": {(19, "x"): 0.04},
    "jawRight": {(19, "x"): -0.04},
    "mouthLeft": {(19, "x"): 0.05, (20, "x"): 0.03},
    "mouthRight": {(19, "x"): -0.05, (20, "x"): -0.03},
}
"""{ARKit name: {(keypoint, axis): offset at coefficient 1}}; a shape that is not named moves nothing."""
