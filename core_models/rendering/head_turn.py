"""Turning the head: rings of vertices that carry hair and shoulders, and how far a photo may turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..face.pose import rotation_matrix
from ..face.topology import FACE_OVAL
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

TOP_RAISE = 2.0
"""Centimetres per unit of factor the rings rise above the forehead, to take in the hair."""
RING_RECESSION = 7.0
RING_DEPTH_FLOOR = -7.0

NECK_PIVOT = np.array([0.0, -6.0, -5.0], np.float32)
"""Canonical centimetres: the head turns about the top of the neck."""

YAW_REFUSED = 45.0
PITCH_LIMIT = 12.0
ROLL_LIMIT = 14.0
YAW_LIMIT = 14.0
TURNED_YAW_LIMIT = 3.0
"""The limit left to a source that is already turned by `YAW_TURNED[1]` degrees."""
YAW_TURNED = (12.0, 38.0)
YAW_DAMPED = (25.0, 45.0)
"""Source yaw between which turning back to the camera fades out: the hidden side was never photographed."""
TRANSLATION_LIMIT = 0.22
"""Face units, sideways and up."""
SCALE_LIMIT = 0.14
"""Natural logarithm of the size change."""


@dataclass(frozen=True)
class HeadMove:
    """A head motion within the photo's limits.

    rotation: (3, 3), in the head's own axes, about NECK_PIVOT.
    translation: (3,) canonical centimetres in the picture's axes (x right, y up, z unused).
    scale: size relative to rest.
    """

    rotation: np.ndarray
    translation: np.ndarray
    scale: float

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
    angles = (
        soft_limit(pitch, PITCH_LIMIT),
        soft_limit(yaw, limit) if limit > 1e-3 else 0.0,
        soft_limit(roll, ROLL_LIMIT),
    )
    shift = np.asarray(soft_limit(np.asarray(translation, np.float32), TRANSLATION_LIMIT)) * face_unit
    return HeadMove(
        rotation=rotation_matrix(np.array(angles)).astype(np.float32),
        translation=(shift * (1, 1, 0)).astype(np.float32),
        scale=float(np.exp(soft_limit(np.log(scale), SCALE_LIMIT))),
    )


def ring_vertices(face: np.ndarray) -> np.ndarray:
    """Return (RING_COUNT * RING_SIZE, 3) float32 canonical points around a face (>= 468, 3), innermost first."""
    oval = face[list(FACE_OVAL)]
    middle = (oval[:, 1].max() + oval[:, 1].min()) / 2
    up = np.clip((oval[:, 1] - middle) / (oval[:, 1].max() - middle), 0, 1)
    rings = []
    for factor in RING_FACTORS:
        beyond = factor - 1
        x = oval[:, 0] * factor
        y = middle + (oval[:, 1] - middle) * factor + TOP_RAISE * beyond * up
        receded = oval[:, 2] * (1 - 0.5 * beyond) - RING_RECESSION * beyond
        z = np.maximum(np.minimum(oval[:, 2], receded), RING_DEPTH_FLOOR)
        rings.append(np.stack([x, y, z], axis=1))
    return np.concatenate(rings).astype(np.float32)


def ring_rigid_weights(face: np.ndarray) -> np.ndarray:
    """Return (RING_COUNT * RING_SIZE,): each ring vertex's share of the head's motion; shoulders stay."""
    oval = face[list(FACE_OVAL)]
    middle = (oval[:, 1].max() + oval[:, 1].min()) / 2
    down = smoothstep(0.0, 1.0, (middle - oval[:, 1]) / (middle - oval[:, 1].min()))
    rows = [
        weight * (1 - down * still)
        for weight, still in zip(RING_RIGID_WEIGHTS, RING_STILL_SHARES_BELOW, strict=True)
    ]
    return np.concatenate(rows).astype(np.float32)


def ring_triangles(first_ring_vertex: int) -> np.ndarray:
    """Return (2 * RING_COUNT * RING_SIZE, 3) int32: strips from the face's oval out to the last ring."""
    loops = [np.array(FACE_OVAL)]
    loops += [first_ring_vertex + ring * RING_SIZE + np.arange(RING_SIZE) for ring in range(RING_COUNT)]
    strips = []
    for inner, outer in zip(loops[:-1], loops[1:], strict=True):
        inner_next, outer_next = np.roll(inner, -1), np.roll(outer, -1)
        strips.append(np.stack([inner, outer, outer_next], axis=1))
        strips.append(np.stack([inner, outer_next, inner_next], axis=1))
    return np.concatenate(strips).astype(np.int32)
