"""Sound to network features: one function, one name per encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..types import AudioEmbedding, ProgressCallback
from .decode import Sound
from .frame_clock import frame_count
from .mel import MEL_RATE, SAMPLE_RATE, mel_decibels, normalised_log_mel
from .resample import resample, to_mono
from .wav2lip_mel import SAMPLES_PER_FRAME, VIDEO_FPS, wav2lip_mel

if TYPE_CHECKING:
    from .wav2lip_encoder import Wav2LipSpeechEncoder

LOG_MEL, WAV2LIP = "log_mel", "wav2lip"
ENCODER_NAMES: tuple[str, ...] = (LOG_MEL, WAV2LIP)
"""Encoders that exist so far; wav2vec2, HuBERT and Whisper come with their systems."""

SILENT_TAIL_FRAMES = 64
"""Frames of silence encoded after the sound: the end of KDTalker's last window."""


def embed_audio(
    sound: Sound,
    encoder: str = LOG_MEL,
    network: Wav2LipSpeechEncoder | None = None,
    progress: ProgressCallback | None = None,
) -> AudioEmbedding:
    """Return the features of `sound`.

    log_mel: level-normalised log-mel, (T, 1, 80) at 100 Hz, T = duration * 100 rounded down, at least 1;
    what the pocket model hears.
    wav2lip: one row for each video frame, (N + 64, 1, 512) at 25 Hz, N = frame_clock.frame_count(duration, 25), the
    last 64 of which are those of silence; what KDTalker hears. network: the speech encoder for it.

    Raises ValueError for an unknown encoder, or one whose network is not given.
    """
    import torch

    if encoder not in ENCODER_NAMES:
        raise ValueError(f"unknown audio encoder {encoder!r}; known: {', '.join(ENCODER_NAMES)}")
    if encoder == WAV2LIP and network is None:
        raise ValueError(
            "the encoder 'wav2lip' is a network, which was not given: load_wav2lip_encoder(path)"
        )
    waveform = resample(to_mono(sound), SAMPLE_RATE).waveform[0]
    if encoder == WAV2LIP:
        features, rate = _wav2lip_features(waveform, sound.duration, network, progress), VIDEO_FPS
    else:
        features, rate = torch.from_numpy(normalised_log_mel(mel_decibels(waveform))), MEL_RATE
    return AudioEmbedding(features[:, None], rate=float(rate), duration=sound.duration, encoder=encoder)


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
