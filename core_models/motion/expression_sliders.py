"""The sliders of the expression editor: what each does to implicit keypoints and to blendshapes.

The steps in implicit keypoints are those of LivePortrait's own slider page, per unit of its sliders. Here a slider
counts in natural units: 1 is a strong but natural display and 2 is overdone, as with the strength of an emotion;
`SliderSide.release_units` says how many of the release's units one natural unit is, so every edit of that page can be
made here exactly. Where its units come from:

* lids: in published motion templates an eye that closes from its usual opening moves the keypoint of its lids by
  0.016 (see blendshape_retargeting_table.py); one natural unit, 20 release units, is a little more, to close surely.
  Opening goes to the widest eyes seen there, 10 units.
* lips: open by 60 units is a lip opening ratio of about 0.5, what a loud "ah" shows.
* gaze: 15 units sideways move the irises by about a sixth of an eye's width, as the mesh renderer does at 0.75.
* all others: the release's own slider ends at one or two natural units; downwards a smile ends at 0.3 units, which
  is what the template of a sad face shows.

Axes of keypoints: x to the picture's right, y down, z away from the camera. Left and right are the subject's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES, EXPRESSION_SIZE, IMPLICIT_KEYPOINTS

OVERDONE = 2.0
"""Largest value of an expression slider; 1 is natural."""
LARGEST_DEGREES = {"pitch": 30.0, "yaw": 45.0, "roll": 30.0}
"""The release's sliders end at 15, 25 and 15 degrees; beyond, neither renderer can show everything."""
LARGEST_SHIFT = 0.6
"""Face units: the distance between the outer eye corners."""
ZOOM_RANGE = (0.5, 2.0)
"""The release's slider goes from 0.9 to 1.2."""
SHIFT_UNITS = 0.32
"""Release units that move the head by one face unit: 0.52 half sides of the crop over a keypoint scale of 1.65."""

Component = tuple[int, str]
"""(keypoint 0..20, "x", "y" or "z")."""

AXES = "xyz"


def offsets_row(components: Mapping[Component, float]) -> np.ndarray:
    """Return (63,) float64, x, y and z of 21 keypoints, from {(keypoint, axis): amount}; the rest is 0."""
    row = np.zeros(EXPRESSION_SIZE[IMPLICIT_KEYPOINTS])
    for (point, axis), amount in components.items():
        row[3 * point + AXES.index(axis)] = amount
    return row


def blendshape_row(changes: Mapping[str, float]) -> np.ndarray:
    """Return (52,) float64 from {ARKit name: change}; the rest is 0."""
    row = np.zeros(len(BLENDSHAPE_NAMES))
    for name, change in changes.items():
        row[BLENDSHAPE_INDEX[name]] = change
    return row


def combined(*parts: tuple[float, Mapping[Component, float]]) -> dict[Component, float]:
    """Return the sum of factor x components over parts (factor, components)."""
    total: dict[Component, float] = {}
    for factor, components in parts:
        for component, amount in components.items():
            total[component] = total.get(component, 0.0) + factor * amount
    return total


