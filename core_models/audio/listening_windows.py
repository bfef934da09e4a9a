"""Which sound each block of speech features is computed from, so that a stream and a whole clip give the same ones.

Features come at 50 Hz, `STEP_SAMPLES` samples at 16 kHz to a step. They are made in blocks; an encoder hears a block
with a bounded stretch of sound behind and ahead of it, of which the part ahead is what a listener waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from ..types import ProgressCallback
from .frame_clock import frame_count
from .mel import SAMPLE_RATE

if TYPE_CHECKING:
    from torch import Tensor

STEP_SAMPLES = 320
"""Samples to a step of features."""
STEP_RATE = SAMPLE_RATE // STEP_SAMPLES
"""Steps per second."""
VIDEO_FPS = 25
"""Video frames per second."""
STEPS_PER_FRAME = STEP_RATE // VIDEO_FPS

WindowEncoder = Callable[[np.ndarray], "Tensor"]
"""Samples (n,) float32 at 16 kHz, n a multiple of STEP_SAMPLES, to features (n / STEP_SAMPLES, L, C) on the CPU."""


@dataclass(frozen=True)
class ListeningWindows:
    """How features are made in blocks, in steps of 20 ms.

    block_steps: >= 1, steps made at a time. behind_steps, ahead_steps: >= 0, steps of sound that the encoder hears
    before and after them.
    Raises ValueError for anything but such whole numbers.
    """

    block_steps: int
    behind_steps: int
    ahead_steps: int

    def __post_init__(self) -> None:
        for name, least in zip((field.name for field in fields(self)), (1, 0, 0), strict=True):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"ListeningWindows.{name} is {value!r}, expected a whole number >= {least}")

    @property
    def window_steps(self) -> int:
        """The most steps that an encoder hears at a time."""
        return self.behind_steps + self.block_steps + self.ahead_steps

    @property
    def latency(self) -> float:
        """Seconds from a block's first sample until its features can be computed."""
        return (self.block_steps + self.ahead_steps) / STEP_RATE


def step_count(samples: int, total_frames: int | None = None) -> int:
    """Return how many steps a sound gets: two for each of its video frames at 25 fps, the last one filled up.

    samples: of the sound at 16 kHz. total_frames: its video frames, if they are known otherwise.
    Raises ValueError for fewer than one frame.
    """
    if total_frames is None:
        return STEPS_PER_FRAME * frame_count(samples / SAMPLE_RATE, VIDEO_FPS)
    if total_frames < 1:
        raise ValueError(f"total_frames is {total_frames}, expected at least 1")
    return STEPS_PER_FRAME * total_frames


