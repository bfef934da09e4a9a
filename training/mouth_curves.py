"""Timed phones to mouth curves: dominance-blended coarticulation, loudness, and closures that really close."""

from __future__ import annotations

import numpy as np

from .visemes import BILABIAL, MOUTH_CHANNELS, SILENCE, VOWELS, Phone, mouth_shape

# seconds of anticipation and carry-over of each channel (Cohen-Massaro style dominance)
RISE_SECONDS = np.array([0.055, 0.030, 0.090, 0.080, 0.070, 0.060, 0.060, 0.045, 0.035, 0.045], np.float32)
FALL_SECONDS = np.array([0.060, 0.035, 0.075, 0.070, 0.070, 0.060, 0.060, 0.045, 0.040, 0.045], np.float32)
DOMINANCE_POWER = 1.3
BILABIAL_DOMINANCE = np.array([7, 8, 1, 1, 1, 3, 3, 3, 8, 1], np.float32)
GLOTTAL_DOMINANCE = 0.15
LOUDNESS_SLOPE = 0.035  # jaw per dB around LOUDNESS_CENTRE
LOUDNESS_CENTRE = -6.0
LOUDNESS_LIMITS = (0.6, 1.25)
CLOSED_SHAPE = mouth_shape(BILABIAL)
JAW = MOUTH_CHANNELS.index("jaw")


def dominance(phones: list[Phone]) -> np.ndarray:
    """Return how strongly each phone pulls each channel, (P, 10)."""
    rows = []
    for phone in phones:
        row = np.ones(len(MOUTH_CHANNELS), np.float32)
        if phone.symbol == BILABIAL:
            row = BILABIAL_DOMINANCE
        elif phone.symbol == "hh":
            row = row * GLOTTAL_DOMINANCE
        rows.append(row)
    return np.stack(rows)


def blend(phones: list[Phone], times: np.ndarray) -> np.ndarray:
    """Return the coarticulated mouth channels at each time, (N, 10).

    Each phone weighs exp(-(distance / tau)^1.3) times its dominance, distance being how far the time
    lies outside the phone, tau the channel's rise before it and fall after it.
    """
    shapes = np.stack([mouth_shape(phone.symbol) for phone in phones])
    starts = np.array([phone.start for phone in phones], np.float32)
    ends = np.array([phone.end for phone in phones], np.float32)
    before = np.maximum(starts[None] - times[:, None], 0)[..., None] / RISE_SECONDS
    after = np.maximum(times[:, None] - ends[None], 0)[..., None] / FALL_SECONDS
    weights = np.exp(-((before + after) ** DOMINANCE_POWER)) * dominance(phones)[None]
    return (weights * shapes[None]).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-6)


def loudness_gain(level_db: np.ndarray) -> np.ndarray:
    """Return the factor on the jaw for a level in dB below the clip's loud frames, (N,)."""
    return np.clip(1 + LOUDNESS_SLOPE * (level_db - LOUDNESS_CENTRE), *LOUDNESS_LIMITS)


def vowel_share(phones: list[Phone], times: np.ndarray) -> np.ndarray:
    """Return 1 where a vowel sounds, else 0, (N,)."""
    share = np.zeros(len(times), np.float32)
    for phone in phones:
        if phone.symbol in VOWELS:
            share[(times >= phone.start) & (times < phone.end)] = 1
    return share


def closure_frames(phones: list[Phone], rate: float, count: int) -> np.ndarray:
    """Return the frame nearest to the centre of each p, b, m, as sorted unique indices."""
    centres = [0.5 * (phone.start + phone.end) for phone in phones if phone.bilabial_stop]
    frames = np.floor(np.array(centres) * rate).astype(int)
    return np.unique(frames[(frames >= 0) & (frames < count)])


def mouth_curves(phones: list[Phone], level_db: np.ndarray, rate: float) -> np.ndarray:
    """Return (N, 10) mouth channels for N = len(level_db) frames centred on (i + 0.5) / rate seconds."""
    times = (np.arange(len(level_db), dtype=np.float32) + 0.5) / rate
    if not phones:
        phones = [Phone(SILENCE, 0.0, float(times[-1]) + 1.0)]
    curves = blend(phones, times)
    gain = 1 + (loudness_gain(level_db) - 1) * vowel_share(phones, times)
    curves[:, JAW] *= gain
    curves[closure_frames(phones, rate, len(times))] = CLOSED_SHAPE
    return np.clip(curves, 0, 1).astype(np.float32)
