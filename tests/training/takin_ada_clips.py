"""Made clips of a person speaking, for the training of Takin-ADA's second stage."""

from dataclasses import replace

import numpy as np
from talking_portrait.core_models.types import EMOTION_NAMES
from talking_portrait.training.takin_ada_speech import (
    SpeechClip,
    TakinADASpeechTrainingParameters,
)

from ..keypoint_diffusion.takin_ada_models import (
    SMALL,
)

RECIPE = TakinADASpeechTrainingParameters(steps=6, batch=3, learning_rate=3e-3, seed=5)
LAW = np.random.default_rng(7).normal(0, 0.05, (7, 58))
"""What each emotion adds to a frame of motion; neutral adds nothing, and fearful is never shown."""
LAW[[0, 6]] = 0


def clip(index, frames=30, emotion=None, parameters=SMALL, still=False):
    """Speech whose first number moves the mouth, a made emotion's constant expression, and a little of the rest."""
    rng = np.random.default_rng(index)
    hidden = rng.normal(0, 1, (2 * frames, parameters.layers, parameters.speech_width)).astype(np.float32)
    motion = 0.3 + 0.02 * rng.normal(0, 1, (frames, parameters.layout.size))
    motion[:, parameters.layout.mouth[0]] += 0.2 * hidden[::2, :, 0].mean(axis=1)
    if still:
        motion -= motion.mean(axis=0) - 0.3
    if emotion is not None:
        motion = motion + emotion @ LAW[:, : parameters.layout.size]
    source = rng.normal(0, 0.1, parameters.source_size).astype(np.float32)
    closed = (rng.random(frames) < 0.2).astype(np.float32)
    return SpeechClip(f"clip {index}", hidden, motion.astype(np.float32), source, emotion, closed)


def swaying_clip(swings):
    """Every number sways with the speech's first, to one side or the other."""
    one = clip(swings, 24)
    curve = np.sin(2 * np.pi * swings * np.arange(24) / 24)[:, None]
    hidden = one.hidden_states.copy()
    hidden[:, :, 0] = np.repeat(curve, 2, axis=0)
    motion = 0.3 + 0.1 * curve * np.where(np.arange(58) % 2, 1.0, -1.0)
    closed = (curve[:, 0] > 0.5).astype(np.float32)
    return replace(one, hidden_states=hidden, motion=motion.astype(np.float32), closed=closed)


def emotion_of(**weights):
    return np.array([weights.get(name, 0.0) for name in EMOTION_NAMES], np.float32)


def labelled_clips():
    """Of every emotion but fearful, and one that nobody labelled."""
    shown = [
        emotion_of(neutral=1.0),
        emotion_of(happy=1.0),
        emotion_of(sad=0.7),
        emotion_of(angry=1.2),
        emotion_of(happy=0.4, surprised=0.5),
        emotion_of(disgusted=0.8),
        emotion_of(surprised=1.0),
        None,
    ]
    return [clip(index, 24 + 3 * index, emotion, still=True) for index, emotion in enumerate(shown)]
