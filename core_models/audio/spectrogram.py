"""Mel spectrograms of sounds of any length, a minute or so at a time."""

from __future__ import annotations

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


def mel_spectrogram(
    padded: np.ndarray,
    filters: np.ndarray,
    parameters: SpectrogramParameters,
    progress: ProgressCallback | None = None,
) -> np.ndarray:
    """Return (columns, bands) float64 of every whole window of a sound (T,) that its caller has padded.

    filters: (fft_size // 2 + 1, bands). Values are at least `floor`. progress counts columns.
    """
    window, hop = parameters.window, parameters.hop
    columns = 1 + (len(padded) - window) // hop
    segments = []
    for first in range(0, columns, SEGMENT_COLUMNS):
        stop = min(columns, first + SEGMENT_COLUMNS)
        segments.append(_segment(padded[hop * first : hop * (stop - 1) + window], filters, parameters))
        if progress is not None:
            progress(stop, columns)
    return np.concatenate(segments)


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
