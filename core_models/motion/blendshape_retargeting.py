"""Blendshapes to implicit keypoints: any track of coefficients drives what is driven by LivePortrait's keypoints.

Expression goes through a linear basis, by default the table of blendshape_retargeting_table.py, which stands on
published slider steps and measured motion templates; retargeting_calibration.py fits it to a renderer. The head's
turn and growth mean the same in both spaces, but about different points, so the translation is worked out anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..face.crop import apply_affine, invert_affine
from ..face.pose import pivot_position, rotation_angles, rotation_matrix
from ..face.topology import EYE_OUTER_CORNER_LEFT, EYE_OUTER_CORNER_RIGHT
from ..rendering.composition import lip_seal
from ..types import (
    BLENDSHAPE_INDEX,
    BLENDSHAPE_NAMES,
    BLENDSHAPES,
    EXPRESSION_SIZE,
    IMPLICIT_KEYPOINTS,
    FaceMotion,
    Portrait,
    frozen_array,
)
from .blendshape_retargeting_table import (
    DEFAULT_TABLE,
    LIP_RATIO_OF_JAW,
    LIP_RATIO_OF_SHAPES,
    OPEN_EYE_RATIO,
    SQUINT_RATIO,
    WIDE_EYE_RATIO,
)
from .expression_sliders import blendshape_row, offsets_row
from .track import mouth_aperture

LARGEST_STRENGTH = 2.0
BASIS_SHAPE = (EXPRESSION_SIZE[BLENDSHAPES], EXPRESSION_SIZE[IMPLICIT_KEYPOINTS])

_JAW_OPEN = BLENDSHAPE_INDEX["jawOpen"]
_MOUTH_CLOSE = BLENDSHAPE_INDEX["mouthClose"]
_PARTING = [BLENDSHAPE_INDEX[name] for name in LIP_RATIO_OF_SHAPES]
_EYES = [index for name, index in BLENDSHAPE_INDEX.items() if name.startswith("eye")]


@dataclass(frozen=True)
class RetargetingBasis:
    """What each coefficient is in implicit keypoints.

    matrix: (52, 63) float32, offsets (x, y, z of 21 keypoints) at coefficient 1, rows in the order of
        BLENDSHAPE_NAMES.
    name: for people. made_from: how it was made.
    weights_sha256: of the renderer's weights that it was measured on, 64 hexadecimal digits; empty when on none.
    portrait: what it was measured with; empty when with none.
    """

    matrix: np.ndarray
    name: str
    made_from: str
    weights_sha256: str = ""
    portrait: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", frozen_array(self.matrix))
        if self.matrix.shape != BASIS_SHAPE:
            raise ValueError(f"RetargetingBasis.matrix has shape {self.matrix.shape}, expected {BASIS_SHAPE}")
        if not np.isfinite(self.matrix).all():
            raise ValueError("RetargetingBasis.matrix holds NaN or infinity")
        digits = self.weights_sha256
        if digits and (len(digits) != 64 or set(digits) - set("0123456789abcdef")):
            raise ValueError(
                f"RetargetingBasis.weights_sha256 is {digits!r}, expected 64 lower-case hexadecimal digits or nothing"
            )

    def row(self, name: str) -> np.ndarray:
        """Return one shape's (63,) offsets at coefficient 1, by its ARKit name."""
        if name not in BLENDSHAPE_INDEX:
            raise ValueError(f"unknown blendshape {name!r}; the names are {', '.join(BLENDSHAPE_NAMES)}")
        return self.matrix[BLENDSHAPE_INDEX[name]]


@lru_cache(maxsize=1)
def default_basis() -> RetargetingBasis:
    """Return the basis of the default table: published slider steps and measured templates, no network asked."""
    return RetargetingBasis(
        matrix=np.stack([offsets_row(DEFAULT_TABLE.get(name, {})) for name in BLENDSHAPE_NAMES]),
        name="default",
        made_from="LivePortrait's slider steps and opening ratios of its motion templates",
    )


