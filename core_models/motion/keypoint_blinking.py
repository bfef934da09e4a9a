"""Blinks in implicit keypoints: seen, and added where a face has stared for too long."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..types import IMPLICIT_KEYPOINTS, FaceMotion
from .blendshape_retargeting import RetargetingBasis, default_basis
from .blinking import BLINKS_PER_MINUTE, blink_shape, blink_track, runs

LONGEST_STARE = 6.0
"""Seconds without a blink after which a face looks lifeless."""
CLOSED_SHARE = 0.5
"""Lids that go down by this share of a full blink, from where they usually are, count as a blink."""
KEPT_APART = 0.6
"""Seconds between a blink that is there and one that is added."""


def blink_offsets(basis: RetargetingBasis | None = None) -> np.ndarray:
    """Return (63,) float64: what both lids closing does to the expression."""
    basis = basis or default_basis()
    return (basis.row("eyeBlinkLeft") + basis.row("eyeBlinkRight")).astype(np.float64)


def lid_closure(expression: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return (N,): how far the lids are down in (N, 63) expressions, 0 where they usually are and 1 in a full blink.

    The share of `offsets` in each expression, less its median along time.
    """
    share = expression.astype(np.float64) @ offsets / (offsets @ offsets)
    return share - np.median(share)


def stares(closure: np.ndarray, fps: float, longest: float = LONGEST_STARE) -> np.ndarray:
    """Return (N,) bool: the frames of stretches longer than `longest` seconds in which no blink is seen."""
    staring = np.zeros(len(closure), bool)
    for first, stop in runs(closure < CLOSED_SHARE):
        if stop - first > longest * fps:
            staring[first:stop] = True
    return staring


def add_missing_blinks(
    motion: FaceMotion,
    rng: np.random.Generator,
    per_minute: float = BLINKS_PER_MINUTE,
    longest_stare: float = LONGEST_STARE,
    basis: RetargetingBasis | None = None,
) -> FaceMotion:
    """Return the motion with blinks added where there is none for more than `longest_stare` seconds.

    Each such stretch gets one at least, more as often as `per_minute` says (`blinking.blink_track`). What blinks by
    itself is left alone, and so is a clip that is shorter than that.
    Raises ValueError for motion in the other space or a rate outside 0..30.
    """
    motion.require_space(IMPLICIT_KEYPOINTS)
    offsets = blink_offsets(basis)
    seen = lid_closure(motion.expression, offsets)
    closure = np.zeros(motion.frame_count)
    apart = round(KEPT_APART * motion.fps)
    for first, stop in runs(stares(seen, motion.fps, longest_stare)):
        low, high = first + apart * (first > 0), stop - apart * (stop < motion.frame_count)
        closure[low:high] = _blinks_within(high - low, motion.fps, rng, per_minute)
    added = np.maximum(closure - np.clip(seen, 0, 1), 0) * (closure > 0)
    if not added.any():
        return motion
    expression = motion.expression + added[:, None] * offsets
    return replace(motion, expression=expression, openings=None)


def _blinks_within(frames: int, fps: float, rng: np.random.Generator, per_minute: float) -> np.ndarray:
    """Return a `blink_track` of a stretch with whole blinks only, one at least when there are to be any."""
    closure = blink_track(frames, fps, rng, per_minute)
    for first, stop in runs(closure > 0):
        if first == 0 or stop == frames:
            closure[first:stop] = 0
    if per_minute > 0 and not closure.any():
        shape = blink_shape(fps, rng)
        start = int(rng.integers(frames // 4, max(frames // 4 + 1, 3 * frames // 4 - len(shape))))
        closure[start : start + len(shape)] = shape
    return closure
