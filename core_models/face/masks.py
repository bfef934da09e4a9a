"""Face, mouth and motion masks drawn from the outlines of the landmarks.

All masks are (H, W) float32 0..1. `grow_px` moves the contour outwards (inwards when negative); `feather_px`
is the width of the soft edge outside it, so that everything inside the grown contour stays 1. Both are in
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from .topology import LIPS_CONTOUR, canonical_face

MASK_KINDS = ("face", "mouth", "motion")
_FRACTION_BITS = 4


def face_mask(
    landmarks: np.ndarray, size: tuple[int, int], grow_px: float = 0.0, feather_px: float = 0.0
) -> np.ndarray:
    """Return the mask of the face from forehead to chin: the outline of the whole mesh as the camera sees it.

    On a turned face that takes in the cheek and nose that reach past the oval on the far side.

    landmarks: (478, 3) or (468, 3) pixels; size: (width, height) of the mask.
    """
    points = np.asarray(landmarks, np.float64)[:, :2]
    return outline_mask(points[canonical_face().triangles], size, grow_px, feather_px)


def mouth_mask(
    landmarks: np.ndarray, size: tuple[int, int], grow_px: float = 0.0, feather_px: float = 0.0
) -> np.ndarray:
    """Return the mask of the mouth: within the outer contour of the lips. Arguments as for `face_mask`."""
    points = np.asarray(landmarks, np.float64)[:, :2]
    return outline_mask(points[None, list(LIPS_CONTOUR)], size, grow_px, feather_px)


def motion_mask(
    landmarks: np.ndarray, size: tuple[int, int], grow_px: float = 0.0, feather_px: float = 0.0
) -> np.ndarray:
    """Return the mask of what a motion signal steers when sound steers the mouth: the face without the mouth.

    The definition is ACTalker's (arXiv 2504.02542): motion mask = face mask - mouth mask. Both are grown and
    feathered alike, so that face = mouth + motion wherever the mouth lies within the face.
    """
    face = face_mask(landmarks, size, grow_px, feather_px)
    return np.clip(face - mouth_mask(landmarks, size, grow_px, feather_px), 0, 1)


_DRAWERS: dict[str, Callable[..., np.ndarray]] = {
    "face": face_mask,
    "mouth": mouth_mask,
    "motion": motion_mask,
}


def masks_of_frames(
    kind: str,
    landmarks_of_frames: Iterable[np.ndarray],
    size: tuple[int, int],
    grow_px: float = 0.0,
    feather_px: float = 0.0,
) -> np.ndarray:
    """Return one mask per frame, (N, H, W) float32.

    kind: one of MASK_KINDS. landmarks_of_frames: (478, 3) per frame. The rest as for `face_mask`.
    Raises ValueError for an unknown kind or no frames.
    """
    if kind not in _DRAWERS:
        raise ValueError(f"unknown kind of mask {kind!r}; choose one of {', '.join(MASK_KINDS)}")
    masks = [_DRAWERS[kind](landmarks, size, grow_px, feather_px) for landmarks in landmarks_of_frames]
    if not masks:
        raise ValueError("no frames to make masks for")
    return np.stack(masks)


def outline_mask(
    polygons: np.ndarray, size: tuple[int, int], grow_px: float = 0.0, feather_px: float = 0.0
) -> np.ndarray:
    """Return the mask of everything that polygons (N, K, 2) in pixels cover; the rest as for `face_mask`."""
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"a mask of {width} x {height} px has no pixels")
    if not (math.isfinite(grow_px) and math.isfinite(feather_px) and feather_px >= 0):
        raise ValueError(f"grow_px {grow_px} must be finite, feather_px {feather_px} finite and not negative")
    points = polygons.reshape(-1, 2)
    margin = math.ceil(max(0.0, grow_px) + feather_px) + 2
    # Only the outline's own box is worked on: masks of large pictures cost no more than those of small ones.
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - margin, 0)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + margin + 1, (width, height))
    mask = np.zeros((height, width), np.float32)
    if left < right and top < bottom:
        distance = _distance_outside(polygons - (left, top), (right - left, bottom - top)) - grow_px
        mask[top:bottom, left:right] = _soft_edge(distance, feather_px)
    return mask


def _distance_outside(polygons: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return each pixel's distance in pixels to the polygons' union, negative inside, (H, W) float32.

    Measured between pixel centres of the raster union, on a canvas padded so that its border counts as
    outside.
    """
    padding = 1
    canvas = np.zeros((size[1] + 2 * padding, size[0] + 2 * padding), np.uint8)
    for polygon in np.rint((polygons + padding) * (1 << _FRACTION_BITS)).astype(np.int32):
        cv2.fillPoly(
            canvas, [polygon], 1, lineType=cv2.LINE_8, shift=_FRACTION_BITS
        )  # one by one: they overlap
    if not canvas.any():
        return np.full((size[1], size[0]), np.inf, np.float32)
    outside = cv2.distanceTransform(1 - canvas, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside = cv2.distanceTransform(canvas, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    signed = np.where(canvas > 0, 0.5 - inside, outside - 0.5)
    return signed[padding:-padding, padding:-padding]


def _soft_edge(distance: np.ndarray, feather_px: float) -> np.ndarray:
    """Return 1 where distance <= 0, falling smoothly to 0 at `feather_px`; over one pixel if that is less."""
    if feather_px < 1:
        return np.clip(0.5 - distance, 0, 1)
    ramp = np.clip(1 - distance / feather_px, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)
