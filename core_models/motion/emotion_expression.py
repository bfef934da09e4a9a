"""Emotions as facial expressions: laid over motion that knows of none, and read off a face.

The shapes are the facial action units usual for each emotion, as ARKit coefficients. The pocket model was trained with
the same ones, so that an offset and its own condition look alike.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from ..types import (
    BLENDSHAPE_INDEX,
    BLENDSHAPE_NAMES,
    BLENDSHAPES,
    EMOTION_NAMES,
    Emotion,
    FaceMotion,
    Portrait,
    PortraitVideo,
    portraits_of,
)
from .blendshape_retargeting import RetargetingBasis, default_basis
from .emotion import STRONGEST
from .region_names import LIP_PARTING
from .track import mouth_aperture

EMOTION_SHAPES: dict[str, dict[str, float]] = {
    "happy": {
        "mouthSmile": 0.60,
        "cheekSquint": 0.40,
        "eyeSquint": 0.20,
        "browOuterUp": 0.12,
        "mouthDimple": 0.15,
    },
    "sad": {
        "mouthFrown": 0.50,
        "browInnerUp": 0.65,
        "mouthShrugLower": 0.25,
        "eyeSquint": 0.12,
        "browDown": 0.08,
    },
    "angry": {"browDown": 0.70, "noseSneer": 0.30, "eyeSquint": 0.30, "mouthPress": 0.12, "mouthFrown": 0.22},
    "surprised": {"browInnerUp": 0.65, "browOuterUp": 0.70, "eyeWide": 0.55, "mouthUpperUp": 0.05},
    "disgusted": {
        "noseSneer": 0.65,
        "mouthUpperUp": 0.28,
        "browDown": 0.35,
        "cheekSquint": 0.30,
        "mouthFrown": 0.18,
    },
    "fearful": {"browInnerUp": 0.75, "browDown": 0.25, "eyeWide": 0.60, "mouthStretch": 0.40},
}
"""Offsets at strength 1; both sides alike. Neutral adds nothing."""

OPEN_APERTURE = 0.12
"""jawOpen - mouthClose at which what parts the lips acts in full; where lips meet it is left out."""
LEAST_STRENGTH = 0.1
"""An expression that fits emotions with less than this counts as neutral."""


_PARTING = [BLENDSHAPE_INDEX[name] for name in LIP_PARTING]


def sided(name: str) -> tuple[str, ...]:
    """Return the ARKit names a side-less name stands for."""
    return (name,) if name in BLENDSHAPE_INDEX else (f"{name}Left", f"{name}Right")


@lru_cache(maxsize=1)
def emotion_shapes() -> np.ndarray:
    """Return (7, 52) float32: the coefficients each emotion of EMOTION_NAMES adds at strength 1."""
    table = np.zeros((len(EMOTION_NAMES), len(BLENDSHAPE_NAMES)), np.float32)
    for emotion, shapes in EMOTION_SHAPES.items():
        for name, value in shapes.items():
            table[EMOTION_NAMES.index(emotion), [BLENDSHAPE_INDEX[full] for full in sided(name)]] = value
    table.setflags(write=False)
    return table


def with_emotion(motion: FaceMotion, emotion: Emotion, basis: RetargetingBasis | None = None) -> FaceMotion:
    """Return the motion with an emotion's expression laid over it; the jaw, the head and the gaze stay what they are.

    Lips that meet stay together: in blendshapes what parts them acts only as far as they are open already; in implicit
    keypoints, where that is not known, it is left out. basis: for implicit keypoints; None is the default table.
    """
    times = (np.arange(motion.frame_count) + 0.5) / motion.fps
    shapes = emotion.at(times) @ emotion_shapes()
    if motion.space == BLENDSHAPES:
        opened = np.clip(mouth_aperture(motion.expression) / OPEN_APERTURE, 0, 1)
        shapes[:, _PARTING] *= opened[:, None]
        return replace(motion, expression=np.clip(motion.expression + shapes, 0, 1))
    shapes[:, _PARTING] = 0
    offsets = shapes @ (basis or default_basis()).matrix
    return replace(motion, expression=motion.expression + offsets, openings=None)


def emotion_of_expression(expression: np.ndarray) -> Emotion:
    """Return the emotion a face shows: the mix of named ones whose shapes come nearest to it.

    expression: (52,) coefficients, or (N, 52) of a clip, which are averaged: what lasts is emotion, what comes and goes
    is speech. Least squares with weights of at least 0 over the shapes that emotions use; their sum, at most 2, is the
    strength. Below 0.1 it is neutral.
    Raises ValueError for another shape, or NaN.
    """
    from scipy.optimize import nnls

    rows = np.atleast_2d(np.asarray(expression, np.float64))
    if rows.ndim != 2 or rows.shape[1] != len(BLENDSHAPE_NAMES) or not len(rows):
        raise ValueError(f"the expression has shape {np.shape(expression)}, expected (52,) or (frames, 52)")
    if not np.isfinite(rows).all():
        raise ValueError("the expression holds NaN or infinity")
    shapes = emotion_shapes()[1:].astype(np.float64)
    used = [column for column in np.flatnonzero(shapes.any(axis=0)) if column not in _PARTING]
    weights, _ = nnls(shapes[:, used].T, rows.mean(axis=0)[used])
    strength = float(weights.sum())
    if strength < LEAST_STRENGTH:
        return Emotion.mixed({"neutral": 1.0})
    named = dict(zip(EMOTION_NAMES[1:], weights / strength, strict=True))
    return Emotion.mixed(named, min(strength, STRONGEST))


def emotion_of_face(
    portrait: Portrait | PortraitVideo | None,
    motion: FaceMotion | None,
    strength: float = 1.0,
    neutral: Portrait | PortraitVideo | None = None,
) -> Emotion:
    """Return the emotion of a portrait, of the frames of a film, or of motion in blendshapes; one of them is given.

    strength: multiplies what is read. neutral: the same person's relaxed face, from which the emotion is counted: a
    brow that always frowns is then no anger. Raises ValueError when neither or both are given, or for the other motion
    space.
    """
    if (portrait is None) == (motion is None):
        raise ValueError(
            "give either a portrait or a motion to read the emotion from, not both and not neither"
        )
    if motion is not None:
        motion.require_space(BLENDSHAPES)
        expression = motion.expression
    else:
        expression = np.stack([one.blendshapes for one in portraits_of(portrait)])
    if neutral is not None:
        resting = np.mean([one.blendshapes for one in portraits_of(neutral)], axis=0)
        expression = np.maximum(expression - resting, 0)
    emotion = emotion_of_expression(expression)
    return replace(emotion, strengths=np.minimum(emotion.strengths * strength, STRONGEST))


def described_emotion(emotion: Emotion) -> str:
    """Return an emotion's first moment in the words of key frames, such as "happy 0.8 + surprised 0.2"."""
    scaled = emotion.at(np.zeros(1))[0]
    parts = [
        f"{name} {value:.2g}" for name, value in zip(EMOTION_NAMES, scaled, strict=True) if value >= 0.05
    ]
    return " + ".join(part for part in parts if not part.startswith("neutral")) or "neutral"
