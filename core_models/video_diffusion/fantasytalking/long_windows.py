"""Clips longer than the network's window: which latent frames each window sees, and how windows are joined.

A window of W latent frames is a stretch of the clip. The first is sampled as the release samples a clip. In every
later one the stretch's first place is the anchor: there the network sees the reference picture again, as in training,
so the person and the colours are held; what it makes of that place is thrown away. Where windows overlap, their
velocities are cross-faded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

WINDOW = 21
"""Latent frames the published model was trained with: 81 frames."""
OVERLAP = 5
"""Latent frames that neighbours share at least."""
_HALF = 0.5 + 1e-5


@dataclass(frozen=True)
class Window:
    """A stretch of latent frames, first..last, that is evaluated together; in all but the first, `first` is the anchor.

    Sound and intensity of the anchor are those of its place in the clip, right before the window's own frames.
    """

    first: int
    count: int

    @property
    def anchored(self) -> bool:
        """Whether the first place shows the reference picture in place of the clip's own latent frame."""
        return self.first > 0

    @property
    def own_first(self) -> int:
        """The first latent frame that it adds to the clip."""
        return self.first + self.anchored

    @property
    def end(self) -> int:
        """One past the last latent frame."""
        return self.first + self.count


@dataclass(frozen=True)
class Ledger:
    """Which window has which latent frame of a clip, and how much it counts there.

    frames: F, latent frames of the clip. windows: in order. weights: (windows, F) float32 in 0..1; the columns sum to
    1. A frame in one window has exactly weight 1 there.
    """

    frames: int
    windows: tuple[Window, ...]
    weights: Tensor

    def of_window(self, index: int) -> Tensor:
        """Return the weights (n,) of a window's own frames."""
        window = self.windows[index]
        return self.weights[index, window.own_first : window.end]

    def owners(self) -> list[int]:
        """Return for each latent frame the one window it belongs to: the last whose fade is more than half there."""
        arrived = self.weights.double().flip(0).cumsum(0).flip(0)
        return ((arrived > _HALF).sum(dim=0) - 1).tolist()

    def owned(self) -> list[tuple[int, int]]:
        """Return for each window the latent frames it owns, (first, end); together they are the clip, in order.

        A window that owns nothing, as it may where three overlap, has first = end.
        """
        counts = Counter(self.owners())
        starts = [sum(counts[other] for other in range(index)) for index in range(len(self.windows))]
        return [(start, start + counts[index]) for index, start in enumerate(starts)]


def ledger(frames: int, window: int = WINDOW, overlap: int = OVERLAP) -> Ledger:
    """Return the windows of a clip of latent frames, as few as overlap enough, evenly spread, all of one length.

    frames: F. window: latent frames of one, the anchor among them. overlap: latent frames that neighbours share at
    least. A clip that fits one window is that window alone. Raises ValueError for no frames, or a window that is not
    longer than overlap and anchor.
    """
    if frames < 1:
        raise ValueError(f"a clip of {frames} latent frames cannot be sampled: it needs at least 1")
    if overlap < 0 or window - 1 - overlap < 1:
        raise ValueError(
            f"windows of {window} latent frames cannot overlap by {overlap}: expected 0..{max(window - 2, 0)}, as one "
            "frame is the anchor's and one must be new"
        )
    windows = tuple(Window(first, min(window, frames)) for first in _starts(frames, window, overlap))
    return Ledger(frames, windows, _crossfade(frames, windows))


def _starts(frames: int, window: int, overlap: int) -> list[int]:
    further = max(0, -(-(frames - window) // (window - 1 - overlap)))
    return [index * (frames - window) // max(further, 1) for index in range(further + 1)]


def _crossfade(frames: int, windows: tuple[Window, ...]) -> Tensor:
    """Return (windows, F): how much of the fade into each has come, less that of the fade into the next.

    So the weights sum to 1 however many overlap, and are 0 outside of each window.
    """
    places = torch.arange(frames, dtype=torch.float64)
    arrived = [torch.ones_like(places)]
    for before, after in pairwise(windows):
        shared = before.end - after.own_first
        arrived.append(((places - after.own_first + 1) / (shared + 1)).clamp(0, 1))
    arrived.append(torch.zeros_like(places))
    return torch.stack([one - following for one, following in pairwise(arrived)]).float()
