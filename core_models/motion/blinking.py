"""What faces do by themselves: blinks, small gaze shifts, slow head drift. Procedural and seeded.

Each `..._track` gives plain numbers over time; each `add_...` puts them onto a motion.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..types import BLENDSHAPE_INDEX, BLENDSHAPES, FaceMotion
from .rotation import angles_from_quaternions, multiply, quaternions_from_angles

BLINKS_PER_MINUTE = 15.0
"""Intervals of 2 to 6 s, as in relaxed talk."""
MOST_BLINKS_PER_MINUTE = 30.0
BLINK_SECONDS = (0.15, 0.3)
CLOSING_SHARE = 0.35
"""Lids fall faster than they rise: this share of a blink is closing."""
BLINK_DISTANCE = 0.6
"""Seconds around a blink that a motion already has in which none is added."""

GAZE_SHIFTS_PER_MINUTE = 40.0
GAZE_REACH = (0.22, 0.10)
"""Standard deviation of gaze targets, sideways and upwards, as eyeLook coefficients."""
LARGEST_GAZE = 0.5
SACCADE_SECONDS = 0.05

DRIFT_DEGREES = (1.8, 3.2, 1.4)
"""Standard deviation of the drift's pitch, yaw and roll."""
DRIFT_HERTZ = (0.05, 0.45)
DRIFT_WAVES = 8
_BLINKS = [BLENDSHAPE_INDEX["eyeBlinkLeft"], BLENDSHAPE_INDEX["eyeBlinkRight"]]
_WIDE = [BLENDSHAPE_INDEX["eyeWideLeft"], BLENDSHAPE_INDEX["eyeWideRight"]]
_GAZES = (
    ("eyeLookOutLeft", "eyeLookInLeft", 0),  # the person's left is the picture's right
    ("eyeLookInRight", "eyeLookOutRight", 0),
    ("eyeLookUpLeft", "eyeLookDownLeft", 1),
    ("eyeLookUpRight", "eyeLookDownRight", 1),
)


def blink_track(
    frame_count: int, fps: float, rng: np.random.Generator, per_minute: float = BLINKS_PER_MINUTE
) -> np.ndarray:
    """Return (N,) float64 in 0..1: how far the lids are closed, blinks only.

    Intervals from blink to blink are uniform between half and one and a half of the mean (2 to 6 s at 15 a
    minute). Every blink is fully closed in one frame.
    Raises ValueError unless per_minute is in 0..30.
    """
    if not 0 <= per_minute <= MOST_BLINKS_PER_MINUTE:
        raise ValueError(f"per_minute is {per_minute}, expected 0 to {MOST_BLINKS_PER_MINUTE:g} blinks")
    closure = np.zeros(frame_count)
    if per_minute == 0:
        return closure
    for time in _event_times(frame_count / fps, 60 / per_minute, rng):
        duration = rng.uniform(*BLINK_SECONDS)
        peak, reach = round(time * fps), int(duration * fps) + 1
        frames = np.arange(max(0, peak - reach), min(frame_count, peak + reach + 1))
        closure[frames] = np.maximum(closure[frames], _blink_shape((frames - peak) / fps, duration))
    return closure


def _event_times(duration: float, mean_interval: float, rng: np.random.Generator) -> list[float]:
    """Return times of events, `mean_interval` seconds apart on average, the first one a little earlier."""
    times = []
    time = rng.uniform(0.2, 1.0) * mean_interval
    while time < duration:
        times.append(time)
        time += rng.uniform(0.5, 1.5) * mean_interval
    return times


def blink_shape(fps: float, rng: np.random.Generator) -> np.ndarray:
    """Return (N,) float64 in 0..1: one blink, fully closed in one frame, with an open frame on each side."""
    duration = rng.uniform(*BLINK_SECONDS)
    reach = int(duration * fps) + 1
    shape = _blink_shape(np.arange(-reach, reach + 1) / fps, duration)
    closed = np.flatnonzero(shape > 0)
    return np.pad(shape[closed[0] : closed[-1] + 1], 1)


def _blink_shape(time: np.ndarray, duration: float) -> np.ndarray:
    """Return the closure at `time` seconds from its peak: half cosines down and, more slowly, up."""
    closing = duration * CLOSING_SHARE
    phase = np.where(time < 0, -time / closing, time / (duration - closing))
    return (1 + np.cos(np.pi * np.minimum(phase, 1))) / 2


def add_blinks(
    motion: FaceMotion, rng: np.random.Generator, per_minute: float = BLINKS_PER_MINUTE
) -> FaceMotion:
    """Return the motion with blinks added, none where it blinks itself. See `blink_track`.

    While the lids close, eyeWide goes back.
    """
    motion.require_space(BLENDSHAPES)
    closure = blink_track(motion.frame_count, motion.fps, rng, per_minute)
    closure = _without_those_near(closure, motion.expression[:, _BLINKS].max(axis=1), motion.fps)
    return dataclasses.replace(motion, expression=with_blinks(motion.expression, closure))


