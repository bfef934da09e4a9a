"""Clips side by side in one picture: for comparing seeds, emotions or settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

LABEL_SHARE = 1 / 16
"""Height of a label's letters as a share of the clip's height."""


def grid_of_clips(
    clips: Sequence[Tensor], columns: int = 0, gap: int = 4, labels: Sequence[str] = ()
) -> Tensor:
    """Return (N, H', W', 3) float32 in 0..1: clips (n, H, W, 3) in rows, left to right, N as long as the longest.

    columns: 0 makes the grid about square. gap: black pixels between clips. labels: written into the lower left corner,
    one for each clip or none. A shorter clip holds its last frame. Both sides come out even, as videos need them.
    Raises ValueError for no clips, clips of different sizes, another number of labels, or a negative number.
    """
    _check(clips, columns, gap, labels)
    frames = max(len(clip) for clip in clips)
    height, width = clips[0].shape[1:3]
    columns = min(columns or math.ceil(math.sqrt(len(clips))), len(clips))
    rows = -(-len(clips) // columns)
    size = [rows * (height + gap) - gap, columns * (width + gap) - gap]
    grid = torch.zeros(frames, *(side + side % 2 for side in size), 3)
    for index, clip in enumerate(clips):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        place = grid[:, top : top + height, left : left + width]
        place[: len(clip)] = clip[..., :3]
        place[len(clip) :] = clip[-1:, ..., :3]
        if labels:
            _write(place, labels[index])
    return grid


def _check(clips: Sequence[Tensor], columns: int, gap: int, labels: Sequence[str]) -> None:
    if not clips:
        raise ValueError("there are no clips to put side by side")
    if columns < 0 or gap < 0:
        raise ValueError(f"columns is {columns} and gap is {gap}, expected 0 or more")
    sizes = sorted({tuple(clip.shape[1:3]) for clip in clips})
    if len(sizes) > 1:
        listed = ", ".join(f"{width} x {height}" for height, width in sizes)
        raise ValueError(f"clips side by side must be of one size, got {listed} px: render them alike")
    if labels and len(labels) != len(clips):
        raise ValueError(f"there are {len(labels)} labels for {len(clips)} clips: give one for each, or none")


def _write(place: Tensor, label: str) -> None:
    """Draw a label with a dark outline over all frames of (N, H, W, 3), in place."""
    height, width = place.shape[1:3]
    scale = height * LABEL_SHARE / 22
    origin = (round(0.4 * height * LABEL_SHARE), round(height - 0.5 * height * LABEL_SHARE))
    thickness = max(1, round(2 * scale))
    ink = np.zeros((height, width), np.uint8)
    cv2.putText(ink, label, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
    edge = cv2.dilate(ink, np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8))
    for mask, value in ((edge, 0.0), (ink, 1.0)):
        share = torch.from_numpy(mask)[..., None] / 255
        place.mul_(1 - share).add_(value * share)
