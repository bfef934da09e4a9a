"""Smooth outlines through mesh points, and masks of what lies inside them."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

SUBDIVISIONS = 4
MASK_SHIFT_BITS = 4
MASK_SUPERSAMPLING = 4


@lru_cache(maxsize=8)
def _catmull_rom_weights(count: int) -> np.ndarray:
    """Return ((count - 1) * SUBDIVISIONS + 1, count): weights that turn open control points into a curve."""
    rows = []
    for segment in range(count - 1):
        for step in range(SUBDIVISIONS):
            t = step / SUBDIVISIONS
            row = np.zeros(count)
            shares = 0.5 * np.array(
                [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
            )
            for offset, share in zip((-1, 0, 1, 2), shares, strict=True):
                row[min(max(segment + offset, 0), count - 1)] += share
            rows.append(row)
    last = np.zeros(count)
    last[-1] = 1
    weights = np.array([*rows, last], np.float32)
    weights.setflags(write=False)
    return weights


def smooth_curve(points: np.ndarray) -> np.ndarray:
    """Return a Catmull-Rom curve through an open row of points (N, D), ((N - 1) * SUBDIVISIONS + 1, D)."""
    return _catmull_rom_weights(len(points)) @ points


def opening_outline(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Return the closed outline (M, 2) between two rows of points (N, 2) that share their ends."""
    return np.concatenate([smooth_curve(upper), smooth_curve(lower)[-2:0:-1]])


def bounding_window(
    points: np.ndarray, margin: float, size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Return whole pixels (left, top, right, bottom) around points, clipped to (width, height), or None."""
    left, top = np.floor(points.min(axis=0) - margin).astype(int)
    right, bottom = np.ceil(points.max(axis=0) + margin).astype(int) + 1
    window = (max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1]))
    return None if window[2] <= window[0] or window[3] <= window[1] else tuple(int(edge) for edge in window)


def outline_mask(outline: np.ndarray, window: tuple[int, int, int, int], blur: float) -> np.ndarray:
    """Return (h, w) float32 0..1, antialiased: inside a closed outline (M, 2), over `window`.

    OpenCV's own antialiasing moves nearly level edges by whole pixels, which flickers; so the outline is
    filled at MASK_SUPERSAMPLING times the size and averaged.
    """
    left, top, right, bottom = window
    finer = MASK_SUPERSAMPLING
    mask = np.zeros((finer * (bottom - top), finer * (right - left)), np.uint8)
    places = (outline - (left, top) + 0.5) * finer - 0.5
    points = np.round(places * (1 << MASK_SHIFT_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, MASK_SHIFT_BITS)
    small = cv2.resize(mask, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    soft = small.astype(np.float32) * np.float32(1 / 255)
    return cv2.GaussianBlur(soft, (0, 0), blur) if blur > 0.3 else soft


def line_mask(line: np.ndarray, window: tuple[int, int, int, int], thickness: float) -> np.ndarray:
    """Return (h, w) float32 0..1: an antialiased line along an open row of points (M, 2), over `window`."""
    left, top, right, bottom = window
    mask = np.zeros((bottom - top, right - left), np.uint8)
    points = np.round((line - (left, top)) * (1 << MASK_SHIFT_BITS)).astype(np.int32)
    cv2.polylines(mask, [points], False, 255, max(1, round(thickness)), cv2.LINE_AA, MASK_SHIFT_BITS)
    soft = mask.astype(np.float32) * np.float32(1 / 255) * min(1.0, 0.5 + 0.5 * thickness)
    return cv2.GaussianBlur(soft, (0, 0), max(0.4, 0.35 * thickness))


def blend(
    target: np.ndarray, window: tuple[int, int, int, int], layer: np.ndarray, weight: np.ndarray
) -> None:
    """Mix a float32 layer (h, w, 3) over a uint8 picture in place, by a weight (h, w) 0..1."""
    left, top, right, bottom = window
    below = target[top:bottom, left:right]
    mixed = below + (layer - below) * weight[..., None]
    np.copyto(below, np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def heal_line(
    target: np.ndarray,
    window: tuple[int, int, int, int],
    line: np.ndarray,
    across: np.ndarray,
    reach: float,
    strength: float,
) -> None:
    """Close a line with what lies on both sides of it, in place.

    Where two edges meet, the softened warp passes quickly through what used to lie between them (white of the
    eye, teeth). A band of half-width `reach` pixels along an open row of points (M, 2) is replaced by the
    mean of the picture at that distance on either side; `across` is the unit vector (2,) across the line.
    """
    left, top, right, bottom = window
    below = target[top:bottom, left:right]
    size = (right - left, bottom - top)
    sides = np.zeros(below.shape, np.float32)
    for sign in (-1.0, 1.0):
        shift = np.float32([[1, 0, sign * reach * across[0]], [0, 1, sign * reach * across[1]]])
        sides += 0.5 * cv2.warpAffine(below, shift, size, borderMode=cv2.BORDER_REPLICATE)
    blend(target, window, sides, line_mask(line, window, 1.1 * reach) * strength)


def continued(patch: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the patch with unknown pixels averaged from ever wider neighbourhoods of known ones."""
    result, weight = patch * known[..., None].astype(np.float32), known.astype(np.float32)
    filled, missing = result.copy(), known == 0
    sigma = 1.5
    while missing.any() and sigma < max(patch.shape):
        near = cv2.GaussianBlur(weight, (0, 0), sigma)
        reached = missing & (near > 0.02)
        spread = cv2.GaussianBlur(result, (0, 0), sigma)
        filled[reached] = spread[reached] / near[reached][:, None]
        missing &= ~reached
        sigma *= 1.8
    filled[missing] = patch[missing]
    return filled


def fit_affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the least-squares affine (2, 3) that takes points `source` (N, 2) to `target` (N, 2)."""
    homogeneous = np.concatenate([source, np.ones((len(source), 1))], axis=1)
    return np.linalg.lstsq(homogeneous, target, rcond=None)[0].T.astype(np.float32)
