"""Speech to motion with KDTalker: chained windows of DDIM, as the release does it or better.

The defaults are ours: few steps, windows that overlap and cross-fade, silence after the speech. With `overlap` 0,
`audio_padding` "repeat" and 50 steps the motion is the release's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..audio.embedding import WAV2LIP
from ..audio.frame_clock import frame_count
from ..motion.curve_picture import PreviewCallback, curve_picture, frames_between
from ..motion.kalman_smoothing import kalman_smoothed
from ..motion.keypoint_driving import motion_between
from ..motion.keypoint_geometry import KeypointReadings
from ..types import AudioEmbedding, FaceMotion, ProgressCallback
from .choices import (
    ABSOLUTE,
    AUDIO_PADDINGS,
    LEADING,
    MODES,
    MOST_VARIATIONS,
    REPEAT,
    SCALES,
    SILENCE,
    SOURCE,
    SPACINGS,
    successive_seeds,
)
from .ddim import sample_window
from .kdtalker import KDTALKER_FPS, KDTALKER_STEPS, KDTalkerModel
from .motion_vectors import (
    LOWER_LIP,
    PITCH,
    POSE,
    ROLL,
    SCALE,
    VECTOR_SIZE,
    YAW,
    motion_vectors,
    readings_from_vectors,
)
from .prepared_denoiser import PreparedDenoiser
from .schedule import alphas_cumprod, sampling_timesteps
from .windows import fade_in, seeded_noise, window_starts

OVERLAP_FRAMES = 8
VARIATIONS_AT_ONCE = 16
"""Variations that go through the network together: with more, one step and so Cancel would take too long."""
OBSERVATION_VARIANCE, PROCESS_VARIANCE = 1e-3, 5e-2
"""The release's Kalman smoother: steps are trusted fifty times more than noise, so next to nothing is smoothed."""


