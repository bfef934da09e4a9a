"""What HuBERT and wav2vec 2.0 have in common: the folders they are published in, and the sound they hear.

Both hear samples at 16 kHz through the same convolutions, which pad nothing: 400 samples for each step of 320.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn
from transformers import PretrainedConfig

from ..strict_loading import KeyTable
from .listening_windows import STEP_SAMPLES, ListeningWindows

HEARD_SAMPLES = 400
"""Samples that one step hears."""
VARIANCE_FLOOR = 1e-7
"""Added to the variance of a sound before it is divided by its root, as the published feature extractor does."""

WHOLE_CLIP_STEPS = 900
"""Up to 18 s are heard at once; the networks were trained on up to 15.6 s."""
LONG_CLIP_WINDOWS = ListeningWindows(block_steps=500, behind_steps=200, ahead_steps=200)
"""How longer sound is heard: 10 s at a time, with 4 s on either side.

Attention reaches no further than that, and group norm (base) takes its statistics from the window.
"""

CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "preprocessor_config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a model's folder, the one that is taken first."""
MASKED_STEPS = "masked_spec_embed"
"""Key of what training puts in place of masked steps."""

_POSITIONS = "encoder.pos_conv_embed.conv."
_WEIGHT_NORM_NAMES = (
    ("weight_g", "parametrizations.weight.original0"),
    ("weight_v", "parametrizations.weight.original1"),
)
"""The size and direction of that convolution's weights, as older and newer PyTorch name them."""

Config = TypeVar("Config", bound=PretrainedConfig)


def weight_file(path: Path, name: str) -> Path:
    """Return the weights of a folder, or the file that was named. name: of the model, for messages.

    Raises FileNotFoundError for a folder without weights.
    """
    if not path.is_dir():
        return path
    for file_name in WEIGHT_FILES:
        if (path / file_name).is_file():
            return path / file_name
    raise FileNotFoundError(f"{path} holds no {name} weights: there is no {' or '.join(WEIGHT_FILES)} in it")


def read_config(path: Path, kind: type[Config], name: str) -> Config:
    """Return a published configuration, without the masking of training. name: of the model, for messages.

    Raises FileNotFoundError, and ValueError for one of another kind of model or of other convolutions.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: {name}'s configuration, which is published beside the weights"
        )
    content = _read_json(path)
    if content.get("model_type") != kind.model_type:
        raise ValueError(
            f"{path} is of a model of type {content.get('model_type')!r}, expected {kind.model_type!r}"
        )
    try:
        config = kind.from_dict({**content, "mask_time_prob": 0.0, "mask_feature_prob": 0.0})
    except Exception as error:
        raise ValueError(f"{path} is not a configuration of {name}: {error}") from error
    hop, heard = _step_and_field(config)
    if (hop, heard) != (STEP_SAMPLES, HEARD_SAMPLES):
        raise ValueError(
            f"{path}: the convolutions hear {heard} samples every {hop}, expected {HEARD_SAMPLES} every {STEP_SAMPLES}"
        )
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it and fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected an object: fetch it again")
    return content


def _step_and_field(config: PretrainedConfig) -> tuple[int, int]:
    """Return the samples from one step to the next, and those that a step hears."""
    hop, heard = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        heard += (kernel - 1) * hop
        hop *= stride
    return hop, heard


def position_names(network: nn.Module) -> KeyTable:
    """Return the table that brings either spelling of the weight norm to the one that this PyTorch uses."""
    own = network.state_dict()
    return {
        _POSITIONS + name: _POSITIONS + next((other for other in pair if _POSITIONS + other in own), name)
        for pair in _WEIGHT_NORM_NAMES
        for name in pair
    }


def wants_normalised_sound(path: Path, untold: bool) -> bool:
    """Return whether a published preprocessor_config.json brings sound to mean 0 and variance 1.

    untold: the answer without that file. Raises ValueError for a file that is damaged or says neither.
    """
    if not path.is_file():
        return untold
    found = _read_json(path).get("do_normalize", True)
    if not isinstance(found, bool):
        raise ValueError(f"{path}: do_normalize is {found!r}, expected true or false")
    return found


def normalised(waveform: np.ndarray) -> np.ndarray:
    """Return samples (n,) float32 with mean 0 and variance 1; silence stays silent."""
    if len(waveform) == 0:
        return waveform
    mean, variance = waveform.mean(dtype=np.float64), waveform.var(dtype=np.float64)
    return ((waveform - mean) / math.sqrt(variance + VARIANCE_FLOOR)).astype(np.float32)
