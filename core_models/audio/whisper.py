"""Whisper's encoder (Radford et al. 2022, arXiv 2212.04356): all hidden states of a published model, 50 times a second.

What the release of ACTalker computes: log-mel in chunks of 30 s, each brought to its own loudest moment and heard by
itself, the last chunk filled up with silence. Row i is of the sound around i / 50 s.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..key_tables import KEY_TABLES
from ..strict_loading import load_strict
from ..types import ProgressCallback
from .listening_windows import sound_samples, step_count
from .mel import SAMPLE_RATE

CHUNK_SECONDS = 30
CHUNK_SAMPLES = CHUNK_SECONDS * SAMPLE_RATE
"""Samples that Whisper hears at a time."""
MEL_PER_CHUNK = 3000
"""Log-mel frames (100 Hz) of a chunk."""
ROWS_PER_CHUNK = 1500
"""Rows of hidden states (50 Hz) of a chunk."""


@dataclass(frozen=True)
class WhisperParameters:
    """Sizes of the encoder; the defaults are those of Whisper tiny.

    width, layers, heads, feed_forward: of the transformer. mel_bands: of the log-mel it hears.
    """

    width: int = 384
    layers: int = 4
    heads: int = 6
    feed_forward: int = 1536
    mel_bands: int = 80


class Whisper(nn.Module):
    """An encoder that gives what enters its first layer and what leaves each, the last one after the final norm."""

    def __init__(self, network: WhisperEncoder) -> None:
        super().__init__()
        self.network = network

    @property
    def layers(self) -> int:
        """Hidden states: one more than layers."""
        return self.network.config.encoder_layers + 1

    @property
    def width(self) -> int:
        """Numbers of a hidden state per row."""
        return self.network.config.d_model

    def forward(self, mel: Tensor) -> Tensor:
        """Return hidden states (B, 1500, layers, width) of log-mel (B, bands, 3000), a chunk each."""
        heard = self.network(mel, output_hidden_states=True, return_dict=True)
        return torch.stack((*heard.hidden_states[:-1], heard.last_hidden_state), dim=2)


def new_whisper(parameters: WhisperParameters | None = None) -> Whisper:
    """Return an encoder without trained weights, in evaluation mode, gradients off."""
    return Whisper(_encoder(parameters or WhisperParameters())).eval().requires_grad_(False)


def load_whisper(
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    parameters: WhisperParameters | None = None,
) -> Whisper:
    """Return the encoder of a published Whisper, on the CPU, in evaluation mode, gradients off.

    path: model.safetensors, whose decoder is left out on purpose. parameters: None is Whisper tiny.
    Raises what `load_strict` raises.
    """
    network = load_strict(
        lambda: _encoder(parameters or WhisperParameters()), path, KEY_TABLES["whisper_transformers"], dtype
    )
    return Whisper(network.requires_grad_(False)).eval()


def _encoder(p: WhisperParameters) -> WhisperEncoder:
    return WhisperEncoder(
        WhisperConfig(
            d_model=p.width,
            encoder_layers=p.layers,
            encoder_attention_heads=p.heads,
            encoder_ffn_dim=p.feed_forward,
            num_mel_bins=p.mel_bands,
        )
    )


def whisper_features(
    whisper: Whisper,
    waveform: np.ndarray,
    total_frames: int | None = None,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return the hidden states (T, layers, width), float32 on the CPU, of sound at 50 Hz.

    waveform: (n,), one channel at 16 kHz, n > 0. total_frames: its video frames at 25 fps, None means
    frame_clock.frame_count(n / 16000, 25). T is twice that: the release leaves a last frame out that sound does not
    fill, here it is kept. Sound is heard 30 s at a time, so that memory does not grow with it beside the result,
    0.4 MB for each second of Whisper tiny. progress: called as (rows done, T) after each chunk.
    Raises ValueError for sound that is empty, not finite or of another shape, and when the states are not finite.
    """
    waveform = sound_samples(waveform)
    if len(waveform) == 0:
        raise ValueError("the sound has 0 samples; use one that lasts at least a few milliseconds")
    rows = step_count(len(waveform), total_frames)
    features = torch.empty(rows, whisper.layers, whisper.width)
    extractor = WhisperFeatureExtractor(feature_size=whisper.network.config.num_mel_bins)
    done = 0
    while done < rows:
        first = done // ROWS_PER_CHUNK * CHUNK_SAMPLES
        mel = _chunk_mel(extractor, waveform[first : first + CHUNK_SAMPLES])
        end = min(rows, done + ROWS_PER_CHUNK)
        features[done:end] = encode_mel(whisper, mel)[: end - done]
        done = end
        if progress is not None:
            progress(done, rows)
    return features


def _chunk_mel(extractor: WhisperFeatureExtractor, samples: np.ndarray) -> Tensor:
    """Return log-mel (bands, 3000) of up to 30 s; silence follows shorter sound."""
    padded = np.pad(samples, (0, CHUNK_SAMPLES - len(samples)))
    return extractor(padded, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[0]


def encode_mel(whisper: Whisper, mel: Tensor) -> Tensor:
    """Return the hidden states (1500 * chunks, layers, width), float32 on the CPU, of log-mel (bands, 3000 * chunks).

    Raises ValueError for log-mel of another shape, and when the states are not finite.
    """
    config, weight = whisper.network.config, next(whisper.parameters())
    if mel.ndim != 2 or len(mel) != config.num_mel_bins or mel.shape[1] % MEL_PER_CHUNK or not mel.shape[1]:
        raise ValueError(
            f"log-mel has shape {tuple(mel.shape)}, expected ({config.num_mel_bins}, a multiple of {MEL_PER_CHUNK}): "
            f"chunks of {CHUNK_SECONDS} s"
        )
    with torch.no_grad():
        states = [
            whisper(chunk[None].to(weight))[0].float().cpu() for chunk in mel.split(MEL_PER_CHUNK, dim=1)
        ]
    features = torch.cat(states)
    if not torch.isfinite(features).all():
        raise ValueError(f"Whisper's hidden states are not finite in {weight.dtype}: load it in float32")
    return features
