"""Sound to network features: one function, one name per encoder."""

from __future__ import annotations

from ..types import AudioEmbedding
from .decode import Sound
from .mel import MEL_RATE, SAMPLE_RATE, mel_decibels, normalised_log_mel
from .resample import resample, to_mono

LOG_MEL = "log_mel"
ENCODER_NAMES: tuple[str, ...] = (LOG_MEL,)
"""Encoders that exist so far; wav2lip, wav2vec2, HuBERT and Whisper come with their systems."""


def embed_audio(sound: Sound, encoder: str = LOG_MEL) -> AudioEmbedding:
    """Return the features of `sound`.

    log_mel: level-normalised log-mel, (T, 1, 80) at 100 Hz, T = duration * 100 rounded down, at least 1;
    what the pocket model hears.

    Raises ValueError for an unknown encoder.
    """
    import torch

    if encoder not in ENCODER_NAMES:
        raise ValueError(f"unknown audio encoder {encoder!r}; known: {', '.join(ENCODER_NAMES)}")
    waveform = resample(to_mono(sound), SAMPLE_RATE).waveform[0]
    mel = normalised_log_mel(mel_decibels(waveform))
    return AudioEmbedding(
        features=torch.from_numpy(mel)[:, None],
        rate=float(MEL_RATE),
        duration=sound.duration,
        encoder=encoder,
    )
