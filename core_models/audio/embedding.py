"""Sound to network features: one function, one name per encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..types import AudioEmbedding, ProgressCallback
from .decode import Sound
from .frame_clock import frame_count
from .listening_windows import STEP_RATE
from .mel import MEL_RATE, SAMPLE_RATE, levelled_decibels, mel_decibels, normalised_log_mel
from .resample import resample, to_mono
from .wav2lip_mel import SAMPLES_PER_FRAME, VIDEO_FPS, wav2lip_mel

if TYPE_CHECKING:
    import torch

    from ..keypoint_diffusion.speech_encoder import MelListener
    from .hubert import Hubert
    from .wav2lip_encoder import Wav2LipSpeechEncoder
    from .wav2vec2 import Wav2Vec2
    from .whisper import Whisper

LOG_MEL, WAV2LIP, HUBERT, WHISPER = "log_mel", "wav2lip", "hubert", "whisper"
WAV2VEC2, POCKET_LISTENER = "wav2vec2", "pocket_listener"
ENCODER_NAMES: tuple[str, ...] = (LOG_MEL, WAV2LIP, HUBERT, WHISPER, WAV2VEC2, POCKET_LISTENER)
"""Encoders that exist."""
NETWORK_LOADERS: dict[str, str] = {
    WAV2LIP: "load_wav2lip_encoder(path)",
    HUBERT: "load_hubert(folder)",
    WHISPER: "load_whisper(path)",
    WAV2VEC2: "load_wav2vec2(folder)",
    POCKET_LISTENER: "load_pocket_listener()",
}
"""Encoders that are networks, and what gives these."""

SILENT_TAIL_FRAMES = 64
"""Frames of silence encoded after the sound: the end of KDTalker's last window."""


def embed_audio(
    sound: Sound,
    encoder: str = LOG_MEL,
    network: Wav2LipSpeechEncoder | Hubert | Whisper | Wav2Vec2 | MelListener | None = None,
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
    whisper: all hidden states of Whisper's encoder, (2 N, layers, width) at 50 Hz, 5 of width 384 for the tiny model;
    what ACTalker hears. Row i is of the sound around i / 50 s, half a step earlier than elsewhere.
    wav2vec2: the last hidden state of wav2vec 2.0, (T, 1, 768) at 50 Hz for the base model, T = (n - 400) / 320 + 1
    rounded down for n samples at 16 kHz; what FantasyTalking hears. Row i is of the sound around (i + 0.625) / 50 s, an
    eighth of a step later than elsewhere.
    pocket_listener: what the pocket model's own speech encoder makes of log-mel, (2 N, 6, 192) at 50 Hz; what small
    models trained with this package hear, without any download.
    network: the wav2lip encoder, the HuBERT, the Whisper, the Wav2Vec2 or the MelListener.

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
    elif encoder == WHISPER:
        features, rate = _whisper_features(waveform, sound.duration, network, progress), STEP_RATE
    elif encoder == WAV2VEC2:
        features, rate = _wav2vec2_features(waveform, network, progress), STEP_RATE
    elif encoder == POCKET_LISTENER:
        features, rate = _listener_features(waveform, sound.duration, network), STEP_RATE
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


def _whisper_features(
    waveform: np.ndarray, duration: float, network: Whisper, progress: ProgressCallback | None
) -> torch.Tensor:
    from .whisper import Whisper, whisper_features

    if not isinstance(network, Whisper):
        raise ValueError(f"the encoder {WHISPER!r} is a Whisper, but a {type(network).__name__} was given")
    return whisper_features(network, waveform, frame_count(duration, VIDEO_FPS), progress)


def _wav2vec2_features(
    waveform: np.ndarray, network: Wav2Vec2, progress: ProgressCallback | None
) -> torch.Tensor:
    from .wav2vec2 import Wav2Vec2, wav2vec2_features

    if not isinstance(network, Wav2Vec2):
        raise ValueError(f"the encoder {WAV2VEC2!r} is a Wav2Vec2, but a {type(network).__name__} was given")
    return wav2vec2_features(network, waveform, progress=progress)


def _listener_features(waveform: np.ndarray, duration: float, network: MelListener) -> torch.Tensor:
    from .listening_blocks import heard_layers

    samples = frame_count(duration, VIDEO_FPS) * SAMPLES_PER_FRAME
    heard = np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))
    return heard_layers(network, levelled_decibels(mel_decibels(heard)))
