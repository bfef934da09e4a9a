"""The blendshape basis: how far each vertex of the face mesh moves when a coefficient is 1.

A hand-made table in canonical centimetres (x to the picture's right, y up, z to the camera; the mouth's
centre is near y = -4.4, the outer eye corners are 8.9 cm apart). It comes from no data set, so it carries
no licence; its travels were set to those measured on talking faces. Lids and gaze are not linear and live
in `eyes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..face.topology import (
    EYE_LEFT_LOWER,
    EYE_LEFT_LOWER_RING_1,
    EYE_LEFT_UPPER,
    EYE_LEFT_UPPER_RING_1,
    EYE_LEFT_UPPER_RING_2,
    EYE_RIGHT_LOWER,
    EYE_RIGHT_LOWER_RING_1,
    EYE_RIGHT_UPPER,
    EYE_RIGHT_UPPER_RING_1,
    EYE_RIGHT_UPPER_RING_2,
    LIPS_LOWER,
    LIPS_UPPER,
    MESH_POINT_COUNT,
    canonical_face,
)
from ..types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES

MOUTH_HALF_WIDTH = 2.46
"""Canonical centimetres from the middle of the mouth to a corner."""

JAW_ANGLE = 0.35
"""Radians the jaw turns at jawOpen 1: the chin then drops 2.4 cm."""

JAW_AXIS = (0.3, -2.5)
"""The jaw's hinge, (y, z)."""

JAW_DEPTH_SHARE = 0.8
LOWER_LIP_EXTRA_DROP = 0.5
CORNER_JAW_WEIGHT = 0.45
CORNER_PULL = 0.37
LID_SHARE = 0.25
LID_SHARE_OF_BROWS = 0.5
SIDE_BLEND = 0.7
"""Half the width (cm) over which a one-sided lip shape fades across the middle."""


@dataclass(frozen=True)
class Term:
    """One part of a blendshape: a weight over the mesh times a direction.

    region: "skin" (everywhere), "lower_lip", "upper_lip", "near_mouth", "jaw", or a lip with "_half" for
        the side the shape names.
    direction: centimetres (x, y, z) at weight 1, for a Left shape (x > 0); Right shapes are mirrored.
    blob: (centre x, centre y, sigma x, sigma y) of a Gaussian that multiplies the weight, if any.
    along_x: multiply the direction's x by the vertex's own x (to widen or narrow the mouth).
    """

    region: str
    direction: tuple[float, float, float]
    blob: tuple[float, float, float, float] | None = None
    along_x: bool = False


MOUTH_CORNER = (2.5, -4.3, 1.25, 1.0)

SYMMETRIC_SHAPES: dict[str, tuple[Term, ...]] = {
    "jawForward": (Term("jaw", (0, 0, 0.8)),),
    "jawLeft": (Term("jaw", (1, 0, 0)),),
    "jawRight": (Term("jaw", (-1, 0, 0)),),
    "mouthLeft": (Term("near_mouth", (1, 0, 0)),),
    "mouthRight": (Term("near_mouth", (-1, 0, 0)),),
    "mouthClose": (
        Term("lower_lip_flat", (0, 1.7, 0.2)),
        Term("skin", (0, 0.75, 0.1), (0, -6.0, 2.0, 0.6)),
        Term("upper_lip", (0, -0.45, 0)),
    ),
    "mouthFunnel": (
        Term("near_mouth", (-0.25, 0, 0), along_x=True),
        Term("near_mouth", (0, 0, 0.8)),
        Term("upper_lip", (0, 0.5, 0)),
        Term("lower_lip", (0, -0.8, 0)),
    ),
    "mouthPucker": (
        Term("near_mouth", (-0.32, 0, 0), along_x=True),
        Term("near_mouth", (0, 0, 0.9)),
        Term("upper_lip", (0, -0.05, 0)),
        Term("lower_lip", (0, 0.1, 0)),
    ),
    "mouthRollLower": (Term("lower_lip", (0, 0.25, -0.25)),),
    "mouthRollUpper": (Term("upper_lip", (0, -0.22, -0.25)),),
    "mouthShrugLower": (
        Term("lower_lip", (0, 0.35, 0.1)),
        Term("skin", (0, 0.25, 0.07), (0, -6.5, 2.0, 1.2)),
    ),
    "mouthShrugUpper": (Term("upper_lip", (0, 0.25, 0.1)),),
    "browInnerUp": (
        Term("skin", (-0.1, 0.95, 0), (1.3, 5.0, 1.2, 1.2)),
        Term("skin", (0.1, 0.95, 0), (-1.3, 5.0, 1.2, 1.2)),
    ),
    "cheekPuff": (
        Term("skin", (0.4, 0, 0.7), (4.2, -3.6, 1.5, 1.6)),
        Term("skin", (-0.4, 0, 0.7), (-4.2, -3.6, 1.5, 1.6)),
    ),
}