def block_count(windows: ListeningWindows, steps: int) -> int:
    """Return how many blocks `steps` steps are made in; the last one may be short."""
    return -(-steps // windows.block_steps)


def complete_blocks(windows: ListeningWindows, samples: int) -> int:
    """Return how many blocks can be computed once `samples` samples were heard, the sound going on."""
    return max(0, (samples // STEP_SAMPLES - windows.ahead_steps) // windows.block_steps)


def steps_of_block(windows: ListeningWindows, block: int, steps: int | None = None) -> tuple[int, int]:
    """Return (first, end) of the steps of block `block` >= 0; steps: of the whole sound, None while it goes on."""
    first = block * windows.block_steps
    end = first + windows.block_steps
    return first, end if steps is None else min(end, steps)


def samples_heard(windows: ListeningWindows, block: int, steps: int | None = None) -> tuple[int, int]:
    """Return (first, end) of the samples that block `block` >= 0 is computed from, both multiples of STEP_SAMPLES.

    Nothing is heard before the sound's start, nor after its end. steps: of the whole sound, None while it goes on.
    """
    first, end = steps_of_block(windows, block, steps)
    end += windows.ahead_steps
    end = end if steps is None else min(end, steps)
    return max(0, first - windows.behind_steps) * STEP_SAMPLES, end * STEP_SAMPLES


def features_in_blocks(
    encode: WindowEncoder,
    waveform: np.ndarray,
    windows: ListeningWindows,
    total_frames: int | None = None,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return the features (T, L, C) of a whole clip, block by block as a FeatureStream would make them.

    waveform: (n,) at 16 kHz, n > 0. T = step_count(n, total_frames); sound that is missing at the end is silence,
    sound that is over is not heard. progress: called as (steps done, T) after each block.
    Raises ValueError for a waveform that is not finite sound of one channel, or an encoder of another rate.
    """
    waveform = sound_samples(waveform)
    if len(waveform) == 0:
        raise ValueError("the sound has 0 samples; use one that lasts at least a few milliseconds")
    steps = step_count(len(waveform), total_frames)
    features: Tensor | None = None
    for block in range(block_count(windows, steps)):
        made = _block_features(encode, waveform, 0, windows, block, steps)
        features = made.new_empty(steps, *made.shape[1:]) if features is None else features
        first, end = steps_of_block(windows, block, steps)
        features[first:end] = made
        if progress is not None:
            progress(end, steps)
    return features


class FeatureStream:
    """The features of a sound that is still going on.

    It holds at most `windows.window_steps` steps of sound beside what was pushed last. What all calls give, put
    together, is what `features_in_blocks` gives of the whole sound, however it was cut into pieces.
    """

    def __init__(self, encode: WindowEncoder, windows: ListeningWindows) -> None:
        self.windows = windows
        self._encode = encode
        self._pieces: list[np.ndarray] = []
        self._dropped = 0
        self._received = 0
        self._block = 0
        self._finished = False

    @property
    def held_samples(self) -> int:
        """Samples in memory."""
        return self._received - self._dropped

    @property
    def steps_given(self) -> int:
        """Steps of features that were given so far."""
        return self._block * self.windows.block_steps

    def push(self, samples: np.ndarray) -> Tensor | None:
        """Take the next samples (n,) at 16 kHz, n >= 0; return features (T', L, C) of the blocks they complete.

        None while no block is complete. Raises ValueError for samples that are not finite or of another shape, or
        after `finish`.
        """
        self._require_open()
        samples = sound_samples(samples)
        if len(samples):
            self._pieces.append(samples.copy())
            self._received += len(samples)
        return self._blocks_before(complete_blocks(self.windows, self._received), None)

    def finish(self, total_frames: int | None = None) -> Tensor | None:
        """Return the features (T', L, C) of what is left, the sound being over; None when nothing is left.

        total_frames: video frames at 25 fps that the sound is to have; what is missing is silence, what is over is
        left out. Blocks given before have heard what they have heard, even if it is left out now.
        Raises ValueError when nothing was pushed, more than `total_frames` was given already, or after `finish`.
        """
        self._require_open()
        if self._received == 0:
            raise ValueError("the stream has heard 0 samples: push sound before it is finished")
        steps = step_count(self._received, total_frames)
        if steps < self.steps_given:
            raise ValueError(
                f"total_frames is {total_frames}, but features of {self.steps_given / STEPS_PER_FRAME:g} frames "
                "were given already"
            )
        made = self._blocks_before(block_count(self.windows, steps), steps)
        self._finished, self._pieces, self._dropped = True, [], self._received
        return made

    def _blocks_before(self, end: int, steps: int | None) -> Tensor | None:
        import torch

        if self._block >= end:
            return None
        held, made = np.concatenate(self._pieces), []
        while self._block < end:
            made.append(_block_features(self._encode, held, self._dropped, self.windows, self._block, steps))
            self._block += 1
        kept = min(samples_heard(self.windows, end)[0], self._received)
        self._pieces = [held[kept - self._dropped :].copy()]  # a view would keep all of it in memory
        self._dropped = kept
        return torch.cat(made)

    def _require_open(self) -> None:
        if self._finished:
            raise ValueError("the stream is finished: make a new FeatureStream for the next sound")


def sound_samples(samples: np.ndarray) -> np.ndarray:
    """Return samples (n,) as float32. Raises ValueError for another shape, or NaN or infinite samples."""
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"the sound has shape {samples.shape}, expected (samples,): one channel at 16 kHz")
    finite = np.isfinite(samples)
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"the sound has {int((~finite).sum())} NaN or infinite samples of {len(samples)}, the first at sample "
            f"{first}; repair or re-export it"
        )
    return samples


def _block_features(
    encode: WindowEncoder,
    held: np.ndarray,
    offset: int,
    windows: ListeningWindows,
    block: int,
    steps: int | None,
) -> Tensor:
    """Return the features of one block; held: the sound from sample `offset` on."""
    first, end = samples_heard(windows, block, steps)
    heard = held[first - offset : end - offset]
    features = encode(np.pad(heard, (0, end - first - len(heard))))
    expected = (end - first) // STEP_SAMPLES
    if features.ndim != 3 or len(features) != expected:
        raise ValueError(
            f"the encoder gave features of shape {tuple(features.shape)} for {end - first} samples, expected "
            f"({expected}, layers, width): one step for every {STEP_SAMPLES} samples"
        )
    start, stop = (step - first // STEP_SAMPLES for step in steps_of_block(windows, block, steps))
    return features[start:stop]
