"""Is a small Takin-ADA in blendshapes as good as the embedded default, on the default's own measures?

`python -m talking_portrait.training.takin_ada_pocket_evaluation --weights takin_pocket.safetensors`
writes both models' figures as JSON: mouth, silence and noise (see `evaluation`), emotions, and what streaming costs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..core_models.audio.decode import Sound
from ..core_models.audio.embedding import embed_audio
from ..core_models.keypoint_diffusion.loading import load_pocket
from ..core_models.keypoint_diffusion.motion_stream import stream_motion
from ..core_models.keypoint_diffusion.pocket import POCKET_EMOTIONS
from ..core_models.keypoint_diffusion.sampler import SamplingParameters, lip_opening
from ..core_models.keypoint_diffusion.takin_ada import TakinADAModel
from ..core_models.keypoint_diffusion.takin_ada_loading import load_takin_ada
from ..core_models.keypoint_diffusion.takin_ada_motion_stream import face_stream
from ..core_models.keypoint_diffusion.takin_ada_performance import TakinADAOptions, speaking_face
from ..core_models.types import BLENDSHAPE_INDEX, EMOTION_NAMES, Emotion, FaceMotion
from .correlation import correlation
from .evaluation import (
    Clip,
    Predictor,
    energy_predictor,
    held_out_clips,
    mouth_scores,
    pocket_predictor,
    speechless_scores,
)

EmotionalPredictor = Callable[[Sound, Emotion | None, int], FaceMotion]
"""(sound, emotion, seed) -> motion."""
NEUTRAL = Emotion.mixed({"neutral": 1.0})
STREAM_CHUNK = 640
"""Samples pushed at a time: one video frame's."""


def options_of(seed: int, steps: int, **settings: float) -> TakinADAOptions:
    """Return options with a seed, denoising steps, and other settings by their names."""
    return TakinADAOptions.of({"seed": seed, "steps": steps, **settings})


def whole_clip(model: TakinADAModel, steps: int, **settings: float) -> EmotionalPredictor:
    """Return the model as a function of sound, emotion and seed, a whole clip at a time."""

    def predict(sound: Sound, emotion: Emotion | None, seed: int) -> FaceMotion:
        return speaking_face(model, embed_audio(sound), emotion, options_of(seed, steps, **settings))[0]

    return predict


def streamed(model: TakinADAModel, steps: int) -> EmotionalPredictor:
    """Return the same through the streaming form, which also hears the level as it goes."""

    def predict(sound: Sound, emotion: Emotion | None, seed: int) -> FaceMotion:
        stream = face_stream(model, emotion, options_of(seed, steps))
        return stream_motion(stream, np.asarray(sound.waveform)[0], STREAM_CHUNK)

    return predict


def neutral(predict: EmotionalPredictor) -> Predictor:
    """Return a predictor of sound alone: neutral, seed 0."""
    return lambda sound: predict(sound, NEUTRAL, 0)


def emotion_figures(predict: EmotionalPredictor, clips: Sequence[Clip], names: Sequence[str]) -> dict:
    """Return how often a nearest-centroid reader names what was asked for, and how the lips of emotions agree.

    Centroids are of the first half of the clips, tried on the other. "unasked named": the same clips without a
    condition. "lips": mean correlation of the lip opening with the neutral performance, and the worst emotion's.
    """
    means: dict[str, list[np.ndarray]] = {name: [] for name in names}
    unasked, lips = [], []
    for seed, clip in enumerate(clips):
        tracks = {name: predict(clip.sound, Emotion.mixed({name: 1.0}), seed).expression for name in names}
        for name, track in tracks.items():
            means[name].append(track.mean(axis=0))
        unasked.append(predict(clip.sound, None, seed).expression.mean(axis=0))
        opening = lip_opening(tracks["neutral"])
        lips.append([correlation(opening, lip_opening(tracks[name])) for name in names if name != "neutral"])
    half = len(clips) // 2
    centroids = np.stack([np.mean(means[name][:half], axis=0) for name in names])

    def read(row: np.ndarray) -> int:
        return int(np.linalg.norm(centroids - row, axis=1).argmin())

    hits = [read(row) == index for index, name in enumerate(names) for row in means[name][half:]]
    blind = [read(row) == index for index in range(len(names)) for row in unasked[half:]]
    return {
        "named": float(np.mean(hits)),
        "unasked named": float(np.mean(blind)),
        "chance": 1 / len(names),
        "lips": float(np.mean(lips)),
        "least lips": float(np.mean(lips, axis=0).min()),
        "centroid distance": float(np.mean([np.linalg.norm(row - centroids[0]) for row in centroids[1:]])),
    }


