"""Speech and emotion to blendshape motion with the pocket model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..audio.embedding import LOG_MEL
from ..audio.frame_clock import frame_count
from ..audio.mel import FLOOR_DB, MEL_RATE, scale_decibels
from ..motion.blinking import add_blinks, add_saccades
from ..motion.curve_picture import PreviewCallback, curve_picture, frames_between
from ..motion.pose_track import with_angle_gains, with_pose_of
from ..motion.region_names import LIP_PARTING
from ..motion.track import motion_for_duration
from ..types import (
    BLENDSHAPE_INDEX,
    BLENDSHAPE_NAMES,
    BLENDSHAPES,
    AudioEmbedding,
    Emotion,
    FaceMotion,
    ProgressCallback,
)
from .choices import MOST_VARIATIONS, successive_seeds
from .ddim import sample_window
from .pocket import POCKET_EMOTIONS, POCKET_FPS, PocketModel, sampled_channels
from .prepared_denoiser import PreparedDenoiser
from .schedule import alphas_cumprod, sampling_timesteps
from .speech_encoder import SpeechEncoder
from .windows import fade_in, window_starts

MEL_PER_FRAME = MEL_RATE // POCKET_FPS
CHUNK_FRAMES = 500
"""The encoder runs over 20 s at a time, with context on both sides wider than it can see."""
CONTEXT_FRAMES = 50
OVERLAP_FRAMES = 12
FEW_STEPS_SPREAD = 1.3
"""Few DDIM steps make head and brows tamer than what was learned; noise this much wider makes up for it."""
POCKET_STEPS = 8
"""Denoising steps the pocket model was trained for."""
CLOSED_PRESS = 0.35
OPENING_DOUBT = 1.5
"""How much an estimated opening of the lips counts against a closure, per unit of aperture."""
DIP_CREDIT = 0.2
"""How much a full dip of the opening, against its surroundings, counts for a closure."""
DIP_REACH = 3
"""Frames on each side that are a closure's surroundings."""
LEAST_SURROUNDING = 0.05
LEAST_PROBABILITY = 0.1
"""Below this the lips are not touching for a sound, however closed they are: silence is no closure."""


