"""Face, mouth and motion masks drawn from the outlines of the landmarks; what goes for masks of every shape.

All masks are (H, W) float32 0..1. `grow_px` moves the contour outwards (inwards when negative); `feather_px`
is the width of the soft edge outside it, so that everything inside the grown contour stays 1. Both are in
pixels. Masks of boxes are in `box_masks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import reduce

import cv2
import numpy as np

from .landmarks import checked_landmarks
from .picture_size import shrunk_frame
from .topology import LIPS_CONTOUR, canonical_face

MASK_KINDS = ("face", "mouth", "motion")
PREVIEW_SIDE = 512
"""Pixels of a preview's longer side at most: of a long film all of them fit in memory beside its masks."""
_FRACTION_BITS = 4
_PREVIEW_LIGHT = 0.35
"""Brightness that a preview leaves to what lies outside the face."""
_PREVIEW_TINTS = {"mouth": ((255, 120, 20), 0.5), "motion": ((40, 130, 255), 0.3)}
"""Colour (RGB) and strength with which a preview shows the two regions within the face."""
_PREVIEW_OUTLINE = (255, 255, 255)


def face_mask(
    landmarks: np.ndarray, size: tuple[int, int], grow_px: float = 0.0, feather_px: float = 0.0
) -> np.ndarray:
    """Return the mask of the face from forehead to chin: the outline of the whole mesh as the camera sees it.

    On a turned face that takes in the cheek and nose that reach past the oval on the far side.

    landmarks: (478, 3) or (468, 3) pixels; size: (width, height) of the mask.
    Raises ValueError for other landmarks, a size without pixels, and what `outline_mask` refuses.
    """
    points = checked_landmarks(landmarks)[:, :2]
    return outline_mask(points[canonical_face().triangles], size, grow_px, feather_px)


def mouth_mask(
    landmarks: np.ndarray, size: tuple[int, int], grow_px: float = 0.0, feather_px: float = 0.0
) -> np.ndarray:
    """Return the mask of the mouth: within the outer contour of the lips. Arguments as for `face_mask`."""
    points = checked_landmarks(landmarks)[:, :2]
    return outline_mask(points[None, list(LIPS_CONTOUR)], size, grow_px, feather_px)


def motion_mask(
    landmarks: np.ndarray, size: tuple[int, int], grow_px: float = 0.0, feather_px: float = 0.0
) -> np.ndarray:
    """Return the mask of what a motion signal steers when sound steers the mouth: the face without the mouth.

    The definition is ACTalker's (arXiv 2504.02542): motion mask = face mask - mouth mask. Both are grown and
    feathered alike, so that face = mouth + motion wherever the mouth lies within the face.
    """
    face = face_mask(landmarks, size, grow_px, feather_px)
    return face_without_mouth(face, mouth_mask(landmarks, size, grow_px, feather_px))


