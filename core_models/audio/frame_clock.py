"""The one place that turns seconds into frames."""

from __future__ import annotations

import math
from fractions import Fraction

ROUNDING_SLACK = 1e-6
"""Frames of slack, so that 2.0000000001 s at 25 fps is 50 frames and not 51."""


def frame_count(duration: float, fps: float) -> int:
    """Return how many frames at `fps` cover `duration` seconds: N = ceil(duration * fps - 1e-6), at least 1.

    The rate counts as the fraction it stands for, so that N frames never last less than the sound.
    Raises ValueError for a negative or non-finite duration, or a rate that is not positive.
    """
    if not (math.isfinite(duration) and duration >= 0):
        raise ValueError(f"duration is {duration} s, expected a finite number >= 0")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}, expected a positive number")
    return max(1, math.ceil(duration * exact_rate(fps) - ROUNDING_SLACK))


def exact_rate(fps: float) -> Fraction:
    """Return `fps` as the fraction it stands for: 25 -> 25/1, 29.97 -> 30000/1001, 12.5 -> 25/2."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    if abs(float(ntsc) - fps) < 5e-3 and abs(fps - round(fps)) > 5e-3:
        return ntsc
    return Fraction(fps).limit_denominator(1000)


def sample_count(frames: int, fps: float, sample_rate: int) -> int:
    """Return how many audio samples last as long as `frames` frames, to the nearest sample."""
    return round(Fraction(frames) / exact_rate(fps) * sample_rate)


def frame_times(frames: int, fps: float) -> list[float]:
    """Return the time of each frame's start in seconds."""
    rate = exact_rate(fps)
    return [float(index / rate) for index in range(frames)]