@dataclass(frozen=True)
class FaceGeometry:
    """Where a portrait's head is within its face crop; x right, y up, z to the camera. The defaults are a face that
    looks into the camera.

    face_unit: the distance between the outer eye corners, half sides of the crop, > 0.
    pivot: (3,) float32, half sides of the crop: from the origin of the canonical keypoints to the top of the neck.
    rotation: (3,) float32, degrees (pitch, yaw, roll): the head's rest as the crop shows it.
    crop_angle: degrees the crop's axes are turned clockwise on the picture.
    """

    face_unit: float = 0.55
    pivot: np.ndarray = (0.0, -0.39, -0.29)
    rotation: np.ndarray = (0.0, 0.0, 0.0)
    crop_angle: float = 0.0

    def __post_init__(self) -> None:
        for name in ("pivot", "rotation"):
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
            values = getattr(self, name)
            if values.shape != (3,) or not np.isfinite(values).all():
                raise ValueError(f"FaceGeometry.{name} is {values.tolist()}, expected three finite numbers")
        if not (math.isfinite(self.face_unit) and self.face_unit > 0):
            raise ValueError(f"FaceGeometry.face_unit is {self.face_unit}, expected a positive number")
        if not math.isfinite(self.crop_angle):
            raise ValueError(f"FaceGeometry.crop_angle is {self.crop_angle}, expected degrees")


def face_geometry(portrait: Portrait, origin: tuple[float, float] = (0.0, 0.0)) -> FaceGeometry:
    """Return where a portrait's head is within its face crop.

    origin: (x right, y up) of the canonical keypoints' origin, half sides from the crop's middle, where the motion
    extractor has read it (KeypointRest.translation); without, the middle is near: published statistics put it at
    0.02. Its depth is taken to be that of the canonical face's origin, between the ears: placed at the mean
    canonical keypoints, the eyes come out 0.4 cm from there.
    """
    affine = np.asarray(portrait.crop_to_frame, np.float64)
    half_side = portrait.crop_size / 2 * math.hypot(*affine[:, 0])
    eyes = portrait.landmarks[EYE_OUTER_CORNER_LEFT] - portrait.landmarks[EYE_OUTER_CORNER_RIGHT]
    angle = math.degrees(math.atan2(affine[1, 0], affine[0, 0]))
    pivot = pivot_position(portrait.pose)
    in_crop = apply_affine(invert_affine(affine), pivot[None, :2] * np.array([1.0, -1.0]))[0]
    x, down = (in_crop - (portrait.crop_size - 1) / 2) / (portrait.crop_size / 2)
    depth = (pivot[2] - portrait.pose.translation[2]) / half_side
    turned = rotation_matrix(np.array([0.0, 0.0, angle])) @ rotation_matrix(portrait.pose.rotation)
    return FaceGeometry(
        face_unit=float(np.linalg.norm(eyes)) / half_side,
        pivot=np.array([x - origin[0], -down - origin[1], depth]),
        rotation=rotation_angles(turned),
        crop_angle=angle,
    )