def with_blinks(expression: np.ndarray, closure: np.ndarray) -> np.ndarray:
    """Return coefficients (N, 52) with the lids closed by (N,); while they close, eyeWide goes back."""
    result = expression.copy()
    result[:, _BLINKS] = np.maximum(result[:, _BLINKS], closure[:, None])
    result[:, _WIDE] *= 1 - closure[:, None]
    return result


def _without_those_near(closure: np.ndarray, present: np.ndarray, fps: float) -> np.ndarray:
    """Return `closure` without the blinks whose peak is within BLINK_DISTANCE of a blink that is present."""
    result = closure.copy()
    closed = np.flatnonzero(present > 0.5)
    for first, stop in runs(closure > 0):
        peak = first + int(np.argmax(closure[first:stop]))
        if len(closed) and np.abs(closed - peak).min() <= BLINK_DISTANCE * fps:
            result[first:stop] = 0
    return result


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return (first, stop) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]


def gaze_track(
    frame_count: int,
    fps: float,
    rng: np.random.Generator,
    per_minute: float = GAZE_SHIFTS_PER_MINUTE,
    reach: tuple[float, float] = GAZE_REACH,
) -> np.ndarray:
    """Return (N, 2) float64: where the eyes look, x to the picture's right and y up, as eyeLook coefficients.

    Fixations with jumps of 50 ms between them, one frame in between at 25 fps. Every other fixation is on the
    viewer, at (0, 0). At most 0.5 to each side.
    """
    times = _event_times(frame_count / fps, 60 / per_minute, rng) if per_minute > 0 else []
    targets = np.zeros((len(times) + 1, 2))
    for index in range(1, len(targets), 2):
        targets[index] = np.clip(rng.normal(0, reach), -LARGEST_GAZE, LARGEST_GAZE)
    middles = (np.arange(frame_count) + 0.5) / fps
    gaze = np.zeros((frame_count, 2))
    for time, step in zip(times, np.diff(targets, axis=0), strict=True):
        gaze += np.clip((middles - time) / SACCADE_SECONDS, 0, 1)[:, None] * step
    return gaze


def add_saccades(
    motion: FaceMotion,
    rng: np.random.Generator,
    per_minute: float = GAZE_SHIFTS_PER_MINUTE,
    reach: tuple[float, float] = GAZE_REACH,
) -> FaceMotion:
    """Return the motion with small gaze shifts added to the gaze it has. See `gaze_track`."""
    motion.require_space(BLENDSHAPES)
    gaze = gaze_track(motion.frame_count, motion.fps, rng, per_minute, reach)
    return dataclasses.replace(motion, expression=with_gaze(motion.expression, gaze))


def with_gaze(expression: np.ndarray, gaze: np.ndarray) -> np.ndarray:
    """Return coefficients (N, 52) that look further away by (N, 2): x to the picture's right, y up."""
    result = expression.copy()
    for positive, negative, axis in _GAZES:
        towards, away = BLENDSHAPE_INDEX[positive], BLENDSHAPE_INDEX[negative]
        direction = result[:, towards] - result[:, away] + gaze[:, axis]
        result[:, towards] = np.clip(direction, 0, 1)
        result[:, away] = np.clip(-direction, 0, 1)
    return result


def drift_track(
    frame_count: int,
    fps: float,
    rng: np.random.Generator,
    degrees: tuple[float, float, float] = DRIFT_DEGREES,
) -> np.ndarray:
    """Return (N, 3) degrees (pitch, yaw, roll): slow wandering of standard deviation `degrees`.

    A sum of waves of 0.05 to 0.45 Hz with random phases.
    """
    middles = (np.arange(frame_count) + 0.5) / fps
    hertz = np.exp(rng.uniform(*np.log(DRIFT_HERTZ), size=(3, DRIFT_WAVES)))
    phases = rng.uniform(0, 2 * np.pi, size=(3, DRIFT_WAVES))
    waves = np.sin(2 * np.pi * hertz[..., None] * middles + phases[..., None])
    return (waves.sum(axis=1) * np.sqrt(2 / DRIFT_WAVES)).T * np.asarray(degrees)


def add_head_drift(
    motion: FaceMotion,
    rng: np.random.Generator,
    degrees: tuple[float, float, float] = DRIFT_DEGREES,
    activity: np.ndarray | float = 1.0,
) -> FaceMotion:
    """Return the motion with slow head drift on top of its rotation. See `drift_track`.

    activity: a factor, or an (N,) array of factors, such as the loudness of the speech.
    """
    drift = drift_track(motion.frame_count, motion.fps, rng, degrees)
    drift = drift * np.broadcast_to(np.asarray(activity, np.float64), (motion.frame_count,))[:, None]
    turned = multiply(quaternions_from_angles(drift), quaternions_from_angles(motion.rotation))
    return dataclasses.replace(motion, rotation=angles_from_quaternions(turned))