def face_without_mouth(face: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """Return face - mouth, at least 0: the motion mask of two masks of any shape, (..., H, W) float32 0..1.

    Where the mouth lies outside the face, motion is 0 and face = mouth + motion does not hold.
    Raises ValueError for masks of different shapes.
    """
    if face.shape != mouth.shape:
        raise ValueError(
            f"the face's mask has shape {face.shape}, the mouth's {mouth.shape}: make them alike"
        )
    return np.clip(face - mouth, 0, 1)


_DRAWERS: dict[str, Callable[..., np.ndarray]] = {"face": face_mask, "mouth": mouth_mask}


def masks_of_frames(
    kind: str,
    landmarks_of_frames: Iterable[np.ndarray],
    size: tuple[int, int],
    grow_px: float = 0.0,
    feather_px: float = 0.0,
    union: bool = False,
) -> np.ndarray:
    """Return one mask per frame, (N, H, W) float32, or with `union` one for all, (1, H, W).

    kind: one of MASK_KINDS. landmarks_of_frames: (478, 3) per frame. union: where any frame's face or mouth is;
    the motion mask is then the union of the faces without the union of the mouths. The rest as for `face_mask`.
    Raises ValueError for an unknown kind or no frames.
    """
    frames = checked_frames(kind, landmarks_of_frames)
    if kind == "motion":
        face, mouth = (
            masks_of_frames(part, frames, size, grow_px, feather_px, union) for part in ("face", "mouth")
        )
        return face_without_mouth(face, mouth)
    masks = (_DRAWERS[kind](landmarks, size, grow_px, feather_px) for landmarks in frames)
    return reduce(np.maximum, masks)[None] if union else np.stack(list(masks))


def checked_frames(kind: str, landmarks_of_frames: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return the landmarks as a list. Raises ValueError for a kind not in MASK_KINDS or when there are none."""
    if kind not in MASK_KINDS:
        raise ValueError(f"unknown kind of mask {kind!r}; choose one of {', '.join(MASK_KINDS)}")
    frames = list(landmarks_of_frames)
    if not frames:
        raise ValueError("no frames to make masks for")
    return frames


def outline_mask(
    polygons: np.ndarray, size: tuple[int, int], grow_px: float = 0.0, feather_px: float = 0.0
) -> np.ndarray:
    """Return the mask of everything that polygons (N, K, 2) in pixels cover; the rest as for `face_mask`."""
    width, height = checked_size(size)
    expect_edge(grow_px, feather_px)
    polygons = np.asarray(polygons, np.float64)
    points = polygons.reshape(-1, 2)
    margin = math.ceil(max(0.0, grow_px) + feather_px) + 2
    # Only the outline's own box is worked on: masks of large pictures cost no more than those of small ones.
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - margin, 0)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + margin + 1, (width, height))
    mask = np.zeros((height, width), np.float32)
    if left < right and top < bottom:
        distance = _distance_outside(polygons - (left, top), (right - left, bottom - top)) - grow_px
        mask[top:bottom, left:right] = soft_edge(distance, feather_px)
    return mask


def checked_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) in pixels as it is. Raises ValueError when either is less than 1."""
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"a mask of {width} x {height} px has no pixels")
    return width, height


def expect_edge(grow_px: float, feather_px: float) -> None:
    """Raise ValueError unless both are finite and the feather is not negative."""
    if not (math.isfinite(grow_px) and math.isfinite(feather_px) and feather_px >= 0):
        raise ValueError(f"grow_px {grow_px} must be finite, feather_px {feather_px} finite and not negative")


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
    outside, inside = _distance_to_zero(1 - canvas), _distance_to_zero(canvas)
    signed = np.where(canvas > 0, 0.5 - inside, outside - 0.5)
    return signed[padding:-padding, padding:-padding]


def _distance_to_zero(canvas: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the nearest pixel of 0, float32.

    Its square is a whole number; OpenCV's last digit hangs on where in memory its arrays happen to lie.
    """
    distance = cv2.distanceTransform(canvas, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.sqrt(np.rint(np.square(distance, dtype=np.float64))).astype(np.float32)


def soft_edge(distance: np.ndarray, feather_px: float) -> np.ndarray:
    """Return 1 where distance <= 0, falling smoothly to 0 at `feather_px`; over one pixel if that is less.

    distance: pixels outside an edge, negative inside; of any shape, which the result has.
    """
    if feather_px < 1:
        return np.clip(0.5 - distance, 0, 1)
    ramp = np.clip(1 - distance / feather_px, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def binary_mask(mask: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return 1 where a soft mask reaches the threshold and 0 elsewhere, float32 of the mask's shape.

    ACTalker's masked layer takes a pixel only from 1 upwards, so that 0.999, as resizing and half precision
    leave it, would take none; a mask goes through here before it is brought to the layer's tokens.
    mask: any shape, 0..1, by whatever node it was drawn. threshold: above 0 (which all would reach), at most 1.
    Raises ValueError for a mask without pixels, NaN, values outside 0..1, or such a threshold.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold of a mask is {threshold}: give one above 0, 1 at most")
    return (_checked_mask(mask) >= threshold).astype(np.float32)


def _checked_mask(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.size == 0:
        raise ValueError(f"a mask of shape {mask.shape} has no pixels")
    if np.isnan(mask).any():
        raise ValueError(
            f"the mask holds NaN in {int(np.isnan(mask).sum())} of {mask.size} pixels: draw it anew"
        )
    if mask.min() < 0 or mask.max() > 1:
        raise ValueError(
            f"the mask's values reach from {mask.min():g} to {mask.max():g}, expected 0..1: divide one of "
            "0..255 by 255, cut off what resizing overshot"
        )
    return mask


def mask_preview(
    frame: np.ndarray,
    face: np.ndarray,
    mouth: np.ndarray,
    motion: np.ndarray,
    largest_side: int = PREVIEW_SIDE,
) -> np.ndarray:
    """Return a picture of where masks lie, (h, w, 3) uint8, its longer side at most `largest_side` pixels.

    The frame, (H, W, 3) uint8, is darkened outside the face; the mouth is tinted orange, motion blue, both as
    strongly as the mask there, and a white line runs where the face's mask passes 0.5. Masks: (H, W) 0..1.
    Raises ValueError for masks of another size than the frame, or with values outside 0..1.
    """
    small = shrunk_frame(frame, largest_side)
    masks = {"face": face, "mouth": mouth, "motion": motion}
    shown = {name: _shrunk_mask(name, mask, frame, small) for name, mask in masks.items()}
    light = _PREVIEW_LIGHT + (1 - _PREVIEW_LIGHT) * shown["face"]
    picture = small * light[..., None]
    for name, (colour, strength) in _PREVIEW_TINTS.items():
        share = strength * shown[name][..., None]
        picture = (1 - share) * picture + share * np.array(colour, np.float32)
    picture[_inner_rim(shown["face"] >= 0.5)] = _PREVIEW_OUTLINE
    return np.rint(picture).astype(np.uint8)


def _shrunk_mask(name: str, mask: np.ndarray, frame: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Return a mask of the frame, (h, w) float32, at the size of the shrunk one."""
    if mask.shape != frame.shape[:2]:
        raise ValueError(
            f"the {name} mask has shape {mask.shape}, but the picture has {frame.shape[:2]} (height, width)"
        )
    mask = _checked_mask(mask).astype(np.float32)
    if small.shape[:2] != mask.shape:
        mask = cv2.resize(mask, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    return mask


def _inner_rim(region: np.ndarray) -> np.ndarray:
    """Return the region's pixels, (H, W) bool, that touch a pixel outside it; the picture's edge is not one."""
    kept = cv2.erode(region.astype(np.uint8), np.ones((3, 3), np.uint8))
    return region & (kept == 0)