@dataclass(frozen=True)
class SamplingParameters:
    """How to sample.

    seed: of noise, blinks and gaze; variation i has seed + i, whatever their number. variations: clips made at once.
    steps: DDIM steps, 1..1000. fps: of the result; the model's own is 25. mouth, head_motion, brows: gains on what the
    model makes, 0..3; pitch, yaw, roll: of each head angle, on top of head_motion. temperature: spread of the noise
    that head and brows start from; 1 is what the model learned. blinks_per_minute: 0 for none. gaze: whether the eyes
    make saccades. closure_threshold: how sure the model must be that the lips touch to close them.
    """

    seed: int = 0
    variations: int = 1
    steps: int = POCKET_STEPS
    fps: float = POCKET_FPS
    mouth: float = 1.0
    head_motion: float = 1.0
    pitch: float = 1.0
    yaw: float = 1.0
    roll: float = 1.0
    brows: float = 1.0
    temperature: float = 1.0
    blinks_per_minute: float = 14.0
    gaze: bool = True
    closure_threshold: float = 0.4

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, 1000),
            ("variations", 1, MOST_VARIATIONS),
            ("mouth", 0, 3),
            ("head_motion", 0, 3),
            ("pitch", 0, 3),
            ("yaw", 0, 3),
            ("roll", 0, 3),
            ("brows", 0, 3),
            ("temperature", 0, 3),
            ("blinks_per_minute", 0, 30),
            ("closure_threshold", 0, 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, expected {low}..{high}")

    @property
    def seeds(self) -> list[int]:
        """The seed of each variation."""
        return successive_seeds(self.seed, self.variations)


def sample_motion(
    model: PocketModel,
    embedding: AudioEmbedding,
    emotion: Emotion | None = None,
    parameters: SamplingParameters | None = None,
    progress: ProgressCallback | None = None,
) -> FaceMotion:
    """Return the motion of a face that speaks the sound: the first of `sample_variations`."""
    return sample_variations(model, embedding, emotion, parameters, progress=progress)[0]


def sample_variations(
    model: PocketModel,
    embedding: AudioEmbedding,
    emotion: Emotion | None = None,
    parameters: SamplingParameters | None = None,
    pose: FaceMotion | None = None,
    progress: ProgressCallback | None = None,
    preview: PreviewCallback | None = None,
) -> list[FaceMotion]:
    """Return motions of a face that speaks the sound, in blendshapes, as long as the sound at `parameters.fps`.

    pose: a track whose head pose is taken as it is, instead of the sampled one. preview: called with a picture of the
    first variation's motion after each window.
    Raises ValueError when the embedding is not log-mel or the emotion holds one the model does not know.
    """
    parameters = parameters or SamplingParameters()
    frames = frame_count(embedding.duration, POCKET_FPS)
    condition = emotion_condition(emotion or Emotion.mixed({"neutral": 1.0}), frames)
    mel = frame_aligned_mel(embedding, frames)
    device, dtype = model.motion_mean.device, model.motion_mean.dtype
    with torch.inference_mode():
        features = encode_in_chunks(model.encoder, mel.to(device, dtype), progress)
        emotion_rows = condition.to(device, dtype)[None]
        mouth = model.mouth(features, emotion_rows)
        closed = model.encoder.closure_logits(features).sigmoid()[0].float().cpu().numpy()
        sampled = sample_windows(
            model, features, emotion_rows, mouth, parameters, progress,
            window_done=None if preview is None else lambda made: preview(_picture(made, frames)),
        )  # fmt: skip
        motions = (model.denormalise(sampled) + emotion_rows @ model.emotion_rest).float().cpu().numpy()
    return [
        performed(to_face_motion(motion, closed, parameters), parameters, seed, pose, embedding.duration)
        for motion, seed in zip(motions, parameters.seeds, strict=True)
    ]


def performed(
    track: FaceMotion, parameters: SamplingParameters, seed: int, pose: FaceMotion | None, duration: float
) -> FaceMotion:
    """Return what was sampled with the given pose or the gains of angles, at the rate asked for, eyes alive."""
    track = with_angle_gains(track, parameters.pitch, parameters.yaw, parameters.roll)
    track = track if pose is None else with_pose_of(track, pose)
    return add_eye_life(motion_for_duration(track, parameters.fps, duration), parameters, seed)


def emotion_condition(emotion: Emotion, frames: int) -> Tensor:
    """Return (frames, 7): weights times strength at each frame's centre.

    Raises ValueError when an emotion carries weight that the pocket model was not trained on.
    """
    times = (np.arange(frames) + 0.5) / POCKET_FPS
    rows = emotion.at(times)
    if (rows[:, len(POCKET_EMOTIONS) :] > 0).any():
        raise ValueError(
            f"the pocket model knows {', '.join(POCKET_EMOTIONS)}; 'fearful' is not among them: choose another"
        )
    return torch.from_numpy(rows)


def frame_aligned_mel(embedding: AudioEmbedding, frames: int) -> Tensor:
    """Return (1, 4 * frames, 80) log-mel, silence added at the end where the sound is shorter."""
    if embedding.encoder != LOG_MEL:
        raise ValueError(
            f"the pocket model hears '{LOG_MEL}' features but got '{embedding.encoder}': "
            f"set the Audio Embedding node's encoder to '{LOG_MEL}'"
        )
    mel = embedding.features[:, 0].float()
    wanted = frames * MEL_PER_FRAME
    silence = mel.new_full((max(0, wanted - len(mel)), mel.shape[1]), scale_decibels(FLOOR_DB))
    return torch.cat([mel[:wanted], silence])[None]


def encode_in_chunks(encoder: SpeechEncoder, mel: Tensor, progress: ProgressCallback | None) -> Tensor:
    """Return features (1, N, C) of a clip of any length with bounded working memory."""
    frames = mel.shape[1] // MEL_PER_FRAME
    pieces = []
    for start in range(0, frames, CHUNK_FRAMES):
        end = min(frames, start + CHUNK_FRAMES)
        low, high = max(0, start - CONTEXT_FRAMES), min(frames, end + CONTEXT_FRAMES)
        features, _ = encoder(mel[:, low * MEL_PER_FRAME : high * MEL_PER_FRAME])
        pieces.append(features[:, start - low : end - low])
        if progress is not None:
            progress(end, 2 * frames)
    return torch.cat(pieces, dim=1)


def resting_prefix(model: PocketModel, mouth: Tensor) -> Tensor:
    """Return (1, previous, 58) z-scores of the face before the first frame: still, its mouth as in that frame."""
    p = model.parameters_used.denoiser
    rest = model.normalise(mouth.new_zeros(1, p.previous_frames, p.motion_size))
    return torch.where(sampled_channels().to(rest.device), rest, with_pose(mouth[:, :1], rest[:, :1]))


def with_pose(mouth: Tensor, rest: Tensor) -> Tensor:
    """Return expression z-scores (B, N, 52) completed to motion (B, N, 58) by the resting pose."""
    pose = rest[:, :1, mouth.shape[2] :].expand(-1, mouth.shape[1], -1)
    return torch.cat([mouth, pose], dim=2)


def sample_windows(
    model: PocketModel,
    features: Tensor,
    emotion: Tensor,
    mouth: Tensor,
    parameters: SamplingParameters,
    progress: ProgressCallback | None,
    window_done: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Return motion z-scores (V, N, 58): windows that go on from each other and cross-fade where they overlap.

    All variations go through the network together.
    """
    p = model.parameters_used.denoiser
    frames, count = features.shape[1], parameters.variations
    timesteps = sampling_timesteps(parameters.steps, "trailing")
    signal = alphas_cumprod(p.schedule).to(features.device)
    denoiser = PreparedDenoiser(model.denoiser, timesteps)
    generators = [torch.Generator().manual_seed(seed) for seed in parameters.seeds]
    sampled = sampled_channels().to(features.device)
    spread = torch.where(sampled, FEW_STEPS_SPREAD * parameters.temperature, 1.0)
    rest = model.normalise(features.new_zeros(1, 1, p.motion_size))
    known = with_pose(mouth, rest)
    context = torch.cat([features, emotion], dim=-1)
    motion = torch.cat([resting_prefix(model, mouth), known], dim=1).repeat(count, 1, 1)
    lead = p.previous_frames
    starts = window_starts(frames, p.window, OVERLAP_FRAMES)
    all_steps = len(starts) * len(timesteps)
    steps_done = itertools.count(1)

    def step_done() -> None:
        if progress is not None:
            progress(frames + frames * next(steps_done) // all_steps, 2 * frames)

    for start in starts:
        inside = slice(start, min(frames, start + p.window))
        mouths = known[:, inside]
        prefix = torch.cat([rest.expand(count, -1, -1), motion[:, start : start + lead]], dim=1)
        window = sample_window(
            denoiser,
            denoiser.window(prefix, context[:, inside].expand(count, -1, -1)),
            signal[-1].sqrt() * mouths + _noise_like(mouths[0], generators) * spread,
            timesteps,
            signal,
            p.prediction,
            known=((~sampled).to(mouths), mouths),
            step_done=step_done,
        )
        fade = fade_in(window.shape[1], OVERLAP_FRAMES if start else 0).to(window)
        place = motion[:, lead + inside.start : lead + inside.stop]
        place.copy_(place * (1 - fade) + window * fade)
        if window_done is not None:
            window_done(motion[:, lead : lead + inside.stop])
    return motion[:, lead:]


def _picture(scores: Tensor, total: int) -> np.ndarray:
    """Return a picture of the first variation's head angles and jaw, as far as they are made."""
    every = frames_between(total)
    rows = scores[0, ::every].float().cpu().numpy()
    angles = dict(zip(("pitch", "yaw", "roll"), rows[:, len(BLENDSHAPE_NAMES) :].T, strict=False))
    return curve_picture({**angles, "mouth": rows[:, BLENDSHAPE_INDEX["jawOpen"]]}, -(-total // every))


def _noise_like(rows: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Return (V, N, C) standard normal noise of the size and place of (N, C) rows, one generator each."""
    return torch.stack([torch.randn(rows.shape, generator=generator) for generator in generators]).to(rows)


def lip_opening(expression: np.ndarray) -> np.ndarray:
    """Return how far the lips are apart, (N,) >= 0, for coefficients (N, 52).

    jawOpen - mouthClose, plus an eighth of each of the four coefficients that part the lips.
    """
    gap = expression[:, BLENDSHAPE_INDEX["jawOpen"]] - expression[:, BLENDSHAPE_INDEX["mouthClose"]]
    return np.maximum(gap + 0.125 * sum(expression[:, BLENDSHAPE_INDEX[name]] for name in LIP_PARTING), 0)


def dip_depth(opening: np.ndarray) -> np.ndarray:
    """Return (N,) in 0..1: how far the opening falls below the widest within DIP_REACH frames; 1 is closed."""
    padded = np.pad(opening, DIP_REACH)
    widest = np.lib.stride_tricks.sliding_window_view(padded, 2 * DIP_REACH + 1).max(axis=1)
    return 1 - opening / np.maximum(widest, LEAST_SURROUNDING)


def closure_moments(closed: np.ndarray, opening: np.ndarray, threshold: float) -> np.ndarray:
    """Return (N,) bool: the frames in which the lips meet.

    They are the peaks of the probability that the lips touch, doubted where the mouth is estimated open and
    favoured where its opening dips: a closure is one moment, and its neighbours belong to the vowels around it.
    """
    score = closed - OPENING_DOUBT * opening + DIP_CREDIT * dip_depth(opening)
    before = np.concatenate([[-np.inf], score[:-1]])
    after = np.concatenate([score[1:], [-np.inf]])
    return (score > before) & (score >= after) & (score > threshold) & (closed > LEAST_PROBABILITY)


def close_lips(expression: np.ndarray, closed: np.ndarray, threshold: float) -> np.ndarray:
    """Return coefficients (N, 52) whose lips meet in the closure moments of `closed` (N,), a probability.

    mouthClose takes up what the jaw leaves open, the lips part no more and press a little.
    """
    moments = closure_moments(closed, lip_opening(expression), threshold)
    result = expression.copy()
    jaw, mouth_close = BLENDSHAPE_INDEX["jawOpen"], BLENDSHAPE_INDEX["mouthClose"]
    result[moments, mouth_close] = np.maximum(result[moments, mouth_close], result[moments, jaw])
    for name in LIP_PARTING:
        result[moments, BLENDSHAPE_INDEX[name]] = 0
    for name in ("mouthPressLeft", "mouthPressRight"):
        column = BLENDSHAPE_INDEX[name]
        result[moments, column] = np.maximum(result[moments, column], CLOSED_PRESS)
    return result


def to_face_motion(motion: np.ndarray, closed: np.ndarray, parameters: SamplingParameters) -> FaceMotion:
    """Return the track of motion (N, 58) in coefficients, degrees and face units, gains applied."""
    size = len(BLENDSHAPE_NAMES)
    expression = close_lips(np.clip(motion[:, :size], 0, 1), closed, parameters.closure_threshold)
    gains = np.full(size, parameters.mouth, np.float32)
    sampled = sampled_channels()[:size].numpy()
    gains[sampled] = parameters.brows
    return FaceMotion(
        space=BLENDSHAPES,
        fps=POCKET_FPS,
        expression=np.clip(expression * gains, 0, 1),
        rotation=motion[:, size : size + 3] * parameters.head_motion,
        translation=motion[:, size + 3 : size + 6] * parameters.head_motion,
        scale=np.ones(len(motion)),
    )


def add_eye_life(motion: FaceMotion, parameters: SamplingParameters, seed: int) -> FaceMotion:
    """Return the track with procedural blinks and saccades, from generators of their own."""
    blink_seed, gaze_seed = np.random.SeedSequence(seed % 2**63).spawn(2)
    if parameters.blinks_per_minute > 0:
        motion = add_blinks(
            motion, np.random.default_rng(blink_seed), per_minute=parameters.blinks_per_minute
        )
    if parameters.gaze:
        motion = add_saccades(motion, np.random.default_rng(gaze_seed))
    return motion
