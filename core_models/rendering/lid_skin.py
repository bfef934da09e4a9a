"""The skin of a closing upper lid, which an open eye hides in its fold.

Stretching what lies above the eye over it would drag the rim of glasses, a brow or the socket's shadow down.
What is above the fold therefore stays, and the lid that unrolls from it is painted: the colour of the skin
around the eye, a little darker in the fold and at the lashes, with the photo's own grain.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .curves import blend, bounding_window, smooth_curve
from .displacement import smoothstep
from .lids import LID_POINTS, MARGIN_COUNT, EyeIndices

UNROLLED = (0.03, 0.22)
"""Closure over which the painted lid takes the place of the stretched photo."""
BELOW_SHARES = (1.2, 1.7, 2.3)
"""Where the skin under the eye is sampled: this far out, times the lower lid's first ring."""
SKIN_PERCENTILE = 55.0
"""Of the samples under the eye by brightness: bags, lashes and rims are darker than the skin."""
OWN_HUE_SHARE = 0.25
ABOVE_SHARES = (0.95, 1.1, 1.4)
"""Where the skin above the eye is sampled: this far from the lid's edge, times its first ring."""
BRIGHTNESS_LIMITS = (0.50, 1.05)
"""What the fold's brightness may be, times that of the skin under the eye: rims and brows are not skin."""
EDGE_BRIGHTENING = 0.35
"""How far, in logarithms, the lid's brightness comes from the fold's to that of the skin under the eye."""
BRIGHTENED_AT = 0.4
"""Share of the lid's height at which it has come that far."""
OWN_COLUMN_SHARE = 0.5
"""How much a column of the lid follows what lies above it rather than the whole lid's colour."""
FOLD_SHADE = 0.12
LASH_SHADE = 0.06
CORNER_SHADE = 0.08
FOLD_FEATHER = 0.22
"""Share of the lid's height over which it passes into the photo at the fold."""
CORNER_FEATHER = 0.10
"""The same at the corners, in eye widths."""
EDGE_SOFTNESS = 0.6
"""Pixels."""


@dataclass(frozen=True)
class LidSkin:
    """What one upper lid is painted with.

    fold, edge: (LID_POINTS, 3) float32 colours from corner to corner, at its fold and at its edge.
    """

    fold: np.ndarray
    edge: np.ndarray


def make_lid_skin(picture: np.ndarray, points: np.ndarray, eye: EyeIndices) -> LidSkin:
    """Return the skin of one lid from an (H, W, 3) uint8 picture with landmarks (>= 468, 2)."""
    upper, ring = points[list(eye.upper)], points[list(eye.upper_ring_1)]
    lower, lower_ring = points[list(eye.lower)], points[list(eye.lower_ring_1)]
    radius = max(0.6, 0.03 * float(np.linalg.norm(upper[-1] - upper[0])))
    above = np.mean(
        [_sampled(picture, upper + share * (ring - upper), radius) for share in ABOVE_SHARES], axis=0
    )
    below = [_sampled(picture, lower + share * (lower_ring - lower), radius) for share in BELOW_SHARES]
    above[[0, -1]] = above[[1, -2]]
    under = _bright_skin(np.concatenate([samples[1:-1] for samples in below]))
    own = OWN_COLUMN_SHARE * above + (1 - OWN_COLUMN_SHARE) * np.median(above, axis=0)
    brightness = own.mean(axis=1) / max(float(under.mean()), 1.0)
    at_fold = np.clip(brightness, *BRIGHTNESS_LIMITS)
    trust = np.exp(-4.0 * np.abs(brightness - at_fold))[:, None]
    own_hue = own / np.maximum(brightness, 0.05)[:, None]
    fold = at_fold[:, None] * (trust * own_hue + (1 - trust) * under)
    at_edge = at_fold ** (1 - EDGE_BRIGHTENING)
    trust = OWN_HUE_SHARE * trust
    edge = at_edge[:, None] * (trust * own_hue + (1 - trust) * under)
    return LidSkin(_smoothed(fold), _smoothed(edge))


def _smoothed(colours: np.ndarray) -> np.ndarray:
    return np.clip(cv2.GaussianBlur(colours.astype(np.float32), (1, 5), 1.2), 0, 255)


