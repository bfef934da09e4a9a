"""What a user chooses for a clip of FantasyTalking, how long the clip is, and what the sampler makes of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ...audio.frame_clock import frame_count
from ...types import AudioEmbedding
from ..wan.frame_rules import (
    FEWEST_FRAMES,
    FRAMES_PER_LATENT,
    latent_frames,
    release_frames,
    video_frames,
)
from .conditions import IDENTITY_SCALE
from .guidance import GuidanceScales, GuidanceSchedule, Interval
from .long_windows import OVERLAP, Ledger, ledger
from .parameters import FantasyTalkingParameters
from .sampler import SamplingOptions

Chosen = TypeVar("Chosen")

EXACT, RELEASE = "exact", "release"
"""The sound at its own pace, as long as it is; or stretched over the 1 to 5 frames more that the release makes."""
TIMINGS = (EXACT, RELEASE)

PER_FRAME, PER_CLIP = "frames", "clip"
"""Each latent frame hears the sound around it, as the release does; or all hear all, as in the paper's first stage."""
HEARINGS = (PER_FRAME, PER_CLIP)

RELEASE_SEED = 1111
"""Seed of the released program."""
_SEEDS = range(-(1 << 63), 1 << 64)
"""Those that torch's generators take."""


@dataclass(frozen=True)
class FantasyTalkingOptions:
    """What a user chooses; None is the model's own.

    steps, shift: of the noise levels. prompt_guidance, audio_guidance: how far the result is pushed away from the
    negative prompt and towards the sound; 1 is not at all and saves a pass. guided_by_sound: False has no guidance by
    sound, but sound in every pass. audio_scale, identity_scale: how strongly each acts in the network.
    timing: "exact" or "release". hearing: "frames" or "clip". masked_audio: leave places without sound out of the
    attention; False is the release without flash attention.
    frames: of the clip; None lasts as long as the sound. With the release's timing it is the most there may be, and
    None is one window. window: video frames evaluated together, 4 k + 1. overlap: latent frames that neighbouring
    windows share at least; None is 5, or a third of a window that is small. seed: of the noise.
    Exact, to be faster: streams_at_once, keys_kept; as in `SamplingOptions`. Approximate, to be faster:
    prompt_interval, audio_interval: the part of the steps with guidance; first_block_cache: for clips of one window.
    Raises ValueError for an unknown timing or hearing, or numbers out of range.
    """

    steps: int | None = None
    shift: float | None = None
    prompt_guidance: float | None = None
    audio_guidance: float | None = None
    guided_by_sound: bool = True
    audio_scale: float = 1.0
    identity_scale: float = IDENTITY_SCALE
    timing: str = EXACT
    hearing: str = PER_FRAME
    masked_audio: bool = True
    frames: int | None = None
    window: int | None = None
    overlap: int | None = None
    seed: int = RELEASE_SEED
    streams_at_once: int = 1
    prompt_interval: Interval = field(default_factory=Interval)
    audio_interval: Interval = field(default_factory=Interval)
    first_block_cache: float | None = None
    keys_kept: bool = False

    def __post_init__(self) -> None:
        for name, known in (("timing", TIMINGS), ("hearing", HEARINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        for name in ("prompt_guidance", "audio_guidance", "audio_scale", "identity_scale"):
            self._require(name, math.isfinite, "a finite number")
        for name in ("steps", "frames", "streams_at_once"):
            self._require(name, lambda value: value >= 1, "at least 1")
        self._require("shift", lambda value: math.isfinite(value) and value > 0, "a number above 0")
        self._require("overlap", lambda value: value >= 0, "at least 0")
        self._require("first_block_cache", lambda value: 0 < value < 1, "between 0 and 1, or None")
        self._require(
            "seed",
            lambda value: isinstance(value, int) and value in _SEEDS,
            "a whole number of at most 64 bits",
        )

    def _require(self, name: str, fits: Callable[[float], bool], expected: str) -> None:
        value = getattr(self, name)
        if value is not None and not fits(value):
            raise ValueError(f"{name} is {value}, expected {expected}")


NOTHING_CHOSEN = FantasyTalkingOptions()
"""Nothing chosen: all is the model's own."""


@dataclass(frozen=True)
class SceneLength:
    """How long a clip is. frames: video frames that are sampled, 4 k + 1. kept: those that it has in the end, from the
    first. book: its windows of latent frames."""

    frames: int
    kept: int
    book: Ledger

    @property
    def latents(self) -> int:
        """Latent frames of the clip."""
        return self.book.frames

    @property
    def window_frames(self) -> int:
        """Video frames for which the reference picture is to be encoded: those of one window."""
        return video_frames(self.book.windows[0].count)

    def window_ranges(self) -> list[tuple[int, int]]:
        """Return for each window the video frames of the clip it owns, (first, end), for measuring its colours."""
        ends = [video_frames(end) for _, end in self.book.owned()]
        return list(zip([0, *ends], (min(end, self.kept) for end in ends), strict=False))


def scene_length(
    parameters: FantasyTalkingParameters,
    audio: AudioEmbedding | None = None,
    options: FantasyTalkingOptions = NOTHING_CHOSEN,
) -> SceneLength:
    """Return how long a clip is and how it is divided, which is known before anything is computed.

    Raises ValueError for neither sound nor a number of frames, or windows that are not 4 k + 1 frames.
    """
    frames, kept = _frames(parameters, audio, options)
    return SceneLength(frames, kept, ledger(latent_frames(frames), *_windows(parameters, options)))


def _windows(parameters: FantasyTalkingParameters, options: FantasyTalkingOptions) -> tuple[int, int]:
    """Return the latent frames of a window, and those that neighbours share."""
    window = latent_frames(_chosen(options.window, parameters.defaults.window))
    return window, min(OVERLAP, (window - 1) // 3) if options.overlap is None else options.overlap


def _frames(
    parameters: FantasyTalkingParameters, audio: AudioEmbedding | None, options: FantasyTalkingOptions
) -> tuple[int, int]:
    """Return how many frames are sampled, and how many of them the clip has."""
    fps, window = parameters.defaults.fps, _chosen(options.window, parameters.defaults.window)
    if audio is None and options.frames is None:
        raise ValueError("there is no sound to last as long as: connect one, or choose a number of frames")
    if audio is not None and options.timing == RELEASE:
        sampled = release_frames(audio.duration, fps, _chosen(options.frames, window))
        return sampled, sampled
    wanted = frame_count(audio.duration, fps) if options.frames is None else options.frames
    return _whole_groups(wanted), wanted


def _whole_groups(frames: int) -> int:
    """Return the fewest frames 4 k + 1, at least 5, that hold `frames`: counted, not by seconds, which rates such as
    29.97 turn into a frame more."""
    return video_frames(math.ceil((max(FEWEST_FRAMES, frames) - 1) / FRAMES_PER_LATENT) + 1)


def _chosen(value: Chosen | None, own: Chosen) -> Chosen:
    return own if value is None else value


def sampling_options(
    parameters: FantasyTalkingParameters,
    options: FantasyTalkingOptions = NOTHING_CHOSEN,
    audio_factor: float = 1.0,
) -> SamplingOptions:
    """Return the sampler's options of a model and what was chosen. audio_factor: multiplies the guidance by sound."""
    own = parameters.defaults
    audio = _chosen(options.audio_guidance, own.audio_guidance) * audio_factor
    scales = GuidanceScales(
        _chosen(options.prompt_guidance, own.prompt_guidance), audio if options.guided_by_sound else None
    )
    window, overlap = _windows(parameters, options)
    return SamplingOptions(
        steps=_chosen(options.steps, own.steps),
        shift=_chosen(options.shift, own.shift),
        guidance=GuidanceSchedule(scales, options.prompt_interval, options.audio_interval),
        window=window,
        overlap=overlap,
        streams_at_once=options.streams_at_once,
        first_block_cache=options.first_block_cache,
        keys_kept=options.keys_kept,
    )
