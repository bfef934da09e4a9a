"""Windows along a clip: where they begin, and how they go over into each other."""

from __future__ import annotations

import torch
from torch import Tensor


def window_starts(frames: int, window: int, overlap: int) -> list[int]:
    """Return the first frame of each window of `window` frames that together cover `frames`, `overlap` shared.

    The last window may reach beyond the end. Raises ValueError unless 0 <= overlap < window.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap is {overlap} frames, expected 0 to {window - 1}: less than the window")
    advance = window - overlap
    return list(range(0, max(frames - overlap, 1), advance))


def fade_in(length: int, overlap: int) -> Tensor:
    """Return (length, 1) weights that rise from 0 to 1 over `overlap` frames with no kink, then stay 1."""
    weights = torch.ones(length, 1)
    steps = (torch.arange(overlap) + 1.0) / (overlap + 1.0)
    weights[:overlap, 0] = (steps * steps * (3 - 2 * steps))[:length]
    return weights


def seeded_noise(seeds: list[int], frames: int, size: int) -> Tensor:
    """Return (V, frames, size) standard normal noise: each seed's own, whatever the others are."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(frames, size, generator=generator) for generator in generators])
