"""Colour over a long clip: how far it drifts, measured, and a correction of decoded frames towards the reference."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOGGER = logging.getLogger(__name__)

SETTLING_FRAMES = 23.0
"""Frames over which the colour of a clip is averaged: a second of the release, longer than a blink or a word."""
LARGEST_GAIN = 1.5
"""A correction multiplies contrast by this at most, and divides by it at most: a blank frame cannot be stretched."""
SMALLEST_SPREAD = 1e-4
"""Of a picture of one colour, which has none."""


@dataclass(frozen=True)
class ColourStatistics:
    """The colour of pictures. mean, spread: (C,) float32, of each channel, and its standard deviation over pixels."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of_picture(cls, picture: Tensor) -> ColourStatistics:
        """Return those of a picture or latents (C, H, W). Raises ValueError for another shape."""
        if picture.ndim != 3 or 0 in picture.shape:
            raise ValueError(f"the picture has shape {tuple(picture.shape)}, expected (C, H, W)")
        return _statistics(picture.float()[:, None])[0]

    def towards(self, other: ColourStatistics, share: float) -> ColourStatistics:
        """Return the statistics a share of the way to others."""
        return ColourStatistics(
            torch.lerp(self.mean, other.mean, share), torch.lerp(self.spread, other.spread, share)
        )


@dataclass(frozen=True)
class DriftCorrection:
    """How decoded frames are corrected.

    strength: 0..1, how much of the drift is taken away. settling: frames over which a clip's colour is averaged, at
    least 1: changes that are quicker, such as an open mouth, stay.
    Raises ValueError for values out of range.
    """

    strength: float = 1.0
    settling: float = SETTLING_FRAMES

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"the strength of the colour correction is {self.strength}, expected 0..1")
        if not self.settling >= 1:
            raise ValueError(f"the colour correction settles in {self.settling} frames, expected at least 1")


def frame_means(frames: Tensor) -> Tensor:
    """Return (N, C) float32: the mean of each channel in each frame. frames: (C, N, H, W), pixels or latents.

    Raises ValueError for another shape.
    """
    return _require_frames(frames).float().mean(dim=(2, 3)).T


def window_means(means: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """Return (windows, C): the mean colour of each window of a clip.

    means: (N, C), such as `frame_means` gives, of the whole clip. ranges: (first, end) of each window's frames.
    Raises ValueError for a range without frames, or beyond the clip.
    """
    wrong = [one for one in ranges if not 0 <= one[0] < one[1] <= len(means)]
    if wrong:
        raise ValueError(
            f"a window of frames {wrong[0][0]} to {wrong[0][1]} is not one of a clip of {len(means)}"
        )
    return torch.stack([means[first:end].mean(dim=0) for first, end in ranges])


def log_window_colours(frames: Tensor, ranges: Sequence[tuple[int, int]]) -> None:
    """Say how the colour of a clip differs between its windows: the mean of each, and the largest difference of two.

    frames: (C, N, H, W). ranges: (first, end) of each window's frames; what lies past the clip's end is passed over.
    Nothing is said of a single window. Raises ValueError for frames of another shape.
    """
    count = _require_frames(frames).shape[1]
    within = [(first, min(end, count)) for first, end in ranges if first < min(end, count)]
    if len(within) < 2:
        return
    means = window_means(frame_means(frames), within)
    difference = (means.amax(dim=0) - means.amin(dim=0)).max().item()
    colours = "; ".join(" ".join(f"{value:.3f}" for value in row) for row in means.tolist())
    LOGGER.info(
        "mean colour of the %d windows of the clip: %s; the largest difference between two is %.3f",
        *(len(within), colours, difference),
    )


def corrected_chunks(
    chunks: Iterable[Tensor], reference: ColourStatistics, correction: DriftCorrection = DriftCorrection()
) -> Iterator[Tensor]:
    """Yield chunks of a clip, (C, n, H, W) each, without the drift of their colour; the inputs are not changed.

    reference: colour of the picture that the clip begins with, in the same values. A running mean of the frames' mean
    and spread starts there, so that the first frames are hardly changed, and each frame is moved and stretched, channel
    by channel, as brings the running mean back: (x - m) s_ref / s + m_ref. Frames of 0 strength come as they are. It
    needs one chunk at a time. Values are not clamped. Raises ValueError for chunks of another shape.
    """
    running = reference
    for chunk in chunks:
        changed = []
        for frame, found in zip(_require_frames(chunk).unbind(1), _statistics(chunk.float()), strict=True):
            running = running.towards(found, 1 / correction.settling)
            changed.append(_corrected(frame, running, reference, correction.strength))
        yield torch.stack(changed, dim=1)


def _corrected(frame: Tensor, found: ColourStatistics, wanted: ColourStatistics, strength: float) -> Tensor:
    gain = wanted.spread.clamp(min=SMALLEST_SPREAD) / found.spread.clamp(min=SMALLEST_SPREAD)
    gain = 1 + strength * (gain.clamp(1 / LARGEST_GAIN, LARGEST_GAIN) - 1)
    target = found.mean + strength * (wanted.mean - found.mean)
    mean, gain, target = (value.to(frame)[:, None, None] for value in (found.mean, gain, target))
    return (frame - mean) * gain + target


def _statistics(frames: Tensor) -> list[ColourStatistics]:
    """Return the colour of each frame of (C, N, H, W)."""
    spread, mean = torch.std_mean(frames.float(), dim=(2, 3), correction=0)
    return [ColourStatistics(*pair) for pair in zip(mean.T.cpu(), spread.T.cpu(), strict=True)]


def _require_frames(frames: Tensor) -> Tensor:
    if frames.ndim != 4 or 0 in frames.shape:
        raise ValueError(
            f"the frames have shape {tuple(frames.shape)}, expected (C, N, H, W), none of them 0"
        )
    return frames
