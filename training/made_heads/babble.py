"""A voice that needs no synthesiser: a buzz through two resonances that follow the jaw and the lips."""

from __future__ import annotations

import numpy as np

from ...core_models.motion.track import mouth_aperture
from ...core_models.types import BLENDSHAPE_INDEX
from ..performance import FPS
from ..speech_synthesis import SAMPLE_RATE

HIGHEST_HARMONIC_HERTZ = 4000.0
PITCH_RANGE = (95.0, 230.0)
LOUD_APERTURE = 0.3
"""Opening of the lips at which the voice is at its loudest."""
BREATH = 0.004
"""Noise that is always there, of full scale."""
RESONANCE_WIDTH = 140.0
"""Hertz."""


def babble(expression: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (N * 640,) float32 sound at 16 kHz for (N, 52) coefficients at 25 fps.

    As loud as the lips are open, silent where they meet; the first resonance rises with the jaw, the second falls as
    the lips round and rises as they spread.
    """
    times = np.arange(len(expression) * (SAMPLE_RATE // FPS)) / SAMPLE_RATE
    middles = (np.arange(len(expression)) + 0.5) / FPS
    level = np.interp(times, middles, np.clip(mouth_aperture(expression) / LOUD_APERTURE, 0, 1))
    pitch = rng.uniform(*PITCH_RANGE) * (1 + 0.06 * np.sin(2 * np.pi * rng.uniform(0.3, 1.2) * times))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    sound = np.zeros(len(times))
    resonances = _resonances(expression)
    for harmonic in range(1, int(HIGHEST_HARMONIC_HERTZ / pitch.max()) + 1):
        gain = sum(_gain(harmonic * pitch.mean(), resonance) for resonance in resonances)
        sound += np.interp(times, middles, gain) * np.sin(harmonic * phase) / harmonic**0.5
    sound = 0.12 * level * sound + BREATH * rng.standard_normal(len(times))
    return np.clip(sound, -1, 1).astype(np.float32)


def _resonances(expression: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) hertz of the two lowest resonances of the mouth."""
    jaw = expression[:, BLENDSHAPE_INDEX["jawOpen"]]
    round_lips = expression[:, BLENDSHAPE_INDEX["mouthPucker"]]
    spread = (
        expression[:, BLENDSHAPE_INDEX["mouthStretchLeft"]]
        + expression[:, BLENDSHAPE_INDEX["mouthSmileLeft"]]
    )
    return 300 + 700 * jaw, np.clip(1500 - 800 * round_lips + 900 * spread, 700, 2600)


def _gain(hertz: float, resonance: np.ndarray) -> np.ndarray:
    """Return (N,) 0..1: how strongly a tone sounds through a resonance."""
    return 1 / (1 + ((hertz - resonance) / RESONANCE_WIDTH) ** 2)
