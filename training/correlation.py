"""Pearson's correlation, as every measure of training uses it."""

from __future__ import annotations

import numpy as np

STILL = 1e-12
"""A product of the two lengths below which something counts as not moving."""


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray | np.float64:
    """Return Pearson's correlation over the first axis of (N, ...) arrays; 0 where one does not change.

    A number for (N,) arrays, else an array of the further axes.
    """
    a, b = (values - values.mean(axis=0) for values in (np.asarray(first, float), np.asarray(second, float)))
    size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), size, out=np.zeros_like(size), where=size > STILL)[()]
