"""Blinks and gaze shifts of a motion that is still being made: they go on for ever, and what was given stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..types import BLENDSHAPES, FaceMotion
from .blinking import (
    GAZE_REACH,
    GAZE_SHIFTS_PER_MINUTE,
    LARGEST_GAZE,
    MOST_BLINKS_PER_MINUTE,
    SACCADE_SECONDS,
    blink_shape,
    with_blinks,
    with_gaze,
)

FURTHEST_AHEAD = 1.0
"""Seconds by which events are drawn before they come; longer than a blink takes to close."""


class BlinkStream:
    """`blink_track` piece by piece: intervals and shapes are its, the order in which they are drawn is not."""

    def __init__(self, fps: float, rng: np.random.Generator, per_minute: float) -> None:
        if not 0 <= per_minute <= MOST_BLINKS_PER_MINUTE:
            raise ValueError(f"per_minute is {per_minute}, expected 0 to {MOST_BLINKS_PER_MINUTE:g} blinks")
        self._fps, self._rng = fps, rng
        self._interval = 60 / per_minute if per_minute else np.inf
        self._next = rng.uniform(0.2, 1.0) * self._interval
        self._coming: list[tuple[int, np.ndarray]] = []
        self._frame = 0

    def take(self, count: int) -> np.ndarray:
        """Return how far the lids are closed in the next `count` frames, (count,) float64 in 0..1."""
        first, stop = self._frame, self._frame + count
        while self._next < stop / self._fps + FURTHEST_AHEAD:
            shape = blink_shape(self._fps, self._rng)
            self._coming.append((round(self._next * self._fps) - int(np.argmax(shape)), shape))
            self._next += self._rng.uniform(0.5, 1.5) * self._interval
        closure = np.zeros(count)
        for start, shape in self._coming:
            rows = np.arange(max(start, first), min(start + len(shape), stop))
            closure[rows - first] = np.maximum(closure[rows - first], shape[rows - start])
        self._coming = [(start, shape) for start, shape in self._coming if start + len(shape) > stop]
        self._frame = stop
        return closure


class GazeStream:
    """`gaze_track` piece by piece: every other fixation is on the viewer."""

    def __init__(
        self, fps: float, rng: np.random.Generator, per_minute: float = GAZE_SHIFTS_PER_MINUTE
    ) -> None:
        self._fps, self._rng = fps, rng
        self._interval = 60 / per_minute
        self._next = rng.uniform(0.2, 1.0) * self._interval
        self._settled, self._target = np.zeros(2), np.zeros(2)
        self._on_viewer = True
        self._shifts: list[tuple[float, np.ndarray]] = []
        self._frame = 0

    def take(self, count: int) -> np.ndarray:
        """Return where the eyes look in the next `count` frames, (count, 2) float64: x to the right, y up."""
        middles = (np.arange(self._frame, self._frame + count) + 0.5) / self._fps
        self._frame += count
        end = self._frame / self._fps
        while self._next < end:
            self._shifts.append((self._next, self._step()))
            self._next += self._rng.uniform(0.5, 1.5) * self._interval
        gaze = np.tile(self._settled, (count, 1))
        for time, step in self._shifts:
            gaze += np.clip((middles - time) / SACCADE_SECONDS, 0, 1)[:, None] * step
        over = [time + SACCADE_SECONDS <= end for time, _ in self._shifts]
        self._settled = self._settled + sum(
            (step for (_, step), done in zip(self._shifts, over, strict=True) if done), np.zeros(2)
        )
        self._shifts = [shift for shift, done in zip(self._shifts, over, strict=True) if not done]
        return gaze

    def _step(self) -> np.ndarray:
        """Return the way from the fixation that ends to the next one."""
        away = np.clip(self._rng.normal(0, GAZE_REACH), -LARGEST_GAZE, LARGEST_GAZE)
        target = away if self._on_viewer else np.zeros(2)
        step = target - self._target
        self._target, self._on_viewer = target, not self._on_viewer
        return step


class EyeLifeStream:
    """Blinks and saccades for a motion in blendshapes that comes piece by piece, each from a generator of its own."""

    def __init__(self, fps: float, seed: int, blinks_per_minute: float, gaze: bool) -> None:
        blink_seed, gaze_seed = np.random.SeedSequence(seed % 2**63).spawn(2)
        self._blinks = BlinkStream(fps, np.random.default_rng(blink_seed), blinks_per_minute)
        self._gaze = GazeStream(fps, np.random.default_rng(gaze_seed)) if gaze else None

    def added_to(self, motion: FaceMotion) -> FaceMotion:
        """Return the next piece of the motion with its eyes alive."""
        motion.require_space(BLENDSHAPES)
        expression = with_blinks(motion.expression, self._blinks.take(motion.frame_count))
        if self._gaze is not None:
            expression = with_gaze(expression, self._gaze.take(motion.frame_count))
        return replace(motion, expression=expression)
