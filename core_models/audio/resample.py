"""Rate, channels and length of a sound."""

from __future__ import annotations

import numpy as np

from .decode import Sound
from .frame_clock import frame_count, sample_count

RESAMPLING_QUALITY = "VHQ"
"""soxr's name: pass band to 0.95 of the lower Nyquist frequency, 28 bit accuracy."""


def to_mono(sound: Sound) -> Sound:
    """Return the mean of all channels as one channel."""
    if sound.channel_count == 1:
        return sound
    return Sound(sound.waveform.mean(axis=0, keepdims=True, dtype=np.float64), sound.sample_rate)


def resample(sound: Sound, sample_rate: int) -> Sound:
    """Return the sound at `sample_rate` Hz (band-limited, by soxr), round(T * new / old) samples, at least 1.

    Raises ValueError for a rate that is not a whole number above 0.
    """
    if int(sample_rate) != sample_rate or sample_rate <= 0:
        raise ValueError(f"the sample rate is {sample_rate}, expected a whole number of Hz above 0")
    if sample_rate == sound.sample_rate:
        return sound
    import soxr

    wanted = max(1, round(sound.sample_count * sample_rate / sound.sample_rate))
    resampled = soxr.resample(
        np.ascontiguousarray(sound.waveform.T), sound.sample_rate, sample_rate, quality=RESAMPLING_QUALITY
    ).T
    return Sound(with_length(resampled, wanted), int(sample_rate))


def with_length(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Return (C, `samples`): the waveform (C, T) with silence appended or its end left out."""
    missing = samples - waveform.shape[1]
    return np.pad(waveform, ((0, 0), (0, missing))) if missing > 0 else waveform[:, :samples]


def pad_to_frames(sound: Sound, fps: float) -> tuple[Sound, int]:
    """Return the sound with silence appended to whole video frames, and the number N of those frames.

    The result has exactly frame_clock.sample_count(N, fps, rate) samples; nothing is ever cut.
    """
    frames = frame_count(sound.duration, fps)
    wanted = sample_count(frames, fps, sound.sample_rate)
    if wanted == sound.sample_count:
        return sound, frames
    return Sound(with_length(sound.waveform, wanted), sound.sample_rate), frames
