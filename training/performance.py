"""What a face does besides its mouth: head, brows and emotion, made to go with the loudness of speech.

Everything is at 25 fps. Blinks and saccades are not learned: they are a process of their own at sampling.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from ..core_models.keypoint_diffusion.pocket import POCKET_EMOTIONS
from ..core_models.motion.emotion_expression import emotion_shapes, sided
from ..core_models.types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES, EMOTION_NAMES
from .visemes import MOUTH_CHANNELS

FPS = 25
DRIFT_DEGREES = np.array([1.8, 3.2, 1.4])  # spread of slow pitch, yaw, roll while speaking
DRIFT_SIGMA_FRAMES = 16
IDLE_SHARE = 0.35  # of the drift that remains in silence
NOD_DEGREES = (1.0, 4.0)
NOD_CHANCE, BROW_CHANCE = 0.60, 0.45
NOD_SIGMA_FRAMES, BROW_SIGMA_FRAMES = 4.0, 3.5
BROW_HEIGHT = (0.15, 0.45)
TRANSLATION_PER_DEGREE = (
    0.004  # face units of sideways travel per degree of yaw, and of sinking per degree of pitch
)
POSE_SIZE = 6  # pitch, yaw, roll, x, y, z

EMOTION_HEAD: dict[str, tuple[float, float]] = {
    "happy": (1.15, -1.0),
    "sad": (0.60, 3.5),
    "angry": (0.90, 2.0),
    "surprised": (1.10, -2.0),
    "disgusted": (0.80, -1.0),
}
"""Liveliness of the head (a factor on its motion) and how it is held (degrees of pitch) at strength 1."""

BROW_SHARES = (("browInnerUp", 1.0), ("browOuterUpLeft", 0.8), ("browOuterUpRight", 0.8))
"""How far each coefficient goes with a raise of the brows."""

EMOTION_JAW = {"sad": 0.82, "surprised": 1.22}


def emotion_offsets() -> np.ndarray:
    """Return (7, 52): the coefficients each emotion the model is trained on adds at strength 1; zeros for others."""
    trained = [name in POCKET_EMOTIONS for name in EMOTION_NAMES]
    return emotion_shapes() * np.array(trained, np.float32)[:, None]


def emotion_head_gains() -> np.ndarray:
    """Return (7,): what each emotion adds to a factor of 1 on head motion at strength 1."""
    return np.array([EMOTION_HEAD.get(name, (1.0, 0.0))[0] - 1.0 for name in EMOTION_NAMES], np.float32)


def emotion_rest() -> np.ndarray:
    """Return (7, 58): the expression offsets and the resting pose of each emotion at strength 1."""
    pose = np.zeros((len(EMOTION_NAMES), POSE_SIZE), np.float32)
    for emotion, (_, pitch) in EMOTION_HEAD.items():
        pose[EMOTION_NAMES.index(emotion), 0] = pitch
    return np.concatenate([emotion_offsets(), pose], axis=1)


def emotion_jaw_gains() -> np.ndarray:
    """Return (7,): what each emotion adds to a jaw factor of 1 at strength 1."""
    return np.array([EMOTION_JAW.get(name, 1.0) - 1.0 for name in EMOTION_NAMES], np.float32)


def mouth_to_blendshapes() -> np.ndarray:
    """Return (10, 52): the ARKit coefficients each mouth channel stands for."""
    table = {
        "jaw": {"jawOpen": 1.0},
        "close": {"mouthClose": 1.0},
        "pucker": {"mouthPucker": 1.0},
        "funnel": {"mouthFunnel": 1.0},
        "spread": {"mouthStretch": 0.6, "mouthSmile": 0.35, "mouthDimple": 0.15, "cheekSquint": 0.10},
        "lower_down": {"mouthLowerDown": 1.0},
        "upper_up": {"mouthUpperUp": 1.0},
        "roll_lower": {"mouthRollLower": 1.0},
        "press": {"mouthPress": 1.0, "mouthRollUpper": 0.4},
        "tongue_out": {"tongueOut": 1.0},
    }
    matrix = np.zeros((len(MOUTH_CHANNELS), len(BLENDSHAPE_NAMES)), np.float32)
    for row, channel in enumerate(MOUTH_CHANNELS):
        for name, value in table[channel].items():
            for full in sided(name):
                matrix[row, BLENDSHAPE_INDEX[full]] = value
    return matrix


def drift(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return (count, 3) degrees of slow head drift with the spread of DRIFT_DEGREES."""
    noise = rng.standard_normal((count + 8 * DRIFT_SIGMA_FRAMES, 3))
    smooth = gaussian_filter1d(noise, DRIFT_SIGMA_FRAMES, axis=0)[4 * DRIFT_SIGMA_FRAMES :][:count]
    return smooth * np.sqrt(2 * np.sqrt(np.pi) * DRIFT_SIGMA_FRAMES) * DRIFT_DEGREES


def bumps(count: int, centres: np.ndarray, heights: np.ndarray, sigma: float) -> np.ndarray:
    """Return (count,) a sum of Gaussian bumps."""
    frames = np.arange(count)[:, None]
    return (heights * np.exp(-0.5 * ((frames - centres) / sigma) ** 2)).sum(axis=1)


def perform(level: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (pose (N, 6), brow raise (N,)) for a level track (N,) in 0..1 (0 silence, 1 loud).

    pose: pitch, yaw, roll in degrees, then x, y, z in face units. Nods and brow raises fall on a share
    of the loudness peaks; the drift calms down in silence.
    """
    count = len(level)
    envelope = gaussian_filter1d(level.astype(np.float64), 3)
    peaks, _ = find_peaks(envelope, height=0.45, distance=8, prominence=0.08)
    nods = peaks[rng.random(len(peaks)) < NOD_CHANCE]
    raises = peaks[rng.random(len(peaks)) < BROW_CHANCE]
    activity = gaussian_filter1d((envelope > 0.2).astype(np.float64), 12)
    rotation = drift(count, rng) * (IDLE_SHARE + (1 - IDLE_SHARE) * activity)[:, None]
    rotation[:, 0] += bumps(count, nods, rng.uniform(*NOD_DEGREES, len(nods)), NOD_SIGMA_FRAMES)
    brow = bumps(count, raises, rng.uniform(*BROW_HEIGHT, len(raises)), BROW_SIGMA_FRAMES)
    translation = np.stack(
        [
            TRANSLATION_PER_DEGREE * rotation[:, 1],
            -TRANSLATION_PER_DEGREE * rotation[:, 0],
            0 * rotation[:, 0],
        ],
        axis=1,
    )
    return np.concatenate([rotation, translation], axis=1).astype(np.float32), np.clip(brow, 0, 0.6).astype(
        np.float32
    )
