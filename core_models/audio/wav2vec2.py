"""wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477): what leaves a published model, 50 times a second.

What the release of FantasyTalking computes: the sound is normalised as a whole, and nothing is added at its sides. Step
i hears samples 320 i to 320 i + 399, so n samples give (n - 400) / 320 + 1 steps, rounded down: less than the sound
lasts, by up to 45 ms.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from ..strict_loading import KeyTable, load_strict
from ..types import ProgressCallback
from .listening_windows import STEP_SAMPLES, block_count, samples_heard, sound_samples, steps_of_block
from .mel import SAMPLE_RATE
from .waveform_networks import (
    CONFIG_FILE,
    HEARD_SAMPLES,
    LONG_CLIP_WINDOWS,
    MASKED_STEPS,
    PREPROCESSOR_FILE,
    WHOLE_CLIP_STEPS,
    normalised,
    position_names,
    read_config,
    wants_normalised_sound,
    weight_file,
)

NAME = "wav2vec 2.0"
"""What messages call the model."""
_OVERHANG = HEARD_SAMPLES - STEP_SAMPLES
"""Samples that a step hears after its own."""
_WITHIN = "wav2vec2."
"""What the keys of a published file begin with, in which the model is part of a speech recogniser."""


class Wav2Vec2(nn.Module):
    """A wav2vec 2.0 that gives what leaves its last layer.

    normalises: whether it was trained on sound of mean 0 and variance 1.
    """

    def __init__(self, network: Wav2Vec2Model, normalises: bool = True) -> None:
        super().__init__()
        self.network = network
        self.normalises = normalises

    @property
    def width(self) -> int:
        """Numbers per step."""
        return self.network.config.hidden_size

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the last hidden state (B, T, width) of sound (B, n >= 400), which is used as it is."""
        return self.network(waveform, return_dict=True).last_hidden_state


def load_wav2vec2(
    folder_or_file: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    config_file: str | os.PathLike[str] | None = None,
    preprocessor_file: str | os.PathLike[str] | None = None,
) -> Wav2Vec2:
    """Return a published wav2vec 2.0, on the CPU, in evaluation mode, gradients off.

    folder_or_file: a folder with model.safetensors or pytorch_model.bin, or such a file, with or without the head of a
    speech recogniser, which is left out on purpose. config_file, preprocessor_file: None takes config.json and
    preprocessor_config.json beside the weights. The latter says whether sound is normalised; without it, it is.
    Raises FileNotFoundError naming what is missing, ValueError for a configuration of another kind of model, and what
    `load_strict` raises.
    """
    weights = weight_file(Path(folder_or_file), NAME)
    config = read_config(Path(config_file or weights.with_name(CONFIG_FILE)), Wav2Vec2Config, NAME)
    with torch.device("meta"):
        network = Wav2Vec2Model(config)
    network = load_strict(lambda: network, weights, _published_names(network), dtype).requires_grad_(False)
    preprocessor = Path(preprocessor_file or weights.with_name(PREPROCESSOR_FILE))
    return Wav2Vec2(network, wants_normalised_sound(preprocessor, untold=True)).eval()


def _published_names(network: Wav2Vec2Model) -> KeyTable:
    positions = position_names(network)
    return {
        "lm_head.*": None,
        MASKED_STEPS: None,
        _WITHIN + MASKED_STEPS: None,
        **positions,
        **{_WITHIN + name: own for name, own in positions.items()},
        _WITHIN + "*": "*",
    }


def step_count(samples: int) -> int:
    """Return the steps of a sound: (samples - 400) / 320 + 1 rounded down, at least 1."""
    return max(0, samples - HEARD_SAMPLES) // STEP_SAMPLES + 1


def wav2vec2_features(
    wav2vec2: Wav2Vec2,
    waveform: np.ndarray,
    sample_rate: int = SAMPLE_RATE,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return the last hidden state (T, 1, width), float32 on the CPU, of sound at 50 Hz; T = step_count(n).

    waveform: (n,), one channel at 16 kHz, n > 0. Less than 400 samples are filled up with silence, for one step. Sound
    of more than 18 s is heard in windows, so that memory does not grow with it beside the result, 3 kB for each step of
    the base model; it is normalised as a whole first. progress: called as (steps done, T).
    Raises ValueError for another rate, sound that is empty or not finite, and states that are not finite.
    """
    if sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"the sound is at {sample_rate} Hz, but {NAME} hears {SAMPLE_RATE} Hz: resample it first"
        )
    waveform = sound_samples(waveform)
    if len(waveform) == 0:
        raise ValueError("the sound has 0 samples; use one that lasts at least a few milliseconds")
    heard = normalised(waveform) if wav2vec2.normalises else waveform
    heard = np.pad(heard, (0, max(0, HEARD_SAMPLES - len(heard))))
    steps = step_count(len(heard))
    if steps > WHOLE_CLIP_STEPS:
        return _in_windows(wav2vec2, heard, steps, progress)
    features = _last_state(wav2vec2, heard)
    if progress is not None:
        progress(steps, steps)
    return features


def _in_windows(
    wav2vec2: Wav2Vec2, heard: np.ndarray, steps: int, progress: ProgressCallback | None
) -> Tensor:
    windows = LONG_CLIP_WINDOWS
    features = torch.empty(steps, 1, wav2vec2.width)
    for block in range(block_count(windows, steps)):
        first, end = steps_of_block(windows, block, steps)
        start, stop = samples_heard(windows, block, steps)
        before = start // STEP_SAMPLES
        features[first:end] = _last_state(wav2vec2, heard[start : stop + _OVERHANG])[
            first - before : end - before
        ]
        if progress is not None:
            progress(end, steps)
    return features


def _last_state(wav2vec2: Wav2Vec2, window: np.ndarray) -> Tensor:
    """Return (T, 1, width) float32 on the CPU of samples (n,), which are not normalised."""
    weight = next(wav2vec2.parameters())
    with torch.no_grad():
        state = wav2vec2(torch.from_numpy(window).to(weight)[None])[0].float().cpu()
    if not torch.isfinite(state).all():
        raise ValueError(f"{NAME}'s last hidden state is not finite in {weight.dtype}: load it in float32")
    return state[:, None]
