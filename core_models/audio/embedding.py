"""Sound to network features: one function, one name per encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..types import AudioEmbedding, ProgressCallback
from .decode import Sound
from .frame_clock import frame_count
from .listening_windows import STEP_RATE
from .mel import MEL_RATE, SAMPLE_RATE, mel_decibels, normalised_log_mel
from .resample import resample, to_mono
from .wav2lip_mel import SAMPLES_PER_FRAME, VIDEO_FPS, wav2lip_mel

if TYPE_CHECKING:
    import torch

    from .hubert import Hubert
    from .wav2lip_encoder import Wav2LipSpeechEncoder

LOG_MEL, WAV2LIP, HUBERT = "log_mel", "wav2lip", "hubert"
ENCODER_NAMES: tuple[str, ...] = (LOG_MEL, WAV2LIP, HUBERT)
"""Encoders that exist so far; wav2vec2 and Whisper come with their systems."""
NETWORK_LOADERS: dict[str, str] = {WAV2LIP: "load_wav2lip_encoder(path)", HUBERT: "load_hubert(folder)"}
"""Encoders that are networks, and what gives these."""

SILENT_TAIL_FRAMES = 64
"""Frames of silence encoded after the sound: the end of KDTalker's last window."""


def embed_audio(
    sound: Sound,
    encoder: str = LOG_MEL,
    network: Wav2LipSpeechEncoder | Hubert | None = None,
    progress: ProgressCallback | None = None,
    layer_weights: torch.Tensor | np.ndarray | None = None,
) -> AudioEmbedding:
    """Return the features of `sound`.

    log_mel: level-normalised log-mel, (T, 1, 80) at 100 Hz, T = duration * 100 rounded down, at least 1;
    what the pocket model hears.
    wav2lip: one row for each video frame, (N + 64, 1, 512) at 25 Hz, N = frame_clock.frame_count(duration, 25), the
    last 64 of which are those of silence; what KDTalker hears.
    hubert: all hidden states, (2 N, layers, width) at 50 Hz, 25 of width 1024 for the large model; what Takin-ADA
    hears. layer_weights: (layers,) that add up to 1, for their weighted sum (2 N, 1, width) instead.
    network: the wav2lip encoder or the HuBERT.

    Raises ValueError for an unknown encoder, one whose network is not given, or layer weights for another one.
    """
    import torch

    if encoder not in ENCODER_NAMES:
        raise ValueError(f"unknown audio encoder {encoder!r}; known: {', '.join(ENCODER_NAMES)}")
    if encoder in NETWORK_LOADERS and network is None:
        raise ValueError(
            f"the encoder {encoder!r} is a network, which was not given: {NETWORK_LOADERS[encoder]}"
        )
    if encoder != HUBERT and layer_weights is not None:
        raise ValueError(f"layer_weights are for the encoder {HUBERT!r}, not for {encoder!r}: leave them out")
    waveform = resample(to_mono(sound), SAMPLE_RATE).waveform[0]
    if encoder == WAV2LIP:
        features, rate = _wav2lip_features(waveform, sound.duration, network, progress)[:, None], VIDEO_FPS
    elif encoder == HUBERT:
        features = _hubert_features(waveform, sound.duration, network, layer_weights, progress)
        rate = STEP_RATE
    else:
        features, rate = torch.from_numpy(normalised_log_mel(mel_decibels(waveform)))[:, None], MEL_RATE
    return AudioEmbedding(features, rate=float(rate), duration=sound.duration, encoder=encoder)


def _wav2lip_features(
    waveform: np.ndarray, duration: float, network: Wav2LipSpeechEncoder, progress: ProgressCallback | None
):
    from .wav2lip_encoder import encode_frames

    frames = frame_count(duration, VIDEO_FPS) + SILENT_TAIL_FRAMES
    heard = waveform[: frames * SAMPLES_PER_FRAME]
    padded = np.pad(heard, (0, frames * SAMPLES_PER_FRAME - len(heard)))
    steps = None if progress is None else lambda done, total: progress(done, 2 * total)
    mel = wav2lip_mel(padded, steps)
    steps = None if progress is None else lambda done, total: progress(total + done, 2 * total)
    return encode_frames(network, mel, frames, steps)


def _hubert_features(
    waveform: np.ndarray,
    duration: float,
    network: Hubert,
    layer_weights: torch.Tensor | np.ndarray | None,
    progress: ProgressCallback | None,
) -> torch.Tensor:
    from .hubert import Hubert, hidden_states

    if not isinstance(network, Hubert):
        raise ValueError(f"the encoder {HUBERT!r} is a Hubert, but a {type(network).__name__} was given")
    frames = frame_count(duration, VIDEO_FPS)
    return hidden_states(
        network, waveform, total_frames=frames, layer_weights=layer_weights, progress=progress
    )
