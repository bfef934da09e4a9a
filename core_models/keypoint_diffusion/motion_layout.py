"""Which numbers of a frame of motion are mouth, expression, head angles, location and size.

Takin-ADA (arXiv 2410.14283) treats them apart: the emotion condition is of the expression without the mouth, and head
angles, location and size can be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..motion.region_names import KEYPOINT_REGIONS, MOTION_REGIONS
from ..types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES, BLENDSHAPES, IMPLICIT_KEYPOINTS
from .motion_vectors import EXPRESSION, PITCH, ROLL, SCALE, TRANSLATION, VECTOR_SIZE, YAW

CONTROL_NAMES = ("angles", "location", "scale")
"""What a director may give instead of letting it be predicted; numbers of a layout, each."""


@dataclass(frozen=True)
class MotionLayout:
    """Indices into the vector of a frame; no two parts share one.

    space: the motion space. size: of the vector. mouth, expression: of the face's own movement, `expression` without
    the mouth. angles: pitch, yaw, roll. location: of the head. scale: its size, empty where there is none. Raises
    ValueError for indices outside the vector or in two parts.
    """

    space: str
    size: int
    mouth: tuple[int, ...]
    expression: tuple[int, ...]
    angles: tuple[int, ...]
    location: tuple[int, ...]
    scale: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mouth", "expression", *CONTROL_NAMES):
            object.__setattr__(self, name, tuple(int(index) for index in getattr(self, name)))
        every = [*self.mouth, *self.expression, *self.angles, *self.location, *self.scale]
        if len(set(every)) < len(every) or not all(0 <= index < self.size for index in every):
            raise ValueError(
                f"the parts of a motion vector must be different numbers from 0 to {self.size - 1}, got {sorted(every)}"
            )
        if not self.expression:
            raise ValueError("a motion layout needs an expression: the emotion condition is made of it")

    @property
    def controls(self) -> dict[str, tuple[int, ...]]:
        """The controls this vector has, by name, as indices."""
        return {name: getattr(self, name) for name in CONTROL_NAMES if getattr(self, name)}

    def to_dict(self) -> dict:
        """Return plain values, ready for JSON."""
        return asdict(self)


def keypoint_layout(lip_keypoints: Sequence[int] | None = None) -> MotionLayout:
    """Return the layout of KDTalker's 70 numbers over 21 implicit keypoints, which Takin-ADA shares here.

    lip_keypoints: those of the mouth; None is LivePortrait's lips and lower lip. A motion space trained from scratch
    has them where its landmark loss put them.
    """
    if lip_keypoints is None:
        lip_keypoints = sorted(KEYPOINT_REGIONS["lips"] + KEYPOINT_REGIONS["jaw"])
    mouth = [EXPRESSION.start + 3 * point + axis for point in lip_keypoints for axis in range(3)]
    return MotionLayout(
        space=IMPLICIT_KEYPOINTS,
        size=VECTOR_SIZE,
        mouth=tuple(mouth),
        expression=tuple(index for index in range(EXPRESSION.start, VECTOR_SIZE) if index not in mouth),
        angles=(PITCH, YAW, ROLL),
        location=tuple(range(VECTOR_SIZE))[TRANSLATION],
        scale=(SCALE,),
    )


def blendshape_layout() -> MotionLayout:
    """Return the layout of 52 coefficients, head angles (degrees) and place of the head (face units)."""
    size = len(BLENDSHAPE_NAMES)
    mouth = tuple(BLENDSHAPE_INDEX[name] for region in ("lips", "jaw") for name in MOTION_REGIONS[region])
    return MotionLayout(
        space=BLENDSHAPES,
        size=size + 6,
        mouth=mouth,
        expression=tuple(index for index in range(size) if index not in mouth),
        angles=(size, size + 1, size + 2),
        location=(size + 3, size + 4, size + 5),
    )
