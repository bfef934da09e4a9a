"""Turning the head: rings of vertices that carry hair and shoulders, and how far a photo may turn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..face.pose import HEAD_PIVOT, rotation_matrix
from ..face.topology import FACE_OVAL, MESH_POINT_COUNT
from .composition import soft_limit
from .displacement import smoothstep

RING_FACTORS = (1.22, 1.55, 2.0, 2.7)
"""How far out each ring lies, times the face's own oval; the last ring never moves."""
RING_RIGID_WEIGHTS = (0.97, 0.80, 0.38, 0.0)
"""How much of the head's motion each ring takes."""
RING_STILL_SHARES_BELOW = (0.25, 0.75, 0.75, 0.75)
"""How much of that motion each ring loses below the chin, where the shoulders are."""
RING_EXPRESSION_WEIGHTS = (0.55, 0.15, 0.0, 0.0)
"""How much of the oval's own expression each ring takes."""
RING_COUNT = len(RING_FACTORS)
RING_SIZE = len(FACE_OVAL)
LAST_RING = slice(RING_COUNT * RING_SIZE, (RING_COUNT + 1) * RING_SIZE)
RING_ORIENTATION = 1.0

OVAL_ON_SILHOUETTE = 0.96
"""An oval point at least this far out, relative to the seen outline, is itself the silhouette."""

TOP_RAISE = 2.0
"""Centimetres per unit of factor the rings rise above the forehead, to take in the hair."""
RING_RECESSION = 7.0
RING_DEPTH_FLOOR = -7.0

YAW_REFUSED = 45.0
PITCH_LIMIT = 12.0
ROLL_LIMIT = 14.0
YAW_LIMIT = 14.0
TURNED_YAW_LIMIT = 3.0
"""The limit left to a source that is already turned by `YAW_TURNED[1]` degrees."""
YAW_TURNED = (12.0, 38.0)
TURNED_STEADINESS = 0.4
"""How much of the pitch and roll limits such a source loses."""
YAW_DAMPED = (25.0, 45.0)
"""Source yaw between which turning back to the camera fades out: the hidden side was never photographed."""
TRANSLATION_LIMIT = 0.22
"""Face units, sideways and up."""
SCALE_LIMIT = 0.14
"""Natural logarithm of the size change."""


@dataclass(frozen=True)
class HeadMove:
    """A head motion within the photo's limits.

    rotation: (3, 3), in the head's own axes, about HEAD_PIVOT.
    translation: (3,) canonical centimetres in the picture's axes (x right, y up, z unused), of HEAD_PIVOT.
    scale: size relative to rest, about HEAD_PIVOT.
    """

    rotation: np.ndarray
    translation: np.ndarray
    scale: float

    def applied(self, shape: np.ndarray) -> np.ndarray:
        """Return a shape (N, 3) in canonical centimetres turned and enlarged about HEAD_PIVOT."""
        return self.scale * ((shape - HEAD_PIVOT) @ self.rotation.T) + HEAD_PIVOT

    @property
    def angle(self) -> float:
        """Degrees the head turns, about whatever axis."""
        return float(np.degrees(np.arccos(np.clip((np.trace(self.rotation) - 1) / 2, -1, 1))))

    @property
    def is_still(self) -> bool:
        """Whether nothing moves."""
        return bool((self.rotation == np.eye(3)).all()) and not self.translation.any() and self.scale == 1


def check_source_yaw(yaw: float) -> None:
    """Raise ValueError when the photo shows a profile, from which no turned face can be made."""
    if abs(yaw) > YAW_REFUSED:
        raise ValueError(
            f"the portrait's head is turned {abs(yaw):.0f} degrees from the camera; the mesh renderer needs "
            f"at most {YAW_REFUSED:.0f}. Choose a picture in which both eyes are seen, or another renderer"
        )


