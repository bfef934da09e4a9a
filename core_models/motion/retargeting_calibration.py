"""Fitting the blendshape basis to what a renderer makes of it, and keeping the result in a file.

The default basis stands on published slider steps and measured templates: its directions are right, but how far a
real portrait's mouth opens when (19, y) moves by 0.1 is only known from the templates, and what else moves with it is
not known at all. Calibration asks: it renders one portrait with every direction pushed both ways, reads the pictures
with the face landmark network, and mixes and scales the directions so that a coefficient that is asked for is what is
read. What the reader cannot see or the renderer cannot make keeps its default row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES, EXPRESSION_SIZE, IMPLICIT_KEYPOINTS, frozen_array
from ..whole_file import renamed_when_whole
from .blendshape_retargeting import RetargetingBasis
from .expression_editor import ExpressionEdit, edit_offsets
from .expression_sliders import EXPRESSION_SLIDERS

FILE_FORMAT = "talking_portrait.retargeting_basis"
FILE_VERSION = 1

SAME_DIRECTION = 0.9999
"""Cosine above which two directions, or a direction and another's opposite, are rendered once."""
PINNED = (0.02, 0.98)
"""Readings outside are at the end of their range, so a difference taken there says too little."""
SEEN_RESPONSE = 0.1
"""A shape takes part when some direction changes its reading by this much per natural unit."""
OPPOSITE = -0.8
"""Cosine below which two shapes are opposites, such as looking up and down: one read less is not a fault."""
RIDGE = 0.02
LARGEST_CHANGE = 2.0
"""Natural units of any direction by which a row may leave the default."""
GAIN_RANGE = (0.25, 4.0)
"""How far a row may shrink or grow along its default; so nothing turns round and jawOpen stays monotone."""

TIED_ROWS = {"mouthClose": "jawOpen"}
"""Not calibrated: mouthClose stays the opposite of jawOpen, or lips would no longer meet on p, b and m."""

_OFFSET_COUNT = EXPRESSION_SIZE[IMPLICIT_KEYPOINTS]

Renderer = Callable[[np.ndarray], Iterable[np.ndarray]]
"""From offsets (K, 63) added to a portrait's own to its K pictures, (H, W, 3) uint8 RGB, in order."""
Reader = Callable[[np.ndarray], "np.ndarray | None"]
"""From a picture to (52,) coefficients in 0..1; None when it shows no face."""


@dataclass(frozen=True)
class RendererResponse:
    """What a renderer makes of directions, as the reader sees it.

    directions: (K, 63) float32 offsets. response: (K, 52) float32, change of the reading per 1 of a direction.
    measured: (K,) bool; False where no picture with the direction showed a face, and the response is 0.
    """

    directions: np.ndarray
    response: np.ndarray
    measured: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.directions)
        shapes = {
            "directions": ((count, _OFFSET_COUNT), np.float32),
            "response": ((count, len(BLENDSHAPE_NAMES)), np.float32),
            "measured": ((count,), np.bool_),
        }
        for name, (shape, dtype) in shapes.items():
            object.__setattr__(self, name, frozen_array(getattr(self, name), dtype))
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"RendererResponse.{name} has shape {getattr(self, name).shape}, expected {shape}"
                )
        if not (np.isfinite(self.directions).all() and np.isfinite(self.response).all()):
            raise ValueError("RendererResponse holds NaN or infinity")


