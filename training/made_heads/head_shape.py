"""The shape of a made head: the canonical face mesh deformed by an identity's figures, and its place in a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core_models.face.pose import FLIP, HEAD_PIVOT, rotation_matrix
from ...core_models.face.topology import (
    EYE_LEFT_CONTOUR,
    EYE_RIGHT_CONTOUR,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_LOWER_INNER,
    LIPS_UPPER_INNER,
    MESH_POINT_COUNT,
    canonical_face,
)
from ...core_models.types import LANDMARK_COUNT
from .canvas import ramp
from .identity import FaceForm, MadeIdentity

PICTURE_CENTIMETRES = 32.5
"""Side of the picture at the depth of the head; the mean face's oval fills 54 % of its height."""
FACE_MIDDLE = np.array([0.0, -1.0, 0.0])
"""Canonical centimetres: what lies in the picture's middle at rest."""
EYE_MIDDLES = np.array([[-3.15, 2.62, 3.9], [3.15, 2.62, 3.9]])
MOUTH_MIDDLE = np.array([0.0, -4.3, 5.0])
NOSE_TIP = np.array([0.0, -1.1, 7.4])
IRIS_RADIUS = 0.62
"""Centimetres; hardly differs between people, so that children's eyes look large."""
SKULL_MIDDLE = np.array([0.0, 4.0, -5.0])
SKULL_RADII = np.array([8.0, 8.7, 11.0])


@dataclass(frozen=True)
class PlacedHead:
    """A head in a picture.

    shape: (478, 3) canonical centimetres (x right, y up, z to the camera), at rest. rotation: (3, 3).
    pixels_per_cm: of the picture. size: its side in pixels. skull_middle, skull_radii: (3,) centimetres.
    """

    shape: np.ndarray
    rotation: np.ndarray
    pixels_per_cm: float
    size: int
    skull_middle: np.ndarray
    skull_radii: np.ndarray

    def projected(self, points: np.ndarray) -> np.ndarray:
        """Return head centimetres (N, 3) as pixels (N, 3): x right, y down, z away from the camera."""
        turned = (np.asarray(points) - HEAD_PIVOT) @ self.rotation.T + HEAD_PIVOT
        return self.still(turned)

    def still(self, points: np.ndarray) -> np.ndarray:
        """Return centimetres (N, 3) of what does not turn with the head (shoulders) as pixels (N, 3)."""
        middle = np.array([self.size / 2 - 0.5, self.size / 2 - 0.5, 0.0])
        return (np.asarray(points) - FACE_MIDDLE) * self.pixels_per_cm * FLIP + middle

    @property
    def landmarks(self) -> np.ndarray:
        """(478, 3) float32 pixels."""
        return self.projected(self.shape).astype(np.float32)


def placed_head(identity: MadeIdentity, size: int) -> PlacedHead:
    """Return an identity's head in a picture of `size` pixels."""
    shape = face_shape(identity.form)
    temple = float(np.abs(shape[[127, 356], 0]).mean())
    top = float(shape[10, 1])
    radii = SKULL_RADII * (temple / 7.74 * 1.0, 1.0, 1.0)
    middle = SKULL_MIDDLE + np.array((0.0, top - 8.26, 0.0))
    return PlacedHead(
        shape, rotation_matrix(np.array(identity.pose)), size / PICTURE_CENTIMETRES, size, middle, radii
    )


def face_shape(form: FaceForm) -> np.ndarray:
    """Return (478, 3) float64 canonical centimetres: the mean face deformed, its lips closed, its irises set."""
    mean = canonical_face().vertices.astype(np.float64)
    shape = _with_features(_with_outline(mean, form), form)
    upper, lower = list(LIPS_UPPER_INNER), list(LIPS_LOWER_INNER)
    shape[upper] = shape[lower] = (shape[upper] + shape[lower]) / 2
    complete = np.empty((LANDMARK_COUNT, 3))
    complete[:MESH_POINT_COUNT] = shape
    for contour, iris in ((EYE_RIGHT_CONTOUR, IRIS_RIGHT), (EYE_LEFT_CONTOUR, IRIS_LEFT)):
        rim = IRIS_RADIUS * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
        complete[list(iris)] = shape[list(contour)].mean(axis=0) + np.array([0, 0.06, 0]) + rim
    return complete


