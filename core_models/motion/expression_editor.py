"""Editing an expression by sliders: one edit, or edits as key frames over time, on either motion space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache

import numpy as np

from ..audio.frame_clock import exact_rate
from ..types import BLENDSHAPE_INDEX, BLENDSHAPES, IMPLICIT_KEYPOINTS, FaceMotion
from .blendshape_retargeting_table import LIP_TRAVEL_PER_RATIO, UPPER_LID_TRAVEL_PER_RATIO
from .expression_sliders import (
    AXES,
    EXPRESSION_SLIDERS,
    KEYPOINT_SLIDERS,
    POSE_SLIDERS,
    SHIFT_SLIDERS,
    SLIDER_NAMES,
    SLIDER_RANGES,
    ZOOM,
    Component,
    SliderSide,
    blendshape_row,
    offsets_row,
)
from .region_names import OPPOSITE_GAZES
from .rotation import angles_from_quaternions, multiply, quaternions_from_angles


@dataclass(frozen=True)
class ExpressionEdit:
    """Where the sliders stand. Everything at its default is no edit; ranges are in `SLIDER_RANGES`.

    Expression sliders: 1 is a strong but natural display, 2 is overdone; what leaves 0 only upwards says so.
    smile: -2..2, below 0 sad. blink: -2..2, 1 closes both eyes, below 0 they are wide. wink_left, wink_right:
    0..2, the subject's. brows: -2..2, up. gaze_x, gaze_y: -2..2, to the picture's right, and up. aaa: -2..2, mouth
    open; below 0 lips pressed. eee: 0..2, grin. woo: -2..2, rounded lips. pout: -2..2, lower lip to the picture's
    right.
    shift_x, shift_y: -0.6..0.6 face units (distance of the outer eye corners), to the picture's right, and up.
    pitch, yaw, roll: degrees within 30, 45 and 30, in the convention of core_models/types.py, in the head's own axes.
    zoom: 0.5..2, size relative to rest.
    Raises ValueError for a value outside its range, NaN included.
    """

    smile: float = 0.0
    blink: float = 0.0
    wink_left: float = 0.0
    wink_right: float = 0.0
    brows: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    aaa: float = 0.0
    eee: float = 0.0
    woo: float = 0.0
    pout: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0
    zoom: float = 1.0

    def __post_init__(self) -> None:
        for name, (lowest, largest) in SLIDER_RANGES.items():
            value = getattr(self, name)
            if not lowest <= value <= largest:
                raise ValueError(f"{name} is {value:g}, expected {lowest:g} to {largest:g}")


EditKeyframe = tuple[float, ExpressionEdit]
"""(seconds, edit)."""
Edits = ExpressionEdit | Sequence[EditKeyframe]
"""One edit throughout, or key frames at increasing times."""

_COLUMN = {name: index for index, name in enumerate(SLIDER_NAMES)}
_OFFSET_COLUMNS = [_COLUMN[name] for name in KEYPOINT_SLIDERS]
_EXPRESSION_COLUMNS = [_COLUMN[name] for name in EXPRESSION_SLIDERS]
_SHIFT_COLUMNS = [_COLUMN[name] for name in SHIFT_SLIDERS]
_POSE_COLUMNS = [_COLUMN[name] for name in POSE_SLIDERS]
_GAZE_COLUMNS = [_COLUMN["gaze_x"], _COLUMN["gaze_y"]]
_ZOOM_COLUMN = _COLUMN[ZOOM]


def edit_offsets(edit: ExpressionEdit) -> np.ndarray:
    """Return (63,) float64: what the edit adds to implicit keypoints' offsets (x, y, z per point).

    These are LivePortrait's own slider steps; pose and zoom are not among them.
    """
    return _offsets(np.array([astuple(edit)]))[0]


def edit_blendshapes(edit: ExpressionEdit) -> np.ndarray:
    """Return (52,) float64: what the edit adds to ARKit coefficients, negative where it undoes what a track shows.

    Adding them to a relaxed face and clipping to 0..1 gives the edited expression. Shift, pose and zoom are not
    among them.
    """
    return _blendshapes(np.array([astuple(edit)]))[0]


def edit_values(edits: Edits, times: np.ndarray) -> np.ndarray:
    """Return (N, S) float64: where the sliders of SLIDER_NAMES stand at `times`, (N,) seconds.

    Between two key frames values pass along half a cosine, so they start and end gently and never overshoot; the
    zoom does so in its logarithm. Before the first and after the last key frame they are held.
    Raises ValueError for no key frames, or times that are negative, not finite or do not increase.
    """
    keyframes = [(0.0, edits)] if isinstance(edits, ExpressionEdit) else list(edits)
    key_times = _checked_times(keyframes)
    values = np.array([astuple(edit) for _, edit in keyframes])
    values[:, _ZOOM_COLUMN] = np.log(values[:, _ZOOM_COLUMN])
    position = np.interp(times, key_times, np.arange(len(keyframes)))
    lower = np.minimum(position.astype(int), max(len(keyframes) - 2, 0))
    upper = np.minimum(lower + 1, len(keyframes) - 1)
    share = (1 - np.cos(np.pi * (position - lower)))[:, None] / 2
    result = values[lower] * (1 - share) + values[upper] * share
    result[:, _ZOOM_COLUMN] = np.exp(result[:, _ZOOM_COLUMN])
    return result


def _checked_times(keyframes: Sequence[EditKeyframe]) -> np.ndarray:
    if not keyframes:
        raise ValueError("there are no key frames: give at least one (seconds, ExpressionEdit)")
    times = np.array([float(time) for time, _ in keyframes])
    if not (np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) > 0).all()):
        raise ValueError(f"key frames are at {times.tolist()} s: times must be 0 or more and increase")
    return times


def edit_motion(motion: FaceMotion, edits: Edits) -> FaceMotion:
    """Return the motion, of either space, with edits added; its length and rate stay.

    Expression is added, blendshapes then clipped to 0..1. The edit turns the rest and the motion goes on from there:
    rotation = edit times motion, in the head's axes. Scale is multiplied. A shift is a translation in blendshapes,
    and in implicit keypoints the offset of the body's point by which LivePortrait itself does it. Opening ratios,
    when the track knows them, change as lids and lips do.
    A frame takes the edit of its middle, (index + 0.5) / fps seconds.
    Raises ValueError as `edit_values` does.
    """
    values = edit_values(edits, (np.arange(motion.frame_count) + 0.5) / float(exact_rate(motion.fps)))
    turned = multiply(
        quaternions_from_angles(values[:, _POSE_COLUMNS]), quaternions_from_angles(motion.rotation)
    )
    return replace(
        motion,
        expression=_edited_expression(motion, values),
        rotation=angles_from_quaternions(turned),
        translation=motion.translation + _translation(motion.space, values),
        scale=motion.scale * values[:, _ZOOM_COLUMN],
        openings=None if motion.openings is None else _edited_openings(motion.openings, values),
    )


def still_motion(edits: Edits, frame_count: int, fps: float, space: str = BLENDSHAPES) -> FaceMotion:
    """Return a face at rest with edits, `frame_count` frames long: a still expression, or one that changes.

    Raises ValueError as `edit_values` does, and for an unknown space, no frames, or a rate that is not positive.
    """
    if space not in _EDITED:
        raise ValueError(f"space is {space!r}, expected one of {', '.join(sorted(_EDITED))}")
    return edit_motion(FaceMotion.at_rest(frame_count, fps, space), edits)


def opening_changes(offsets: np.ndarray) -> np.ndarray:
    """Return (N, 3): by how much offsets (N, 63) change the opening ratios of left eye, right eye and lips.

    Left is the viewer's, as in face/opening_ratios.py. Linear estimates, from published motion templates.
    """
    lids = offsets[:, [_index((11, "y")), _index((15, "y"))]] / -UPPER_LID_TRAVEL_PER_RATIO
    lips = offsets[:, [_index((19, "y"))]] / LIP_TRAVEL_PER_RATIO
    return np.concatenate([lids, lips], axis=1)


def _index(component: Component) -> int:
    return 3 * component[0] + AXES.index(component[1])


def _edited_openings(openings: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return ratios changed by every slider but the gaze, which moves the lids' keypoints without closing them."""
    still = values.copy()
    still[:, _GAZE_COLUMNS] = 0
    return np.maximum(openings + opening_changes(_offsets(still)), 0)


