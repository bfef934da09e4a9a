"""Speech, an emotion and head control to motion with Takin-ADA's second stage, a whole clip at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..audio.embedding import HUBERT, LOG_MEL
from ..audio.frame_clock import frame_count
from ..audio.listening_blocks import heard_in_blocks
from ..audio.listening_windows import STEPS_PER_FRAME
from ..audio.mel import FLOOR_DB, scale_decibels
from ..types import AudioEmbedding, Emotion, ProgressCallback
from .choices import MOST_VARIATIONS, successive_seeds
from .sampler import frame_aligned_mel
from .takin_ada import TAKIN_ADA_FPS, TakinADAModel
from .takin_ada_stream import (
    Denoising,
    Direction,
    FrameNoise,
    GuidedGenerator,
    MadeFrames,
    ScoreStream,
    guided_conditions,
    in_full_precision,
    known_controls,
)
from .windows import fade_in, window_starts

TAKIN_ADA_STEPS = 20
"""DDIM steps unless asked otherwise; the paper gives no number, AniTalker's demonstration takes 50."""
ONE_SHOT_FRAMES = 750
"""A model that hears whole clips makes up to 30 s at once; relative positions bear lengths never trained on."""
WINDOW_OVERLAP = 25
PIECE_FRAMES = 250
"""A streaming model makes whole clips in pieces of 10 s, so that memory is bounded."""
LARGEST_GUIDANCE = 5.0


@dataclass(frozen=True)
class TakinADASamplingParameters:
    """How to sample.

    seed: of the noise; variation i has seed + i, whatever their number. variations: clips made at once. steps: DDIM
    steps, 1..1000. guidance: weight of the emotion over none, 0..5; 1 is as learned and costs half. temperature: spread
    of the noise, 0..3; 1 is as learned.
    """

    seed: int = 0
    variations: int = 1
    steps: int = TAKIN_ADA_STEPS
    guidance: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("variations", 1, MOST_VARIATIONS),
            ("steps", 1, 1000),
            ("guidance", 0, LARGEST_GUIDANCE),
            ("temperature", 0, 3),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{name} is {value}, expected {low} to {high:g}")

    @property
    def seeds(self) -> list[int]:
        """The seed of each variation."""
        return successive_seeds(self.seed, self.variations)

    @property
    def denoising(self) -> Denoising:
        """The same for the generator."""
        return Denoising(tuple(self.seeds), self.steps, self.guidance, self.temperature)


def emotion_scores(
    model: TakinADAModel, emotion: Emotion, base: Tensor | None = None
) -> Callable[[int, int], Tensor]:
    """Return (first frame, count) -> (count, emotion size): the emotion at each frame's centre, for `Direction.given`.

    base: where neutral is, (emotion size,) z-scores; None is the model's.
    """

    def rows(first: int, count: int) -> Tensor:
        times = (np.arange(first, first + count) + 0.5) / TAKIN_ADA_FPS
        return model.emotion_rows(torch.from_numpy(emotion.at(times)), base)

    return rows


def required_encoder(model: TakinADAModel) -> str:
    """Return the name of the audio encoder whose features the model hears."""
    return HUBERT if model.parameters_used.listener is None else LOG_MEL


def hidden_states(model: TakinADAModel, embedding: AudioEmbedding, frames: int) -> Tensor:
    """Return the speech model's hidden states (1, L, 2 * frames, C) of the sound, on the model's device.

    Raises ValueError for features of another encoder, or of a speech model of another width or depth.
    """
    p, weight = model.parameters_used, model.output.weight
    needed = required_encoder(model)
    if embedding.encoder != needed:
        raise ValueError(
            f"this Takin-ADA model hears '{needed}' features but got '{embedding.encoder}': set the Audio Embedding "
            f"node's encoder to '{needed}', or connect the model to it"
        )
    if p.listener is not None:
        mel = frame_aligned_mel(embedding, frames).to(weight)
        return heard_in_blocks(model.listener, mel, p.listening, float(scale_decibels(FLOOR_DB)))
    _, layers, width = embedding.features.shape
    if (layers, width) != (p.layers, p.speech_width):
        raise ValueError(
            f"the features are {layers} hidden states, {width} wide; this Takin-ADA model was trained with "
            f"{p.layers}, {p.speech_width} wide: load the HuBERT it was trained with"
        )
    wanted = STEPS_PER_FRAME * frames
    rows = embedding.features[:wanted]
    rows = torch.cat([rows, rows[-1:].expand(wanted - len(rows), -1, -1)])
    return rows.permute(1, 0, 2)[None].to(weight)