LEFT_SHAPES: dict[str, tuple[Term, ...]] = {
    "mouthSmileLeft": (
        Term("skin", (0.85, 0.75, -0.45), MOUTH_CORNER),
        Term("skin", (0.15, 0.45, 0.15), (4.0, -1.2, 1.3, 1.3)),
    ),
    "mouthFrownLeft": (Term("skin", (0.1, -0.75, -0.1), MOUTH_CORNER),),
    "mouthStretchLeft": (Term("skin", (0.8, -0.3, -0.4), MOUTH_CORNER),),
    "mouthDimpleLeft": (Term("skin", (0.4, 0.05, -0.4), MOUTH_CORNER),),
    "mouthPressLeft": (
        Term("lower_lip_half", (0, 0.2, -0.1)),
        Term("upper_lip_half", (0, -0.12, -0.1)),
    ),
    "mouthUpperUpLeft": (
        Term("upper_lip_half", (0, 0.6, 0.1)),
        Term("skin", (0, 0.3, 0), (1.6, -2.6, 1.1, 0.8)),
    ),
    "mouthLowerDownLeft": (
        Term("lower_lip_half", (0, -0.65, 0)),
        Term("skin", (0, -0.35, 0), (1.0, -6.2, 1.4, 0.8)),
    ),
    "browDownLeft": (
        Term("skin", (-0.25, -0.60, 0.1), (2.4, 4.8, 1.6, 0.9)),
        Term("skin", (-0.15, -0.40, 0.1), (1.2, 4.5, 0.8, 0.8)),
    ),
    "browOuterUpLeft": (Term("skin", (0, 0.75, 0), (4.4, 4.9, 1.4, 0.9)),),
    "cheekSquintLeft": (Term("skin", (0, 0.35, 0.1), (3.8, 0.6, 1.5, 0.9)),),
    "noseSneerLeft": (
        Term("skin", (0, 0.5, 0), (1.4, -0.3, 0.9, 1.2)),
        Term("skin", (0.1, 0.3, 0), (2.6, -1.6, 1.1, 1.0)),
        Term("upper_lip_half", (0, 0.25, 0)),
    ),
}