def _with_outline(mean: np.ndarray, form: FaceForm) -> np.ndarray:
    """Return the mesh with the identity's outline: width, length, jaw, chin, cheeks, forehead."""
    shape = mean.copy()
    x, y = mean[:, 0], mean[:, 1]
    below = ramp(-1.0, -6.5, y)
    chin = ramp(-6.0, -9.0, y)
    side = ramp(2.5, 6.5, np.abs(x))
    cheekbone = np.exp(-0.5 * ((y - 0.3) / 2.0) ** 2) * side
    cheek = np.exp(-0.5 * ((y + 3.5) / 2.3) ** 2) * side
    wider = 0.055 * form.jaw_width * below * side + 0.05 * form.chin_width * chin
    wider += 0.028 * form.cheekbones * cheekbone + 0.032 * form.cheek_fullness * cheek
    shape[:, 0] = x * (1 + 0.03 * form.width + wider)
    shape[:, 1] = y * (1 + 0.022 * form.length) - 0.38 * form.chin_length * ramp(-5.2, -8.5, y)
    shape[:, 1] += 0.35 * form.forehead * ramp(5.0, 8.2, y)
    shape[:, 2] += 0.12 * form.cheekbones * np.exp(-0.5 * ((y - 0.3) / 1.6) ** 2) * ramp(2.0, 4.5, np.abs(x))
    return shape


def _with_features(mesh: np.ndarray, form: FaceForm) -> np.ndarray:
    """Return the mesh with the identity's eyes, brows, nose and mouth; each fades into its surroundings."""
    shape = mesh.copy()
    _form_nose(shape, form)
    _form_mouth(shape, form)
    for eye, side in zip(EYE_MIDDLES, (-1, 1), strict=True):
        _form_eye(shape, eye, side, form)
    brow = np.exp(-0.5 * ((mesh[:, 1] - 4.9) / 0.75) ** 2)
    across = np.abs(mesh[:, 0])
    arch = np.exp(-0.5 * ((across - 4.2) / 1.1) ** 2) - 0.6 * np.exp(-0.5 * ((across - 1.5) / 1.0) ** 2)
    shape[:, 1] += brow * (0.20 * form.brow_height + 0.10 * form.brow_arch * arch)
    shape[:, 1] += 0.05 * form.sides * ramp(0, 6, mesh[:, 0]) * ramp(-9, 0, mesh[:, 1])
    return shape


def _form_nose(shape: np.ndarray, form: FaceForm) -> None:
    x, y = shape[:, 0].copy(), shape[:, 1].copy()
    nose = np.exp(-0.5 * ((y + 1.4) / 1.1) ** 2) * (1 - ramp(1.6, 3.0, np.abs(x)))
    bridge = (1 - ramp(0.9, 2.0, np.abs(x))) * ramp(3.8, 0.0, y) * ramp(-3.2, -1.6, y)
    shape[:, 0] += x * nose * 0.11 * form.nose_width
    shape[:, 1] -= 0.20 * form.nose_length * nose
    shape[:, 2] += 0.28 * form.nose_depth * bridge


def _form_mouth(shape: np.ndarray, form: FaceForm) -> None:
    x, y = shape[:, 0].copy(), shape[:, 1].copy()
    seam = -4.27
    near = np.exp(-0.5 * ((y - seam) / 1.6) ** 2) * (1 - ramp(3.0, 5.5, np.abs(x)))
    lips = np.exp(-0.5 * ((y - seam) / 0.95) ** 2) * (1 - ramp(2.2, 3.4, np.abs(x)))
    shape[:, 0] += x * near * (0.05 + 0.065 * form.lip_width)
    shape[:, 1] += (y - seam) * lips * (0.02 + 0.16 * form.lip_fullness)
    shape[:, 1] += 0.14 * form.mouth_height * near
    corners = np.exp(-0.5 * ((np.abs(x) - 2.5) / 0.7) ** 2 - 0.5 * ((y - seam) / 0.7) ** 2)
    shape[:, 1] += 0.10 * corners


def _form_eye(shape: np.ndarray, eye: np.ndarray, side: int, form: FaceForm) -> None:
    offset = shape - eye
    flat = offset * (1.0, 1.2, 0.6)
    near = np.exp(-0.5 * (np.linalg.norm(flat, axis=1) / 1.9) ** 2)
    lid = np.exp(-0.5 * (np.hypot(offset[:, 0] / 1.5, offset[:, 1] / 0.6)) ** 4)
    size = 0.045 * form.eye_size + 0.06
    shape[:, :2] += offset[:, :2] * (near * size)[:, None]
    shape[:, 1] += offset[:, 1] * lid * (0.42 + 0.17 * form.eye_opening)
    shape[:, 0] += side * 0.09 * form.eye_spacing * near
    shape[:, 1] += side * offset[:, 0] * near * 0.045 * form.eye_tilt
    shape[:, 2] -= 0.12 * form.eye_depth * near