def calibration_directions(default: RetargetingBasis) -> np.ndarray:
    """Return (K, 63) float64 directions worth asking a renderer about, each one natural unit long.

    The rows of the default basis and the expression editor's sliders at 1 (and at -1, where they go); rows of 0 and
    those that point along one already there, either way, are left out.
    """
    sliders = [edit_offsets(ExpressionEdit(**{name: 1.0})) for name in EXPRESSION_SLIDERS]
    falling = [name for name, slider in EXPRESSION_SLIDERS.items() if slider.below is not None]
    sliders += [edit_offsets(ExpressionEdit(**{name: -1.0})) for name in falling]
    kept: list[np.ndarray] = []
    for row in [*default.matrix.astype(np.float64), *sliders]:
        if row.any() and not any(abs(_cosine(row, other)) > SAME_DIRECTION for other in kept):
            kept.append(row)
    return np.stack(kept) if kept else np.zeros((0, _OFFSET_COUNT))


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def measure_response(
    render: Renderer, read: Reader, directions: np.ndarray, amplitude: float = 0.5
) -> RendererResponse:
    """Return how a renderer answers directions, by central differences about the portrait as it is.

    directions: (K, 63) offsets. amplitude: > 0, how much of each is added and taken away. 2 K + 1 pictures are
    rendered, in one call, and read one by one as they come.
    Where a reading is at the end of its range on one side of rest (a closed mouth reads jawOpen 0 and cannot read
    less), only the other side counts; likewise where one of the two pictures shows no face.
    Raises ValueError for directions of another shape, an amplitude that is not positive, another number of pictures
    than asked for, a portrait without a face at rest, or a reading of another shape.
    """
    directions = np.asarray(directions, np.float64)
    if directions.ndim != 2 or directions.shape[1] != _OFFSET_COUNT or not len(directions):
        raise ValueError(
            f"directions have shape {directions.shape}, expected (K, {_OFFSET_COUNT}) with K at least 1"
        )
    if not (np.isfinite(amplitude) and amplitude > 0):
        raise ValueError(f"amplitude is {amplitude}, expected a positive number")
    pushed = amplitude * directions
    asked = np.concatenate([np.zeros((1, _OFFSET_COUNT)), pushed, -pushed])
    readings = [_checked_reading(read(picture)) for picture in render(asked)]
    if len(readings) != len(asked):
        raise ValueError(f"the renderer gave {len(readings)} pictures for {len(asked)} offsets")
    rest, count = readings[0], len(directions)
    if rest is None:
        raise ValueError(
            "no face is found in the portrait as it is rendered at rest: choose another portrait"
        )
    pairs = list(zip(readings[1 : count + 1], readings[count + 1 :], strict=True))
    return RendererResponse(
        directions=directions,
        response=np.stack([_slope(rest, plus, minus) for plus, minus in pairs]) / amplitude,
        measured=np.array([plus is not None or minus is not None for plus, minus in pairs]),
    )


def _checked_reading(reading: np.ndarray | None) -> np.ndarray | None:
    if reading is None:
        return None
    reading = np.asarray(reading, np.float64)
    if reading.shape != (len(BLENDSHAPE_NAMES),) or not np.isfinite(reading).all():
        raise ValueError(
            f"a reading has shape {reading.shape}, expected ({len(BLENDSHAPE_NAMES)},) finite coefficients"
        )
    return reading


def _slope(rest: np.ndarray, plus: np.ndarray | None, minus: np.ndarray | None) -> np.ndarray:
    """Return (52,): change of the readings per amplitude, from the sides of rest that can be trusted."""
    if plus is None or minus is None:
        return np.zeros_like(rest) if plus is minus else (rest - minus if plus is None else plus - rest)
    rise, fall = plus - rest, rest - minus
    larger = np.where(np.abs(rise) >= np.abs(fall), rise, fall)
    result = np.where(_pinned(plus), fall, np.where(_pinned(minus), rise, (rise + fall) / 2))
    return np.where(_pinned(plus) & _pinned(minus), larger, result)


def _pinned(reading: np.ndarray) -> np.ndarray:
    return (reading < PINNED[0]) | (reading > PINNED[1])


def calibrated_basis(
    default: RetargetingBasis,
    response: RendererResponse,
    ridge: float = RIDGE,
    weights_sha256: str = "",
    portrait: str = "",
) -> RetargetingBasis:
    """Return a basis in which coefficient c asked for is c read, as far as the renderer can.

    For every shape, the mix m of directions that minimises |m response - e|^2 + ridge |m - m_default|^2, with e 1 for
    the shape itself and 0 for all others (but opposites, which fall as it rises). Shapes that the renderer cannot tell
    apart, such as the two sides of a smile, so share what they do: both asked for are both read.
    ridge: > 0; more stays closer to the default. Noise cannot blow a row up: no direction's share moves by more than
    LARGEST_CHANGE, and along its default a row stays within GAIN_RANGE times as long.
    Rows keep their default where they are 0 there, where no direction changes the shape's reading by SEEN_RESPONSE,
    and where the directions do not hold them; `mouthClose` stays the opposite of `jawOpen`.
    weights_sha256, portrait: what the response was measured on, to be noted.
    Raises ValueError for a ridge that is not positive.
    """
    if not (np.isfinite(ridge) and ridge > 0):
        raise ValueError(f"ridge is {ridge}, expected a positive number")
    directions = response.directions[response.measured].astype(np.float64)
    answers = response.response[response.measured].astype(np.float64)
    matrix = default.matrix.astype(np.float64)
    for index in _calibratable_rows(default, answers):
        start = _mix_of(matrix[index], directions)
        if start is not None:
            wanted = _wanted_reading(start @ answers, default.matrix.astype(np.float64), index)
            change = _mix_change(start, answers, wanted, ridge)
            matrix[index] = _within_gains(matrix[index] + change @ directions, matrix[index])
    for tied, leader in TIED_ROWS.items():
        matrix[BLENDSHAPE_INDEX[tied]] = -matrix[BLENDSHAPE_INDEX[leader]]
    return replace(
        default,
        matrix=matrix,
        name="calibrated",
        made_from=f"{default.made_from}; calibrated on {len(directions)} directions with ridge {ridge:g}",
        weights_sha256=weights_sha256,
        portrait=portrait,
    )


