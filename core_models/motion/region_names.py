"""Which coefficients, or components of implicit keypoints, belong to which part of the face."""

from __future__ import annotations

from collections.abc import Iterable

from ..types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES, BLENDSHAPES


def _names_starting(*prefixes: str) -> tuple[str, ...]:
    return tuple(name for name in BLENDSHAPE_NAMES if name.startswith(prefixes))


MOTION_REGIONS: dict[str, tuple[str, ...]] = {
    "lips": _names_starting("mouth", "tongue"),
    "jaw": _names_starting("jaw"),
    "eyes": _names_starting("eye"),
    "brows": _names_starting("brow"),
    "cheeks": _names_starting("cheek", "nose"),
    "pose": (),
}
"""Region -> its coefficients. "pose" is the head's rotation, translation and scale and has none.

`mouthClose` (lips) says how far the lips stay together while `jawOpen` (jaw) opens: take lips and jaw from
one track, or closures are lost.
"""


LIP_PARTING = ("mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight")
"""Coefficients that part the lips without the jaw: where lips are to meet, they must give way."""

OPPOSITE_GAZES = (
    ("eyeLookInLeft", "eyeLookOutLeft"),
    ("eyeLookInRight", "eyeLookOutRight"),
    ("eyeLookUpLeft", "eyeLookDownLeft"),
    ("eyeLookUpRight", "eyeLookDownRight"),
)
"""Coefficients of which one is what the other takes back."""

KEYPOINT_REGIONS: dict[str, tuple[int, ...]] = {
    "lips": (6, 12, 14, 17, 20),
    "jaw": (19,),
    "eyes": (11, 13, 15, 16, 18),
    "brows": (1, 2),
    "cheeks": (3, 7),
    "pose": (0, 4, 5, 8, 9, 10),
}
"""Region -> its implicit keypoints. Lips and eyes are the points by which LivePortrait itself drives them, less 19, the
lower lip, which goes down with the jaw; the brows are those of its brow slider. The points of the neck, the hair and
the outline follow the head: in published motion templates they go with pitch and size, not with eyes or lips.
"""


def region_columns(regions: Iterable[str], space: str = BLENDSHAPES) -> list[int]:
    """Return the columns of `FaceMotion.expression` that belong to regions, in a motion space.

    Raises ValueError naming unknown regions.
    """
    regions = list(regions)
    expect_known_regions(regions)
    if space == BLENDSHAPES:
        return [BLENDSHAPE_INDEX[name] for region in regions for name in MOTION_REGIONS[region]]
    return [3 * point + axis for region in regions for point in KEYPOINT_REGIONS[region] for axis in range(3)]


def expect_known_regions(regions: Iterable[str]) -> None:
    """Raise ValueError naming the regions that do not exist."""
    unknown = sorted(set(regions) - set(MOTION_REGIONS))
    if unknown:
        raise ValueError(
            f"unknown face region {', '.join(map(repr, unknown))}; known: {', '.join(MOTION_REGIONS)}"
        )