def sample_scores(
    model: TakinADAModel,
    embedding: AudioEmbedding,
    parameters: TakinADASamplingParameters | None = None,
    direction: Direction | None = None,
    progress: ProgressCallback | None = None,
    piece_done: Callable[[Tensor], None] | None = None,
) -> MadeFrames:
    """Return motion in z-scores (V, N, size), N = frame_count(duration, 25), and how likely lips touch.

    A streaming model makes a clip of any length in pieces that follow each other exactly; one that hears whole clips
    makes up to 30 s at once, and longer ones in windows of its training's length that start from the frame before and
    are drawn together where they overlap. piece_done: called with all scores so far (V, n, size).
    Raises ValueError as `hidden_states` does.
    """
    parameters, direction = parameters or TakinADASamplingParameters(), direction or Direction()
    frames = frame_count(embedding.duration, TAKIN_ADA_FPS)
    with torch.inference_mode():
        hidden = hidden_states(model, embedding, frames)
        make = _in_pieces if model.parameters_used.streamable else _in_windows
        return make(model, hidden, parameters, direction, progress, piece_done)


def _in_pieces(
    model: TakinADAModel,
    hidden: Tensor,
    parameters: TakinADASamplingParameters,
    direction: Direction,
    progress: ProgressCallback | None,
    piece_done: Callable[[Tensor], None] | None,
) -> MadeFrames:
    pieces = hidden.split(STEPS_PER_FRAME * PIECE_FRAMES, dim=2)
    total = (len(pieces) + 1) * parameters.steps
    step_done = _counted(progress, total)
    stream = ScoreStream(model, parameters.denoising, direction, step_done)
    made: list[MadeFrames] = []
    for piece in [*pieces, None]:
        new = stream.finish() if piece is None else stream.push(piece)
        if new is not None:
            made.append(new)
            if piece_done is not None:
                piece_done(torch.cat([one.scores for one in made], dim=1))
    if progress is not None:
        progress(total, total)  # of a short clip one push gives nothing
    closed = None if made[0].closed is None else torch.cat([one.closed for one in made])
    return MadeFrames(torch.cat([one.scores for one in made], dim=1), closed)


def _in_windows(
    model: TakinADAModel,
    hidden: Tensor,
    parameters: TakinADASamplingParameters,
    direction: Direction,
    progress: ProgressCallback | None,
    piece_done: Callable[[Tensor], None] | None,
) -> MadeFrames:
    speech = model.heard(hidden)
    frames, denoising = speech.shape[1], parameters.denoising
    closed = model.closure_logits(speech)[0].sigmoid() if model.parameters_used.closes_lips else None
    given = direction.given(0, frames)
    rows = {name: values[None].to(speech) for name, values in given.items()}
    speech, emotion, _ = model.conditioned(speech, rows, {})
    held = known_controls(model, given)
    noise = FrameNoise(denoising.seeds, model.parameters_used.layout.size, denoising.temperature)
    starts, length, overlap = [0], frames, 0
    if frames > ONE_SHOT_FRAMES:
        length = model.parameters_used.window
        overlap = min(WINDOW_OVERLAP, length // 2)
        starts = window_starts(frames, length, overlap)
    generator = GuidedGenerator(model, denoising, False, _counted(progress, len(starts) * parameters.steps))
    noise_rows = in_full_precision(noise.next(frames), speech)
    scores = torch.zeros_like(noise_rows)
    for start in starts:
        inside = slice(start, min(frames, start + length))
        if start:
            direction = replace(direction, start=scores[:, start - 1].clone())
        conditions = guided_conditions(model, speech[:, inside], emotion[:, inside], direction, denoising)
        fade = fade_in(inside.stop - start, overlap if start else 0).to(scores)
        known = _known(held, inside, scores[:, inside], 1 - fade)
        scores[:, inside] = generator.sample(conditions, noise_rows[:, inside], known)
        if piece_done is not None:
            piece_done(scores[:, : inside.stop])
    return MadeFrames(scores, closed)


def _known(
    held: tuple[Tensor, Tensor] | None, inside: slice, earlier: Tensor, drawn: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return what a window is drawn towards: head control that is given, and the window before where they overlap."""
    if held is None:
        return (drawn, earlier) if drawn.any() else None
    columns, values = held
    return torch.maximum(drawn, columns), torch.where(columns > 0, values[inside], earlier)


def _counted(progress: ProgressCallback | None, total: int) -> Callable[[], None] | None:
    if progress is None:
        return None
    count = itertools.count(1)
    return lambda: progress(min(next(count), total), total)