def agreement(whole: FaceMotion, other: FaceMotion) -> dict[str, float]:
    """Return the correlation of jaw and lip opening of two performances of one sound, and their mean difference."""
    jaw = BLENDSHAPE_INDEX["jawOpen"]
    return {
        "jaw": correlation(whole.expression[:, jaw], other.expression[:, jaw]),
        "lips": correlation(lip_opening(whole.expression), lip_opening(other.expression)),
        "mean difference": float(np.abs(whole.expression - other.expression).mean()),
    }


def cost(predict: EmotionalPredictor, sound: Sound) -> float:
    """Return milliseconds of one core per second of sound."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    predict(sound, NEUTRAL, 0)
    began = time.process_time()
    predict(sound, NEUTRAL, 0)
    torch.set_num_threads(threads)
    return 1000 * (time.process_time() - began) / sound.duration


def evaluate(model: TakinADAModel, clips_per_set: int, steps: int) -> dict[str, dict]:
    """Return every figure of the model and of the embedded default, grouped."""
    sets = held_out_clips(clips_per_set)
    takin, stream = whole_clip(model, steps), streamed(model, steps)
    default = load_pocket()
    pocket = pocket_predictor(default, SamplingParameters())
    predictors = {
        "energy": energy_predictor,
        "embedded default": pocket,
        "takin_pocket": neutral(takin),
        "takin_pocket without closure decoding": neutral(whole_clip(model, steps, closure_threshold=1.0)),
        "takin_pocket streamed": neutral(stream),
    }
    figures: dict[str, dict] = {
        name: {kind: mouth_scores(predict, clips) for kind, predict in predictors.items()}
        for name, clips in sets.items()
    }
    speechless = {name: predictors[name] for name in ("embedded default", "takin_pocket")}
    figures["no speech"] = {kind: speechless_scores(predict) for kind, predict in speechless.items()}
    clips = sets["other espeak voices"][:12]
    figures["emotions"] = {
        "embedded default": emotion_figures(
            lambda sound, emotion, seed: pocket_predictor(default, SamplingParameters(seed=seed), emotion)(
                sound
            ),
            clips,
            POCKET_EMOTIONS,
        ),
        "takin_pocket": emotion_figures(takin, clips, EMOTION_NAMES),
    }
    sound = Sound(np.concatenate([clip.sound.waveform for clip in clips], axis=1), clips[0].sound.sample_rate)
    figures["streamed against whole"] = agreement(takin(sound, NEUTRAL, 0), stream(sound, NEUTRAL, 0))
    figures["ms of one core per second"] = {
        "embedded default": cost(lambda heard, *_: pocket(heard), sound),
        "takin_pocket": cost(takin, sound),
        "takin_pocket streamed": cost(stream, sound),
    }
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a weight file and write the figures as JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=24, help="clips in each test set")
    parser.add_argument("--steps", type=int, default=10, help="denoising steps")
    options = parser.parse_args(arguments)
    figures = evaluate(load_takin_ada(options.weights), options.clips, options.steps)
    json.dump(figures, sys.stdout, indent=1, default=float)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
