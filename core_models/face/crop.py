"""Square crops around a face, possibly rotated, and pasting them back.

Coordinates everywhere: pixels, x right, y down, (0, 0) is the centre of the first pixel. An affine is (2, 3)
float32 and maps (x, y, 1).
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from .topology import EYE_LEFT_CONTOUR, EYE_RIGHT_CONTOUR, LIPS_CONTOUR, MESH_POINT_COUNT

FACE_CROP_SIZE = 512
FACE_CROP_SCALE = 2.3
"""Crop side over the larger side of the landmarks' box: hair, neck and a little of the shoulders."""
FACE_CROP_RISE = 0.125
"""The crop's centre lies this share of its side above the landmarks' centre, to take in the hair."""


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
    """Return the (2, 3) affine from a square face crop to the frame.

    landmarks: (478, 3) or (468, 3) pixels. scale: crop side over the larger side of the landmarks' box.
    rise: how far above the box's centre the crop's centre lies, as a share of the side. cancel_roll: turn
    the crop with the head, so that the line from the eyes to the lips is upright in it.
    """
    points = np.asarray(landmarks, np.float64)[:MESH_POINT_COUNT, :2]
    angle = face_roll(points) if cancel_roll else 0.0
    axes = _rotation(angle)
    turned = points @ axes
    low, high = turned.min(axis=0), turned.max(axis=0)
    side = scale * float((high - low).max())
    centre = (low + high) / 2 - np.array([0, rise * side])
    return square_crop_to_frame(axes @ centre, side, angle, crop_size)


def face_roll(points: np.ndarray) -> float:
    """Return degrees the face is turned clockwise on the picture, by the line from the eyes to the lips."""
    eyes = points[list(EYE_LEFT_CONTOUR + EYE_RIGHT_CONTOUR), :2].mean(axis=0)
    down = points[list(LIPS_CONTOUR), :2].mean(axis=0) - eyes
    return math.degrees(math.atan2(-down[0], down[1])) if np.hypot(*down) > 1e-3 else 0.0


def _rotation(angle: float) -> np.ndarray:
    """Return (2, 2) whose columns are the crop's x and y axes on the picture."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[cosine, -sine], [sine, cosine]])


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
    frame: np.ndarray, crop_to_frame: np.ndarray, crop_size: int, border: int = cv2.BORDER_REPLICATE
) -> np.ndarray:
    """Return the (crop_size, crop_size, 3) uint8 crop of an (H, W, 3) uint8 frame.

    Large reductions are averaged, not sampled, so that fine patterns do not alias. Outside the frame the
    border mode of OpenCV applies.
    """
    affine = np.asarray(crop_to_frame, np.float64)
    finer = max(1, math.floor(math.sqrt(abs(np.linalg.det(affine[:, :2])))))
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


def paste_back(
    frame: np.ndarray, crop: np.ndarray, crop_to_frame: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Return a copy of `frame` with `crop` laid over it through a soft mask.

    frame: (H, W, 3) uint8; crop: (S, S, 3) uint8; crop_to_frame: (2, 3) affine; mask: (S, S) float 0..1 in
    crop pixels, or (H, W) in frame pixels when its shape is the frame's and not the crop's.
    Pixels where the mask is 0, and all pixels outside the crop, stay bit-equal to the frame's.
    Raises ValueError when the mask fits neither.
    """
    height, width = frame.shape[:2]
    if mask.shape not in (crop.shape[:2], (height, width)):
        raise ValueError(
            f"the mask has shape {mask.shape}; expected the crop's {crop.shape[:2]} "
            f"or the frame's {(height, width)}"
        )
    left, top, right, bottom = _covered_box(crop_to_frame, crop.shape[0], width, height)
    result = frame.copy()
    if left >= right or top >= bottom:
        return result
    local = np.array(crop_to_frame, np.float64) - np.array([[0, 0, left], [0, 0, top]])
    size = (right - left, bottom - top)
    pasted = cv2.warpAffine(crop, local, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones(crop.shape[:2], np.float32), local, size, flags=cv2.INTER_LINEAR)
    if mask.shape == crop.shape[:2]:
        share = cv2.warpAffine(np.asarray(mask, np.float32), local, size, flags=cv2.INTER_LINEAR)
    else:
        share = np.asarray(mask[top:bottom, left:right], np.float32) * inside
    region = result[top:bottom, left:right]
    blended = region + share[..., None] * (pasted.astype(np.float32) - region)
    np.copyto(region, np.rint(blended).astype(np.uint8), where=(share > 0)[..., None])
    return result


def _covered_box(
    crop_to_frame: np.ndarray, crop_size: int, width: int, height: int
) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the frame pixels a crop covers, clipped to the frame."""
    edge = crop_size - 0.5
    corners = apply_affine(crop_to_frame, np.array([[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]]))
    left, top = np.floor(corners.min(axis=0)).astype(int)
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
    return max(0, left), max(0, top), min(width, right), min(height, bottom)
