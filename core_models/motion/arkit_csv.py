"""Motion as a CSV table in the layout of the Live Link Face app: 52 ARKit coefficients and head rotation.

What is known about the layout, from real exports of the app and from the importers of other programs:
* The header is Timecode, BlendShapeCount, the coefficients in PascalCase, then yaw, pitch and roll of the
  head and of each eye; BlendShapeCount is 61. Some exports list the right eye first: columns are found by
  name, whatever their order and case.
* A timecode is hours:minutes:seconds:frames.thousandths, with frames counted 60 to the second also in takes
  of 30 frames a second.
* Angles are radians: in real takes an eye that looks out by 0.34 has a yaw of -0.267, which is 15 degrees.
  Looking to the person's left is negative yaw, looking down is positive pitch. Head angles are taken to
  follow the same signs, with roll mirrored like yaw; no take with head movement was at hand to check that.
* While no face is seen, rows have BlendShapeCount 0 and may lack the rest.
Eye rotations are not read: the eyeLook coefficients say the same. They are written as 0.
"""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio.frame_clock import exact_rate, frame_times
from ..types import BLENDSHAPE_INDEX, BLENDSHAPES, FaceMotion
from ..whole_file import renamed_when_whole
from .rotation import angles_from_quaternions, conjugate, multiply, quaternions_from_angles
from .track import motion_at

logger = logging.getLogger(__name__)

CSV_BLENDSHAPES: tuple[str, ...] = (
    *("EyeBlinkLeft", "EyeLookDownLeft", "EyeLookInLeft", "EyeLookOutLeft", "EyeLookUpLeft"),
    *("EyeSquintLeft", "EyeWideLeft", "EyeBlinkRight", "EyeLookDownRight", "EyeLookInRight"),
    *("EyeLookOutRight", "EyeLookUpRight", "EyeSquintRight", "EyeWideRight"),
    *("JawForward", "JawRight", "JawLeft", "JawOpen"),
    *("MouthClose", "MouthFunnel", "MouthPucker", "MouthRight", "MouthLeft", "MouthSmileLeft"),
    *("MouthSmileRight", "MouthFrownLeft", "MouthFrownRight", "MouthDimpleLeft", "MouthDimpleRight"),
    *("MouthStretchLeft", "MouthStretchRight", "MouthRollLower", "MouthRollUpper", "MouthShrugLower"),
    *("MouthShrugUpper", "MouthPressLeft", "MouthPressRight", "MouthLowerDownLeft", "MouthLowerDownRight"),
    *("MouthUpperUpLeft", "MouthUpperUpRight", "BrowDownLeft", "BrowDownRight", "BrowInnerUp"),
    *("BrowOuterUpLeft", "BrowOuterUpRight", "CheekPuff", "CheekSquintLeft", "CheekSquintRight"),
    *("NoseSneerLeft", "NoseSneerRight", "TongueOut"),
)
"""The app's order of columns."""
OPTIONAL_BLENDSHAPES = ("TongueOut",)
"""Left out by exports of 51 coefficients; read as 0."""
HEAD_COLUMNS = ("HeadPitch", "HeadYaw", "HeadRoll")
HEAD_SIGNS = np.array([1.0, -1.0, -1.0])
"""From the app's pitch, yaw and roll to ours."""
EYE_COLUMNS = ("LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll", "RightEyeYaw", "RightEyePitch", "RightEyeRoll")
TIMECODE_FRAMES = 60
"""The timecode's frames per second, whatever the take's rate."""
TIMECODE_BASES = (60, 50, 30, 25, 24)
USUAL_RATES = (10, 12, 12.5, 15, 20, 23, 23.976, 24, 25, 29.97, 30, 48, 50, 59.94, 60, 90, 100, 120)
RATE_SLACK = 5e-4
"""Share by which a rate measured from timecodes may miss the usual rate it is taken for."""
LARGEST_JITTER = 0.25
"""Frames by which rows may stray from a constant rate and still be taken as they are."""
LARGEST_COEFFICIENT = 2.0
"""Values up to here are clipped to 1; above, the table is not in 0..1."""
ANGLE_UNITS = ("radians", "degrees")


@dataclass(frozen=True)
class _Table:
    """A CSV file's cells: `header` in lower case, `rows` with the number of the line each came from."""

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def column(self, name: str) -> int | None:
        return self.header.index(name.lower()) if name.lower() in self.header else None

    def numbers(self, name: str) -> np.ndarray:
        """Return one column as (N,) float64; raise ValueError naming the first cell that is no number."""
        column = self.column(name)
        return np.array([self._number(line, cells[column], name) for line, cells in self.rows])

    def _number(self, line: int, cell: str, name: str) -> float:
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{self.path}, line {line}, column {name}: {cell!r} is not a number")
        return value