def yaw_limits(source_yaw: float) -> tuple[float, float]:
    """Return (to the picture's left, to its right), degrees >= 0 that a source of this yaw may turn.

    Frontal sources turn both ways. A turned source turns little, and hardly back towards the camera.
    """
    turned = float(smoothstep(*YAW_TURNED, abs(source_yaw)))
    away = TURNED_YAW_LIMIT + (YAW_LIMIT - TURNED_YAW_LIMIT) * (1 - turned)
    towards = away * float(1 - smoothstep(*YAW_DAMPED, abs(source_yaw)))
    return (towards, away) if source_yaw > 0 else (away, towards)


def limited_head_move(
    rotation: np.ndarray, translation: np.ndarray, scale: float, source_yaw: float, face_unit: float
) -> HeadMove:
    """Return one frame's head motion, softly limited to what the photo can show.

    rotation: (3,) degrees (pitch, yaw, roll) from rest; translation: (3,) face units; scale: ratio > 0.
    source_yaw: degrees the photo's head is turned; face_unit: centimetres between the outer eye corners.
    """
    pitch, yaw, roll = (float(angle) for angle in rotation)
    left, right = yaw_limits(source_yaw)
    limit = right if yaw > 0 else left
    steadier = 1 - TURNED_STEADINESS * float(smoothstep(*YAW_TURNED, abs(source_yaw)))
    angles = (
        soft_limit(pitch, PITCH_LIMIT * steadier),
        soft_limit(yaw, limit) if limit > 1e-3 else 0.0,
        soft_limit(roll, ROLL_LIMIT * steadier),
    )
    shift = np.asarray(soft_limit(np.asarray(translation, np.float32), TRANSLATION_LIMIT)) * face_unit
    return HeadMove(
        rotation=rotation_matrix(np.array(angles)).astype(np.float32),
        translation=(shift * (1, 1, 0)).astype(np.float32),
        scale=float(np.exp(soft_limit(np.log(scale), SCALE_LIMIT))),
    )


@dataclass(frozen=True)
class RingLayout:
    """Rings of vertices around one face, the first on its silhouette; RING_COUNT + 1 rings of RING_SIZE.

    vertices: (N, 3) float32 canonical centimetres, innermost ring first.
    rigid_weights: (N,) float32, each vertex's share of the head's motion; shoulders stay.
    anchors: (RING_SIZE, 2) int and shares: (RING_SIZE, 2) float32: the two face vertices each column
        starts from, and how much of their expression it takes.
    """

    vertices: np.ndarray
    rigid_weights: np.ndarray
    anchors: np.ndarray
    shares: np.ndarray


def ring_layout(face: np.ndarray, rotation: np.ndarray) -> RingLayout:
    """Return the rings around a face (>= 468, 3) in canonical centimetres, seen at `rotation` (3, 3).

    The rings grow from the silhouette in the picture's plane, not in the head's: on the far side of a turned
    head they would otherwise fold back over the cheek.
    """
    axes = _upright_axes(rotation)
    seen = face[:MESH_POINT_COUNT] @ axes.T
    anchors, shares = _silhouette(seen[:, :2])
    base = (seen[anchors] * shares[..., None]).sum(axis=1)
    low, high = base.min(axis=0), base.max(axis=0)
    middle = (low + high) / 2
    up = np.clip((base[:, 1] - middle[1]) / (high[1] - middle[1]), 0, 1)
    down = smoothstep(0.0, 1.0, (middle[1] - base[:, 1]) / (middle[1] - low[1]))
    rings, weights = [base], [np.ones(RING_SIZE)]
    for factor, rigid, still in zip(RING_FACTORS, RING_RIGID_WEIGHTS, RING_STILL_SHARES_BELOW, strict=True):
        rings.append(_ring(base, middle, up, factor))
        weights.append(rigid * (1 - down * still))
    vertices = np.concatenate(rings) @ axes
    return RingLayout(
        vertices.astype(np.float32),
        np.concatenate(weights).astype(np.float32),
        anchors,
        shares.astype(np.float32),
    )


