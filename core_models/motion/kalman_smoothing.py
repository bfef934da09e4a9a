"""Smoothing of readings along time by a Kalman filter and the Rauch-Tung-Striebel smoother.

A random walk seen with noise, each column by itself: what LivePortrait and KDTalker do with dense matrices that
are multiples of the identity is this, column by column.
"""

from __future__ import annotations

import math

import numpy as np

PROCESS_VARIANCE = 1e-5
OBSERVATION_VARIANCE = 3e-7
"""LivePortrait's defaults: steps are trusted thirty times more than noise, so little is smoothed."""
INITIAL_VARIANCE = 1.0


def kalman_smoothed(
    rows: np.ndarray,
    observation_variance: float = OBSERVATION_VARIANCE,
    process_variance: float = PROCESS_VARIANCE,
) -> np.ndarray:
    """Return (N, ...) rows smoothed along their first axis, float64.

    The state starts at the first row with variance 1, as in the released code of LivePortrait. Larger
    `observation_variance` smooths more; 0 changes nothing.
    Raises ValueError for a negative or non-finite variance, or a process variance of 0.
    """
    for name, value, least in (
        ("observation", observation_variance, 0.0),
        ("process", process_variance, 1e-12),
    ):
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"the {name} variance is {value}, expected a number of at least {least:g}")
    rows = np.asarray(rows, np.float64)
    if observation_variance == 0 or len(rows) == 0:
        return rows.copy()
    predicted, filtered = _variances(len(rows), observation_variance, process_variance)
    means = rows.copy()
    for index in range(1, len(rows)):
        gain = predicted[index] / (predicted[index] + observation_variance)
        means[index] = means[index - 1] + gain * (rows[index] - means[index - 1])
    for index in range(len(rows) - 2, -1, -1):
        means[index] += filtered[index] / predicted[index + 1] * (means[index + 1] - means[index])
    return means


def _variances(count: int, observation_variance: float, process_variance: float) -> tuple[list, list]:
    """Return the variances of the state before and after each observation; they do not depend on the rows."""
    predicted, filtered = [INITIAL_VARIANCE], []
    for _ in range(count):
        filtered.append(predicted[-1] * observation_variance / (predicted[-1] + observation_variance))
        predicted.append(filtered[-1] + process_variance)
    return predicted[:count], filtered