EYES_OPEN: dict[Component, float] = {
    (11, "y"): -0.001,
    (13, "y"): 0.0003,
    (15, "y"): -0.001,
    (16, "y"): 0.0003,
}
"""Both eyes wider, per release unit."""
LOOK_RIGHT_OF_PICTURE: dict[Component, float] = {(11, "x"): 0.0007, (15, "x"): 0.001}
LOOK_LEFT_OF_PICTURE: dict[Component, float] = {(11, "x"): 0.001, (15, "x"): 0.0007}
"""The second is per unit of a negative value too. The eye that looks outwards moves further."""
LOOK_UP: dict[Component, float] = combined((1.0, {(11, "y"): -0.001, (15, "y"): -0.001}), (-0.5, EYES_OPEN))
"""The release takes half as many units back from the lids, which follow the gaze of themselves."""
SMILE: dict[Component, float] = {
    (20, "y"): -0.01,
    (14, "y"): -0.02,
    (17, "y"): 0.0065,
    (17, "z"): 0.003,
    (13, "y"): -0.00275,
    (16, "y"): -0.00275,
    (3, "y"): -0.0035,
    (7, "y"): -0.0035,
}
WINK_RIGHT: dict[Component, float] = {
    (11, "y"): 0.001,
    (13, "y"): -0.0003,
    (17, "x"): 0.0003,
    (17, "y"): 0.0003,
    (3, "y"): -0.0003,
}
"""The release winks with the eye at the picture's left, the subject's right."""
WINK_LEFT: dict[Component, float] = {
    (15, "y"): 0.001,
    (16, "y"): -0.0003,
    (17, "x"): -0.0003,
    (17, "y"): 0.0003,
    (7, "y"): -0.0003,
}
"""The mirror image; the release has none."""
BROWS_UP: dict[Component, float] = {(1, "y"): 0.001, (2, "y"): -0.001}
BROWS_DOWN: dict[Component, float] = {
    (1, "x"): -0.001,
    (2, "x"): 0.001,
    (1, "y"): 0.0003,
    (2, "y"): -0.0003,
}
"""Per unit of a negative value."""
LIPS_OPEN: dict[Component, float] = {(19, "y"): 0.001, (19, "z"): 0.0001, (17, "y"): -0.0001}
GRIN: dict[Component, float] = {(20, "z"): -0.001, (20, "y"): -0.001, (14, "y"): -0.001}
PURSED_LIPS: dict[Component, float] = {
    (14, "y"): 0.001,
    (3, "y"): -0.0005,
    (7, "y"): -0.0005,
    (17, "z"): -0.0005,
}
LOWER_LIP_ASIDE: dict[Component, float] = {(19, "x"): 1.0}
BODY_LEFT_OF_PICTURE: dict[Component, float] = {(5, "x"): -1.0}
BODY_DOWN: dict[Component, float] = {(5, "y"): 1.0}
"""The release moves the head by moving the keypoint of the body the other way."""


@dataclass(frozen=True)
class SliderSide:
    """What a slider does on one side of 0.

    release_units: release units per natural unit; a value v, of either sign, is v times this many.
    components: {(keypoint, axis): offset per release unit}.
    blendshapes: {ARKit name: change at a distance of 1 from 0}, to be added and clipped to 0..1. Opposites are
        taken away, so that an edit undoes what a track shows.
    """

    release_units: float
    components: Mapping[Component, float]
    blendshapes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Slider:
    """An expression slider.

    meaning: what a positive value shows. above: values > 0. below: values < 0; None when there are none.
    largest: the largest value either way.
    """

    meaning: str
    above: SliderSide
    below: SliderSide | None = None
    largest: float = OVERDONE

    @property
    def lowest(self) -> float:
        """The smallest value."""
        return 0.0 if self.below is None else -self.largest


def _both(name: str, amount: float) -> dict[str, float]:
    return {f"{name}Left": amount, f"{name}Right": amount}


