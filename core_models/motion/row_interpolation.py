"""Rows of numbers between rows of numbers, where some of the numbers are angles."""

from __future__ import annotations

import numpy as np

FULL_TURN = 360.0


def interpolated_rows(
    rows: np.ndarray, known: np.ndarray, wanted: np.ndarray, angles: slice = slice(0)
) -> np.ndarray:
    """Return (N, C) float64: rows (K, C) of the places `known` (K,), increasing, at the places `wanted` (N,).

    In between it goes evenly; before the first place and after the last the rows are held. angles: columns in degrees,
    -180..180, which go the shorter way round and stay in that range.
    """
    going = np.asarray(rows, np.float64).copy()
    going[:, angles] = np.unwrap(going[:, angles], period=FULL_TURN, axis=0)
    found = np.stack([np.interp(wanted, known, column) for column in going.T], axis=1)
    turned = found[:, angles]
    within = (turned + FULL_TURN / 2) % FULL_TURN - FULL_TURN / 2
    found[:, angles] = np.where(np.abs(turned) > FULL_TURN / 2, within, turned)
    return found
