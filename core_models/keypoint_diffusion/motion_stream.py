"""Speech to motion while it is spoken: what a motion stream is, and the pocket model's.

Sound goes in as it comes, in pieces of any length; frames come out as soon as they are certain and never change
afterwards. How the sound was cut makes no difference to the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..audio.frame_clock import frame_count
from ..audio.mel import MEL_BANDS, SAMPLE_RATE, scale_decibels
from ..audio.mel_stream import MelStream, RunningLevel, raised_decibels
from ..motion.eye_life_stream import EyeLifeStream
from ..motion.pose_track import with_angle_gains
from ..motion.track import map_frames
from ..types import Emotion, FaceMotion
from .ddim import sample_window
from .pocket import POCKET_EMOTIONS, POCKET_FPS, PocketModel, sampled_channels
from .prepared_denoiser import PreparedDenoiser
from .sampler import (
    CONTEXT_FRAMES,
    DIP_REACH,
    MEL_PER_FRAME,
    SamplingParameters,
    resting_prefix,
    to_face_motion,
    with_pose,
)
from .schedule import alphas_cumprod, sampling_timesteps
from .windows import fade_in

CLOSURE_MARGIN = DIP_REACH + 1
"""Frames of settled mouth on each side that a closure of the lips is decided by: a peak's neighbour, and its dip."""
MOST_BLOCK, MOST_LOOK_AHEAD = 7, 25
"""Frames; with those unheard they fill the denoiser's window."""
HISTORY_FRAMES = 2 * CLOSURE_MARGIN
"""Frames kept of what was heard and given: as many as the next block asks for."""
UNHEARD_FRAMES = 32
"""Frames beyond what was heard that windows reach: short windows make a nervous head."""
FADE_FRAMES = 16
"""Frames over which one window's plan goes over into the next one's."""
SPREAD = 1.0
"""Of the noise that head and brows start from: every block renews it a little, which moves the head enough."""


class MotionStream(Protocol):
    """Turns sound into motion while it comes in.

    fps: of the motion. sample_rate: of the sound it takes. frames_ahead: frames of sound after a frame's own that it
    waits for at the most before it gives the frame.
    """

    fps: float
    sample_rate: int
    frames_ahead: int

    def push(self, waveform: np.ndarray) -> FaceMotion | None:
        """Take samples (n,) float32, mono; return the frames that have become certain, None where there are none."""

    def finish(self) -> FaceMotion | None:
        """End the sound and return the rest of the frames.

        All frames together are frame_count(duration, fps). The stream takes no more sound.
        """


