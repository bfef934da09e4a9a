"""Eyes: lids that close over the eyeball, the lash line, and gaze.

The eyeball is a layer of its own, moved rigidly with the head and seen through the opening between the lids, so a
lid covers the iris instead of squashing it. Neither lids nor gaze go through the linear basis.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..face import topology
from .composition import TargetExpression
from .curves import blend, bounding_window, fit_affine, line_mask, opening_outline, outline_mask, smooth_curve
from .displacement import smoothstep

LID_TRAVEL = 0.94
"""Share of the opening the upper lid crosses; the lower lid rises by the rest."""
LOWER_LID_RISE = 0.06
LID_OVERSHOOT = 0.10
"""Centimetres the upper lid passes over the lower at its middle, so that no sliver stays between them."""
RING_1_SHARE = 0.60
RING_2_SHARE = 0.05
WIDE_TRAVEL = 0.22
SQUINT_TRAVEL = 0.20
WIDE_SHARES = (1.0, 0.8, 0.3)
SQUINT_SHARES = (1.0, 0.9)
SQUINT_SHARE_OF_OPENING = 0.35
LID_FOLLOWS_GAZE = 0.45
"""Closure (or widening) of the upper lid when the eyes look fully down (or up)."""

GAZE_ACROSS = 0.17
GAZE_ALONG = 0.06
"""How far the iris moves at gaze 1, in eye widths."""
IRIS_MARGIN = 1.15
"""Times the iris radius that move whole; the shift falls to 0 at half an eye's width."""

LASH_STRENGTH = 0.55
LASH_CLOSURE = (0.45, 0.95)
LASH_THICKNESS = 0.09
"""Centimetres."""
LAYER_FADE = 0.06
"""Closure, widening or gaze at which the eyeball layer is fully used; below, the plain warp shows."""
PROFILE = np.sin(np.pi * np.arange(9) / 8).astype(np.float32)
"""Along a lid of 9 points: 0 at the corners, 1 in the middle."""


@dataclass(frozen=True)
class EyeIndices:
    """Landmarks of one eye; rows of 9 that share their ends, in matching order."""

    upper: tuple[int, ...]
    lower: tuple[int, ...]
    upper_ring_1: tuple[int, ...]
    lower_ring_1: tuple[int, ...]
    upper_ring_2: tuple[int, ...]
    iris: tuple[int, ...]

    @property
    def contour(self) -> list[int]:
        """The 16 points around the opening."""
        return [*self.upper, *self.lower[-2:0:-1]]


EYES = (
    EyeIndices(
        topology.EYE_LEFT_UPPER,
        topology.EYE_LEFT_LOWER,
        topology.EYE_LEFT_UPPER_RING_1,
        topology.EYE_LEFT_LOWER_RING_1,
        topology.EYE_LEFT_UPPER_RING_2,
        topology.IRIS_LEFT,
    ),
    EyeIndices(
        topology.EYE_RIGHT_UPPER,
        topology.EYE_RIGHT_LOWER,
        topology.EYE_RIGHT_UPPER_RING_1,
        topology.EYE_RIGHT_LOWER_RING_1,
        topology.EYE_RIGHT_UPPER_RING_2,
        topology.IRIS_RIGHT,
    ),
)
"""The subject's left eye (to the picture's right), then the right."""


@dataclass(frozen=True)
class Eyeball:
    """One eye of the photo, ready to be seen through moving lids.

    texture: (h, w, 3) uint8, the eye with its lids filled in from the eyeball; its corner is at `origin` (x, y).
    contour: (16, 2) float32 the opening in the photo, picture pixels.
    iris: (2,) its centre, picture pixels; iris_radius: pixels; width: pixels between the eye's corners.
    across: (2,) unit vector towards the picture's right along the eye.
    lash_colour: (3,) float32.
    """

    indices: EyeIndices
    texture: np.ndarray
    origin: tuple[int, int]
    contour: np.ndarray
    iris: np.ndarray
    iris_radius: float
    width: float
    across: np.ndarray
    lash_colour: np.ndarray


