"""Mel spectrograms of sounds of any length, a minute or so at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..types import ProgressCallback

SEGMENT_COLUMNS = 6000
"""Columns transformed at a time, so that working memory does not grow with the sound's length."""


@dataclass(frozen=True)
class SpectrogramParameters:
    """Hann windows of `window` samples, `hop` apart, transformed over `fft_size`; power 1 is amplitude, 2 is power."""

    window: int
    hop: int
    fft_size: int
    power: float
    floor: float


@functools.cache
def slaney_filters(fft_size: int, bands: int, low_hz: float, high_hz: float, sample_rate: int) -> np.ndarray:
    """Return the (fft_size // 2 + 1, bands) float64 filter bank on Slaney's scale, of equal area."""
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(
        num_frequency_bins=fft_size // 2 + 1,
        num_mel_filters=bands,
        min_frequency=low_hz,
        max_frequency=high_hz,
        sampling_rate=sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )


def mel_spectrogram(
    padded: np.ndarray,
    filters: np.ndarray,
    parameters: SpectrogramParameters,
    finish: Callable[[np.ndarray], np.ndarray],
    progress: ProgressCallback | None = None,
) -> np.ndarray:
    """Return (columns, bands) float32 of every whole window of a sound (T,) that its caller has padded.

    filters: (fft_size // 2 + 1, bands). finish: what becomes of the float64 values, at least `floor`, of each segment.
    progress counts columns.
    """
    window, hop = parameters.window, parameters.hop
    columns = 1 + (len(padded) - window) // hop
    result = np.empty((columns, filters.shape[1]), np.float32)
    for first in range(0, columns, SEGMENT_COLUMNS):
        stop = min(columns, first + SEGMENT_COLUMNS)
        segment = padded[hop * first : hop * (stop - 1) + window]
        result[first:stop] = finish(_segment(segment, filters, parameters))
        if progress is not None:
            progress(stop, columns)
    return result


def _segment(padded: np.ndarray, filters: np.ndarray, parameters: SpectrogramParameters) -> np.ndarray:
    from transformers.audio_utils import spectrogram, window_function

    return spectrogram(
        padded,
        window_function(parameters.window, "hann"),
        frame_length=parameters.window,
        hop_length=parameters.hop,
        fft_length=parameters.fft_size,
        power=parameters.power,
        center=False,
        mel_filters=filters,
        mel_floor=parameters.floor,
        dtype=np.float64,
    ).T