def _edited_expression(motion: FaceMotion, values: np.ndarray) -> np.ndarray:
    return _EDITED[motion.space](motion.expression.astype(np.float64), values)


def _edited_offsets(expression: np.ndarray, values: np.ndarray) -> np.ndarray:
    return expression + _offsets(values)


def _edited_blendshapes(expression: np.ndarray, values: np.ndarray) -> np.ndarray:
    added = expression + _blendshapes(values)
    if values[:, _GAZE_COLUMNS].any():
        for towards, away in OPPOSITE_GAZES:
            columns = [BLENDSHAPE_INDEX[towards], BLENDSHAPE_INDEX[away]]
            direction = added[:, columns[0]] - added[:, columns[1]]
            added[:, columns] = np.stack([direction, -direction], axis=1)
    return np.clip(added, 0, 1)


_EDITED = {BLENDSHAPES: _edited_blendshapes, IMPLICIT_KEYPOINTS: _edited_offsets}


def _translation(space: str, values: np.ndarray) -> np.ndarray:
    """Return (N, 3): the shift where it is a translation, else 0."""
    moved = np.zeros((len(values), 3))
    if space == BLENDSHAPES:
        moved[:, :2] = values[:, _SHIFT_COLUMNS]
    return moved


def _offsets(values: np.ndarray) -> np.ndarray:
    """Return (N, 63) of slider values (N, S)."""
    above, below = _offset_tables()
    shown = values[:, _OFFSET_COLUMNS]
    return np.maximum(shown, 0) @ above + np.minimum(shown, 0) @ below


def _blendshapes(values: np.ndarray) -> np.ndarray:
    """Return (N, 52) changes of slider values (N, S)."""
    above, below = _blendshape_tables()
    shown = values[:, _EXPRESSION_COLUMNS]
    return np.maximum(shown, 0) @ above + np.maximum(-shown, 0) @ below


@lru_cache(maxsize=1)
def _offset_tables() -> tuple[np.ndarray, np.ndarray]:
    """Return two (E, 63): offsets per natural unit above and below 0."""

    def row(side: SliderSide | None) -> np.ndarray:
        return offsets_row({}) if side is None else side.release_units * offsets_row(side.components)

    sliders = KEYPOINT_SLIDERS.values()
    return np.stack([row(s.above) for s in sliders]), np.stack([row(s.below) for s in sliders])


@lru_cache(maxsize=1)
def _blendshape_tables() -> tuple[np.ndarray, np.ndarray]:
    """Return two (E, 52): changes at a distance of 1 above and below 0."""

    def row(side: SliderSide | None) -> np.ndarray:
        return blendshape_row({} if side is None else side.blendshapes)

    sliders = EXPRESSION_SLIDERS.values()
    return np.stack([row(s.above) for s in sliders]), np.stack([row(s.below) for s in sliders])