def _upright_axes(rotation: np.ndarray) -> np.ndarray:
    """Return (3, 3): the picture's axes as rows, turned in its plane so that the head's top is up."""
    up = rotation[:2, 1] / np.linalg.norm(rotation[:2, 1])
    in_plane = np.array([[up[1], -up[0], 0], [up[0], up[1], 0], [0, 0, 1]])
    return in_plane @ rotation


def _ring(base: np.ndarray, middle: np.ndarray, up: np.ndarray, factor: float) -> np.ndarray:
    """Return (RING_SIZE, 3): the silhouette enlarged by `factor`, risen over the hair and set back."""
    beyond = factor - 1
    ring = middle + (base - middle) * factor
    ring[:, 1] += TOP_RAISE * beyond * up
    receded = base[:, 2] * (1 - 0.5 * beyond) - RING_RECESSION * beyond
    ring[:, 2] = np.maximum(np.minimum(base[:, 2], receded), np.minimum(base[:, 2], RING_DEPTH_FLOOR))
    return ring


def _silhouette(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (anchors, shares), both (RING_SIZE, 2): where oval columns meet the outline of points (468, 2).

    On a frontal face that is the oval itself; on the far side of a turned one, the hull of what is seen.
    """
    from cv2 import convexHull

    oval = np.array(FACE_OVAL)
    hull = convexHull(points.astype(np.float32), returnPoints=False).ravel()
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    anchors, shares = np.stack([oval, oval], axis=1), np.tile([1.0, 0.0], (RING_SIZE, 1))
    corners, following = points[hull] - middle, points[np.roll(hull, -1)] - middle
    for column, index in enumerate(oval):
        ray = points[index] - middle
        first, share, reach = _ray_exit(ray, corners, following)
        if reach * OVAL_ON_SILHOUETTE > 1:
            anchors[column] = hull[first], np.roll(hull, -1)[first]
            shares[column] = 1 - share, share
    return anchors, shares


def _ray_exit(ray: np.ndarray, corners: np.ndarray, following: np.ndarray) -> tuple[int, float, float]:
    """Return (edge, share along it, reach in rays) where a ray from the origin leaves a convex outline."""
    edges = following - corners
    turn = ray[0] * edges[:, 1] - ray[1] * edges[:, 0]
    safe = np.where(np.abs(turn) > 1e-9, turn, np.inf)
    reach = (corners[:, 0] * edges[:, 1] - corners[:, 1] * edges[:, 0]) / safe
    share = (corners[:, 0] * ray[1] - corners[:, 1] * ray[0]) / safe
    hits = (reach > 0) & (share >= -1e-6) & (share <= 1 + 1e-6) & np.isfinite(safe)
    if not hits.any():
        return 0, 0.0, 1.0
    first = int(np.flatnonzero(hits)[np.argmax(reach[hits])])
    return first, float(np.clip(share[first], 0, 1)), float(reach[first])


def ring_triangles(first_ring_vertex: int) -> np.ndarray:
    """Return (2 * (RING_COUNT + 1) * RING_SIZE, 3) int32: strips from the face's oval to the last ring."""
    loops = [np.array(FACE_OVAL)]
    loops += [first_ring_vertex + ring * RING_SIZE + np.arange(RING_SIZE) for ring in range(RING_COUNT + 1)]
    strips = []
    for inner, outer in pairwise(loops):
        inner_next, outer_next = np.roll(inner, -1), np.roll(outer, -1)
        strips.append(np.stack([inner, outer, outer_next], axis=1))
        strips.append(np.stack([inner, outer_next, inner_next], axis=1))
    return np.concatenate(strips).astype(np.int32)


def ring_basis(face_basis: np.ndarray, layout: RingLayout) -> np.ndarray:
    """Return (52, N, 3): the rings' own expression, the silhouette's fading outwards."""
    anchored = face_basis[:, layout.anchors] * layout.shares[None, ..., None]
    silhouette = anchored.sum(axis=2)
    return np.concatenate([silhouette * weight for weight in (1.0, *RING_EXPRESSION_WEIGHTS)], axis=1)
