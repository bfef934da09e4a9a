"""Small models of Takin-ADA's second stage with made weights: every number is away from zero, so that no term hides."""

from dataclasses import replace

import numpy as np
import torch
from talking_portrait.core_models.audio.embedding import HUBERT, LOG_MEL
from talking_portrait.core_models.audio.listening_blocks import ListeningBlocks
from talking_portrait.core_models.keypoint_diffusion.conformer import ConformerParameters
from talking_portrait.core_models.keypoint_diffusion.motion_layout import blendshape_layout, keypoint_layout
from talking_portrait.core_models.keypoint_diffusion.speech_encoder import SpeechEncoderParameters
from talking_portrait.core_models.keypoint_diffusion.takin_ada import (
    TakinADAModel,
    TakinADAParameters,
    causal,
)
from talking_portrait.core_models.types import AudioEmbedding
from torch import nn

LAYERS, SPEECH_WIDTH = 3, 8
SMALL = TakinADAParameters(
    layout=blendshape_layout(),
    source_size=0,
    layers=LAYERS,
    speech_width=SPEECH_WIDTH,
    encoder=ConformerParameters(width=16, blocks=2, heads=2, kernel=3),
    generator=ConformerParameters(width=32, blocks=2, heads=2, kernel=3),
    token_width=4,
    adapter_hidden=6,
    emotion_window=5,
    window=20,
    closes_lips=True,
)
"""Hears whole clips, makes blendshapes."""
SMALL_STREAMING = replace(SMALL, encoder=causal(SMALL.encoder, 3, 1), generator=causal(SMALL.generator, 4))
"""The same with bounds: 2 frames ahead."""
SMALL_KEYPOINTS = replace(SMALL, layout=keypoint_layout(), source_size=63, closes_lips=False)
SMALL_LISTENER = SpeechEncoderParameters(
    mel_bands=80, width=8, dilations_50hz=(1, 2), dilations_25hz=(1,), kernel=3
)
SMALL_LISTENING = replace(
    SMALL_STREAMING, listener=SMALL_LISTENER, listening=ListeningBlocks(block=4, behind=6, ahead=3)
)
"""Hears log-mel with a network of its own."""


def made(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_made_weights(module: nn.Module, seed: int = 0, std: float = 0.3) -> nn.Module:
    """Every parameter drawn; ready for inference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.normal_(std=std, generator=generator)
            if "norm" in name and name.endswith("weight"):
                value.add_(1)
    return module.eval().requires_grad_(False)


def takin_ada(parameters: TakinADAParameters = SMALL, seed: int = 0) -> TakinADAModel:
    """A model in float64, so that what is equal is equal but for 1e-9; statistics of the size of real ones."""
    model = with_made_weights(TakinADAModel(parameters), seed)
    size = parameters.layout.size
    model.motion_mean.copy_(0.1 + 0.02 * made(size, seed=seed + 1))
    model.motion_std.copy_(0.05 + 0.02 * made(size, seed=seed + 2).abs())
    model.source_mean.copy_(0.1 * made(parameters.source_size, seed=seed + 3))
    model.source_std.copy_(0.1 + 0.1 * made(parameters.source_size, seed=seed + 4).abs())
    model.neutral_emotion.copy_(0.3 * made(parameters.emotion_size, seed=seed + 5))
    vectors = made(7, parameters.emotion_size, seed=seed + 6)
    vectors[0] = 0
    model.affective_vectors.copy_(vectors)
    return model.double()


def hidden_states(
    frames: int, seed: int = 0, layers: int = LAYERS, width: int = SPEECH_WIDTH
) -> torch.Tensor:
    """Made hidden states (1, L, 2 * frames, C) float64."""
    return made(1, layers, 2 * frames, width, seed=seed).double()


def speech(seconds: float, seed: int = 0, layers: int = LAYERS, width: int = SPEECH_WIDTH) -> AudioEmbedding:
    """What a HuBERT of the small model's sizes might hear."""
    steps = 2 * max(1, int(np.ceil(seconds * 25 - 1e-6)))
    return AudioEmbedding(made(steps, layers, width, seed=seed), 50.0, seconds, HUBERT)


def smooth_speech(seconds: float) -> AudioEmbedding:
    """Hidden states that change slowly: one swing in two to six seconds."""
    steps = 2 * max(1, int(np.ceil(seconds * 25 - 1e-6)))
    periods = torch.linspace(100, 300, LAYERS * SPEECH_WIDTH)
    rows = torch.sin(2 * torch.pi * torch.arange(steps)[:, None] / periods + torch.arange(len(periods)))
    return AudioEmbedding(rows.view(steps, LAYERS, SPEECH_WIDTH), 50.0, seconds, HUBERT)


def log_mel(seconds: float, seed: int = 0) -> AudioEmbedding:
    """Made log-mel features."""
    return AudioEmbedding(made(max(1, int(seconds * 100)), 1, 80, seed=seed) * 0.5, 100.0, seconds, LOG_MEL)
