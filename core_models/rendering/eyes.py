"""Eyeballs, the lash line, and gaze.

The eyeball is a layer of its own, moved rigidly with the head and seen through the opening between the lids,
so a lid covers the iris instead of squashing it. Neither lids nor gaze go through the linear basis.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .composition import TargetExpression
from .curves import (
    blend,
    bounding_window,
    continued,
    fit_affine,
    heal_line,
    opening_outline,
    outline_mask,
    smooth_curve,
)
from .displacement import smoothstep
from .lid_skin import LidSkin, draw_lid_skin, make_lid_skin
from .lids import EyeIndices, lid_motion

GAZE_ACROSS = 0.24
GAZE_ALONG = 0.09
"""How far the iris moves at gaze 1, in eye widths."""
IRIS_MARGIN = 1.15
"""Times the iris radius that move whole; the shift falls to 0 at half an eye's width."""

LASH_STRENGTH = 0.8
LASH_DARKNESS = 0.7
"""Of the darkest colour along the photo's own lid; closed lashes lie on each other."""
LASH_CLOSURE = (0.03, 0.28)
LASH_THICKNESS = 0.15
"""Centimetres at the middle of the lid; the stroke tapers to the corners."""
THINNEST_LASH = 1.2
"""Pixels."""
SEAM_CLOSURE = (0.70, 0.95)
SEAM_REACH = 0.10
"""Centimetres, plus the warp's softness: the band under a closed lid that is healed."""
SLICE_WITHOUT_CORNERS = slice(2, -2)
VISIBLE_OPENING = (0.3, 2.0)
"""Pixels of opening over which the eyeball appears."""
LAYER_FADE = 0.06
"""Closure, widening or gaze at which the eyeball layer is fully used; below, the plain warp shows."""


@dataclass(frozen=True)
class Eyeball:
    """One eye of the photo, ready to be seen through moving lids.

    texture: (h, w, 3) uint8, the eye with its lids filled in from the eyeball; its corner is at `origin`
        (x, y).
    contour: (16, 2) float32 the opening in the photo, picture pixels.
    iris: (2,) its centre, picture pixels; iris_radius: pixels; width: pixels between the eye's corners.
    across, down: (2,) unit vectors along the eye towards the picture's right, and down.
    lash_colour: (3,) float32. skin: of its upper lid.
    """

    indices: EyeIndices
    texture: np.ndarray
    origin: tuple[int, int]
    contour: np.ndarray
    iris: np.ndarray
    iris_radius: float
    width: float
    across: np.ndarray
    down: np.ndarray
    lash_colour: np.ndarray
    skin: LidSkin


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
        down=np.array([-across[1], across[0]], np.float32),
        lash_colour=_lash_colour(picture, points[list(eye.upper)]),
        skin=make_lid_skin(picture, points, eye),
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
    filled = continued(patch, sure)
    weight = np.clip(inside, 0, 1)[..., None]
    return np.rint(patch * weight + filled * (1 - weight)).astype(np.uint8)


def _lash_colour(picture: np.ndarray, lid: np.ndarray) -> np.ndarray:
    """Return (3,) float32: the darkest quarter of the photo along the upper lid."""
    line = np.rint(smooth_curve(lid)).astype(int)
    line = np.clip(line, 0, (picture.shape[1] - 1, picture.shape[0] - 1))
    colours = picture[line[:, 1], line[:, 0]].astype(np.float32)
    darkest = np.argsort(colours.sum(axis=1))[: max(1, len(colours) // 4)]
    return LASH_DARKNESS * colours[darkest].mean(axis=0)


def draw_eye(
    canvas: np.ndarray,
    eyeball: Eyeball,
    points: np.ndarray,
    rigid_points: np.ndarray,
    target: TargetExpression,
    side: int,
    pixels_per_cm: float,
    softness: float,
    turned: float,
    grain: np.ndarray,
) -> None:
    """Draw one eye over the warped canvas (h, w, 3) uint8, in place.

    points, rigid_points: (N, 2) float32 in canvas pixels, the moved mesh and the mesh moved by the head
    alone; the eyeball's own numbers are in picture pixels. softness: pixels over which the warp is blurred.
    turned: 0..1, how far the head turns; then, too, the eyeball is drawn, as the warp folds a far eye.
    grain: square tile of float32 noise as strong as the photo's own on skin.
    """
    strength = max(layer_strength(target, side), turned)
    if strength <= 0:
        return
    upper, lower = points[list(eyeball.indices.upper)], points[list(eyeball.indices.lower)]
    upper, lower = _uncrossed(upper, lower)
    reach = SEAM_REACH * pixels_per_cm + 2.0 * softness
    raw_edge = points[list(eyeball.indices.upper)]
    window = bounding_window(np.concatenate([raw_edge, upper, lower]), 3 + 2.5 * reach, canvas.shape[1::-1])
    if window is None:
        return
    opening = np.abs((lower - upper) @ eyeball.down).max()
    seen = strength * float(smoothstep(*VISIBLE_OPENING, opening))
    if seen > 0:
        mask = outline_mask(opening_outline(upper, lower), window, 0.008 * eyeball.width)
        to_photo = fit_affine(rigid_points[eyeball.indices.contour], eyeball.contour)
        blend(canvas, window, _seen_eyeball(eyeball, window, to_photo, target.gaze), mask * seen)
    closure = lid_motion(target, side)[0]
    edge = smooth_curve(points[list(eyeball.indices.upper)])
    healed = float(smoothstep(*SEAM_CLOSURE, closure))
    if healed > 0:
        heal_line(canvas, window, edge[SLICE_WITHOUT_CORNERS], eyeball.down, reach, healed)
    draw_lid_skin(canvas, eyeball.skin, points, eyeball.indices, side, closure, grain)
    _draw_lashes(canvas, window, eyeball, edge, closure, pixels_per_cm)


def _draw_lashes(
    canvas: np.ndarray,
    window: tuple[int, int, int, int],
    eyeball: Eyeball,
    edge: np.ndarray,
    closure: float,
    pixels_per_cm: float,
) -> None:
    """Draw the dark line along a closing lid's edge (M, 2), in place."""
    lash = LASH_STRENGTH * float(smoothstep(*LASH_CLOSURE, closure))
    if lash <= 0:
        return
    thickness = max(LASH_THICKNESS * pixels_per_cm, THINNEST_LASH)
    half = 0.5 * thickness * np.sin(np.linspace(0, np.pi, len(edge)))[:, None] * eyeball.down
    stroke = np.concatenate([edge - half, (edge + half)[-2:0:-1]])
    weight = outline_mask(stroke, window, 0.3 * thickness) * lash
    blend(canvas, window, np.broadcast_to(eyeball.lash_colour, (*weight.shape, 3)), weight)


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
    """Return (2,) photo pixels by which the iris moves."""
    return eyeball.width * (GAZE_ACROSS * gaze[0] * eyeball.across - GAZE_ALONG * gaze[1] * eyeball.down)
