"""A picture being painted: soft shapes, tapered lines and many strokes, blended in float on windows of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from scipy.interpolate import CubicSpline

FRACTION_BITS = 4
Colour = Sequence[float] | np.ndarray


class Canvas:
    """A square picture that shapes are laid over, one after the other.

    pixels: (S, S, 3) float32 sRGB 0..255, painted in place. pixels_per_cm: so that strokes scale with the head.
    """

    def __init__(self, size: int, pixels_per_cm: float) -> None:
        """Begin black."""
        self.size = size
        self.pixels_per_cm = pixels_per_cm
        self.pixels = np.zeros((size, size, 3), np.float32)

    def blend(self, mask: np.ndarray, colour: Colour, strength: float = 1.0) -> None:
        """Lay a colour (3,) or picture (S, S, 3) over the whole canvas by an (S, S) mask in 0..1."""
        window = mask_window(mask)
        if window is None:
            return
        weight = (mask[window] * strength)[..., None]
        paint = np.asarray(colour, np.float32)
        paint = paint[window] if paint.ndim == 3 else paint
        self.pixels[window] += weight * (paint - self.pixels[window])

    def multiply(self, mask: np.ndarray, factor: Colour, strength: float = 1.0) -> None:
        """Darken (factor below 1) or lighten by an (S, S) mask in 0..1."""
        window = mask_window(mask)
        if window is None:
            return
        weight = (mask[window] * strength)[..., None]
        self.pixels[window] *= 1 + weight * (np.asarray(factor, np.float32) - 1)

    def shape_mask(self, outline: np.ndarray, soft_cm: float = 0.0) -> np.ndarray:
        """Return the (S, S) float32 mask 0..1 of a closed outline (N, 2) in pixels, its edge softened."""
        return shape_mask(outline, self.size, soft_cm * self.pixels_per_cm)

    def fill(self, outline: np.ndarray, colour: Colour, soft_cm: float = 0.0, strength: float = 1.0) -> None:
        """Fill a closed outline (N, 2) in pixels with a colour."""
        self.blend(self.shape_mask(outline, soft_cm), colour, strength)

    def line_mask(
        self, line: np.ndarray, width_cm: float | np.ndarray, soft_cm: float = 0.0, taper: bool = True
    ) -> np.ndarray:
        """Return the (S, S) mask of a line (N, 2) in pixels, `width_cm` wide, thin at both ends when tapered."""
        width = np.broadcast_to(np.asarray(width_cm, np.float64), (len(line),)) * self.pixels_per_cm
        if taper:
            width = width * np.sqrt(np.clip(np.sin(np.linspace(0.06, np.pi - 0.06, len(line))), 0, 1))
        tangent = np.gradient(line, axis=0)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        half = normal * width[:, None] / 2
        return self.shape_mask(np.concatenate([line - half, (line + half)[::-1]]), soft_cm)

    def line(
        self,
        line: np.ndarray,
        width_cm: float | np.ndarray,
        colour: Colour,
        soft_cm: float = 0.0,
        strength: float = 1.0,
        taper: bool = True,
    ) -> None:
        """Draw a line; arguments as for `line_mask`."""
        self.blend(self.line_mask(line, width_cm, soft_cm, taper), colour, strength)

    def strokes_mask(self, strokes: Sequence[np.ndarray], width_cm: float) -> np.ndarray:
        """Return the (S, S) mask of many thin lines, each (N, 2) pixels."""
        layer = np.zeros((self.size, self.size), np.uint8)
        width = width_cm * self.pixels_per_cm
        level = int(np.clip(255 * width, 30, 255))
        lines = [fixed(stroke) for stroke in strokes]
        cv2.polylines(layer, lines, False, level, max(1, round(width)), cv2.LINE_AA, FRACTION_BITS)
        return layer.astype(np.float32) / 255

    def dot_mask(self, middle: np.ndarray, radii_cm: tuple[float, float], soft_cm: float = 0.0) -> np.ndarray:
        """Return the (S, S) mask of an upright ellipse about a pixel (2,)."""
        angles = np.linspace(0, 2 * np.pi, 33)[:-1]
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii_cm * self.pixels_per_cm
        return self.shape_mask(middle + ring, soft_cm)


def shape_mask(outline: np.ndarray, size: int, soft: float) -> np.ndarray:
    """Return the (size, size) float32 mask 0..1 of a closed outline (N, 2); soft: pixels of Gaussian blur."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [fixed(outline)], 255, cv2.LINE_AA, FRACTION_BITS)
    if soft <= 0.2:
        return mask.astype(np.float32) / 255
    margin = int(3 * soft) + 2
    low = np.clip(np.floor(outline.min(axis=0)).astype(int) - margin, 0, size)
    high = np.clip(np.ceil(outline.max(axis=0)).astype(int) + margin + 1, 0, size)
    soft_mask = np.zeros((size, size), np.float32)
    if (high > low).all():
        window = slice(low[1], high[1]), slice(low[0], high[0])
        soft_mask[window] = cv2.GaussianBlur(mask[window].astype(np.float32) / 255, (0, 0), soft)
    return soft_mask


def mask_window(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Return rows and columns of a mask that hold all of it, or None when it is empty."""
    rows = np.flatnonzero(mask.max(axis=1) > 0.002)
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].max(axis=0) > 0.002)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def fixed(points: np.ndarray) -> np.ndarray:
    """Return pixels (N, 2) as the whole numbers OpenCV draws with, FRACTION_BITS of them behind the point."""
    return np.rint(np.asarray(points)[:, :2] * (1 << FRACTION_BITS)).astype(np.int32)


def curve(points: np.ndarray, count: int = 40, closed: bool = False) -> np.ndarray:
    """Return a smooth curve (count, D) through points (N, D)."""
    return _spline(len(points), count, closed) @ np.asarray(points, np.float64)


def curves(points: np.ndarray, count: int) -> np.ndarray:
    """Return smooth curves (K, count, D) through points (K, N, D)."""
    return _spline(points.shape[1], count, False) @ points


@lru_cache(maxsize=128)
def _spline(points: int, count: int, closed: bool) -> np.ndarray:
    """Return (count, points): what each point adds to a cubic spline with evenly spaced knots."""
    unit = np.eye(points)
    if closed:
        spline = CubicSpline(np.arange(points + 1), np.concatenate([unit, unit[:1]]), bc_type="periodic")
        return spline(np.linspace(0, points, count + 1)[:-1])
    return CubicSpline(np.arange(points), unit, bc_type="natural")(np.linspace(0, points - 1, count))


def smooth_noise(size: int, cell: float, rng: np.random.Generator) -> np.ndarray:
    """Return (size, size) float32 noise of spread about 1 whose spots are `cell` pixels large."""
    cells = max(2, int(np.ceil(size / max(cell, 1.0))) + 2)
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def ramp(low: float, high: float, value: np.ndarray | float) -> np.ndarray:
    """Return 0 at `low` to 1 at `high`, smooth; `low` may be the larger."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
