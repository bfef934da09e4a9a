"""Lids: how they close, widen, squint and follow the gaze, and the mesh they are made of.

Landmarks of the upper lid's edge lie a little inside the eye, so the strip above them carries some white of
the eye and the shadow under the lashes. A closed lid must be skin: a margin row, placed where the photo's
skin begins, is the fold from which the lid unrolls. It stays while the lid's edge goes down.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..face import topology
from .composition import TargetExpression
from .displacement import smoothstep

LID_TRAVEL = 0.94
"""Share of the opening the upper lid crosses; the lower lid rises by the rest."""
LOWER_LID_RISE = 0.06
LID_OVERSHOOT = 0.15
"""Centimetres the upper lid passes over the lower at its middle, so that no sliver stays between them."""
RING_1_SHARE = 0.10
RING_2_SHARE = 0.0
"""Of the upper lid's way, what the skin above it follows: the lid unrolls from its fold, see `lid_skin`."""
WIDE_TRAVEL = 0.22
SQUINT_TRAVEL = 0.20
WIDE_SHARES = (1.0, 0.8, 0.3)
SQUINT_SHARES = (1.0, 0.9)
SQUINT_SHARE_OF_OPENING = 0.35
LID_FOLLOWS_GAZE = 0.45
"""Closure (or widening) of the upper lid when the eyes look fully down (or up)."""

LID_POINTS = 9
PROFILE = np.sin(np.pi * np.arange(LID_POINTS) / (LID_POINTS - 1)).astype(np.float32)
"""Along a lid: 0 at the corners, 1 in the middle."""
MARGIN_RANGE = (0.25, 0.75)
"""Where the margin row may lie between the lid's edge (0) and the first ring (1)."""
SKIN_BRIGHTNESS = 0.82
"""Of the brightest skin above the eye; where the strip reaches it, skin begins."""
MARGIN_COUNT = 2 * LID_POINTS
LID_ORIENTATION = 1.0


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


def move_lids(shape: np.ndarray, target: TargetExpression, margins: np.ndarray) -> None:
    """Close, widen and squint both eyes of a moved shape (N, 3) in canonical centimetres, in place.

    The last MARGIN_COUNT rows are the margin vertices; `margins` (2,) says where they lie, see
    `margin_vertices`.
    """
    for side, eye in enumerate(EYES):
        closure, widening = lid_motion(target, side)
        upper, lower = shape[list(eye.upper)], shape[list(eye.lower)]
        opening = lower - upper
        down = LID_TRAVEL * closure * opening
        down[:, 1] -= LID_OVERSHOOT * PROFILE * smoothstep(0.5, 1.0, closure)
        up = (WIDE_TRAVEL * widening * PROFILE)[:, None] * np.array([0, 1, 0], np.float32)
        rows = (eye.upper, eye.upper_ring_1, eye.upper_ring_2)
        for row, follows, share in zip(rows, (1.0, RING_1_SHARE, RING_2_SHARE), WIDE_SHARES, strict=True):
            shape[list(row[1:-1])] += (follows * down + share * up)[1:-1]
        rise = np.minimum(SQUINT_TRAVEL * PROFILE, SQUINT_SHARE_OF_OPENING * np.abs(opening[:, 1]))
        squint = target.squint[side] * (1 - closure) * rise + LOWER_LID_RISE * closure * -opening[:, 1]
        for row, share in zip((eye.lower, eye.lower_ring_1), SQUINT_SHARES, strict=True):
            shape[list(row[1:-1]), 1] += share * squint[1:-1]
        fold = shape[list(eye.upper)]
        fold[1:-1] -= down[1:-1]
        ring = shape[list(eye.upper_ring_1)]
        shape[_margin_rows(len(shape), side)] = fold + margins[side] * (ring - fold)


def lid_motion(target: TargetExpression, side: int) -> tuple[float, float]:
    """Return (closure, widening) of one eye, the upper lid following the gaze."""
    looking = LID_FOLLOWS_GAZE * float(target.gaze[1])
    closure = float(target.closure[side])
    closure += (1 - closure) * max(-looking, 0.0)
    return closure, (float(target.wide[side]) + max(looking, 0.0)) * (1 - closure)


def _between_edge_and_ring(shape: np.ndarray, eye: EyeIndices, share: float) -> np.ndarray:
    edge, ring = shape[list(eye.upper)], shape[list(eye.upper_ring_1)]
    return edge + (ring - edge) * share


def _margin_rows(vertex_count: int, side: int) -> slice:
    start = vertex_count - MARGIN_COUNT + side * LID_POINTS
    return slice(start, start + LID_POINTS)


def margin_vertices(face: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Return (MARGIN_COUNT, D): a row per eye, `margins` (2,) of the way from the lid's edge to the ring."""
    rows = [_between_edge_and_ring(face, eye, margins[side]) for side, eye in enumerate(EYES)]
    return np.concatenate(rows)


def find_margins(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return (2,) in MARGIN_RANGE: where above each upper lid's edge a picture (H, W, 3) uint8 shows skin.

    points: (>= 468, 2) landmarks in its pixels.
    """
    steps = np.linspace(0, 1, 21)
    return np.array([_skin_begins(_brightness_above(picture, points, eye, steps), steps) for eye in EYES])


def _brightness_above(
    picture: np.ndarray, points: np.ndarray, eye: EyeIndices, steps: np.ndarray
) -> np.ndarray:
    """Return (S, 5) brightness from the lid's edge to the first ring, for the middle columns."""
    edge, ring = points[list(eye.upper[2:-2])], points[list(eye.upper_ring_1[2:-2])]
    places = (edge[None] + (ring - edge)[None] * steps[:, None, None]).astype(np.float32)
    samples = cv2.remap(
        picture, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return samples.astype(np.float32).mean(axis=2)


def _skin_begins(brightness: np.ndarray, steps: np.ndarray) -> float:
    low, high = MARGIN_RANGE
    along = np.median(brightness, axis=1)
    skin = SKIN_BRIGHTNESS * along[len(along) // 2 :].max()
    usable = np.flatnonzero((along >= skin) & (steps >= low))
    return float(np.clip(steps[usable[0]] if len(usable) else high, low, high))


def lid_strip_triangles(triangles: np.ndarray) -> np.ndarray:
    """Return (T,) bool: the canonical triangles between an upper lid's edge and its first ring."""
    strip = np.zeros(len(triangles), bool)
    for eye in EYES:
        within = np.isin(triangles, [*eye.upper, *eye.upper_ring_1]).all(axis=1)
        interior = np.isin(triangles, eye.contour).all(axis=1)
        ring_only = np.isin(triangles, eye.upper_ring_1).all(axis=1)
        strip |= within & ~interior & ~ring_only
    return strip


def margin_triangles(first_margin_vertex: int) -> np.ndarray:
    """Return (T, 3) int32: strips from each first ring over the margin row to the upper lid's edge."""
    strips = []
    for side, eye in enumerate(EYES):
        margin = first_margin_vertex + side * LID_POINTS + np.arange(LID_POINTS)
        for above, below in ((np.array(eye.upper_ring_1), margin), (margin, np.array(eye.upper))):
            quads = [above[:-1], above[1:], below[1:], below[:-1]]
            if side == 0:
                quads = [above[1:], above[:-1], below[:-1], below[1:]]
            strips.append(np.stack([quads[0], quads[1], quads[2]], axis=1))
            strips.append(np.stack([quads[0], quads[2], quads[3]], axis=1))
    return np.concatenate(strips).astype(np.int32)