def read_arkit_csv(
    path: str | os.PathLike[str],
    fps: float | None = None,
    angle_unit: str = "radians",
    centre_pose: bool = False,
) -> FaceMotion:
    """Return the motion in a Live Link Face table, in the blendshape space.

    fps: the rate of the rows; None takes it from the timecodes. Rows that were dropped or lost the face are
    filled in by interpolation.
    angle_unit: "radians", as the app writes, or "degrees", as some other programs do.
    centre_pose: whether the take's median head rotation counts as rest; the app's angles are absolute.
    The table has no translation or scale: both stay at rest.
    Raises OSError for a path that cannot be read, and ValueError for an empty file, missing columns (all are
    named), rows with another number of fields, cells that are no numbers, or values out of range.
    """
    if angle_unit not in ANGLE_UNITS:
        raise ValueError(f"angle_unit is {angle_unit!r}; choose radians or degrees")
    table = _read_table(Path(path))
    _expect_columns(table, needs_timecode=fps is None)
    times = _times(table, fps)
    rate = fps if fps is not None else _rate(times, table)
    kept = _rows_with_face(table)
    table = _Table(table.path, table.header, [table.rows[index] for index in kept])
    motion = FaceMotion(
        space=BLENDSHAPES,
        fps=rate,
        expression=_coefficients(table),
        rotation=_head_rotation(table, angle_unit, centre_pose),
        translation=np.zeros((len(table.rows), 3)),
        scale=np.ones(len(table.rows)),
    )
    return _at_constant_rate(motion, times[kept], times[-1])


