"""From masks and gates to the regions in which each signal works.

A closed gate (0) shuts its signal out and leaves the whole face to the other one; with both open (1) each keeps to
its own region: this is the released model's choice for gates of 0 and 1. In between, what a signal does is the
blend of the two: with gates a and m, audio works over the face with weight a (1 - m) and in its own region with a m,
motion likewise. So every weight goes steadily with its gate, the two weights of a signal add up to its gate, and at 0
and 1 nothing but the released choice is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...video_types import FULL, REGION_MODES, REGIONS
from .controls import Region


@dataclass(frozen=True)
class FaceRegions:
    """Binary masks, (H, W) float32, 0 or 1. face: of a signal that works alone. mouth, motion: of audio and of motion
    when both work."""

    face: Tensor
    mouth: Tensor
    motion: Tensor

    def __post_init__(self) -> None:
        for name in ("face", "mouth", "motion"):
            mask = getattr(self, name)
            if mask.ndim != 2 or mask.shape != self.face.shape:
                raise ValueError(
                    f"the {name} mask has shape {tuple(mask.shape)}, expected one (height, width) for all three"
                )
            if not ((mask == 0) | (mask == 1)).all():
                raise ValueError(f"the {name} mask is not binary: it holds values other than 0 and 1")


def regions_of_signals(
    regions: FaceRegions, audio: Tensor, motion: Tensor, mode: str = REGIONS
) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
    """Return the regions of audio and of motion.

    audio, motion: (F,) gates in 0..1. mode: one of REGION_MODES; "full" takes the whole picture for both when both
    work. Raises ValueError for an unknown mode, and when both gates are closed in all frames.
    """
    if mode not in REGION_MODES:
        raise ValueError(f"unknown mode of regions {mode!r}; known: {', '.join(REGION_MODES)}")
    if not (audio.any() or motion.any()):
        raise ValueError(
            "both gates are closed, so nothing steers the face: open the audio gate or the motion gate"
        )
    whole = torch.ones_like(regions.face)
    own = (whole, whole) if mode == FULL else (regions.mouth, regions.motion)
    return (
        _weighted((regions.face, audio * (1 - motion)), (own[0], audio * motion)),
        _weighted((regions.face, motion * (1 - audio)), (own[1], audio * motion)),
    )


def _weighted(*parts: tuple[Tensor, Tensor]) -> tuple[Region, ...]:
    """Return the regions that count anywhere; those that count fully everywhere need no weight."""
    return tuple(
        Region(mask, None if (weight == 1).all() else weight) for mask, weight in parts if weight.any()
    )
