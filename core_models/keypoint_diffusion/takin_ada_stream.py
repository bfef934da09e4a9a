"""Takin-ADA's second stage while the speech goes on: hidden states in, motion out, nothing computed twice.

Everything after the speech encoder depends on frames before alone, and the encoder on a bounded number after its own.
So each stage keeps what it needs of the past, and a clip comes out the same, but for rounding, however it was divided:
there are no windows and no seams. The paper (arXiv 2410.14283) reports real time and does not say how; this is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..audio.listening_windows import STEPS_PER_FRAME
from .choices import TRAILING
from .conformer_stream import ConformerMemory, advance, no_memory
from .ddim import sample_window
from .schedule import alphas_cumprod, sampling_timesteps
from .takin_ada import Conditions, TakinADAModel
from .variance_adapter import AdapterMemory

Given = Callable[[int, int], Mapping[str, Tensor]]
"""(first frame, count) -> what is given of them, (count, size) z-scores by name; the rest is predicted."""


@dataclass(frozen=True)
class Denoising:
    """How noise becomes motion. seeds: one for each variation. guidance: weight of the emotion, 1 is as learned.
    temperature: spread of the noise, 1 is as learned."""

    seeds: tuple[int, ...] = (0,)
    steps: int = 20
    guidance: float = 1.0
    temperature: float = 1.0


@dataclass(frozen=True)
class Direction:
    """What the motion is to be. start: (motion size,), or (V, motion size), z-scores before the first frame, or None.
    source: (source size,) z-scores, or None. given: of each frame, "emotion" and head controls. Head controls that are
    given are also kept exactly."""

    start: Tensor | None = None
    source: Tensor | None = None
    given: Given = field(default=lambda first, count: {})


@dataclass(frozen=True)
class MadeFrames:
    """scores: (V, n, motion size) z-scores. closed: (n,) how likely the lips touch, or None where nothing says so."""

    scores: Tensor
    closed: Tensor | None


class GuidedGenerator:
    """The motion generator at each timestep of a run, with and without emotion where it is guided.

    remembering: frames follow those of earlier calls; otherwise each call is a clip of its own.
    """

    def __init__(
        self,
        model: TakinADAModel,
        denoising: Denoising,
        remembering: bool,
        step_done: Callable[[], None] | None,
    ) -> None:
        self.model, self.denoising, self.step_done = model, denoising, step_done
        self.timesteps = sampling_timesteps(denoising.steps, TRAILING)
        self.signal = alphas_cumprod(model.parameters_used.schedule).to(model.motion_mean.device)
        self.guided = denoising.guidance != 1.0
        self.memories: list[ConformerMemory] | None = None
        if remembering:
            batch = len(denoising.seeds) * (2 if self.guided else 1)
            self.memories = [no_memory(model.generator, batch) for _ in self.timesteps]

    def predict(self, conditions: Conditions, x: Tensor, index: int) -> Tensor:
        """Return the noise in x (V, n, size) at the run's step `index`."""
        both = (x.repeat(2, 1, 1) if self.guided else x).to(conditions.speech.dtype)
        timesteps = torch.full((len(both),), self.timesteps[index], device=x.device)
        tokens = self.model.tokens(both, timesteps, conditions)
        if self.memories is None:
            hidden = self.model.generator(tokens)
        else:
            hidden, self.memories[index] = advance(self.model.generator, tokens, self.memories[index])
        noise = self.model.output(hidden).to(x.dtype)
        if not self.guided:
            return noise
        without, with_emotion = noise.chunk(2)
        return torch.lerp(without, with_emotion, self.denoising.guidance)

    def sample(
        self, conditions: Conditions, noise: Tensor, known: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return scores (V, n, size) from noise of that shape; known: as `sample_window` has it."""
        return sample_window(
            self,
            conditions,
            noise,
            self.timesteps,
            self.signal,
            self.model.parameters_used.prediction,
            known,
            self.step_done,
        )


class FrameNoise:
    """Noise frame by frame: the same whatever the frames are drawn in, and whatever the other seeds are."""

    def __init__(self, seeds: Sequence[int], size: int, spread: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._size, self._spread = size, spread

    def next(self, frames: int) -> Tensor:
        """Return (V, frames, size) of the next frames."""
        rows = [
            torch.stack([torch.randn(self._size, generator=generator) for _ in range(frames)])
            for generator in self._generators
        ]
        return self._spread * torch.stack(rows)


def in_full_precision(noise: Tensor, like: Tensor) -> Tensor:
    """Return the noise where `like` is, at least float32: in less, steps of rounding would make the motion tremble."""
    return noise.to(like.device, torch.promote_types(like.dtype, torch.float32))


def guided_conditions(
    model: TakinADAModel, speech: Tensor, emotion: Tensor, direction: Direction, denoising: Denoising
) -> Conditions:
    """Return the conditions of all variations, those without emotion first where it is guided.

    speech: (1, n, width) with head control; emotion: its part (1, n, width).
    """
    count = len(denoising.seeds)
    rows = (speech + emotion).expand(count, -1, -1)
    if denoising.guidance != 1.0:
        rows = torch.cat([(speech + model.no_emotion).expand(count, -1, -1), rows])

    def repeated(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(rows).expand(count, -1).repeat(len(rows) // count, 1)

    return Conditions(rows, repeated(direction.start), repeated(direction.source))


def known_controls(model: TakinADAModel, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return (weights (size,), values (n, size)) that hold head controls at what is given, or None."""
    layout = model.parameters_used.layout
    held = {name: columns for name, columns in layout.controls.items() if name in given}
    if not held:
        return None
    weights = torch.zeros(layout.size)
    frames = len(given[next(iter(held))])
    values = torch.zeros(frames, layout.size)
    for name, columns in held.items():
        weights[list(columns)] = 1.0
        values[:, list(columns)] = given[name].float().cpu()
    device = model.motion_mean.device
    return weights.to(device), values.to(device)


class ScoreStream:
    """Hidden states of a speech model in, motion in z-scores out; for models that are `require_streamable`.

    One stream is one clip. What it keeps does not grow with the clip's length.
    """

    def __init__(
        self,
        model: TakinADAModel,
        denoising: Denoising,
        direction: Direction,
        step_done: Callable[[], None] | None = None,
    ) -> None:
        """step_done: called after each denoising step of each piece; it may raise to cancel."""
        p = model.parameters_used
        p.require_streamable()
        self._model, self._denoising, self._direction = model, denoising, direction
        self._generator = GuidedGenerator(model, denoising, remembering=True, step_done=step_done)
        self._noise = FrameNoise(denoising.seeds, p.layout.size, denoising.temperature)
        self._adapters: dict[str, AdapterMemory] = {}
        self._hidden: Tensor | None = None
        self._first = self._done = 0

    @property
    def frames_done(self) -> int:
        """Frames returned so far."""
        return self._done

    def push(self, hidden_states: Tensor) -> MadeFrames | None:
        """Return the frames that have become certain, or None. hidden_states: (1, L, T, C), those that follow."""
        self._hidden = (
            hidden_states if self._hidden is None else torch.cat([self._hidden, hidden_states], dim=2)
        )
        return self._make(self._frames_heard() - self._model.parameters_used.encoder.frames_ahead)

    def finish(self) -> MadeFrames | None:
        """Return the frames that waited for what is not to come."""
        return None if self._hidden is None else self._make(self._frames_heard())

    def _frames_heard(self) -> int:
        return self._first + self._hidden.shape[2] // STEPS_PER_FRAME

    def _make(self, until: int) -> MadeFrames | None:
        if until <= self._done:
            return None
        with torch.inference_mode():
            speech = self._speech(until)
            made = self._sampled(speech)
            closed = None
            if self._model.parameters_used.closes_lips:
                closed = self._model.closure_logits(speech)[0].sigmoid()
        self._done = until
        return MadeFrames(made, closed)

    def _speech(self, until: int) -> Tensor:
        """Return the encoder's output of the frames from the last done to `until`, and forget what is too old."""
        model, behind = self._model, self._model.parameters_used.encoder.frames_behind
        features = model.at_frames(self._hidden)
        complete = 1 if self._first else 0  # the first frame kept lacks the step before it
        speech = model.encoder(features[:, complete:])
        begin = self._first + complete
        made = speech[:, self._done - begin : until - begin]
        keep = max(self._first, until - behind - 1)
        self._hidden = self._hidden[:, :, STEPS_PER_FRAME * (keep - self._first) :].clone()
        self._first = keep
        return made

    def _sampled(self, speech: Tensor) -> Tensor:
        model, frames = self._model, speech.shape[1]
        given = self._direction.given(self._done, frames)
        batched = {name: values[None].to(speech) for name, values in given.items()}
        speech, emotion, self._adapters = model.conditioned(speech, batched, self._adapters)
        conditions = guided_conditions(model, speech, emotion, self._direction, self._denoising)
        noise = in_full_precision(self._noise.next(frames), speech)
        return self._generator.sample(conditions, noise, known_controls(model, given))