def _read_table(path: Path) -> _Table:
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            lines = [(number, cells) for number, cells in enumerate(csv.reader(file), start=1) if any(cells)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a CSV text file ({error})") from error
    if not lines:
        raise ValueError(f"{path} is empty, expected a header line and one line per frame")
    table = _Table(path, [name.strip().lower() for name in lines[0][1]], lines[1:])
    if not table.rows:
        raise ValueError(f"{path} has a header but no frames")
    return table


def _expect_columns(table: _Table, needs_timecode: bool) -> None:
    """Raise ValueError naming all columns that are missing."""
    needed = [name for name in CSV_BLENDSHAPES if name not in OPTIONAL_BLENDSHAPES]
    if any(table.column(name) is not None for name in HEAD_COLUMNS):
        needed += HEAD_COLUMNS
    missing = [name for name in needed if table.column(name) is None]
    if missing:
        raise ValueError(
            f"{table.path} lacks {len(missing)} columns of a Live Link Face table: {', '.join(missing)}"
        )
    if needs_timecode and table.column("Timecode") is None:
        raise ValueError(f"{table.path} has no Timecode column: give the rate of its rows as fps")


def _times(table: _Table, fps: float | None) -> np.ndarray:
    """Return (N,) seconds from the first row on, strictly increasing."""
    if fps is not None:
        return np.array(frame_times(len(table.rows), fps))
    column = table.column("Timecode")
    for line, cells in table.rows:
        if len(cells) <= column:
            raise _wrong_length(table, line, cells)
    parts = np.array([_timecode_parts(table, line, cells[column]) for line, cells in table.rows])
    seconds = parts[:, 0] + parts[:, 1] / _timecode_base(parts)
    seconds = seconds + 86400 * np.cumsum(np.diff(seconds, prepend=seconds[0]) < -43200)  # midnight
    back = np.flatnonzero(np.diff(seconds) <= 0)
    if len(back):
        line, cells = table.rows[back[0] + 1]
        raise ValueError(
            f"{table.path}, line {line}: the timecode {cells[column]} is not later than the one before"
        )
    return seconds - seconds[0]


def _timecode_parts(table: _Table, line: int, timecode: str) -> tuple[float, float]:
    """Return (whole seconds, frames) of HH:MM:SS:FF.fff."""
    try:
        hours, minutes, seconds, frames = (float(part) for part in timecode.split(":"))
    except ValueError:
        raise ValueError(
            f"{table.path}, line {line}, column Timecode: {timecode!r} is not HH:MM:SS:FF.fff"
        ) from None
    return hours * 3600 + minutes * 60 + seconds, frames


def _timecode_base(parts: np.ndarray) -> int:
    """Return how many frames the timecode counts to a second: the count that makes the steps most even."""
    possible = [base for base in TIMECODE_BASES if base > parts[:, 1].max()]
    if not possible or len(parts) < 2:
        return TIMECODE_FRAMES
    spreads = [float(np.ptp(np.diff(parts[:, 0] + parts[:, 1] / base))) for base in possible]
    return possible[int(np.argmin(np.round(spreads, 4)))]


def _rows_with_face(table: _Table) -> list[int]:
    """Return the rows in which the app saw a face; raise ValueError for rows of the wrong length."""
    count = table.column("BlendShapeCount")
    kept = []
    for index, (line, cells) in enumerate(table.rows):
        if count is not None and len(cells) > count and cells[count].strip() in ("0", "0.0"):
            continue
        if len(cells) != len(table.header):
            raise _wrong_length(table, line, cells)
        kept.append(index)
    if not kept:
        raise ValueError(f"{table.path}: no row has a face (BlendShapeCount is 0 in all)")
    if len(kept) < len(table.rows):
        lost = len(table.rows) - len(kept)
        logger.warning("%s: %d of %d rows have no face; filled in", table.path, lost, len(table.rows))
    return kept


def _wrong_length(table: _Table, line: int, cells: list[str]) -> ValueError:
    return ValueError(
        f"{table.path}, line {line}: {len(cells)} fields, but the header has {len(table.header)}"
    )


def _rate(times: np.ndarray, table: _Table) -> float:
    """Return the rate that the timecodes show: the usual one next to it, or as measured."""
    if len(times) < 2:
        raise ValueError(f"{table.path} has one frame only, which shows no rate: give fps")
    measured = 1 / float(np.median(np.diff(times)))
    usual = min(USUAL_RATES, key=lambda rate: abs(rate / measured - 1))
    return float(usual) if abs(usual / measured - 1) <= RATE_SLACK else round(measured, 3)


def _at_constant_rate(motion: FaceMotion, times: np.ndarray, end: float) -> FaceMotion:
    """Return one frame per 1 / fps from 0 to `end` seconds; `times` (N,) are those of the motion's frames."""
    rate = float(exact_rate(motion.fps))
    numbers = times * rate
    frames = np.arange(round(end * rate) + 1)
    if len(frames) == len(numbers) and np.abs(numbers - frames).max() <= LARGEST_JITTER:
        return motion
    return motion_at(motion, np.interp(frames, numbers, np.arange(len(numbers))), motion.fps)


def _coefficients(table: _Table) -> np.ndarray:
    """Return (N, 52) in the order of BLENDSHAPE_NAMES, clipped to 0..1."""
    expression = np.zeros((len(table.rows), len(BLENDSHAPE_INDEX)))
    for name in CSV_BLENDSHAPES:
        if table.column(name) is None:
            continue
        values = table.numbers(name)
        if values.max() > LARGEST_COEFFICIENT:
            line = table.rows[int(values.argmax())][0]
            raise ValueError(
                f"{table.path}, line {line}, column {name}: {values.max():g} is far above 1; coefficients "
                "are 0 to 1, not percent"
            )
        expression[:, BLENDSHAPE_INDEX[name[0].lower() + name[1:]]] = values
    if expression.min() < 0 or expression.max() > 1:
        logger.warning("%s: coefficients outside 0..1 are clipped", table.path)
    return np.clip(expression, 0, 1)


def _head_rotation(table: _Table, angle_unit: str, centre_pose: bool) -> np.ndarray:
    """Return (N, 3) degrees (pitch, yaw, roll); zero where the table has no head columns."""
    if table.column(HEAD_COLUMNS[0]) is None:
        return np.zeros((len(table.rows), 3))
    angles = np.stack([table.numbers(name) for name in HEAD_COLUMNS], axis=1)
    if angle_unit == "radians":
        if np.abs(angles).max() > 2 * math.pi:
            raise ValueError(
                f"{table.path}: head angles reach {np.abs(angles).max():g}, too much for radians; "
                "set angle_unit to 'degrees'"
            )
        angles = np.degrees(angles)
    angles = angles * HEAD_SIGNS
    if not centre_pose:
        return angles
    rest = quaternions_from_angles(np.median(angles, axis=0))
    return angles_from_quaternions(multiply(conjugate(rest), quaternions_from_angles(angles)))


def write_arkit_csv(motion: FaceMotion, path: str | os.PathLike[str]) -> None:
    """Write a motion of the blendshape space as a Live Link Face table (angles in radians).

    Translation and scale have no columns and are left out; eye rotations are 0. The file appears when whole.
    Raises ValueError for the other space, OSError for a folder that cannot be written to.
    """
    motion.require_space(BLENDSHAPES)
    if np.abs(motion.translation).max() > 0 or (motion.scale != 1).any():
        logger.warning("%s: the table has no columns for translation and scale; they are left out", path)
    order = [BLENDSHAPE_INDEX[name[0].lower() + name[1:]] for name in CSV_BLENDSHAPES]
    head = np.radians(motion.rotation.astype(np.float64) * HEAD_SIGNS)[:, [1, 0, 2]]
    values = np.concatenate(
        [motion.expression[:, order], head, np.zeros((len(head), len(EYE_COLUMNS)))], axis=1
    )
    with (
        renamed_when_whole(Path(path)) as unfinished,
        open(unfinished, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(
            [
                "Timecode",
                "BlendShapeCount",
                *CSV_BLENDSHAPES,
                "HeadYaw",
                "HeadPitch",
                "HeadRoll",
                *EYE_COLUMNS,
            ]
        )
        for time, row in zip(frame_times(motion.frame_count, motion.fps), values, strict=True):
            writer.writerow([_timecode(time), values.shape[1], *_fixed(row)])


def _timecode(seconds: float) -> str:
    """Return HH:MM:SS:FF.fff, 60 frames to the second."""
    whole, thousandths = divmod(round(seconds * TIMECODE_FRAMES * 1000), TIMECODE_FRAMES * 1000)
    clock = f"{whole // 3600 % 24:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{clock}:{thousandths // 1000:02d}.{thousandths % 1000:03d}"


def _fixed(values: Sequence[float]) -> list[str]:
    return [f"{value:.10f}" for value in values]
