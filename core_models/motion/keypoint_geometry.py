"""LivePortrait's implicit keypoints: x = scale (x_c R + expression) + translation.

The axes of the keypoints: x to the picture's right, y down, z away from the camera; units are half sides of the
face crop, with its middle as the origin. R turns row vectors. Angles of this module are the motion extractor's
own; `head_angles` and `keypoint_rotation` go over to the package's convention (core_models/types.py) and back.
All arrays are numpy, computed in float64; functions work on any leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ..face.pose import rotation_angles, rotation_matrix

KEYPOINT_COUNT = 21
POSE_BIN_COUNT = 66
DEGREES_PER_BIN = 3.0
DEGREES_OF_FIRST_BIN = -97.5
"""The released network's bins begin here, 1.5 degrees later than those of the network they were taken from."""

_FLIP = np.diag([1.0, -1.0, -1.0])
"""From y down and z away to y up and z towards the camera, and back."""


def degrees_from_bins(logits: np.ndarray) -> np.ndarray:
    """Return degrees, (...,), expected under the softmax of (..., 66) logits of one head angle.

    What is not 66 wide is in degrees already and is returned as it is, so that doing this twice does no harm.
    """
    logits = np.asarray(logits)
    if logits.ndim < 2 or logits.shape[-1] != POSE_BIN_COUNT:
        return logits
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf), dtype=np.float64)
    bins = weights @ np.arange(POSE_BIN_COUNT) / weights.sum(axis=-1)
    return DEGREES_PER_BIN * bins + DEGREES_OF_FIRST_BIN


def extractor_rotation(angles: np.ndarray) -> np.ndarray:
    """Return R, (..., 3, 3), for row vectors, of the extractor's (..., 3) degrees (pitch, yaw, roll).

    R is the transpose of Rz(roll) Ry(yaw) Rx(pitch) in the keypoints' axes.
    """
    pitch, yaw, roll = np.moveaxis(np.radians(np.asarray(angles, np.float64)), -1, 0)
    cp, sp, cy, sy, cr, sr = (
        np.cos(pitch),
        np.sin(pitch),
        np.cos(yaw),
        np.sin(yaw),
        np.cos(roll),
        np.sin(roll),
    )
    columns = [
        [cr * cy, sr * cy, -sy],
        [cr * sy * sp - sr * cp, sr * sy * sp + cr * cp, cy * sp],
        [cr * sy * cp + sr * sp, sr * sy * cp - cr * sp, cy * cp],
    ]
    return np.stack([np.stack(column, axis=-1) for column in columns], axis=-2)


def extractor_angles(rotation: np.ndarray) -> np.ndarray:
    """Return (..., 3) degrees (pitch, yaw, roll) of the extractor, of R (..., 3, 3): `extractor_rotation` backwards.

    Yaw is within -90..90 degrees.
    """
    yaw = np.arcsin(np.clip(-rotation[..., 0, 2], -1, 1))
    pitch = np.arctan2(rotation[..., 1, 2], rotation[..., 2, 2])
    roll = np.arctan2(rotation[..., 0, 1], rotation[..., 0, 0])
    return np.degrees(np.stack([pitch, yaw, roll], axis=-1))


def head_angles(rotation: np.ndarray) -> np.ndarray:
    """Return (..., 3) degrees (pitch, yaw, roll) of the package's convention of R (..., 3, 3) for row vectors."""
    return rotation_angles(_FLIP @ np.swapaxes(rotation, -1, -2) @ _FLIP)


def keypoint_rotation(angles: np.ndarray) -> np.ndarray:
    """Return R, (..., 3, 3), for row vectors, of (..., 3) degrees of the package's convention."""
    return np.swapaxes(_FLIP @ rotation_matrix(angles) @ _FLIP, -1, -2)


@dataclass(frozen=True)
class KeypointReadings:
    """Implicit keypoints of N frames, as the motion extractor reads them.

    canonical: (N, 21, 3), the keypoints of the face without pose and expression. One of them, (1, 21, 3), may
        stand for all frames.
    expression: (N, 21, 3) offsets. rotation: (N, 3, 3), R for row vectors. translation: (N, 3); its z is never
        used. scale: (N,).
    openings: (N, 3) opening ratios of the eye at the picture's left, the eye at its right, and the lips, None when
        they are not known.
    """

    canonical: np.ndarray
    expression: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    scale: np.ndarray
    openings: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.expression)
        shapes = {
            "canonical": (len(self.canonical), KEYPOINT_COUNT, 3),
            "expression": (count, KEYPOINT_COUNT, 3),
            "rotation": (count, 3, 3),
            "translation": (count, 3),
            "scale": (count,),
            "openings": (count, 3),
        }
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values is not None and np.shape(values) != shape:
                raise ValueError(f"KeypointReadings.{name} has shape {np.shape(values)}, expected {shape}")
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"KeypointReadings.{name} holds NaN or infinity")

    @property
    def frame_count(self) -> int:
        return len(self.expression)

    @property
    def keypoints(self) -> np.ndarray:
        """(N, 21, 3): where the keypoints are."""
        return placed_keypoints(self.canonical, self.rotation, self.expression, self.scale, self.translation)

    def rows(self, index: np.ndarray | slice) -> KeypointReadings:
        """Return the frames that `index` picks."""
        picked = {f.name: getattr(self, f.name) for f in fields(self)}
        keep_canonical = len(self.canonical) != self.frame_count
        return KeypointReadings(
            **{
                name: values if values is None or (name == "canonical" and keep_canonical) else values[index]
                for name, values in picked.items()
            }
        )


def placed_keypoints(
    canonical: np.ndarray,
    rotation: np.ndarray,
    expression: np.ndarray,
    scale: np.ndarray,
    translation: np.ndarray,
) -> np.ndarray:
    """Return scale (canonical R + expression) + (tx, ty, 0), (N, 21, 3).

    canonical, expression: (N, 21, 3); rotation: (N, 3, 3); scale: (N,); translation: (N, 3).
    """
    moved = np.asarray(scale, np.float64)[:, None, None] * (canonical @ rotation + expression)
    return moved + np.asarray(translation, np.float64)[:, None, :] * np.array([1.0, 1.0, 0.0])
