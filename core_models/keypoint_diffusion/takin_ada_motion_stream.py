"""Takin-ADA while the speech goes on: sound in as it comes, a face's motion out.

The sound goes through an ear (the model's own listener, or HuBERT in bounded windows), the score stream, and what makes
motion of scores; none of them ever changes a frame that was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..audio.frame_clock import frame_count
from ..audio.listening_blocks import MEL_PER_STEP, ListenerStream
from ..audio.listening_windows import STEPS_PER_FRAME
from ..audio.mel import FLOOR_DB, SAMPLE_RATE, scale_decibels
from ..audio.mel_stream import MelStream, RunningLevel, raised_decibels
from ..motion.eye_life_stream import EyeLifeStream
from ..motion.keypoint_geometry import KeypointReadings
from ..motion.pose_track import with_angle_gains
from ..motion.track import map_frames
from ..types import BLENDSHAPES, Emotion, FaceMotion
from .motion_stream import CLOSURE_MARGIN
from .sampler import SamplingParameters, to_face_motion
from .takin_ada import TAKIN_ADA_FPS, TakinADAModel
from .takin_ada_performance import TakinADAOptions, directed, keypoint_direction, placed_on
from .takin_ada_stream import Direction, MadeFrames, ScoreStream

if TYPE_CHECKING:
    from ..audio.listening_windows import FeatureStream


class Ear(Protocol):
    """Sound to hidden states at 50 Hz, as they become certain. steps_ahead: heard after a step's own at the most."""

    steps_ahead: int

    def push(self, waveform: np.ndarray) -> Tensor | None:
        """Take samples (n,) at 16 kHz; return the next hidden states (1, L, T, C)."""

    def finish(self, steps: int) -> Tensor | None:
        """Return the rest, `steps` in all; after the sound is silence."""


class ListenerEar:
    """The model's own listener, block by block; each column of mel keeps the gain it was first heard with."""

    def __init__(self, model: TakinADAModel) -> None:
        self._blocks = blocks = model.parameters_used.listening
        self.steps_ahead = blocks.block - 1 + blocks.ahead
        self._like = model.motion_mean
        self._mel, self._level = MelStream(), RunningLevel()
        self._stream = ListenerStream(model.listener, blocks, float(scale_decibels(FLOOR_DB)))

    def push(self, waveform: np.ndarray) -> Tensor | None:
        """See `Ear`."""
        self._mel.push(waveform)
        columns, made = MEL_PER_STEP * self._blocks.block, []
        while self._mel.has(self._mel.columns + columns):
            made.append(self._stream.push(self._heard(self._mel.columns + columns)))
        return _joined(made)

    def finish(self, steps: int) -> Tensor | None:
        """See `Ear`."""
        heard = self._stream.push(self._heard(max(self._mel.columns, MEL_PER_STEP * steps)))
        return _joined([heard, self._stream.finish(steps)])

    def _heard(self, columns: int) -> Tensor:
        """Return the columns up to `columns`, brought to the level so far, (n, 80)."""
        new = self._mel.take(columns)
        if len(new):
            self._level.hear(new)
        return torch.from_numpy(scale_decibels(raised_decibels(new, self._level.gain))).to(self._like)


