"""Windows of frames that cover a clip as a ring and move on from step to step, so that no seam stays where it was."""

from __future__ import annotations


def circular_windows(total: int, length: int, overlap: int = 0, shift: int = 0) -> list[list[int]]:
    """Return the frames of each window; every frame is in at least one.

    total: frames of the ring. length: of a window; longer than the ring, it goes round. overlap: frames shared with
    the window before. shift: how many frames before the ring's start the first window begins.
    Raises ValueError for no frames, or an overlap that is not below the length.
    """
    if total < 1 or not 0 <= overlap < length:
        raise ValueError(f"no windows of {length} frames, {overlap} shared, cover {total} frames")
    starts = range(-shift, total - shift, length - overlap)
    return [[(start + place) % total for place in range(length)] for start in starts]


def shift_at(step: int, shift: int, length: int) -> int:
    """Return how far the windows have moved on at a step, counted from 0."""
    return step * shift % length
