"""Which stretch of sound each latent frame of FantasyTalking listens to.

Every latent frame has a window of audio tokens around its four video frames; the first, which is one video frame, has
the window before the second's. Windows are those of the release, to the token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..wan.frame_rules import FEWEST_FRAMES, FRAMES_PER_LATENT

WIDENED_TOKENS = 4
"""Tokens that a window reaches further on both sides than its frames."""

TokenRange = tuple[int, int]
"""First and last token of a window; below 0 and from the number of tokens on there is no sound."""


@dataclass(frozen=True)
class AudioWindows:
    """The windows of all latent frames of a video, made when they are asked for.

    tokens: (L, C), what the video's sound is made of. ranges: first and last token of each latent frame's window, each
    of the same length, which may lie outside of the sound.
    Raises ValueError for tokens of another shape, or ranges that are empty or differ in length.
    """

    tokens: Tensor
    ranges: tuple[TokenRange, ...]

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or 0 in self.tokens.shape:
            raise ValueError(
                f"audio tokens have shape {tuple(self.tokens.shape)}, expected (L, C), neither of them 0"
            )
        lengths = {last - first + 1 for first, last in self.ranges}
        if len(lengths) != 1 or min(lengths) < 1:
            raise ValueError(
                f"windows of {sorted(lengths)} tokens do not go together: all must have one length, at least 1"
            )

    def __len__(self) -> int:
        """Latent frames."""
        return len(self.ranges)

    @property
    def width(self) -> int:
        """Tokens of each window, real ones and those in the place of missing sound."""
        first, last = self.ranges[0]
        return last - first + 1

    def of(self, latent_frames: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the windows (n, W, C) of some latent frames and how many tokens of each are real, (n,) int64.

        A window's real tokens come first, whichever side of it lies outside of the sound, and zeros follow; a window
        wholly outside has length 0. latent_frames: their numbers, in 0..F-1, in any order.
        Raises IndexError for a number beyond the video.
        """
        beyond = [frame for frame in latent_frames if not 0 <= frame < len(self)]
        if beyond:
            raise IndexError(
                f"latent frame {beyond[0]} is asked for, but the sound has windows of {len(self)}"
            )
        count, device = len(self.tokens), self.tokens.device
        wanted = [self.ranges[frame] for frame in latent_frames]
        wanted = torch.tensor(wanted, dtype=torch.long, device=device).reshape(-1, 2)
        first = wanted[:, 0].clamp(min=0)
        lengths = (wanted[:, 1].clamp(max=count - 1) - first + 1).clamp(min=0)
        places = torch.arange(self.width, device=device)
        chosen = self.tokens[(first[:, None] + places).clamp(max=count - 1)]
        return chosen.masked_fill((places >= lengths[:, None])[..., None], 0), lengths


def window_ranges(tokens: int, frames: int, tokens_per_frame: float | None = None) -> tuple[TokenRange, ...]:
    """Return the first and last token of each latent frame's window, before windows are widened.

    With r tokens to a video frame, latent frame i >= 1 listens to token int(r (4i - 1)) - 1, the middle of its four
    frames, and int(2 r) tokens on both sides. The window of latent frame 0 has the same length and ends where that of 1
    begins. tokens: of the whole sound. frames: of the whole video; those that fill no group of four after the first
    have no window. tokens_per_frame: r; None is tokens / frames, which stretches the sound over the video as the
    release does.
    Raises ValueError for no tokens, fewer than 5 frames, or a rate that is not positive.
    """
    if tokens < 1:
        raise ValueError(f"the sound has {tokens} audio tokens, expected at least 1")
    if frames < FEWEST_FRAMES:
        raise ValueError(
            f"the video has {frames} frames, but sound steers videos of at least {FEWEST_FRAMES}: use a longer sound "
            "or append silence"
        )
    rate = tokens / frames if tokens_per_frame is None else tokens_per_frame
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"tokens_per_frame is {rate}, expected a positive number: features' rate over fps")
    reach = int(rate * FRAMES_PER_LATENT / 2)
    centres = [
        _centre(latent_frame, rate) for latent_frame in range(1, (frames - 1) // FRAMES_PER_LATENT + 1)
    ]
    later = [(centre - reach, centre + reach) for centre in centres]
    start = later[0][0]
    return ((start - 2 * reach, start), *later)


def _centre(latent_frame: int, rate: float) -> int:
    """Return the token in the middle of a latent frame's video frames, the first of them being 4 i - 3.

    The middle is the mean of both ends, for the same rounding as in the release.
    """
    first = FRAMES_PER_LATENT * (latent_frame - 1) + 1
    end = first + FRAMES_PER_LATENT
    return int((rate * first + rate * end) / 2) - 1


def widened(ranges: Sequence[TokenRange], by: int = WIDENED_TOKENS) -> tuple[TokenRange, ...]:
    """Return ranges that reach `by` tokens further on both sides. Raises ValueError for a negative number."""
    if by < 0:
        raise ValueError(f"windows are to be widened by {by} tokens, expected at least 0")
    return tuple((first - by, last + by) for first, last in ranges)


def audio_timeline(tokens: Tensor, frames: int, tokens_per_frame: float | None = None) -> AudioWindows:
    """Return the widened windows of a whole video, made of its audio tokens (L, C).

    frames, tokens_per_frame: as of `window_ranges`, whose errors it raises. At 23 fps and 50 tokens a second a window
    has 17 tokens.
    """
    return AudioWindows(tokens, widened(window_ranges(len(tokens), frames, tokens_per_frame)))


def audio_windows(
    tokens: Tensor, frames: int, tokens_per_frame: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return all windows (F, W, C) of a video's audio tokens (L, C) at once, and their lengths (F,) int64.

    What `audio_timeline` gives of every latent frame; raises what it raises.
    """
    timeline = audio_timeline(tokens, frames, tokens_per_frame)
    return timeline.of(range(len(timeline)))
