"""Square crops around a face, possibly rotated. Pasting them back is in `pasting.py`.

Coordinates everywhere: pixels, x right, y down, (0, 0) is the centre of the first pixel. An affine is (2, 3)
float32 and maps (x, y, 1).
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from .anchored_crop import CROP_SIZE, SOURCE_CROP_SCALE, SOURCE_CROP_VY_RATIO, anchored_square

FACE_CROP_SIZE = CROP_SIZE
FACE_CROP_SCALE = SOURCE_CROP_SCALE
"""Crop side over the larger side of the box from the brows to the chin: hair, neck and a little shoulder."""
FACE_CROP_RISE = -SOURCE_CROP_VY_RATIO
"""The crop's centre lies this share of its side above that box's centre, to take in the hair."""


def square_crop_to_frame(
    centre: tuple[float, float] | np.ndarray, side: float, angle: float, crop_size: int
) -> np.ndarray:
    """Return the (2, 3) affine from crop pixels to frame pixels of a rotated square.

    centre: (x, y) in frame pixels; side: frame pixels, > 0; angle: degrees the crop's x axis is turned
    clockwise as seen on the picture; crop_size: pixels. The middle of the crop lands on `centre`.
    Raises ValueError for a side or a size that is not positive.
    """
    if not (math.isfinite(side) and side > 0 and crop_size > 0):
        raise ValueError(
            f"a crop needs a positive side and size, got side {side} px and crop_size {crop_size}"
        )
    step = side / crop_size
    along_x = step * np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    along_y = np.array([-along_x[1], along_x[0]])
    origin = np.asarray(centre, np.float64) - (crop_size - 1) / 2 * (along_x + along_y)
    return np.stack([along_x, along_y, origin], axis=1).astype(np.float32)


def face_crop_to_frame(
    landmarks: np.ndarray,
    crop_size: int = FACE_CROP_SIZE,
    scale: float = FACE_CROP_SCALE,
    rise: float = FACE_CROP_RISE,
    cancel_roll: bool = True,
) -> np.ndarray:
    """Return the (2, 3) affine from a square face crop to the frame: the crop LivePortrait cuts of a source.

    landmarks: (478, 2 or 3) or (468, 2 or 3) pixels. scale: crop side over the larger side of the box from
    the brows to the chin and from ear to ear. rise: how far above the box's centre the crop's centre lies, as
    a share of the side. cancel_roll: turn the crop with the head, so that the line from the eyes to the lips
    is upright in it. How closely it agrees with the release is said in `anchored_crop.py`.
    Raises ValueError for another number of landmarks, NaN, or landmarks that all fall on one point.
    """
    square = anchored_square(landmarks, scale, vy_ratio=-rise)
    return (square if cancel_roll else square.upright()).crop_to_frame(crop_size)


def face_roll(points: np.ndarray) -> float:
    """Return degrees the face is turned clockwise on the picture, by the line from the eyes to the lips."""
    return math.degrees(anchored_square(points, FACE_CROP_SCALE).angle)


def invert_affine(affine: np.ndarray) -> np.ndarray:
    """Return the inverse of a (2, 3) affine, (2, 3) float32. Raises ValueError when it has none."""
    linear = np.asarray(affine, np.float64)[:, :2]
    if abs(np.linalg.det(linear)) < 1e-12:
        raise ValueError(
            f"the affine {np.asarray(affine).tolist()} flattens the picture and cannot be inverted"
        )
    inverse = np.linalg.inv(linear)
    return np.concatenate([inverse, -inverse @ np.asarray(affine, np.float64)[:, 2:]], axis=1).astype(
        np.float32
    )


def apply_affine(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map (N, 2) or (N, 3) points by a (2, 3) similarity; a z column is scaled with the picture. float32."""
    affine = np.asarray(affine, np.float64)
    mapped = np.asarray(points, np.float64)[:, :2] @ affine[:, :2].T + affine[:, 2]
    if points.shape[1] == 3:
        scale = math.sqrt(abs(np.linalg.det(affine[:, :2])))
        mapped = np.concatenate([mapped, scale * points[:, 2:]], axis=1)
    return mapped.astype(np.float32)


def crop_face(
    frame: np.ndarray,
    crop_to_frame: np.ndarray,
    crop_size: int,
    border: int = cv2.BORDER_REPLICATE,
    averaged: bool = True,
) -> np.ndarray:
    """Return the (crop_size, crop_size, 3) uint8 crop of an (H, W, 3) uint8 frame.

    averaged: reductions by two and more are averaged, not sampled, so that fine patterns do not alias; False samples
    always, as the release of LivePortrait does. Outside the frame the border mode of OpenCV applies.
    """
    affine = np.asarray(crop_to_frame, np.float64)
    reduction = math.sqrt(abs(np.linalg.det(affine[:, :2])))
    finer = max(1, math.floor(reduction)) if averaged else 1
    to_crop = np.array(
        [[1 / finer, 0, (1 - finer) / (2 * finer)], [0, 1 / finer, (1 - finer) / (2 * finer)], [0, 0, 1]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    sampled = cv2.warpAffine(
        frame, affine @ to_crop, (crop_size * finer,) * 2, flags=flags, borderMode=border
    )
    if finer == 1:
        return sampled
    return cv2.resize(sampled, (crop_size, crop_size), interpolation=cv2.INTER_AREA)