def move_lids(shape: np.ndarray, target: TargetExpression) -> None:
    """Close, widen and squint both eyes of a face shape (>= 468, 3) in canonical centimetres, in place."""
    for side, eye in enumerate(EYES):
        closure, widening = _lid_motion(target, side)
        upper, lower = shape[list(eye.upper)], shape[list(eye.lower)]
        opening = lower - upper
        down = LID_TRAVEL * closure * opening
        down[:, 1] -= LID_OVERSHOOT * PROFILE * smoothstep(0.5, 1.0, closure)
        up = (WIDE_TRAVEL * widening * PROFILE)[:, None] * np.array([0, 1, 0], np.float32)
        rows = (eye.upper, eye.upper_ring_1, eye.upper_ring_2)
        for row, follows, share in zip(rows, (1.0, RING_1_SHARE, RING_2_SHARE), WIDE_SHARES, strict=True):
            inner = list(row[1:-1])
            shape[inner] += (follows * down + share * up)[1:-1]
        rise = np.minimum(SQUINT_TRAVEL * PROFILE, SQUINT_SHARE_OF_OPENING * np.abs(opening[:, 1]))
        squint = target.squint[side] * (1 - closure) * rise + LOWER_LID_RISE * closure * -opening[:, 1]
        for row, share in zip((eye.lower, eye.lower_ring_1), SQUINT_SHARES, strict=True):
            shape[list(row[1:-1]), 1] += share * squint[1:-1]


def _lid_motion(target: TargetExpression, side: int) -> tuple[float, float]:
    """Return (closure, widening) of one eye, the upper lid following the gaze."""
    looking = LID_FOLLOWS_GAZE * float(target.gaze[1])
    closure = float(target.closure[side])
    closure += (1 - closure) * max(-looking, 0.0)
    return closure, (float(target.wide[side]) + max(looking, 0.0)) * (1 - closure)


def layer_strength(target: TargetExpression, side: int) -> float:
    """Return 0..1: how much of the eyeball layer to use; 0 at rest, where the photo itself is exact."""
    most = max(target.closure[side], target.wide[side], target.squint[side], float(np.abs(target.gaze).max()))
    return float(smoothstep(0.0, LAYER_FADE, most))


def make_eyeball(picture: np.ndarray, points: np.ndarray, eye: EyeIndices) -> Eyeball | None:
    """Return one eye of an (H, W, 3) uint8 picture with landmarks (478, 2), or None when it lies outside."""
    contour = points[eye.contour].astype(np.float32)
    axis = points[eye.upper[-1]] - points[eye.upper[0]]
    width = float(np.linalg.norm(axis))
    window = bounding_window(contour, 0.35 * width, (picture.shape[1], picture.shape[0]))
    if window is None or width < 2:
        return None
    across = axis / width * (1 if axis[0] > 0 else -1)
    iris = points[list(eye.iris)]
    radius = float(np.linalg.norm(iris[1:] - iris[0], axis=1).mean())
    outline = opening_outline(points[list(eye.upper)], points[list(eye.lower)])
    left, top, right, bottom = window
    patch = picture[top:bottom, left:right]
    return Eyeball(
        indices=eye,
        texture=_without_lids(patch, outline, window, width),
        origin=(left, top),
        contour=contour,
        iris=iris[0].astype(np.float32),
        iris_radius=min(radius, 0.3 * width),
        width=width,
        across=across.astype(np.float32),
        lash_colour=_lash_colour(picture, points[list(eye.upper)]),
    )


def _without_lids(
    patch: np.ndarray, outline: np.ndarray, window: tuple[int, int, int, int], width: float
) -> np.ndarray:
    """Return the eye's patch with what lies outside the opening continued from inside it."""
    inside = outline_mask(outline, window, 0.0)
    shrink = max(1, round(0.03 * width))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * shrink + 1, 2 * shrink + 1))
    sure = cv2.erode((inside > 0.5).astype(np.uint8), kernel)
    if sure.sum() < 12:
        sure = (inside > 0.5).astype(np.uint8)
    if not sure.any():
        return patch.copy()
    filled = _continued(patch, sure)
    weight = np.clip(inside, 0, 1)[..., None]
    return np.rint(patch * weight + filled * (1 - weight)).astype(np.uint8)


def _continued(patch: np.ndarray, known: np.ndarray) -> np.ndarray:
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


