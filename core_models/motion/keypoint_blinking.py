"""Blinks in implicit keypoints: seen, and added where a face has stared for too long."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..types import IMPLICIT_KEYPOINTS, FaceMotion
from .blendshape_retargeting import RetargetingBasis, default_basis
from .blinking import BLINKS_PER_MINUTE, blink_track, runs

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

    What blinks by itself is left alone, and so is a clip that is shorter than that. See `blinking.blink_track`.
    Raises ValueError for motion in the other space or a rate outside 0..30.
    """
    motion.require_space(IMPLICIT_KEYPOINTS)
    offsets = blink_offsets(basis)
    seen = lid_closure(motion.expression, offsets)
    closure = blink_track(motion.frame_count, motion.fps, rng, per_minute)
    allowed = stares(seen, motion.fps, longest_stare)
    blinking = np.flatnonzero(seen >= CLOSED_SHARE)
    for first, stop in runs(closure > 0):
        near = (
            len(blinking)
            and np.abs(np.arange(first, stop)[:, None] - blinking).min() < KEPT_APART * motion.fps
        )
        if near or not allowed[first:stop].all():
            closure[first:stop] = 0
    added = np.maximum(closure - np.clip(seen, 0, 1), 0) * (closure > 0)
    return (
        motion
        if not added.any()
        else replace(motion, expression=motion.expression + added[:, None] * offsets, openings=None)
    )