EXPRESSION_SLIDERS: dict[str, Slider] = {
    "smile": Slider(
        "smiling; below 0 sad, corners of the mouth down",
        SliderSide(1.0, SMILE, {**_both("mouthSmile", 0.8), **_both("cheekSquint", 0.4)}),
        SliderSide(0.3, SMILE, {**_both("mouthFrown", 0.6), **_both("mouthSmile", -0.8)}),
    ),
    "blink": Slider(
        "both eyes closed; below 0 wide open",
        SliderSide(-20.0, EYES_OPEN, {**_both("eyeBlink", 1.0), **_both("eyeWide", -1.0)}),
        SliderSide(-10.0, EYES_OPEN, {**_both("eyeWide", 1.0), **_both("eyeBlink", -1.0)}),
    ),
    "wink_left": Slider(
        "the left eye winks, the one at the picture's right",
        SliderSide(20.0, WINK_LEFT, {"eyeBlinkLeft": 1.0, "cheekSquintLeft": 0.4, "mouthSmileLeft": 0.25}),
    ),
    "wink_right": Slider(
        "the right eye winks, the one at the picture's left",
        SliderSide(
            20.0, WINK_RIGHT, {"eyeBlinkRight": 1.0, "cheekSquintRight": 0.4, "mouthSmileRight": 0.25}
        ),
    ),
    "brows": Slider(
        "brows up; below 0 down and together",
        SliderSide(
            15.0, BROWS_UP, {"browInnerUp": 0.8, **_both("browOuterUp", 0.8), **_both("browDown", -0.8)}
        ),
        SliderSide(
            15.0, BROWS_DOWN, {**_both("browDown", 0.8), "browInnerUp": -0.8, **_both("browOuterUp", -0.8)}
        ),
    ),
    "gaze_x": Slider(
        "eyes look to the picture's right; below 0 to its left",
        SliderSide(15.0, LOOK_RIGHT_OF_PICTURE, {"eyeLookOutLeft": 0.75, "eyeLookInRight": 0.75}),
        SliderSide(15.0, LOOK_LEFT_OF_PICTURE, {"eyeLookInLeft": 0.75, "eyeLookOutRight": 0.75}),
    ),
    "gaze_y": Slider(
        "eyes look up; below 0 down",
        SliderSide(31.5, LOOK_UP, _both("eyeLookUp", 0.8)),
        SliderSide(31.5, LOOK_UP, _both("eyeLookDown", 0.8)),
    ),
    "aaa": Slider(
        "mouth open as in 'ah'; below 0 lips pressed together",
        SliderSide(60.0, LIPS_OPEN, {"jawOpen": 0.7}),
        SliderSide(45.0, LIPS_OPEN, {"jawOpen": -0.52, **_both("mouthPress", 0.4)}),
    ),
    "eee": Slider(
        "grin that shows the teeth, as in 'ee'",
        SliderSide(
            7.5,
            GRIN,
            {**_both("mouthStretch", 0.5), **_both("mouthUpperUp", 0.4), **_both("mouthDimple", 0.3)},
        ),
    ),
    "woo": Slider(
        "lips rounded as in 'oo'; below 0 drawn apart",
        SliderSide(7.5, PURSED_LIPS, {"mouthPucker": 0.8, "mouthFunnel": 0.1}),
        SliderSide(10.0, PURSED_LIPS, {"mouthPucker": -0.8, **_both("mouthStretch", 0.5)}),
    ),
    "pout": Slider(
        "lower lip to the picture's right; below 0 to its left",
        SliderSide(
            0.045,
            LOWER_LIP_ASIDE,
            {"mouthLeft": 0.6, "mouthRight": -0.6, "jawLeft": 0.3, "jawRight": -0.3},
        ),
        SliderSide(
            0.045,
            LOWER_LIP_ASIDE,
            {"mouthRight": 0.6, "mouthLeft": -0.6, "jawRight": 0.3, "jawLeft": -0.3},
        ),
    ),
}
"""What changes the expression, in both spaces."""

SHIFT_SLIDERS: dict[str, Slider] = {
    "shift_x": Slider(
        "head to the picture's right",
        *2 * [SliderSide(SHIFT_UNITS, BODY_LEFT_OF_PICTURE)],
        largest=LARGEST_SHIFT,
    ),
    "shift_y": Slider("head up", *2 * [SliderSide(SHIFT_UNITS, BODY_DOWN)], largest=LARGEST_SHIFT),
}
"""Face units; in blendshapes they are a translation, so they have no coefficients."""

POSE_SLIDERS = ("pitch", "yaw", "roll")
ZOOM = "zoom"
KEYPOINT_SLIDERS: dict[str, Slider] = {**EXPRESSION_SLIDERS, **SHIFT_SLIDERS}
"""What moves implicit keypoints."""

SLIDER_RANGES: dict[str, tuple[float, float]] = {
    **{name: (slider.lowest, slider.largest) for name, slider in KEYPOINT_SLIDERS.items()},
    **{name: (-LARGEST_DEGREES[name], LARGEST_DEGREES[name]) for name in POSE_SLIDERS},
    ZOOM: ZOOM_RANGE,
}
"""Every slider's name -> (lowest, largest), in the order of `ExpressionEdit`'s fields."""
SLIDER_NAMES: tuple[str, ...] = tuple(SLIDER_RANGES)