def _lash_colour(picture: np.ndarray, lid: np.ndarray) -> np.ndarray:
    """Return (3,) float32: the darkest quarter of the photo along the upper lid."""
    line = np.rint(smooth_curve(lid)).astype(int)
    line = np.clip(line, 0, (picture.shape[1] - 1, picture.shape[0] - 1))
    colours = picture[line[:, 1], line[:, 0]].astype(np.float32)
    darkest = np.argsort(colours.sum(axis=1))[: max(1, len(colours) // 4)]
    return colours[darkest].mean(axis=0)


def draw_eye(
    canvas: np.ndarray,
    eyeball: Eyeball,
    points: np.ndarray,
    rigid_points: np.ndarray,
    target: TargetExpression,
    side: int,
    pixels_per_cm: float,
) -> None:
    """Draw one eye over the warped canvas (h, w, 3) uint8, in place.

    points, rigid_points: (N, 2) float32 in canvas pixels, the moved mesh and the mesh moved by the head alone;
    the eyeball's own numbers are in picture pixels.
    """
    strength = layer_strength(target, side)
    if strength <= 0:
        return
    upper, lower = points[list(eyeball.indices.upper)], points[list(eyeball.indices.lower)]
    upper, lower = _uncrossed(upper, lower)
    window = bounding_window(np.concatenate([upper, lower]), 3 + 0.05 * eyeball.width, canvas.shape[1::-1])
    if window is None:
        return
    outline = opening_outline(upper, lower)
    if cv2.contourArea(outline.astype(np.float32)) > 1:
        mask = outline_mask(outline, window, 0.008 * eyeball.width)
        to_photo = fit_affine(rigid_points[eyeball.indices.contour], eyeball.contour)
        blend(canvas, window, _seen_eyeball(eyeball, window, to_photo, target.gaze), mask * strength)
    closure, _ = _lid_motion(target, side)
    lash = LASH_STRENGTH * float(smoothstep(*LASH_CLOSURE, closure))
    if lash > 0:
        line = smooth_curve(points[list(eyeball.indices.upper)])[SLICE_WITHOUT_CORNERS]
        weight = line_mask(line, window, LASH_THICKNESS * pixels_per_cm) * lash
        blend(canvas, window, np.broadcast_to(eyeball.lash_colour, (*weight.shape, 3)), weight)


SLICE_WITHOUT_CORNERS = slice(2, -2)


def _uncrossed(upper: np.ndarray, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both lids (9, 2), meeting where the upper has passed the lower; y down."""
    axis = upper[-1] - upper[0]
    down = np.array([-axis[1], axis[0]]) * (1 if axis[0] > 0 else -1)
    crossed = ((lower - upper) @ down <= 0)[:, None]
    return np.where(crossed, lower, upper), lower


def _seen_eyeball(
    eyeball: Eyeball, window: tuple[int, int, int, int], to_photo: np.ndarray, gaze: np.ndarray
) -> np.ndarray:
    """Return the eyeball layer over a window as float32 (h, w, 3), the iris shifted by the gaze."""
    left, top, right, bottom = window
    x = np.arange(left, right, dtype=np.float32)[None, :]
    y = np.arange(top, bottom, dtype=np.float32)[:, None]
    map_x = to_photo[0, 0] * x + to_photo[0, 1] * y + to_photo[0, 2]
    map_y = to_photo[1, 0] * x + to_photo[1, 1] * y + to_photo[1, 2]
    if gaze.any():
        shift = _gaze_shift(eyeball, gaze)
        centre = eyeball.iris + shift
        distance = np.hypot(map_x - centre[0], map_y - centre[1])
        falloff = 1 - smoothstep(IRIS_MARGIN * eyeball.iris_radius, 0.5 * eyeball.width, distance)
        map_x -= shift[0] * falloff
        map_y -= shift[1] * falloff
    map_x -= eyeball.origin[0]
    map_y -= eyeball.origin[1]
    layer = cv2.remap(eyeball.texture, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return layer.astype(np.float32)


def _gaze_shift(eyeball: Eyeball, gaze: np.ndarray) -> np.ndarray:
    """Return (2,) photo pixels by which the iris moves; up is across turned a quarter anticlockwise."""
    across = eyeball.across
    up = np.array([across[1], -across[0]], np.float32)
    return eyeball.width * (GAZE_ACROSS * gaze[0] * across + GAZE_ALONG * gaze[1] * up)