@dataclass(frozen=True)
class KDTalkerSamplingParameters:
    """How to sample.

    seed: of the noise; variation i has seed + i, whatever the number of variations. variations: clips made at once.
    steps: DDIM steps, 1..1000. spacing: "leading" (the release's) or "trailing" (begins at full noise).
    temperature: multiplies the noise that sampling begins with.
    overlap: frames that windows share and cross-fade in, at most half a window; 0 is the release's hard seams.
    audio_padding: what the last window hears after the speech: "silence", or "repeat", the speech's own beginning.
    mode: "absolute" takes head and expression as they were made; "relative" counts them from their first frame and
        adds that to the portrait.
    scale: "source" keeps the portrait's size, as the release does; "generated" takes the model's.
    smoothing: observation variance of the Kalman smoother over everything but the size; 0 smooths nothing.
    """

    seed: int = 0
    variations: int = 1
    steps: int = KDTALKER_STEPS
    spacing: str = LEADING
    temperature: float = 1.0
    overlap: int = OVERLAP_FRAMES
    audio_padding: str = SILENCE
    mode: str = ABSOLUTE
    scale: str = SOURCE
    smoothing: float = OBSERVATION_VARIANCE

    def __post_init__(self) -> None:
        for name, choices in (
            ("spacing", SPACINGS),
            ("audio_padding", AUDIO_PADDINGS),
            ("mode", MODES),
            ("scale", SCALES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        for name, low, high in (
            ("variations", 1, MOST_VARIATIONS),
            ("steps", 1, 1000),
            ("temperature", 0, 3),
            ("overlap", 0, 63),
            ("smoothing", 0, math.inf),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {low} to {high}")

    @property
    def seeds(self) -> list[int]:
        """The seed of each variation."""
        return successive_seeds(self.seed, self.variations)


def sample_readings(
    model: KDTalkerModel,
    source: KeypointReadings,
    embedding: AudioEmbedding,
    parameters: KDTalkerSamplingParameters | None = None,
    pose: np.ndarray | None = None,
    progress: ProgressCallback | None = None,
    noise: Tensor | None = None,
    compiled: bool = False,
    preview: PreviewCallback | None = None,
) -> list[KeypointReadings]:
    """Return what the portrait's keypoints do while it speaks, at 25 frames a second, one track per variation.

    source: the portrait's reading. pose: (N, 6) yaw, pitch, roll (the extractor's degrees) and translation that are to
    be taken instead of sampled. noise: (variations, padded frames, 70), in place of the seeds'. preview: called with a
    picture of the first variation's motion after each window.
    Raises ValueError when the embedding is not Wav2Lip's or the source is a film.
    """
    parameters = parameters or KDTalkerSamplingParameters()
    require_speakable(source.frame_count, embedding)
    frames, window = frame_count(embedding.duration, KDTALKER_FPS), model.parameters_used.window
    parameters = replace(parameters, overlap=min(parameters.overlap, window // 2))
    starts = window_starts(frames, window, parameters.overlap)
    padded = starts[-1] + window
    noise = seeded_noise(parameters.seeds, padded, VECTOR_SIZE) if noise is None else noise
    tokens = _prefix_tokens(model, source)
    features = padded_features(embedding, frames, padded, parameters.audio_padding)
    known = None if pose is None else _known_pose(model, source, pose, padded)
    tracks: list[KeypointReadings] = []
    groups = noise.split(VARIATIONS_AT_ONCE)
    for index, group in enumerate(groups):
        steps = progress and _part_of(progress, index, len(groups))
        shown = None if preview is None or index else lambda made: preview(_picture(made, padded))
        scores = sample_scores(
            model, tokens, features, starts, group, parameters, known, steps, compiled, shown
        )
        tracks += [_made(model, track[:frames], source, parameters) for track in scores.cpu().numpy()]
    return tracks


def _part_of(progress: ProgressCallback, index: int, parts: int) -> ProgressCallback:
    """Return the progress of part `index` of several equal ones."""
    return lambda done, total: progress(index * total + done, parts * total)


def _made(
    model: KDTalkerModel, scores: np.ndarray, source: KeypointReadings, parameters: KDTalkerSamplingParameters
) -> KeypointReadings:
    """Return the readings of (N, 70) z-scores on the portrait, smoothed."""
    vectors = model.statistics.denormalised(scores)
    if parameters.scale == SOURCE:
        vectors[:, SCALE] = source.scale[0]
    return readings_from_vectors(_smoothed(vectors, parameters), source.canonical)


def require_speakable(portrait_frames: int, embedding: AudioEmbedding) -> None:
    """Raise ValueError, before anything is read or loaded, for features of another encoder or a film as portrait."""
    if embedding.encoder != WAV2LIP:
        raise ValueError(
            f"KDTalker hears '{WAV2LIP}' features but got '{embedding.encoder}': set the Audio Embedding node's "
            f"encoder to '{WAV2LIP}', or to 'automatic' and connect the model to it"
        )
    if portrait_frames != 1:
        raise ValueError(
            f"KDTalker animates one picture, but the portrait is a film of {portrait_frames} frames: take one of "
            "its frames, or use the pocket model"
        )


def _prefix_tokens(model: KDTalkerModel, source: KeypointReadings) -> tuple[Tensor, Tensor]:
    """Return the portrait's canonical token and its own motion, z-scores, (70,) float32 each."""
    canonical = model.statistics.canonical_token(source.canonical[0])
    reference = model.statistics.normalised(motion_vectors(source))[0]
    return torch.from_numpy(canonical).float(), torch.from_numpy(reference).float()


def padded_features(embedding: AudioEmbedding, frames: int, padded: int, padding: str) -> Tensor:
    """Return (padded, 512): the features of `frames` frames and what is heard after them.

    "silence": the features that follow in the embedding (those of silence), the last of them repeated; "repeat": the
    speech from its beginning, again and again.
    """
    features = embedding.features[:, 0]
    rows = np.arange(padded) % frames if padding == REPEAT else np.arange(padded)
    return features[torch.from_numpy(np.minimum(rows, len(features) - 1))]


def _known_pose(
    model: KDTalkerModel, source: KeypointReadings, pose: np.ndarray, padded: int
) -> tuple[Tensor, Tensor]:
    """Return (weights (70,), values (1, padded, 70)) of a given pose as z-scores; its last row is held."""
    vectors = np.repeat(motion_vectors(source), padded, axis=0)
    vectors[:, POSE] = pose[np.minimum(np.arange(padded), len(pose) - 1)]
    weights = torch.zeros(VECTOR_SIZE)
    weights[POSE] = 1
    return weights, torch.from_numpy(model.statistics.normalised(vectors)).float()[None]


def sample_scores(
    model: KDTalkerModel,
    tokens: tuple[Tensor, Tensor],
    features: Tensor,
    starts: list[int],
    noise: Tensor,
    parameters: KDTalkerSamplingParameters,
    known: tuple[Tensor, Tensor] | None = None,
    progress: ProgressCallback | None = None,
    compiled: bool = False,
    window_done: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Return z-scores (V, F, 70) float32 of a clip: windows that each go on from the frame before them.

    tokens: canonical and first reference token, (70,) each. features: (F, 512). starts: of the windows, the last of
    which ends at F. noise: (V, F, 70). known: (weights (70,), values (1, F, 70)) that are given.
    Where windows overlap, the later one is drawn towards the earlier at every step, less and less: so it goes on from
    how that moved, not only from where it was.
    window_done: called with the z-scores (V, N, 70) made so far.
    All variations go through the network together.
    """
    p = model.parameters_used
    timesteps = sampling_timesteps(parameters.steps, parameters.spacing)
    with torch.inference_mode():
        denoiser = PreparedDenoiser(model.denoiser, timesteps, compiled)
        device = denoiser.device
        signal = alphas_cumprod(p.schedule).to(device)
        canonical, reference = (token.to(device).expand(len(noise), -1) for token in tokens)
        motion = torch.zeros(noise.shape, device=device)
        for index, start in enumerate(starts):
            inside = slice(start, start + p.window)
            before = reference if start == 0 else motion[:, start - 1]
            heard = features[None, inside].to(device).expand(len(noise), -1, -1)
            motion[:, inside] = sample_window(
                denoiser,
                denoiser.window(model.prefix(canonical, before), heard),
                noise[:, inside].to(device) * parameters.temperature,
                timesteps,
                signal,
                p.prediction,
                _held(motion[:, inside], parameters.overlap if start else 0, known, inside),
                _step_counter(progress, index, len(starts), len(timesteps)),
            )
            if window_done is not None:
                window_done(motion[:, : start + p.window])
    return motion


def _held(
    earlier: Tensor, overlap: int, known: tuple[Tensor, Tensor] | None, inside: slice
) -> tuple[Tensor, Tensor] | None:
    """Return (weights (N, 70), values (V, N, 70)) of what a window is to agree with, None for nothing.

    earlier: (V, N, 70), what windows before have made of it in its first `overlap` frames. known: as `sample_scores`
    has it.
    """
    if known is None and not overlap:
        return None
    weights, values = (1 - fade_in(earlier.shape[1], overlap)).to(earlier), earlier.clone()
    if known is not None:
        given = known[0].to(earlier) > 0
        values = torch.where(given, known[1][:, inside].to(earlier), values)
        weights = torch.where(given, 1.0, weights)
    return weights, values


def _picture(scores: Tensor, total: int) -> np.ndarray:
    """Return a picture of the first variation's head angles and lower lip, as far as they are made."""
    every = frames_between(total)
    names = {"pitch": PITCH, "yaw": YAW, "roll": ROLL, "mouth": LOWER_LIP}
    curves = {name: scores[0, ::every, column].cpu().numpy() for name, column in names.items()}
    return curve_picture(curves, -(-total // every))


def _step_counter(
    progress: ProgressCallback | None, window: int, windows: int, steps: int
) -> Callable[[], None] | None:
    """Return what is to be called after each step of a window."""
    if progress is None:
        return None
    done = iter(range(window * steps + 1, (window + 1) * steps + 1))
    return lambda: progress(next(done), windows * steps)


def _smoothed(vectors: np.ndarray, parameters: KDTalkerSamplingParameters) -> np.ndarray:
    """Return vectors whose head, translation and expression went through the release's Kalman smoother."""
    result = vectors.copy()
    result[:, SCALE + 1 :] = kalman_smoothed(vectors[:, SCALE + 1 :], parameters.smoothing, PROCESS_VARIANCE)
    return result


def motion_of_portrait(source: KeypointReadings, made: KeypointReadings, mode: str) -> FaceMotion:
    """Return what was made as a motion for the portrait, at 25 frames a second.

    "absolute": away from the portrait itself, so that on this portrait exactly what was made is drawn. "relative":
    away from its own first frame.
    """
    rest = source if mode == ABSOLUTE else made.rows(np.array([0]))
    motion = motion_between(rest, made, float(KDTALKER_FPS))
    return replace(motion, openings=None)
