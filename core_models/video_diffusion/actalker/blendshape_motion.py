"""A motion track in blendshapes as the numbers that models trained here take for a motion signal."""

from __future__ import annotations

import numpy as np

from ...types import BLENDSHAPES, EXPRESSION_SIZE, FaceMotion
from ...video_types import MotionEmbedding

DEGREES_PER_UNIT = 10.0
"""Rotation is divided by this, so that it is about as large as coefficients are."""
HEAD_NUMBERS = 6
SIGNAL_SIZE = EXPRESSION_SIZE[BLENDSHAPES] + HEAD_NUMBERS
"""52 coefficients, rotation and translation."""
MOTION_NUMBERS = SIGNAL_SIZE + HEAD_NUMBERS
"""The signal, and its last six once more: `MotionProjection` keeps rotation as it is beside what it projects."""


def motion_signal(motion: FaceMotion) -> np.ndarray:
    """Return (N, 58) float32: 52 coefficients, pitch, yaw, roll in tens of degrees, translation in face units.

    Raises ValueError for a track in the other space.
    """
    motion.require_space(BLENDSHAPES)
    parts = [motion.expression, motion.rotation / DEGREES_PER_UNIT, motion.translation]
    return np.concatenate(parts, axis=1).astype(np.float32)


def motion_numbers(signal: np.ndarray) -> np.ndarray:
    """Return (..., 64) numbers for `MotionProjection` of a signal (..., 58)."""
    return np.concatenate([signal, signal[..., -HEAD_NUMBERS:]], axis=-1)


def blendshape_embedding(motion: FaceMotion) -> MotionEmbedding:
    """Return a motion track, at its own rate, as models trained here take it. Raises as `motion_signal`."""
    return MotionEmbedding(motion_numbers(motion_signal(motion)), float(motion.fps), BLENDSHAPES)