def smoothstep(low: float, high: float, value: np.ndarray | float) -> np.ndarray:
    """Return 0 below `low`, 1 above `high` and a cubic in between."""
    share = np.clip((np.asarray(value, np.float32) - low) / (high - low), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


@lru_cache(maxsize=1)
def displacement_basis() -> np.ndarray:
    """Return (52, 468, 3) float32: centimetres each canonical vertex moves at coefficient 1.

    Rows follow BLENDSHAPE_NAMES; blinks, gaze, eyeWide, eyeSquint and tongueOut are zero. Read-only.
    """
    vertices = canonical_face().vertices
    weights = _region_weights(vertices)
    basis = np.zeros((len(BLENDSHAPE_NAMES), len(vertices), 3), np.float32)
    basis[BLENDSHAPE_INDEX["jawOpen"]] = _jaw_opening(vertices)
    for name, terms in SYMMETRIC_SHAPES.items():
        basis[BLENDSHAPE_INDEX[name]] = _sum_of_terms(terms, vertices, weights, 1.0)
    for name, terms in LEFT_SHAPES.items():
        basis[BLENDSHAPE_INDEX[name]] = _sum_of_terms(terms, vertices, weights, 1.0)
        right = name.replace("Left", "Right")
        basis[BLENDSHAPE_INDEX[right]] = _sum_of_terms(terms, vertices, weights, -1.0)
    basis *= _lid_shares()[..., None]
    basis.setflags(write=False)
    return basis


def _sum_of_terms(
    terms: tuple[Term, ...], vertices: np.ndarray, weights: dict[str, np.ndarray], side: float
) -> np.ndarray:
    """Return (468, 3): the terms added up; `side` is +1 for Left and symmetric shapes, -1 for Right."""
    total = np.zeros_like(vertices)
    for term in terms:
        weight = _weight(term, vertices, weights, side)
        direction = np.array(term.direction, np.float32) * (side, 1, 1)
        moved = weight[:, None] * direction
        if term.along_x:
            moved[:, 0] *= vertices[:, 0]
        total += moved
    return total


def _weight(term: Term, vertices: np.ndarray, weights: dict[str, np.ndarray], side: float) -> np.ndarray:
    region = term.region.removesuffix("_half")
    weight = weights[region]
    if term.region.endswith("_half"):
        weight = weight * smoothstep(-SIDE_BLEND, SIDE_BLEND, side * vertices[:, 0])
    if term.blob is None:
        return weight
    centre_x, centre_y, sigma_x, sigma_y = term.blob
    return weight * _gaussian(vertices, side * centre_x, centre_y, sigma_x, sigma_y)


def _gaussian(vertices: np.ndarray, x: float, y: float, sigma_x: float, sigma_y: float) -> np.ndarray:
    across, along = (vertices[:, 0] - x) / sigma_x, (vertices[:, 1] - y) / sigma_y
    return np.exp(-0.5 * (across**2 + along**2))


def _mouth_profile(vertices: np.ndarray) -> np.ndarray:
    """Return (468,): 1 at the middle of the mouth falling as an ellipse to 0 at its corners."""
    return np.sqrt(np.clip(1.0 - (vertices[:, 0] / MOUTH_HALF_WIDTH) ** 2, 0.0, 1.0))


def _lip_membership(rows: tuple[tuple[int, ...], ...]) -> np.ndarray:
    member = np.zeros(MESH_POINT_COUNT, np.float32)
    for row in rows:
        member[list(row[1:-1])] = 1.0
    return member


def _region_weights(vertices: np.ndarray) -> dict[str, np.ndarray]:
    """Return each named region's weight over the vertices, (468,) in 0..1."""
    profile = _mouth_profile(vertices)
    upper, lower = _lip_membership(LIPS_UPPER), _lip_membership(LIPS_LOWER)
    corners = np.zeros(MESH_POINT_COUNT, np.float32)
    corners[[row[end] for row in LIPS_UPPER for end in (0, -1)]] = 1.0
    lips = np.maximum(np.maximum(upper, lower), corners)
    return {
        "skin": np.ones(len(vertices), np.float32),
        "upper_lip": upper * profile,
        "lower_lip": lower * profile,
        "lower_lip_flat": lower * (0.3 + 0.7 * profile),
        "near_mouth": np.maximum(lips, 0.7 * _gaussian(vertices, 0, -4.4, 2.6, 1.5) * (1 - lips)),
        "jaw": _jaw_weight(vertices),
    }


def _jaw_weight(vertices: np.ndarray) -> np.ndarray:
    """Return (468,): how much each vertex follows the jaw bone."""
    weight = smoothstep(3.2, 6.0, -vertices[:, 1]) * (1 - 0.55 * smoothstep(4.5, 7.6, np.abs(vertices[:, 0])))
    profile = _mouth_profile(vertices)
    upper, lower = _lip_membership(LIPS_UPPER) > 0, _lip_membership(LIPS_LOWER) > 0
    weight[upper] = CORNER_JAW_WEIGHT * (1 - profile[upper]) ** 1.5
    weight[lower] = CORNER_JAW_WEIGHT + (1 - CORNER_JAW_WEIGHT) * profile[lower]
    weight[[row[end] for row in LIPS_UPPER for end in (0, -1)]] = CORNER_JAW_WEIGHT
    return weight.astype(np.float32)


def _jaw_opening(vertices: np.ndarray) -> np.ndarray:
    """Return (468, 3): a small rotation about the hinge, the lower lip dropping further, corners drawn in."""
    weight = _jaw_weight(vertices) * JAW_ANGLE
    moved = np.zeros_like(vertices)
    moved[:, 1] = -weight * (vertices[:, 2] - JAW_AXIS[1])
    moved[:, 2] = JAW_DEPTH_SHARE * weight * (vertices[:, 1] - JAW_AXIS[0])
    lower = _lip_membership(LIPS_LOWER) * _mouth_profile(vertices)
    moved[:, 1] -= LOWER_LIP_EXTRA_DROP * lower
    distance = (np.abs(vertices[:, 0]) - 2.5) ** 2 + ((vertices[:, 1] + 4.3) / 1.5) ** 2
    moved[:, 0] -= np.sign(vertices[:, 0]) * CORNER_PULL * np.exp(-distance)
    return moved


def _lid_shares() -> np.ndarray:
    """Return (52, 468): how much of each shape reaches each vertex; the lids take only part."""
    upper = (EYE_LEFT_UPPER, EYE_RIGHT_UPPER, EYE_LEFT_UPPER_RING_1, EYE_RIGHT_UPPER_RING_1)
    lower = (EYE_LEFT_LOWER, EYE_RIGHT_LOWER, EYE_LEFT_LOWER_RING_1, EYE_RIGHT_LOWER_RING_1)
    lids = [index for row in upper + lower for index in row]
    crease = [*EYE_LEFT_UPPER_RING_2, *EYE_RIGHT_UPPER_RING_2]
    shares = np.ones((len(BLENDSHAPE_NAMES), MESH_POINT_COUNT), np.float32)
    for name, row in BLENDSHAPE_INDEX.items():
        is_brow = name.startswith("brow")
        shares[row, lids] = LID_SHARE_OF_BROWS if is_brow else LID_SHARE
        shares[row, crease] = 0.75 if is_brow else 0.5
    return shares