def retarget_motion(
    motion: FaceMotion,
    basis: RetargetingBasis | None = None,
    geometry: FaceGeometry | None = None,
    strength: float = 1.0,
) -> FaceMotion:
    """Return a blendshape track in implicit keypoints; its rotation and scale stay what they are.

    basis: None is `default_basis()`. geometry: of the portrait that is to be driven, see `face_geometry`; None is a
    face that looks into the camera. strength: 0..2, multiplies the expression but for lids and gaze, as in the mesh
    renderer.
    Expression is `speech_coefficients` times the basis. Translation: with T the track's (of the top of the neck, face
    units), C the crop's turn, Q the head's turn as the crop shows it and p the top of the neck seen from the
    keypoints' origin, t = unit C T + (I - scale Q) p, so that every point of the head moves as it did.
    Openings are estimated, see `estimated_openings`; no rest is known, so the motion drives in the relative mode.
    Raises ValueError for motion of the other space or a strength outside 0..2.
    """
    motion.require_space(BLENDSHAPES)
    if not 0 <= strength <= LARGEST_STRENGTH:
        raise ValueError(f"strength is {strength}, expected 0 to {LARGEST_STRENGTH:g}")
    basis, geometry = basis or default_basis(), geometry or FaceGeometry()
    coefficients = speech_coefficients(motion.expression) * _gains(strength)
    return FaceMotion(
        space=IMPLICIT_KEYPOINTS,
        fps=motion.fps,
        expression=coefficients @ basis.matrix.astype(np.float64),
        rotation=motion.rotation,
        translation=keypoint_translation(motion, geometry),
        scale=motion.scale,
        openings=estimated_openings(coefficients),
    )


def _gains(strength: float) -> np.ndarray:
    gains = np.full(len(BLENDSHAPE_NAMES), strength)
    gains[_EYES] = 1.0
    return gains


def speech_coefficients(expression: np.ndarray) -> np.ndarray:
    """Return (N, 52) float64 coefficients whose lips are shut wherever the track means it, and never cross.

    Lips that are pressed or rolled, and those that mouthClose keeps together, are sealed by the mesh renderer's own
    rule (`lip_seal`): mouthClose then takes back the whole of jawOpen, and shapes that part the lips give way. So p, b
    and m are shut whatever the jaw does. mouthClose beyond jawOpen, which would cross the lips, is cut.
    """
    result = np.clip(np.asarray(expression, np.float64), 0, 1)
    seal = np.array([lip_seal(row) for row in result])
    jaw = result[:, _JAW_OPEN]
    result[:, _MOUTH_CLOSE] = np.maximum(np.minimum(result[:, _MOUTH_CLOSE], jaw), seal * jaw)
    result[:, _PARTING] *= 1 - seal[:, None]
    return result


def keypoint_translation(motion: FaceMotion, geometry: FaceGeometry) -> np.ndarray:
    """Return (N, 3) float64: a blendshape track's translation as that of the keypoints' origin.

    Half sides of the face crop; x right, y up, z to the camera, in the axes of the crop.
    """
    rest = rotation_matrix(geometry.rotation)
    turns = rest @ rotation_matrix(motion.rotation) @ rest.T
    carried = motion.scale[:, None].astype(np.float64) * (turns @ geometry.pivot.astype(np.float64))
    crop_turn = rotation_matrix(np.array([0.0, 0.0, geometry.crop_angle]))
    return geometry.face_unit * motion.translation @ crop_turn.T + geometry.pivot - carried


def estimated_openings(coefficients: np.ndarray) -> np.ndarray:
    """Return (N, 3) float64 >= 0: opening ratios of left eye, right eye and lips of (N, 52) coefficients.

    Left is the viewer's left, as in face/opening_ratios.py: the subject's right eye. An eye is open by 0.35 at rest,
    by 0 at eyeBlink 1; the lips by 0.75 at jawOpen 1.
    """
    shapes = coefficients @ blendshape_row(LIP_RATIO_OF_SHAPES)
    lips = LIP_RATIO_OF_JAW * mouth_aperture(coefficients) + shapes
    eyes = [_eye_opening(coefficients, side) for side in ("Right", "Left")]
    return np.stack([*eyes, lips], axis=1)


def _eye_opening(coefficients: np.ndarray, side: str) -> np.ndarray:
    blink, wide, squint = (
        coefficients[:, BLENDSHAPE_INDEX[f"eye{what}{side}"]] for what in ("Blink", "Wide", "Squint")
    )
    opening = OPEN_EYE_RATIO * (1 - blink) + (WIDE_EYE_RATIO - OPEN_EYE_RATIO) * wide - SQUINT_RATIO * squint
    return np.maximum(opening, 0)
