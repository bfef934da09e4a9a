"""Made clips whose motion follows their sound in a known way, to see what a trained KDTalker has learned.

Sound: four latent signals carried by 512 features through a fixed map with noise. Mouth: its opening is a
co-articulated mixture of the first two signals, averaged over the frames around, so that no frame can be told from its
own sound alone; which mixture is a person's own, and is written in the canonical keypoints and nowhere else. It moves
along a direction of the expression that is the person's, too. Other movements of the mouth follow the four signals in
ways of their own, half of them as the person's mixture says. Head, size and brows drift by themselves, the head more
when the speech is strong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core_models.audio.wav2lip_encoder import FEATURE_SIZE
from ..core_models.keypoint_diffusion.motion_vectors import (
    CANONICAL_SIZE,
    EXPRESSION,
    PITCH,
    ROLL,
    SCALE,
    TRANSLATION,
    VECTOR_SIZE,
    YAW,
)
from .kdtalker_dataset import Clip

LATENTS = 4
MOVEMENTS = 14
SMEARED_FRAMES = 5
"""How far before and after a frame its mouth hears."""
MIXTURE_ANGLE = np.radians(50)
"""A person's mixture of the first two signals is the cosine and the sine of this angle, or of its negative."""
MOUTH_KEYPOINTS = (6, 12, 14, 17, 19, 20)
OPENING_SIZE, MOVEMENT_SIZE, BROW_SIZE = 0.03, 0.015, 0.008
JITTER = 2e-4
"""Of every number of the expression and of canonical keypoints, from frame to frame."""


@dataclass(frozen=True)
class MadeWorld:
    """What all clips share: the laws that are to be learned. Arrays are float64.

    features, offset: (512, 4) and (512,), from signals to sound features. canonical: (63,) the mean face;
    mixture_marks, direction_marks: (2, 63) how it shows a person's mixture and direction. openings: (3, 63) directions
    that a person's mouth direction is made of. movements: (14, 63) directions of what else the mouth does; kernels
    (14, 2 smeared_frames + 1) and phases (14,) radians: how that follows the signals. brows: (2, 63).
    """

    features: np.ndarray
    offset: np.ndarray
    canonical: np.ndarray
    mixture_marks: np.ndarray
    direction_marks: np.ndarray
    openings: np.ndarray
    movements: np.ndarray
    kernels: np.ndarray
    phases: np.ndarray
    brows: np.ndarray
    smeared_frames: int = SMEARED_FRAMES


@dataclass(frozen=True)
class Person:
    """mixture: (2,) weights of the first two signals, a unit vector. direction: (63,) unit vector of the expression.
    canonical: (63,) keypoints."""

    mixture: np.ndarray
    direction: np.ndarray
    canonical: np.ndarray


@dataclass(frozen=True)
class MadeClip:
    """A clip, who moves in it, and the (N,) opening of the mouth that its sound makes."""

    clip: Clip
    person: Person
    opening: np.ndarray


def made_world(seed: int = 7, smeared_frames: int = SMEARED_FRAMES) -> MadeWorld:
    """Return the laws. smeared_frames: 0 makes the mouth follow each frame's own sound."""
    rng = np.random.default_rng([seed, 0])
    return MadeWorld(
        features=rng.normal(size=(FEATURE_SIZE, LATENTS)),
        offset=rng.normal(size=FEATURE_SIZE),
        canonical=0.3 * rng.normal(size=CANONICAL_SIZE),
        mixture_marks=_unit_rows(rng.normal(size=(2, CANONICAL_SIZE))),
        direction_marks=_unit_rows(rng.normal(size=(2, CANONICAL_SIZE))),
        openings=_unit_rows(rng.normal(size=(3, CANONICAL_SIZE)) * _mouth_mask()),
        movements=_unit_rows(rng.normal(size=(MOVEMENTS, CANONICAL_SIZE)) * _mouth_mask()),
        kernels=_unit_rows(rng.uniform(0.3, 1, size=(MOVEMENTS, 2 * smeared_frames + 1))),
        phases=rng.uniform(-np.pi, np.pi, size=MOVEMENTS),
        brows=_unit_rows(rng.normal(size=(2, CANONICAL_SIZE)) * ~_mouth_mask()),
        smeared_frames=smeared_frames,
    )