def _bright_skin(samples: np.ndarray) -> np.ndarray:
    """Return (3,): the mean of the samples (N, 3) about as bright as SKIN_PERCENTILE says."""
    brightness = samples.mean(axis=1)
    distance = np.abs(brightness - np.percentile(brightness, SKIN_PERCENTILE))
    return samples[np.argsort(distance)[: max(1, len(samples) // 3)]].mean(axis=0)


def _sampled(picture: np.ndarray, places: np.ndarray, radius: float) -> np.ndarray:
    """Return (N, 3) float32: the median of nine samples around each place (N, 2)."""
    offsets = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)], np.float32) * radius
    around = (places[:, None] + offsets[None]).astype(np.float32)
    samples = cv2.remap(
        picture, around[..., 0], around[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.median(samples.astype(np.float32), axis=1)


def draw_lid_skin(
    canvas: np.ndarray,
    skin: LidSkin,
    points: np.ndarray,
    eye: EyeIndices,
    side: int,
    closure: float,
    grain: np.ndarray,
) -> None:
    """Paint one upper lid over the warped canvas (h, w, 3) uint8 from its fold to its edge, in place.

    points: (N, 2) moved mesh in canvas pixels, the lids' margin vertices last: they are the fold. side: 0
    for the eye to the picture's right. closure: 0..1. grain: square tile of float32 noise.
    """
    strength = float(smoothstep(*UNROLLED, closure))
    if strength <= 0:
        return
    edge = smooth_curve(points[list(eye.upper)])
    first = len(points) - MARGIN_COUNT + side * LID_POINTS
    fold = smooth_curve(points[first : first + LID_POINTS])
    window = bounding_window(np.concatenate([edge, fold]), 2, canvas.shape[1::-1])
    if window is None:
        return
    along, height, over = _lid_coordinates(edge, fold, window)
    at_fold, at_edge = (_along_lid(along, colours) for colours in (skin.fold, skin.edge))
    layer = at_fold + (at_edge - at_fold) * smoothstep(0.0, BRIGHTENED_AT, height)[..., None]
    layer *= _shade(along, height)[..., None]
    left, top, right, bottom = window
    rows, columns = np.arange(top, bottom) % len(grain), np.arange(left, right) % len(grain)
    layer += grain[rows[:, None], columns[None, :]][..., None]
    weight = smoothstep(0.0, FOLD_FEATHER, height) * smoothstep(-EDGE_SOFTNESS, EDGE_SOFTNESS, over)
    ends = smoothstep(0.0, CORNER_FEATHER, along) * smoothstep(0.0, CORNER_FEATHER, 1 - along)
    blend(canvas, window, layer, strength * weight * ends)


def _lid_coordinates(
    edge: np.ndarray, fold: np.ndarray, window: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (h, w) each: 0..1 along the lid, 0 at the fold to 1 at its edge, and pixels above the edge."""
    axis = edge[-1] - edge[0]
    width = max(float(np.linalg.norm(axis)), 1e-6)
    across = axis / width
    down = np.array([-across[1], across[0]]) * (1 if across[0] > 0 else -1)
    left, top, right, bottom = window
    x = np.arange(left, right, dtype=np.float32)[None, :] - edge[0, 0]
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - edge[0, 1]
    along = (x * across[0] + y * across[1]) / width
    depth = x * down[0] + y * down[1]
    curves = []
    for curve in (fold, edge):
        offset = curve - edge[0]
        curves.append(np.interp(along, np.maximum.accumulate(offset @ across / width), offset @ down))
    high, low = curves
    return along, (depth - high) / np.maximum(low - high, 1.0), low - depth


def _along_lid(along: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return (h, w, 3) float32: colours (LID_POINTS, 3) spread along the lid."""
    places = np.linspace(0, 1, LID_POINTS)
    return np.stack([np.interp(along, places, channel) for channel in colours.T], axis=2).astype(np.float32)


def _shade(along: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Return (h, w): the light on a lid that curves over the eyeball."""
    fold = FOLD_SHADE * (1 - smoothstep(0.0, 0.45, height))
    lashes = LASH_SHADE * smoothstep(0.6, 1.0, height)
    corners = CORNER_SHADE * smoothstep(0.5, 1.0, np.abs(2 * along - 1))
    return (1 - fold - lashes) * (1 - corners)
