"""Log-mel features of speech.

Sound is 16 kHz mono. Frame i is centred on (i + 0.5) / 100 seconds, so that features group evenly into
video frames: four to a frame at 25 fps.
"""

from __future__ import annotations

import numpy as np

from .spectrogram import SpectrogramParameters, mel_spectrogram, slaney_filters

SAMPLE_RATE = 16000
MEL_RATE = 100
HOP = SAMPLE_RATE // MEL_RATE
WINDOW = 400
FFT_SIZE = 512
MEL_BANDS = 80
MEL_LOW_HZ, MEL_HIGH_HZ = 50.0, 7600.0
FLOOR_DB = -100.0
LOUD_FRAME_DB = -20.0
LOUD_FRAME_PERCENTILE = 95
MAX_GAIN_DB = 35.0

SPECTROGRAM = SpectrogramParameters(window=WINDOW, hop=HOP, fft_size=FFT_SIZE, power=2.0, floor=1e-10)


def mel_filters() -> np.ndarray:
    """Return the (257, 80) float64 filter bank, 50 to 7600 Hz."""
    return slaney_filters(FFT_SIZE, MEL_BANDS, MEL_LOW_HZ, MEL_HIGH_HZ, SAMPLE_RATE)


def mel_decibels(waveform: np.ndarray) -> np.ndarray:
    """Return the mel power of `waveform` (T,) at 16 kHz in dB, (T // 160, 80) float32, at least one frame.

    The signal is extended with silence at both ends, so that every frame has its whole window.
    """
    frames = max(1, len(waveform) // HOP)
    lead = (WINDOW - HOP) // 2
    padded = np.zeros(frames * HOP + WINDOW, np.float64)
    kept = waveform[: frames * HOP + WINDOW - lead]
    padded[lead : lead + len(kept)] = kept
    return mel_spectrogram(padded, mel_filters(), SPECTROGRAM, _floored_decibels)[:frames]


def _floored_decibels(power: np.ndarray) -> np.ndarray:
    return np.maximum(10 * np.log10(power), FLOOR_DB)


def loudness_decibels(mel_db: np.ndarray) -> np.ndarray:
    """Return each frame's level in dB: the mean mel power over the bands, (T,) float32."""
    return (10 * np.log10(np.mean(10 ** (mel_db / 10), axis=1))).astype(np.float32)


def level_gain(mel_db: np.ndarray) -> float:
    """Return the gain in dB that brings the clip's loud frames to -20 dB; never above 35 dB.

    Silence (no frame above the floor) gets no gain.
    """
    level = float(np.percentile(loudness_decibels(mel_db), LOUD_FRAME_PERCENTILE))
    if level <= FLOOR_DB + 10:
        return 0.0
    return min(MAX_GAIN_DB, LOUD_FRAME_DB - level)


def levelled_decibels(mel_db: np.ndarray) -> np.ndarray:
    """Return mel decibels (T, 80) with `level_gain` added: the clip at the usual level. Silence may fall below -100."""
    return mel_db + level_gain(mel_db)


def normalised_log_mel(mel_db: np.ndarray) -> np.ndarray:
    """Return level-normalised mel decibels scaled to about -1..2: (dB + 45) / 20, (T, 80) float32."""
    return floored_log_mel(levelled_decibels(mel_db))


def floored_log_mel(mel_db: np.ndarray) -> np.ndarray:
    """Return levelled mel decibels (T, 80) as networks hear them: at least -100 dB, then `scale_decibels`."""
    return scale_decibels(np.maximum(mel_db, FLOOR_DB))


def scale_decibels(mel_db: np.ndarray) -> np.ndarray:
    """Return (dB + 45) / 20, the range the pocket encoder was trained on; works on arrays and tensors."""
    return (mel_db + 45.0) / 20.0
