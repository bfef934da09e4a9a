"""KDTalker's 70 numbers per frame, and the statistics that bring them to one measure.

A vector is scale, yaw, pitch, roll (degrees, the motion extractor's), translation (3) and expression (21 x 3).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from ..motion.keypoint_geometry import (
    KEYPOINT_COUNT,
    KeypointReadings,
    extractor_angles,
    extractor_rotation,
)
from ..types import frozen_array

VECTOR_SIZE = 70
CANONICAL_SIZE = 3 * KEYPOINT_COUNT
SCALE, YAW, PITCH, ROLL = 0, 1, 2, 3
TRANSLATION = slice(4, 7)
POSE = slice(1, 7)
"""Head angles and translation."""
EXPRESSION = slice(7, VECTOR_SIZE)
LOWER_LIP = 7 + 3 * 19 + 1
"""How far down the lower lip's keypoint is."""

_PARTS = {"scale": 1, "yaw": 1, "pitch": 1, "roll": 1, "t": 3, "exp": CANONICAL_SIZE}
"""Parts of a vector as the statistics file names them, in order."""


def motion_vectors(readings: KeypointReadings) -> np.ndarray:
    """Return (N, 70) float64 of N readings.

    The depth of the translation is 0, as in the published statistics: neither model nor renderer knows of it.
    """
    angles = extractor_angles(readings.rotation)
    count = readings.frame_count
    parts = [
        readings.scale[:, None],
        angles[:, [1, 0, 2]],
        readings.translation * np.array([1.0, 1.0, 0.0]),
        readings.expression.reshape(count, -1),
    ]
    return np.concatenate(parts, axis=1).astype(np.float64)


def readings_from_vectors(vectors: np.ndarray, canonical: np.ndarray) -> KeypointReadings:
    """Return the readings of (N, 70) vectors on a face of canonical keypoints (1, 21, 3)."""
    return KeypointReadings(
        canonical=canonical,
        expression=vectors[:, EXPRESSION].reshape(len(vectors), KEYPOINT_COUNT, 3),
        rotation=extractor_rotation(vectors[:, [PITCH, YAW, ROLL]]),
        translation=vectors[:, TRANSLATION],
        scale=vectors[:, SCALE],
    )


@dataclass(frozen=True)
class MotionStatistics:
    """Mean and standard deviation of motion vectors, (70,), and of canonical keypoints, (63,); float64, deviations > 0.

    They stay on the processor in full precision: some expression components move by less than 1e-6.
    """

    motion_mean: np.ndarray
    motion_std: np.ndarray
    canonical_mean: np.ndarray
    canonical_std: np.ndarray

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            values = frozen_array(getattr(self, name), np.float64)
            object.__setattr__(self, name, values)
            size = VECTOR_SIZE if name.startswith("motion") else CANONICAL_SIZE
            if values.shape != (size,):
                raise ValueError(f"MotionStatistics.{name} has shape {values.shape}, expected ({size},)")
            if not np.isfinite(values).all():
                raise ValueError(f"MotionStatistics.{name} holds NaN or infinity")
            if name.endswith("std") and (values <= 0).any():
                raise ValueError(
                    f"MotionStatistics.{name} holds {values.min():g}: deviations must be above 0"
                )

    def normalised(self, vectors: np.ndarray) -> np.ndarray:
        """(..., 70) vectors -> z-scores."""
        return (vectors - self.motion_mean) / self.motion_std

    def denormalised(self, scores: np.ndarray) -> np.ndarray:
        """The inverse of `normalised`, float64."""
        return np.asarray(scores, np.float64) * self.motion_std + self.motion_mean

    def canonical_token(self, canonical: np.ndarray) -> np.ndarray:
        """Return (70,): the z-scores of canonical keypoints (63 numbers) where a vector has its expression."""
        scores = (np.asarray(canonical, np.float64).reshape(-1) - self.canonical_mean) / self.canonical_std
        return np.concatenate([np.zeros(VECTOR_SIZE - CANONICAL_SIZE), scores])


def read_statistics(path: str | os.PathLike[str]) -> MotionStatistics:
    """Return the statistics of a `norm.npz` as KDTalker publishes it.

    Raises FileNotFoundError, and ValueError saying what is wrong for a file of another kind: every missing entry and
    every entry of another size is named.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (ValueError, zipfile.BadZipFile, EOFError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not KDTalker's statistics file (an .npz of means and deviations): {error}"
        ) from error
    _require_entries(found, path)
    joined = {
        kind: np.concatenate([found[f"{part}_{kind}"].ravel() for part in _PARTS]) for kind in ("mean", "std")
    }
    try:
        return MotionStatistics(
            joined["mean"], joined["std"], found["kp_mean"].ravel(), found["kp_std"].ravel()
        )
    except ValueError as error:
        raise ValueError(f"{path} does not hold usable statistics: {error}") from error


def _require_entries(found: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    sizes = {**_PARTS, "kp": CANONICAL_SIZE}
    wanted = {f"{part}_{kind}": size for part, size in sizes.items() for kind in ("mean", "std")}
    missing = sorted(set(wanted) - set(found))
    wrong = [
        f"{name} holds {found[name].size} numbers instead of {size}"
        for name, size in wanted.items()
        if name in found and found[name].size != size
    ]
    if missing or wrong:
        faults = [*([f"missing {', '.join(missing)}"] if missing else []), *wrong]
        raise ValueError(f"{path} does not fit KDTalker: {'; '.join(faults)}")


def statistics_entries(statistics: MotionStatistics) -> dict[str, np.ndarray]:
    """Return the entries of a `norm.npz`, float32: `read_statistics` backwards."""
    borders = np.cumsum(list(_PARTS.values()))[:-1]
    entries: dict[str, np.ndarray] = {}
    for kind, values in (("mean", statistics.motion_mean), ("std", statistics.motion_std)):
        for part, numbers in zip(_PARTS, np.split(values, borders), strict=True):
            entries[f"{part}_{kind}"] = numbers.astype(np.float32)
    entries["kp_mean"] = statistics.canonical_mean.astype(np.float32)
    entries["kp_std"] = statistics.canonical_std.astype(np.float32)
    return entries
