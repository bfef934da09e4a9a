"""Wav2Lip's mel pictures of speech: what its encoder, and through it KDTalker, listens to.

Sound is 16 kHz mono; the mel spectrogram runs at 80 columns a second, 3.2 to a video frame at 25 fps. All constants
are those of the released Wav2Lip and KDTalker.
"""

from __future__ import annotations

import numpy as np

from ..types import ProgressCallback
from .spectrogram import SpectrogramParameters, mel_spectrogram, slaney_filters

SAMPLE_RATE = 16000
VIDEO_FPS = 25
SAMPLES_PER_FRAME = SAMPLE_RATE // VIDEO_FPS
HOP = 200
FFT_SIZE = 800
MEL_BANDS = 80
MEL_LOW_HZ, MEL_HIGH_HZ = 55.0, 7600.0
PREEMPHASIS = 0.97
FLOOR_AMPLITUDE = 1e-5
REFERENCE_DB = 20.0
RANGE_DB = 100.0
"""Decibels below the reference that are told apart."""
LARGEST_VALUE = 4.0
"""The range RANGE_DB is spread over -4..4."""

COLUMNS_PER_FRAME = SAMPLE_RATE / HOP / VIDEO_FPS
WINDOW_COLUMNS = 16
FRAMES_AHEAD = 2
"""A frame's picture begins this many video frames before it."""
SPECTROGRAM = SpectrogramParameters(window=FFT_SIZE, hop=HOP, fft_size=FFT_SIZE, power=1.0, floor=0.0)


def mel_filters() -> np.ndarray:
    """Return the (401, 80) float64 filter bank, 55 to 7600 Hz."""
    return slaney_filters(FFT_SIZE, MEL_BANDS, MEL_LOW_HZ, MEL_HIGH_HZ, SAMPLE_RATE)


def wav2lip_mel(waveform: np.ndarray, progress: ProgressCallback | None = None) -> np.ndarray:
    """Return (1 + T // 200, 80) float32 in -4..4: the mel spectrogram of `waveform` (T,) at 16 kHz.

    Pre-emphasis, amplitudes of Hann windows of 800 samples centred on every 200th (silence beyond the ends), mel
    bands, decibels, clipped.
    """
    emphasised = np.array(waveform, np.float32)
    emphasised[1:] -= np.float32(PREEMPHASIS) * np.asarray(waveform[:-1], np.float32)
    padded = np.pad(emphasised, FFT_SIZE // 2)
    return mel_spectrogram(padded, mel_filters(), SPECTROGRAM, _scaled_decibels, progress)


def _scaled_decibels(amplitudes: np.ndarray) -> np.ndarray:
    decibels = 20 * np.log10(np.maximum(amplitudes, FLOOR_AMPLITUDE)) - REFERENCE_DB
    scaled = 2 * LARGEST_VALUE * (decibels + RANGE_DB) / RANGE_DB - LARGEST_VALUE
    return np.clip(scaled, -LARGEST_VALUE, LARGEST_VALUE)


def frame_windows(mel: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Return (stop - first, 80, 16) float32: the pieces of a mel spectrogram (columns, 80) for those video frames.

    Frame i begins at column int(3.2 (i - 2)); beyond the ends the first and last columns are repeated.
    """
    starts = (COLUMNS_PER_FRAME * (np.arange(first, stop) - FRAMES_AHEAD)).astype(int)
    columns = np.clip(starts[:, None] + np.arange(WINDOW_COLUMNS), 0, len(mel) - 1)
    return np.moveaxis(mel[columns], 1, 2)