def stream_motion(stream: MotionStream, waveform: np.ndarray, chunk: int) -> FaceMotion:
    """Return the motion of a whole sound (n,), given to a new stream `chunk` samples at a time.

    Raises ValueError for a chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk} samples, expected at least 1")
    pieces = [stream.push(waveform[start : start + chunk]) for start in range(0, len(waveform), chunk)]
    return joined_motion([piece for piece in (*pieces, stream.finish()) if piece is not None])


def joined_motion(pieces: Sequence[FaceMotion]) -> FaceMotion:
    """Return the pieces one after the other, frames as they are. Raises ValueError for no pieces."""
    if not pieces:
        raise ValueError("there are no pieces of motion to join")
    names = ("expression", "rotation", "translation", "scale")
    return replace(
        pieces[0], **{name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in names}
    )


@dataclass(frozen=True)
class PocketStreamParameters:
    """How the pocket model makes motion as it hears.

    sampling: as for a whole clip; one variation, 25 fps. block: frames made at once, 1..7. look_ahead: frames of
    sound after a block that it waits for, 4..25: the lips follow speech better the more there is.
    """

    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    block: int = 5
    look_ahead: int = 12

    def __post_init__(self) -> None:
        for name, low, high in (
            ("block", 1, MOST_BLOCK),
            ("look_ahead", CLOSURE_MARGIN, MOST_LOOK_AHEAD),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value} frames, expected {low} to {high}")
        if self.sampling.variations != 1:
            raise ValueError(f"a stream makes one variation, but {self.sampling.variations} were asked for")
        if self.sampling.fps != POCKET_FPS:
            raise ValueError(f"a stream of the pocket model has {POCKET_FPS} fps, not {self.sampling.fps:g}")


@dataclass(frozen=True)
class _Heard:
    """What the encoder makes of frames in a row: features (1, N, C), mouth z-scores (1, N, 52), how
    probably the lips touch (1, N), and the emotion shown (1, N, 7)."""

    features: Tensor
    mouth: Tensor
    closed: Tensor
    emotion: Tensor

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return self.features, self.mouth, self.closed, self.emotion

    def rows(self, first: int, stop: int | None = None) -> _Heard:
        return _Heard(*(part[:, first:stop] for part in self.parts))

    def followed_by(self, other: _Heard) -> _Heard:
        return _Heard(*(torch.cat(pair, dim=1) for pair in zip(self.parts, other.parts, strict=True)))

    def lengthened(self, frames: int) -> _Heard:
        """Return these frames and `frames` more like the last of them."""
        return _Heard(*(torch.cat([part, _repeated(part[:, -1:], frames)], dim=1) for part in self.parts))

    def __len__(self) -> int:
        return self.mouth.shape[1]


def _repeated(row: Tensor, frames: int) -> Tensor:
    return row.repeat_interleave(frames, dim=1)


class PocketStream:
    """The pocket model, a block of frames at a time.

    For each block the encoder hears the CONTEXT_FRAMES before and `look_ahead` frames after, the sound brought to its
    running level. Mouth and closures settle a few frames ahead of what is given, so that a closure is decided from
    mouths that stay. Head and brows are sampled in windows that go on from what was given and from each other. Blinks
    and gaze have generators of their own. What is kept does not grow with the sound.
    """

    sample_rate = SAMPLE_RATE
    fps = float(POCKET_FPS)

    def __init__(
        self,
        model: PocketModel,
        emotion: Emotion | None = None,
        parameters: PocketStreamParameters | None = None,
    ) -> None:
        """Begin a stream. Raises ValueError when the emotion holds one the model does not know."""
        self.parameters = parameters or PocketStreamParameters()
        self.frames_ahead = self.parameters.look_ahead + self.parameters.block - 1
        self._model = model
        self._ear = _Ear(model, emotion or Emotion.mixed({"neutral": 1.0}))
        self._head = _HeadAndBrows(model, self.parameters.sampling)
        sampling = self.parameters.sampling
        self._eyes = EyeLifeStream(self.fps, sampling.seed, sampling.blinks_per_minute, sampling.gaze)
        self._given = 0
        self._end: int | None = None

    def push(self, waveform: np.ndarray) -> FaceMotion | None:
        """See `MotionStream`. Raises ValueError after `finish`, and for sound that is not mono and finite."""
        if self._end is not None:
            raise ValueError("the stream is finished: begin a new one for more sound")
        self._ear.sound.push(waveform)
        p, pieces = self.parameters, []
        while self._ear.sound.has((self._given + p.block + p.look_ahead) * MEL_PER_FRAME):
            pieces.append(self._block(self._given + p.block))
        return joined_motion(pieces) if pieces else None

    def finish(self) -> FaceMotion | None:
        """See `MotionStream`. Raises ValueError when it is called twice."""
        if self._end is not None:
            raise ValueError("the stream is finished already: begin a new one")
        self._end = frame_count(self._ear.sound.samples_heard / SAMPLE_RATE, self.fps)
        pieces = []
        while self._given < self._end:
            pieces.append(self._block(min(self._end, self._given + self.parameters.block)))
        return joined_motion(pieces) if pieces else None

    def _block(self, stop: int) -> FaceMotion:
        """Return the frames from the first that was not given up to `stop`."""
        first, end = self._given, stop + self.parameters.look_ahead
        end = end if self._end is None else min(end, self._end)
        settled = min(stop + CLOSURE_MARGIN, end)
        before = min(CLOSURE_MARGIN, first)
        with torch.inference_mode():
            heard = self._ear.hear(end, settled)
            scores = self._head.go_on(heard, fresh=end - first, given=stop - first)
            rows = scores[:, -before - (end - first) : scores.shape[1] - (end - settled)]
            decided = heard.rows(len(heard) - before - (end - first), len(heard) - (end - settled))
            motion = self._model.denormalise(rows) + decided.emotion @ self._model.emotion_rest
        made = to_face_motion(_array(motion), _array(decided.closed), self.parameters.sampling)
        self._given = stop
        return self._finished(map_frames(made, lambda values: values[before : before + stop - first]))

    def _finished(self, motion: FaceMotion) -> FaceMotion:
        p = self.parameters.sampling
        return self._eyes.added_to(with_angle_gains(motion, p.pitch, p.yaw, p.roll))


def _array(rows: Tensor) -> np.ndarray:
    return rows[0].float().cpu().numpy()


class _Ear:
    """Sound to what the encoder makes of it, frame by frame; frames that have settled stay as they are."""

    def __init__(self, model: PocketModel, emotion: Emotion) -> None:
        _expect_known_emotions(emotion)
        self.sound = MelStream()
        self._model, self._emotion = model, emotion
        self._level = RunningLevel()
        self._mel = np.zeros((0, MEL_BANDS), np.float32)
        self._settled = 0
        self._rows: _Heard | None = None

    def hear(self, end: int, settled: int) -> _Heard:
        """Return frames up to `end`, with HISTORY_FRAMES before the settled ones; those up to `settled` settle."""
        rows = self._rows
        if end > self._settled:
            fresh = self._fresh(end)
            rows = fresh if rows is None else rows.followed_by(fresh)
        keep = len(rows) - (end - settled)
        self._rows = rows.rows(max(0, keep - HISTORY_FRAMES), keep)
        self._settled = settled
        return rows

    def _fresh(self, end: int) -> _Heard:
        """Return the frames from the first that has not settled up to `end`, of the sound at its level so far."""
        new = self.sound.take(end * MEL_PER_FRAME)
        self._level.hear(new)
        mel = np.concatenate([self._mel, new])
        first = max(0, self._settled - CONTEXT_FRAMES)
        self._mel = mel[len(mel) - (end - first) * MEL_PER_FRAME :]
        device, dtype = self._model.motion_mean.device, self._model.motion_mean.dtype
        scaled = scale_decibels(raised_decibels(self._mel, self._level.gain))
        features, _ = self._model.encoder(torch.from_numpy(scaled)[None].to(device, dtype))
        features = features[:, self._settled - first :]
        times = (np.arange(self._settled, end) + 0.5) / POCKET_FPS
        emotion = torch.from_numpy(self._emotion.at(times))[None].to(device, dtype)
        closed = self._model.encoder.closure_logits(features).sigmoid()
        return _Heard(features, self._model.mouth(features, emotion), closed, emotion)


class _HeadAndBrows:
    """Head and brows, sampled window after window, each going on from the frames given so far.

    A window begins with the next frame, its prefix the frames given last, and reaches UNHEARD_FRAMES beyond what was
    heard, where sound and mouth are taken to stay as they are. What a window plans for later frames fades over into
    what the next one does, so that there is no seam.
    """

    def __init__(self, model: PocketModel, sampling: SamplingParameters) -> None:
        p = model.parameters_used.denoiser
        device = model.motion_mean.device
        self._model, self._sizes = model, p
        self._timesteps = sampling_timesteps(sampling.steps, "trailing")
        self._signal = alphas_cumprod(p.schedule).to(device)
        self._denoiser = PreparedDenoiser(model.denoiser, self._timesteps)
        self._generator = torch.Generator().manual_seed(sampling.seed)
        self._sampled = sampled_channels().to(device)
        self._spread = torch.where(self._sampled, SPREAD * sampling.temperature, 1.0)
        self._rest = model.normalise(torch.zeros(1, 1, p.motion_size).to(model.motion_mean))
        self._noise = self._plan = self._rest[:, :0]
        self._given: Tensor | None = None

    def go_on(self, heard: _Heard, fresh: int, given: int) -> Tensor:
        """Return motion z-scores (1, n, 58): frames given before, then the `fresh` last ones of those heard.

        The first `given` of the fresh ones count as given from now on.
        """
        if self._given is None:
            self._given = resting_prefix(self._model, heard.mouth)
        window = self._window(heard.rows(len(heard) - fresh).lengthened(UNHEARD_FRAMES))
        planned = min(self._plan.shape[1], window.shape[1])
        fade = fade_in(planned, min(FADE_FRAMES, planned)).to(window)
        fade = torch.where(self._sampled, fade, 1.0)
        blended = torch.lerp(self._plan[:, :planned], window[:, :planned], fade)
        made = torch.cat([blended, window[:, planned:]], dim=1)
        rows = torch.cat([self._given, made[:, :fresh]], dim=1)
        kept = self._sizes.previous_frames + HISTORY_FRAMES
        self._given = rows[:, : rows.shape[1] - fresh + given][:, -kept:]
        self._plan, self._noise = made[:, given:], self._noise[:, given:]
        return rows

    def _window(self, heard: _Heard) -> Tensor:
        """Return (1, N, 58) sampled z-scores for N frames, the mouth known at every step."""
        mouths = with_pose(heard.mouth, self._rest)
        prefix = torch.cat([self._rest, self._given[:, -self._sizes.previous_frames :]], dim=1)
        return sample_window(
            self._denoiser,
            self._denoiser.window(prefix, torch.cat([heard.features, heard.emotion], dim=-1)),
            self._signal[-1].sqrt() * mouths + self._noise_for(len(heard)) * self._spread,
            self._timesteps,
            self._signal,
            self._sizes.prediction,
            known=((~self._sampled).to(mouths), mouths),
        )

    def _noise_for(self, frames: int) -> Tensor:
        """Return (1, frames, 58) standard normal noise; a frame's is the same in each window."""
        missing = max(0, frames - self._noise.shape[1])
        drawn = torch.randn(1, missing, self._sizes.motion_size, generator=self._generator)
        self._noise = torch.cat([self._noise, drawn.to(self._noise)], dim=1)
        return self._noise[:, :frames]


def _expect_known_emotions(emotion: Emotion) -> None:
    if (emotion.weights * emotion.strengths[:, None])[:, len(POCKET_EMOTIONS) :].any():
        raise ValueError(
            f"the pocket model knows {', '.join(POCKET_EMOTIONS)}; 'fearful' is not among them: choose another"
        )
