"""Log-mel of sound that is still coming in, and the level it is brought to meanwhile."""

from __future__ import annotations

import numpy as np

from .mel import (
    FLOOR_DB,
    HOP,
    LOUD_FRAME_DB,
    LOUD_FRAME_PERCENTILE,
    MAX_GAIN_DB,
    MEL_RATE,
    WINDOW,
    loudness_decibels,
    mel_decibels,
)

LEAD = (WINDOW - HOP) // 2
"""Samples of sound on each side of a column's own that its window reaches over: 7.5 ms."""
START_LEVEL_DB = -2.0
"""Level of the loud columns of speech recorded at a usual volume: what a stream is taken for before it is heard."""
START_SECONDS = 0.5
"""How long a sound the start level counts for."""
LEVEL_HALF_LIFE = 20.0
"""Seconds after which what was heard counts half for the level."""
LOWEST_BIN_DB, BINS = -90, 140
"""Levels are counted in bins of 1 dB from here on; below is silence, which does not count."""


class MelStream:
    """Sound in pieces of any length, mel columns out as asked; the columns are those of `mel_decibels`, bit for bit.

    Keeps the sound that columns are still to be made of, no more.
    """

    def __init__(self) -> None:
        self._samples = np.zeros(HOP, np.float32)  # begins one column before the next one
        self.columns = 0
        self.samples_heard = 0

    def push(self, waveform: np.ndarray) -> None:
        """Take samples (n,) float32, mono at 16 kHz. Raises ValueError for another shape or samples not finite."""
        waveform = np.asarray(waveform, np.float32)
        if waveform.ndim != 1:
            raise ValueError(
                f"a stream takes mono sound, samples (n,), but got shape {waveform.shape}: mix the channels to one"
            )
        if not np.isfinite(waveform).all():
            raise ValueError(
                f"sample {self.samples_heard} or a later one is NaN or infinite; repair the source"
            )
        self._samples = np.concatenate([self._samples, waveform])
        self.samples_heard += len(waveform)

    def has(self, columns: int) -> bool:
        """Return whether the sound for the first `columns` columns of the stream is here."""
        return self.samples_heard >= columns * HOP + LEAD

    def take(self, columns: int) -> np.ndarray:
        """Return the columns up to the stream's `columns`-th that were not taken yet, (n, 80) float32 dB.

        Beyond the sound is silence.
        """
        count = columns - self.columns
        wanted = (count + 1) * HOP + LEAD
        heard = self._samples[:wanted]
        heard = np.pad(heard, (0, wanted - len(heard)))
        self._samples = self._samples[count * HOP :]
        self._samples = np.pad(self._samples, (0, max(0, HOP - len(self._samples))))
        self.columns = columns
        return mel_decibels(heard)[1:]


class RunningLevel:
    """The gain `level_gain` would give, from what was heard so far.

    It is the same percentile of the columns' levels, but each counts half after LEVEL_HALF_LIFE, and half a second of
    speech at START_LEVEL_DB is taken to have come before. Silence does not count, so that pauses change nothing.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(BINS)
        self._counts[self._bins(np.array([START_LEVEL_DB]))] = START_SECONDS * MEL_RATE

    def hear(self, mel_db: np.ndarray) -> None:
        """Count columns (n, 80) of mel decibels."""
        levels = loudness_decibels(mel_db)
        self._counts *= 0.5 ** (len(levels) / (LEVEL_HALF_LIFE * MEL_RATE))
        np.add.at(self._counts, self._bins(levels[levels > LOWEST_BIN_DB]), 1.0)

    @property
    def gain(self) -> float:
        """dB that bring the loud columns to -20 dB; never above 35."""
        below = np.cumsum(self._counts)
        wanted = LOUD_FRAME_PERCENTILE / 100 * below[-1]
        index = int(np.searchsorted(below, wanted))
        inside = (wanted - (below[index] - self._counts[index])) / self._counts[index]
        return min(MAX_GAIN_DB, LOUD_FRAME_DB - (LOWEST_BIN_DB + index + inside))

    @staticmethod
    def _bins(levels: np.ndarray) -> np.ndarray:
        return np.clip(np.floor(levels - LOWEST_BIN_DB), 0, BINS - 1).astype(int)


def raised_decibels(mel_db: np.ndarray, gain: float) -> np.ndarray:
    """Return mel decibels with a gain, at least the floor."""
    return np.maximum(mel_db + gain, FLOOR_DB)
