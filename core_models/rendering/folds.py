"""Folds of the skin that come with an expression: a shade where the skin would crease.

A warp moves the photo's light along with the skin but makes no new shadow, so strong feelings look pale.
Each fold is a soft stroke on the face mesh that darkens the picture as its blendshape rises.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ..face.topology import canonical_face
from ..types import BLENDSHAPE_INDEX
from .curves import bounding_window, smooth_curve
from .displacement import smoothstep

DEEPEST = 0.30
"""Share of the light that the deepest fold takes."""
WARMTH = (0.8, 1.0, 1.1)
"""How much of that each of red, green and blue loses: light inside a fold has passed through skin."""
SHOWN = (0.12, 0.9)
"""Coefficient over which a fold deepens."""


@dataclass(frozen=True)
class Fold:
    """One stroke on the left half of the face; the right half is its mirror image.

    shape: the blendshape that makes it, a Left one or a symmetric one. line: canonical centimetres (x, y)
    along it. width: centimetres, the sigma of its profile. depth: share of DEEPEST.
    """

    shape: str
    line: tuple[tuple[float, float], ...]
    width: float
    depth: float


FOLDS = (
    Fold("browDownLeft", ((0.50, 3.3), (0.42, 4.1), (0.55, 5.0)), 0.14, 1.0),
    Fold("browDownLeft", ((0.9, 3.5), (1.9, 3.75), (3.1, 3.9)), 0.30, 0.7),
    Fold("noseSneerLeft", ((0.55, 2.7), (0.95, 2.2), (1.25, 1.5)), 0.13, 0.8),
    Fold("noseSneerLeft", ((1.75, -0.9), (2.4, -1.9), (3.0, -3.2)), 0.17, 0.9),
    Fold("mouthSmileLeft", ((1.9, -1.3), (2.8, -2.4), (3.3, -3.8)), 0.18, 0.35),
    Fold("mouthFrownLeft", ((2.75, -4.5), (3.05, -5.2), (3.1, -6.0)), 0.17, 0.7),
    Fold("browInnerUp", ((-0.6, 6.3), (1.0, 6.35), (2.4, 6.0)), 0.17, 0.32),
    Fold("browInnerUp", ((-0.6, 7.1), (1.1, 7.15), (2.6, 6.8)), 0.17, 0.25),
)


@dataclass(frozen=True)
class PlacedFold:
    """A fold tied to the mesh.

    row: of its blendshape. vertices: (P, 3) int and shares: (P, 3) float32, each point of its line as a mix
    of three vertices. width, depth: as in `Fold`.
    """

    row: int
    vertices: np.ndarray
    shares: np.ndarray
    width: float
    depth: float


@lru_cache(maxsize=1)
def placed_folds() -> tuple[PlacedFold, ...]:
    """Return every fold of both halves of the face, tied to the mesh."""
    left = [_placed(fold, fold.shape, 1.0) for fold in FOLDS]
    right = [_placed(fold, fold.shape.replace("Left", "Right"), -1.0) for fold in FOLDS]
    return (*left, *right)


def _placed(fold: Fold, shape: str, side: float) -> PlacedFold:
    line = np.array(fold.line, np.float32) * (side, 1.0)
    found = [_on_mesh(point) for point in line]
    vertices, shares = (np.array(part) for part in zip(*found, strict=True))
    return PlacedFold(BLENDSHAPE_INDEX[shape], vertices, shares.astype(np.float32), fold.width, fold.depth)


def _on_mesh(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the three vertices of the frontmost canonical triangle over (x, y), and their shares."""
    face = canonical_face()
    corners = face.vertices[face.triangles]
    edge = corners[:, 1, :2] - corners[:, 0, :2]
    other, way = corners[:, 2, :2] - corners[:, 0, :2], point - corners[:, 0, :2]
    area = edge[:, 0] * other[:, 1] - edge[:, 1] * other[:, 0]
    area = np.where(np.abs(area) > 1e-6, area, np.inf)
    second = (way[:, 0] * other[:, 1] - way[:, 1] * other[:, 0]) / area
    third = (edge[:, 0] * way[:, 1] - edge[:, 1] * way[:, 0]) / area
    shares = np.stack([1 - second - third, second, third], axis=1)
    inside = np.isfinite(area) & (shares >= -1e-6).all(axis=1)
    depth = np.where(inside, (corners[..., 2] * shares).sum(axis=1), -np.inf)
    best = int(np.argmax(depth))
    return face.triangles[best], shares[best]


def draw_folds(canvas: np.ndarray, points: np.ndarray, change: np.ndarray, pixels_per_cm: float) -> None:
    """Darken the warped canvas (h, w, 3) uint8 along every fold that deepens, in place.

    points: (N, 2) moved mesh in canvas pixels. change: (52,) coefficients away from the photo's own.
    """
    for fold in placed_folds():
        depth = DEEPEST * fold.depth * float(smoothstep(*SHOWN, change[fold.row]))
        if depth <= 0.01:
            continue
        line = smooth_curve((points[fold.vertices] * fold.shares[..., None]).sum(axis=1))
        sigma = max(fold.width * pixels_per_cm, 0.6)
        window = bounding_window(line, 3 * sigma, canvas.shape[1::-1])
        if window is not None:
            _darken(canvas, window, line, sigma, depth)


def _darken(
    canvas: np.ndarray, window: tuple[int, int, int, int], line: np.ndarray, sigma: float, depth: float
) -> None:
    """Take up to `depth` of the light along a line, as a soft valley whose ends fade, in place."""
    left, top, right, bottom = window
    x = (np.arange(left, right, dtype=np.float32) - line[:, :1]) / sigma
    y = (np.arange(top, bottom, dtype=np.float32) - line[:, 1:]) / sigma
    taper = np.sin(np.pi * (np.arange(len(line), dtype=np.float32) + 0.5) / len(line))
    across, along = np.exp(-0.5 * x * x), np.exp(-0.5 * y * y) * taper[:, None]
    valley = (along[:, :, None] * across[:, None, :]).max(axis=0)
    below = canvas[top:bottom, left:right]
    lost = depth * cv2.GaussianBlur(valley, (0, 0), 0.5 * sigma)
    light = 1 - lost[..., None] * np.array(WARMTH, np.float32)
    np.copyto(below, np.rint(below * light).astype(np.uint8))
