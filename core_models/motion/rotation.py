"""Interpolating and weighting head rotations as rotations, by unit quaternions.

Quaternions are (..., 4) float64 as (w, x, y, z); q and -q are the same rotation. Angles are degrees
(pitch, yaw, roll) in the convention of core_models/types.py.
"""

from __future__ import annotations

import numpy as np

from ..face.pose import rotation_angles

SMALL_ANGLE = 1e-6
"""Radians below which sin(x) / x is taken from its series."""


def quaternions_from_angles(angles: np.ndarray) -> np.ndarray:
    """Return (..., 4) unit quaternions of (..., 3) degrees (pitch, yaw, roll)."""
    half = np.radians(np.asarray(angles, np.float64)) / 2
    zero = np.zeros(half.shape[:-1])
    cos, sin = np.cos(half), np.sin(half)
    about_x = np.stack([cos[..., 0], sin[..., 0], zero, zero], axis=-1)
    about_y = np.stack([cos[..., 1], zero, sin[..., 1], zero], axis=-1)
    about_z = np.stack([cos[..., 2], zero, zero, sin[..., 2]], axis=-1)
    return multiply(multiply(about_y, about_x), about_z)


def angles_from_quaternions(quaternions: np.ndarray) -> np.ndarray:
    """Return (..., 3) degrees (pitch, yaw, roll) of (..., 4) quaternions of any length > 0."""
    length = np.linalg.norm(quaternions, axis=-1, keepdims=True)
    w, x, y, z = np.moveaxis(quaternions / length, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return rotation_angles(np.stack([np.stack(row, axis=-1) for row in rows], axis=-2))


def multiply(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the rotation that does `second`, then `first`: R(first) R(second)."""
    w1, x1, y1, z1 = np.moveaxis(first, -1, 0)
    w2, x2, y2, z2 = np.moveaxis(second, -1, 0)
    return np.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        axis=-1,
    )


def conjugate(quaternions: np.ndarray) -> np.ndarray:
    """Return the inverse rotations."""
    return quaternions * np.array([1.0, -1.0, -1.0, -1.0])


def power(quaternions: np.ndarray, exponent: np.ndarray | float) -> np.ndarray:
    """Return the rotations about the same axes by `exponent` times the angle, the short way round."""
    quaternions = np.where(quaternions[..., :1] < 0, -quaternions, quaternions)
    sine = np.linalg.norm(quaternions[..., 1:], axis=-1)
    half = np.arctan2(sine, quaternions[..., 0])
    scaled = half * exponent
    ratio = np.where(half > SMALL_ANGLE, np.sin(scaled) / np.maximum(sine, SMALL_ANGLE), exponent)
    return np.concatenate([np.cos(scaled)[..., None], quaternions[..., 1:] * ratio[..., None]], axis=-1)


def slerp(first: np.ndarray, second: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    """Return the rotations `weight` (0..1) of the shortest way from `first` to `second`."""
    return multiply(first, power(multiply(conjugate(first), second), weight))


def without_sign_flips(quaternions: np.ndarray) -> np.ndarray:
    """Return an (N, 4) track with signs chosen so that neighbours are close and can be averaged."""
    dots = np.sum(quaternions[1:] * quaternions[:-1], axis=-1)
    signs = np.concatenate([[1.0], np.cumprod(np.where(dots < 0, -1.0, 1.0))])
    return quaternions * signs[:, None]
