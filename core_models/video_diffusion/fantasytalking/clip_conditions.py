"""All that a clip is made from, over its whole length, and what one window of it is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..wan.frame_rules import FRAMES_PER_LATENT
from .audio_windows import AudioWindows
from .conditions import IDENTITY_SCALE, DenoiserConditions
from .guidance import Stream
from .long_windows import Window

AudioOfFrames = tuple[Tensor, Tensor | None]
"""Tokens (n, W, width) or (L, width), and how many of each frame's are real, (n,)."""


class ClipAudio(Protocol):
    """The sound of a clip, projected to tokens, as latent frames hear it."""

    def of_frames(self, first: int, count: int) -> AudioOfFrames | None:
        """Return what `count` latent frames from `first` hear; None where there is no sound."""


@dataclass(frozen=True)
class FrameAudio:
    """Sound that each latent frame hears around itself, as in the paper's second stage and the release.

    windows: of the whole clip. masked: leave out the places of a window that have no sound; False has them take part,
    as the release does without flash attention.
    """

    windows: AudioWindows
    masked: bool = True

    def of_frames(self, first: int, count: int) -> AudioOfFrames | None:
        """Return windows (count, W, width) and their lengths; None where none of them reaches into the sound."""
        length = len(self.windows.tokens)
        ranges = self.windows.ranges[first : first + count]
        if not any(start < length and last >= 0 for start, last in ranges):
            return None
        tokens, lengths = self.windows.of(range(first, first + count))
        return tokens, lengths if self.masked else None


@dataclass(frozen=True)
class WholeAudio:
    """Sound that all latent frames of a window hear alike, as in the paper's first stage.

    tokens: (L, width) of the whole clip. tokens_per_frame: of a video frame.
    """

    tokens: Tensor
    tokens_per_frame: float

    def of_frames(self, first: int, count: int) -> AudioOfFrames | None:
        """Return the tokens that last as long as the frames, (n, width); None after the sound's end."""
        # Latent frame i >= 1 begins at video frame 4 i - 3.
        starts = (max(0, FRAMES_PER_LATENT * (place - 1) + 1) for place in (first, first + count))
        begin, end = (round(self.tokens_per_frame * start) for start in starts)
        tokens = self.tokens[begin:end]
        return (tokens, None) if len(tokens) else None


@dataclass(frozen=True)
class ClipConditions:
    """All that a clip of F latent frames is made from.

    image: (4 + C, W, h, w), mask and picture of one window (F frames where the clip is shorter), the same for each.
    text: (T, C) of the prompt; negative_text: of the negative prompt, as long; None where there is none or the model
    reads none. picture: (n, image_dim) tokens of the reference picture. audio: the sound; None is none. audio_scale:
    how strongly sound acts in the network; 0 is no sound. identity: (Q, width) tokens. identity_scale: how strongly it
    acts. intensity: (F, 2) face and body, 0..1.
    Raises ValueError for a negative prompt of another shape than the prompt.
    """

    image: Tensor
    text: Tensor
    negative_text: Tensor | None = None
    picture: Tensor | None = None
    audio: ClipAudio | None = None
    audio_scale: float = 1.0
    identity: Tensor | None = None
    identity_scale: float = IDENTITY_SCALE
    intensity: Tensor | None = None

    def __post_init__(self) -> None:
        if self.negative_text is not None and self.negative_text.shape != self.text.shape:
            raise ValueError(
                f"the prompt has shape {tuple(self.text.shape)} and the negative prompt "
                f"{tuple(self.negative_text.shape)}: pad both to one length, which the network sees"
            )

    @property
    def reads_prompt(self) -> bool:
        """Whether the negative prompt is another than the prompt."""
        return self.negative_text is not None and not torch.equal(self.negative_text, self.text)


@dataclass(frozen=True)
class WindowConditions:
    """What one window is given; tensors are of no batch and lie where the windows are evaluated."""

    clip: ClipConditions
    audio: AudioOfFrames | None
    intensity: Tensor | None

    @property
    def hears(self) -> bool:
        """Whether sound changes anything here."""
        return self.audio is not None

    def of_streams(self, streams: list[Stream]) -> DenoiserConditions:
        """Return the conditions of several streams as one batch."""
        count, clip = len(streams), self.clip
        texts = [clip.text if stream.prompted else clip.negative_text for stream in streams]
        hearing = [stream.hears for stream in streams]
        tokens, lengths = self.audio if self.audio is not None and any(hearing) else (None, None)
        scale = clip.text.new_tensor([clip.audio_scale if one else 0.0 for one in hearing])
        return DenoiserConditions(
            image=_each(clip.image, count),
            text=torch.stack(texts),
            picture=_each(clip.picture, count),
            audio=_each(tokens, count),
            audio_lengths=_each(lengths, count),
            audio_scale=None if tokens is None else scale.float(),
            identity=_each(clip.identity, count),
            identity_scale=clip.identity_scale,
            intensity=_each(self.intensity, count),
        )


def _each(value: Tensor | None, count: int) -> Tensor | None:
    return None if value is None else value.expand(count, *value.shape)


def heard(conditions: ClipConditions, window: Window) -> AudioOfFrames | None:
    """Return the sound of a window's latent frames, its anchor's too; None where sound changes nothing."""
    if conditions.audio is None or conditions.audio_scale == 0:
        return None
    return conditions.audio.of_frames(window.first, window.count)


def of_window(conditions: ClipConditions, window: Window, device: torch.device) -> WindowConditions:
    """Return what a window is given, its sound and intensity on `device`.

    The intensity is the mean over the window's own frames.
    """
    audio, intensity = heard(conditions, window), conditions.intensity
    return WindowConditions(
        conditions,
        None if audio is None else tuple(None if part is None else part.to(device) for part in audio),
        None if intensity is None else intensity[window.own_first : window.end].mean(dim=0).to(device),
    )


def on_device(conditions: ClipConditions, device: torch.device) -> ClipConditions:
    """Return the conditions with what every window is given on `device`; sound and intensity stay where they are."""
    given = {name: getattr(conditions, name) for name in _OF_EVERY_WINDOW}
    return replace(
        conditions, **{name: one if one is None else one.to(device) for name, one in given.items()}
    )


_OF_EVERY_WINDOW = ("image", "text", "negative_text", "picture", "identity")