def _mouth_mask() -> np.ndarray:
    mask = np.zeros((CANONICAL_SIZE // 3, 3), bool)
    mask[list(MOUTH_KEYPOINTS)] = True
    return mask.ravel()


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def made_person(world: MadeWorld, rng: np.random.Generator) -> Person:
    """Return somebody: the angle of the mixture and two traits of the direction, and a face that shows them."""
    angle = MIXTURE_ANGLE * rng.choice([-1, 1])
    mixture = np.array([np.cos(angle), np.sin(angle)])
    traits = rng.uniform(-1, 1, size=2)
    direction = world.openings[0] + 0.5 * traits @ world.openings[1:]
    shape = np.array([np.sin(angle), np.cos(angle)]) @ world.mixture_marks + traits @ world.direction_marks
    return Person(mixture, direction / np.linalg.norm(direction), world.canonical + 0.3 * shape)


def smooth_signals(count: int, frames: int, width: float, rng: np.random.Generator) -> np.ndarray:
    """Return (count, frames) of mean 0 and variance 1: white noise smoothed by a Gaussian of `width` frames."""
    reach = max(1, round(4 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    kernel /= np.linalg.norm(kernel)
    noise = rng.normal(size=(count, frames + 2 * reach))
    return np.stack([np.convolve(row, kernel, mode="valid") for row in noise])


def mouth_opening(
    signals: np.ndarray, mixture: np.ndarray, smeared_frames: int = SMEARED_FRAMES
) -> np.ndarray:
    """Return (N,) opening of signals (4, N + 2 smeared_frames): the mixture, averaged over the frames around."""
    size = 2 * smeared_frames + 1
    return np.convolve(mixture @ signals[:2], np.full(size, size**-0.5), mode="valid")


def other_movements(world: MadeWorld, signals: np.ndarray, person: Person) -> np.ndarray:
    """Return (N, MOVEMENTS): what the mouth does beside opening, for signals (4, N + 2 smeared_frames).

    Each follows one pair of signals, mixed at an angle of its own and smeared by a kernel of its own; the later half
    also turn with the person's mixture.
    """
    own_angle = np.arctan2(person.mixture[1], person.mixture[0])
    tracks = []
    for index, (phase, kernel) in enumerate(zip(world.phases, world.kernels, strict=True)):
        angle = phase + (own_angle if index >= MOVEMENTS // 2 else 0.0)
        pair = signals[2 * (index % 2) :][:2]
        tracks.append(np.convolve(np.cos(angle) * pair[0] + np.sin(angle) * pair[1], kernel, mode="valid"))
    return np.stack(tracks, axis=1)


def made_clip(world: MadeWorld, person: Person, frames: int, name: str, rng: np.random.Generator) -> MadeClip:
    """Return a clip of a person."""
    smear = world.smeared_frames
    signals = smooth_signals(LATENTS, frames + 2 * smear, 0.6, rng)
    opening = mouth_opening(signals, person.mixture, smear)
    heard = signals[:, smear : smear + frames]
    motion = np.zeros((frames, VECTOR_SIZE))
    motion[:, EXPRESSION] = _expression(world, person, opening, other_movements(world, signals, person), rng)
    _move_head(motion, np.abs(heard).mean(axis=0), rng)
    canonical = person.canonical + JITTER * rng.normal(size=(frames, CANONICAL_SIZE))
    return MadeClip(Clip(name, motion, canonical, _features(world, heard, rng)), person, opening)


def _expression(
    world: MadeWorld, person: Person, opening: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return (N, 63). opening: (N,). others: (N, MOVEMENTS)."""
    brows = smooth_signals(2, len(opening), 8.0, rng).T @ world.brows
    return (
        OPENING_SIZE * opening[:, None] * person.direction
        + MOVEMENT_SIZE * others @ world.movements
        + BROW_SIZE * brows
        + JITTER * rng.normal(size=(len(opening), CANONICAL_SIZE))
    )


def _move_head(motion: np.ndarray, energy: np.ndarray, rng: np.random.Generator) -> None:
    """Fill in scale, angles and translation of (N, 70) motion."""
    drift = smooth_signals(6, len(motion), 12.0, rng) * (0.5 + 0.5 * energy / energy.mean())
    for row, (channel, spread) in enumerate(((YAW, 8.0), (PITCH, 4.0), (ROLL, 3.0))):
        motion[:, channel] = spread * drift[row]
    motion[:, SCALE] = 1.5 + 0.03 * drift[3]
    motion[:, TRANSLATION.start : TRANSLATION.start + 2] = 0.03 * drift[4:].T


def _features(world: MadeWorld, heard: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (N, 512), at least 0 like Wav2Lip's."""
    clean = world.features @ heard + world.offset[:, None]
    return np.maximum(clean + 0.3 * rng.normal(size=clean.shape), 0).T


def made_clips(world: MadeWorld, persons: int, clips_each: int, frames: int, seed: int) -> list[MadeClip]:
    """Return clips of `persons` people, named person/clip. Seeds that differ give different people."""
    rng = np.random.default_rng([seed, 1])
    people = [made_person(world, rng) for _ in range(persons)]
    return [
        made_clip(world, person, frames, f"{seed}_{index:03d}/{take}", rng)
        for index, person in enumerate(people)
        for take in range(clips_each)
    ]


def opening_read_back(motion: np.ndarray, person: Person) -> np.ndarray:
    """Return (N,): (N, 70) motion along a person's own mouth direction, in the units of `MadeClip.opening`."""
    return motion[:, EXPRESSION] @ person.direction / OPENING_SIZE
