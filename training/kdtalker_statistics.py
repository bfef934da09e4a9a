"""Mean and deviation of a KDTalker dataset, gathered clip by clip, and its `norm.npz`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core_models.keypoint_diffusion.motion_vectors import (
    MotionStatistics,
    read_statistics,
    statistics_entries,
)
from ..core_models.whole_file import renamed_when_whole
from .kdtalker_dataset import STATISTICS_FILE, Clip, ClipFile


@dataclass(frozen=True)
class Moments:
    """Count of rows, and per column, (D,) float64: mean, sum of squared differences from it, smallest, largest."""

    count: int
    mean: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def joined(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together (Chan et al. 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.squares + other.squares + apart**2 * (self.count * other.count / count),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def deviation(self) -> np.ndarray:
        """(D,) standard deviations; 1 where nothing ever moves, however rounding has it."""
        spread = np.sqrt(self.squares / self.count)
        return np.where((self.high > self.low) & (spread > 0), spread, 1.0)


def moments_of(rows: np.ndarray) -> Moments:
    """Return the moments of (N, D) rows, N > 0."""
    rows = np.asarray(rows, np.float64)
    mean = rows.mean(axis=0)
    return Moments(len(rows), mean, ((rows - mean) ** 2).sum(axis=0), rows.min(axis=0), rows.max(axis=0))


def dataset_statistics(
    clips: Sequence[ClipFile], progress: Callable[[int, int], None] | None = None
) -> MotionStatistics:
    """Return the statistics of all frames of all clips, one of which is in memory at a time.

    progress: called with (clips done, total). Raises ValueError for a clip that holds NaN, naming it.
    """
    motion, canonical = _joined(_clip_moments(clips, progress))
    return MotionStatistics(motion.mean, motion.deviation, canonical.mean, canonical.deviation)


def clip_statistics(clips: Sequence[Clip]) -> MotionStatistics:
    """Return the statistics of all frames of clips in memory."""
    motion, canonical = _joined((moments_of(clip.motion), moments_of(clip.canonical)) for clip in clips)
    return MotionStatistics(motion.mean, motion.deviation, canonical.mean, canonical.deviation)


def _clip_moments(
    clips: Sequence[ClipFile], progress: Callable[[int, int], None] | None
) -> Iterable[tuple[Moments, Moments]]:
    for done, clip in enumerate(clips, start=1):
        arrays = clip.read(("motion", "canonical"))
        yield moments_of(arrays["motion"]), moments_of(arrays["canonical"])
        if progress is not None:
            progress(done, len(clips))


def _joined(pairs: Iterable[tuple[Moments, Moments]]) -> tuple[Moments, Moments]:
    iterator = iter(pairs)
    motion, canonical = next(iterator)
    for other_motion, other_canonical in iterator:
        motion, canonical = motion.joined(other_motion), canonical.joined(other_canonical)
    return motion, canonical


def write_statistics(statistics: MotionStatistics, folder: Path) -> Path:
    """Write `norm.npz` into a dataset's folder, whole or not at all, as KDTalker publishes it; return its path."""
    target = folder / STATISTICS_FILE
    with renamed_when_whole(target) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **statistics_entries(statistics))
    return target


def read_dataset_statistics(folder: Path) -> MotionStatistics:
    """Return the statistics in a dataset's folder. Raises FileNotFoundError saying how to make them, ValueError for a
    file of another kind."""
    path = folder / STATISTICS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {STATISTICS_FILE}: make it with 'talking-portrait train kdtalker statistics {folder}'"
        )
    return read_statistics(path)
