"""Which coefficients belong to which part of the face."""

from __future__ import annotations

from collections.abc import Iterable

from ..types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES


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


def region_columns(regions: Iterable[str]) -> list[int]:
    """Return the coefficient indices of regions. Raises ValueError naming unknown ones."""
    regions = list(regions)
    expect_known_regions(regions)
    return [BLENDSHAPE_INDEX[name] for region in regions for name in MOTION_REGIONS[region]]


def expect_known_regions(regions: Iterable[str]) -> None:
    """Raise ValueError naming the regions that do not exist."""
    unknown = sorted(set(regions) - set(MOTION_REGIONS))
    if unknown:
        raise ValueError(
            f"unknown face region {', '.join(map(repr, unknown))}; known: {', '.join(MOTION_REGIONS)}"
        )
