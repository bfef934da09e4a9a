"""Clips for a small Takin-ADA in blendshapes: the embedded default's recordings, performed in every emotion.

The speech model is the embedded default's own: its listener's layers at 50 Hz stand where HuBERT's do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..core_models.audio import listening_blocks
from ..core_models.keypoint_diffusion.conformer import ConformerParameters
from ..core_models.keypoint_diffusion.motion_layout import blendshape_layout
from ..core_models.keypoint_diffusion.pocket import PocketModel
from ..core_models.keypoint_diffusion.takin_ada import TakinADAModel, TakinADAParameters, streaming
from ..core_models.motion.emotion_expression import emotion_shapes
from ..core_models.motion.region_names import LIP_PARTING
from ..core_models.types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES, EMOTION_NAMES
from .performance import (
    BROW_SHARES,
    emotion_head_gains,
    emotion_jaw_gains,
    emotion_rest,
    mouth_to_blendshapes,
)
from .pocket import PRESS, TOUCHING_PRESS
from .pocket_data import Recording
from .takin_ada_speech import SpeechClip

PARTED_JAW = 0.12
"""jawOpen - mouthClose at which what an emotion does to parted lips acts in full; lips that meet stay together."""
NEUTRAL_SHARE = 0.25
SINGLE_SHARE = 0.8
"""Of the clips with an emotion, those that show one alone; the others mix two."""
STRENGTHS = (0.5, 1.2)
_JAW_AND_CLOSE = [BLENDSHAPE_INDEX["jawOpen"], BLENDSHAPE_INDEX["mouthClose"]]


def pocket_sized(pocket: PocketModel) -> TakinADAParameters:
    """Return the sizes of the small model that listens with the pocket model's layers and can stream.

    Unlike the paper's it predicts the clean motion: noise predicted where there is little else is off by as much as the
    motion is small beside it, 157 times at the first of a run's timesteps, and a short training does not get over that.
    """
    encoder = pocket.parameters_used.encoder
    return streaming(
        TakinADAParameters(
            layout=blendshape_layout(),
            source_size=0,
            layers=len(encoder.dilations_50hz) + 1,
            speech_width=encoder.width,
            encoder=ConformerParameters(width=128, blocks=2, heads=4, kernel=7, dropout=0.1),
            generator=ConformerParameters(width=224, blocks=4, heads=4, kernel=7, dropout=0.0),
            token_width=16,
            schedule="cosine",
            prediction="x0",
            adapter_hidden=64,
            listener=encoder,
            closes_lips=True,
            hears_emotion=False,
        )
    )


def listener_weights(pocket: PocketModel) -> dict[str, torch.Tensor]:
    """Return the pocket model's listener by the names of a Takin-ADA model."""
    parts = ("encoder.stem.", "encoder.fine.")
    return {
        "listener." + name.removeprefix("encoder."): value
        for name, value in pocket.state_dict().items()
        if name.startswith(parts)
    }


def drawn_emotion(rng: np.random.Generator) -> np.ndarray:
    """Return (7,) weights times strength: neutral, one emotion, or a mix of two."""
    row = np.zeros(len(EMOTION_NAMES), np.float32)
    if rng.random() < NEUTRAL_SHARE:
        row[0] = 1.0
        return row
    one, other = rng.choice(np.arange(1, len(EMOTION_NAMES)), size=2, replace=False)
    share = 1.0 if rng.random() < SINGLE_SHARE else rng.uniform(0.4, 1.0)
    strength = rng.uniform(*STRENGTHS)
    row[one], row[other] = share * strength, (1 - share) * strength
    return row


def performed(recording: Recording, emotion: np.ndarray, take: int) -> np.ndarray:
    """Return (N, 58) coefficients, degrees and face units of a recording's words in an emotion (7,)."""
    mouth = recording.mouth.astype(np.float32)
    expression = mouth @ mouth_to_blendshapes()
    expression[:, _JAW_AND_CLOSE] *= 1 + float(emotion_jaw_gains() @ emotion)
    offsets = np.repeat((emotion @ emotion_shapes())[None], len(mouth), axis=0)
    parted = np.clip((expression[:, _JAW_AND_CLOSE] @ [1, -1]) / PARTED_JAW, 0, 1)
    offsets[:, [BLENDSHAPE_INDEX[name] for name in LIP_PARTING]] *= parted[:, None]
    expression += offsets
    for name, share in BROW_SHARES:
        expression[:, BLENDSHAPE_INDEX[name]] += share * recording.brows[take].astype(np.float32)
    pose = recording.poses[take].astype(np.float32) * (1 + float(emotion_head_gains() @ emotion))
    pose = pose + (emotion @ emotion_rest())[len(BLENDSHAPE_NAMES) :]
    return np.concatenate([np.clip(expression, 0, 1), pose], axis=1).astype(np.float32)


def heard_layers(model: TakinADAModel, mel_db: np.ndarray) -> np.ndarray:
    """Return (2N, L, C) float16 hidden states of level-normalised decibels (4N, 80), heard as a stream hears them."""
    states = listening_blocks.heard_layers(model.listener, mel_db, model.parameters_used.listening)
    return states.half().numpy()


def performed_clips(
    model: TakinADAModel, recordings: Sequence[Recording], performances: int, seed: int
) -> list[SpeechClip]:
    """Return each recording `performances` times, in emotions drawn by the seed; they share what is heard.

    model: whose listener hears; its weights need not be trained but for that.
    """
    clips = []
    for index, recording in enumerate(recordings):
        rng = np.random.default_rng([seed, index])
        hidden = heard_layers(model, recording.mel_db)
        touching = (recording.mouth[:, PRESS] > TOUCHING_PRESS).astype(np.float32)
        for number in range(performances):
            emotion = drawn_emotion(rng)
            motion = performed(recording, emotion, int(rng.integers(len(recording.poses))))
            clips.append(
                SpeechClip(f"{index}:{number}", hidden, motion, np.zeros(0, np.float32), emotion, touching)
            )
    return clips