class HubertEar:
    """HuBERT in windows of bounded reach; see `audio.listening_windows`."""

    def __init__(self, stream: FeatureStream, steps_ahead: int, like: Tensor) -> None:
        self._stream, self.steps_ahead, self._like = stream, steps_ahead, like
        self._heard = False

    def push(self, waveform: np.ndarray) -> Tensor | None:
        """See `Ear`."""
        self._heard = self._heard or len(waveform) > 0
        return self._states(self._stream.push(waveform))

    def finish(self, steps: int) -> Tensor | None:
        """See `Ear`."""
        if not self._heard:
            self._stream.push(np.zeros(1, np.float32))  # no sound at all is silence
        return self._states(self._stream.finish(steps // STEPS_PER_FRAME))

    def _states(self, features: Tensor | None) -> Tensor | None:
        return None if features is None else features.permute(1, 0, 2)[None].to(self._like)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    parts = [part for part in parts if part is not None]
    return torch.cat(parts, dim=2) if parts else None


Shaping = Callable[[np.ndarray, np.ndarray | None], FaceMotion]
"""(motion vectors (n, size), how likely lips touch (n,)) -> motion of those frames; it may look at neighbours."""


class TakinADAMotionStream:
    """A `MotionStream` of Takin-ADA's second stage."""

    sample_rate = SAMPLE_RATE
    fps = float(TAKIN_ADA_FPS)

    def __init__(
        self,
        model: TakinADAModel,
        direction: Direction,
        options: TakinADAOptions,
        shaping: Shaping,
        finishing: Callable[[FaceMotion], FaceMotion],
        ear: Ear | None = None,
    ) -> None:
        """shaping: makes motion of vectors. finishing: is called with each piece that is given, in order. ear: None is
        the model's own listener. Raises ValueError for a model that cannot stream."""
        if options.sampling.variations != 1:
            raise ValueError(
                f"a stream makes one variation, but {options.sampling.variations} were asked for"
            )
        if ear is None and model.parameters_used.listener is None:
            raise ValueError("this Takin-ADA model hears HuBERT: give the stream an ear (`HubertEar`)")
        self._ear = ear or ListenerEar(model)
        self._scores = ScoreStream(model, options.sampling.denoising, direction)
        self._model, self._shaping, self._finishing = model, shaping, finishing
        encoder_ahead = model.parameters_used.encoder.frames_ahead
        heard_ahead = -(-self._ear.steps_ahead // STEPS_PER_FRAME)
        self.frames_ahead = heard_ahead + encoder_ahead + CLOSURE_MARGIN
        self._samples = self._given = self._first = 0
        self._vectors: np.ndarray | None = None
        self._closed: np.ndarray | None = None
        self._finished = False

    def push(self, waveform: np.ndarray) -> FaceMotion | None:
        """See `MotionStream`. Raises ValueError after `finish`, and for sound that is not mono and finite."""
        self._require_open()
        self._samples += len(waveform)
        with torch.inference_mode():
            hidden = self._ear.push(waveform)
        if hidden is not None:
            self._keep(self._scores.push(hidden))
        return self._give(self._made - CLOSURE_MARGIN)

    def finish(self) -> FaceMotion | None:
        """See `MotionStream`. Raises ValueError when it is called twice."""
        self._require_open()
        self._finished = True
        end = frame_count(self._samples / SAMPLE_RATE, self.fps)
        with torch.inference_mode():
            hidden = self._ear.finish(STEPS_PER_FRAME * end)
        if hidden is not None:
            self._keep(self._scores.push(hidden))
        self._keep(self._scores.finish())
        return self._give(end)

    def _require_open(self) -> None:
        if self._finished:
            raise ValueError("the stream is finished: begin a new one for more sound")

    @property
    def _made(self) -> int:
        return self._first + (0 if self._vectors is None else len(self._vectors))

    def _keep(self, made: MadeFrames | None) -> None:
        if made is None:
            return
        vectors = self._model.denormalise(made.scores[0]).cpu().double().numpy()
        closed = None if made.closed is None else made.closed.float().cpu().numpy()
        if self._vectors is not None:
            vectors = np.concatenate([self._vectors, vectors])
            closed = None if closed is None else np.concatenate([self._closed, closed])
        self._vectors, self._closed = vectors, closed

    def _give(self, until: int) -> FaceMotion | None:
        """Return the frames up to `until` that were not given; those that closures are still decided by are kept."""
        if until <= self._given:
            return None
        inside = slice(self._given - self._first, until - self._first)
        motion = self._shaping(self._vectors, self._closed)
        piece = map_frames(motion, lambda values: values[inside])
        forget = max(0, until - CLOSURE_MARGIN - self._first)
        self._vectors = self._vectors[forget:]
        self._closed = None if self._closed is None else self._closed[forget:]
        self._first += forget
        self._given = until
        return self._finishing(piece)


def face_stream(
    model: TakinADAModel,
    emotion: Emotion | None = None,
    options: TakinADAOptions | None = None,
    ear: Ear | None = None,
) -> TakinADAMotionStream:
    """Return a stream of motion in blendshapes. emotion: None takes what is heard in the speech.

    Raises ValueError for a model over implicit keypoints or one that cannot stream.
    """
    options = options or TakinADAOptions()
    _require_rate(options.face)
    face = options.face
    eyes = EyeLifeStream(float(TAKIN_ADA_FPS), face.seed, face.blinks_per_minute, face.gaze)
    if model.parameters_used.layout.space != BLENDSHAPES:
        raise ValueError("this Takin-ADA model makes implicit keypoints: use `keypoint_stream`")

    def shaping(vectors: np.ndarray, closed: np.ndarray | None) -> FaceMotion:
        rows = vectors.astype(np.float32)
        return to_face_motion(rows, np.zeros(len(rows)) if closed is None else closed, face)

    def finishing(motion: FaceMotion) -> FaceMotion:
        return eyes.added_to(with_angle_gains(motion, face.pitch, face.yaw, face.roll))

    direction = Direction(given=directed(model, emotion, None))
    return TakinADAMotionStream(model, direction, options, shaping, finishing, ear)


def keypoint_stream(
    model: TakinADAModel,
    source: KeypointReadings,
    emotion: Emotion | None = None,
    options: TakinADAOptions | None = None,
    ear: Ear | None = None,
) -> TakinADAMotionStream:
    """Return a stream of motion in implicit keypoints for a portrait's reading (one row).

    Gains and added blinks, which look at whole clips, are not applied. Raises ValueError as `face_stream` does.
    """
    if model.parameters_used.layout.space == BLENDSHAPES:
        raise ValueError("this Takin-ADA model makes blendshapes: use `face_stream`")

    def shaping(vectors: np.ndarray, closed: np.ndarray | None) -> FaceMotion:
        return placed_on(source, vectors)

    direction = keypoint_direction(model, source, emotion, None)
    return TakinADAMotionStream(
        model, direction, options or TakinADAOptions(), shaping, lambda motion: motion, ear
    )


def _require_rate(face: SamplingParameters) -> None:
    if face.fps != TAKIN_ADA_FPS:
        raise ValueError(f"a stream of Takin-ADA has {TAKIN_ADA_FPS} fps, not {face.fps:g}")