def _calibratable_rows(default: RetargetingBasis, answers: np.ndarray) -> list[int]:
    seen = np.abs(answers).max(axis=0, initial=0) >= SEEN_RESPONSE
    tied = [BLENDSHAPE_INDEX[name] for name in TIED_ROWS]
    return [index for index in np.flatnonzero(seen & default.matrix.any(axis=1)) if index not in tied]


def _mix_of(row: np.ndarray, directions: np.ndarray) -> np.ndarray | None:
    """Return (K,) shares of directions that make a row: all of one that points its way; None where none does."""
    for position, direction in enumerate(directions):
        cosine = _cosine(row, direction)
        if abs(cosine) > SAME_DIRECTION:
            shares = np.zeros(len(directions))
            shares[position] = np.sign(cosine) * np.linalg.norm(row) / np.linalg.norm(direction)
            return shares
    return None


def _wanted_reading(predicted: np.ndarray, matrix: np.ndarray, index: int) -> np.ndarray:
    """Return (52,): 1 for the shape, for its opposites what they fall by then, 0 for all others.

    predicted: (52,), what the default row would read.
    """
    lengths = np.maximum(np.linalg.norm(matrix, axis=1), 1e-12)
    opposite = matrix @ matrix[index] / (lengths * lengths[index]) < OPPOSITE
    wanted = np.where(opposite, np.minimum(predicted, 0) / np.clip(predicted[index], *GAIN_RANGE), 0.0)
    wanted[index] = 1.0
    return wanted


def _mix_change(start: np.ndarray, answers: np.ndarray, wanted: np.ndarray, ridge: float) -> np.ndarray:
    """Return (K,) by how much the shares of directions change to read `wanted`, bounded."""
    missing = wanted - start @ answers
    change = np.linalg.solve(answers @ answers.T + ridge * np.eye(len(answers)), answers @ missing)
    return change * min(1.0, LARGEST_CHANGE / max(float(np.abs(change).max()), 1e-12))


def _within_gains(row: np.ndarray, default: np.ndarray) -> np.ndarray:
    """Return the row with its length along the default one within GAIN_RANGE."""
    gain = float(row @ default / (default @ default))
    return row + (np.clip(gain, *GAIN_RANGE) - gain) * default


def save_basis(basis: RetargetingBasis, path: str | Path) -> None:
    """Write a basis as JSON; the file appears under its name only when it is whole.

    Raises OSError when the folder is missing or cannot be written to.
    """
    content = {
        "format": FILE_FORMAT,
        "version": FILE_VERSION,
        "name": basis.name,
        "made_from": basis.made_from,
        "weights_sha256": basis.weights_sha256,
        "portrait": basis.portrait,
        "offsets": {
            name: [float(f"{value:.9g}") for value in row]
            for name, row in zip(BLENDSHAPE_NAMES, basis.matrix, strict=True)
        },
    }
    with renamed_when_whole(Path(path)) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_basis(path: str | Path) -> RetargetingBasis:
    """Return the basis that `save_basis` wrote.

    Raises OSError when the file cannot be read, and ValueError when it is not such a file: no JSON, another format or
    version, shapes missing or unknown, rows of another length, or values that are not numbers.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): choose a file written by the calibration") from error
    if not isinstance(content, dict) or content.get("format") != FILE_FORMAT:
        raise ValueError(f"{path} is not a retargeting basis: choose a file written by the calibration")
    if content.get("version") != FILE_VERSION:
        raise ValueError(
            f"{path} is version {content.get('version')!r} of the format, expected {FILE_VERSION}: calibrate again"
        )
    notes = {name: str(content.get(name, "")) for name in ("name", "made_from", "weights_sha256", "portrait")}
    return RetargetingBasis(matrix=_matrix_from(content.get("offsets"), path), **notes)


def _matrix_from(offsets: object, path: Path) -> np.ndarray:
    """Return (52, 63) from {ARKit name: 63 numbers}."""
    names = set(offsets) if isinstance(offsets, dict) else set()
    if names != set(BLENDSHAPE_NAMES):
        wrong = sorted(names ^ set(BLENDSHAPE_NAMES))
        raise ValueError(f"{path} does not hold exactly the 52 ARKit shapes; see {', '.join(wrong[:5])}")
    try:
        rows = [np.array(offsets[name], np.float64) for name in BLENDSHAPE_NAMES]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds offsets that are not numbers ({error})") from error
    for name, row in zip(BLENDSHAPE_NAMES, rows, strict=True):
        if row.shape != (_OFFSET_COUNT,):
            raise ValueError(f"{path} holds {name} of shape {row.shape}, expected ({_OFFSET_COUNT},)")
    return np.stack(rows)
