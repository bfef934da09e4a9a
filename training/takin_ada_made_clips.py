"""Clips for Takin-ADA's second stage out of made heads: what they say, and what a trained motion space sees of it.

The speech model is the embedded default's listener, as in `takin_ada_pocket_data`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..core_models.audio.mel import levelled_decibels, mel_decibels
from ..core_models.keypoint_diffusion.motion_layout import keypoint_layout
from ..core_models.keypoint_diffusion.motion_vectors import CANONICAL_SIZE, EXPRESSION
from ..core_models.keypoint_diffusion.pocket import PocketModel
from ..core_models.keypoint_diffusion.takin_ada import TakinADAModel, TakinADAParameters
from ..core_models.motion.keypoint_geometry import KEYPOINT_COUNT
from ..core_models.motion.keypoint_transform import rotation_of_angles
from ..core_models.rendering.motion_space import MotionSpaceNetworks, SpaceMotion
from .made_heads.clip import MadeClip, made_clip
from .made_heads.identity import made_identity
from .made_heads.performance import MadePerformance, made_performances
from .takin_ada_frame_sources import frames_of_made_clip, made_drawn_size
from .takin_ada_frames import FrameSet, pictures_of
from .takin_ada_motion_space_evaluation import motions_of
from .takin_ada_pocket_data import heard_layers, pocket_sized
from .takin_ada_speech import SpeechClip

GUIDED_LIPS = (6, 7, 8, 9)
"""Keypoints of the mouth in a motion space whose landmark loss guided the first ten: corners, upper and lower lip."""
UPPER_LIP, LOWER_LIP = 8, 9


@dataclass(frozen=True)
class SeenClip:
    """A made clip as the motion space sees it. frames: the pictures it read. vectors: (N, 70) float32.
    canonical: (N, 63) float32, of each picture."""

    clip: MadeClip
    frames: FrameSet
    vectors: np.ndarray
    canonical: np.ndarray


def small_keypoint_sizes(pocket: PocketModel) -> TakinADAParameters:
    """Return the sizes of the small model over a motion space of 21 keypoints; it hears and streams as the pocket's."""
    small = pocket_sized(pocket)
    return replace(
        small,
        layout=keypoint_layout(GUIDED_LIPS),
        source_size=CANONICAL_SIZE,
        generator=replace(small.generator, width=256),
        closes_lips=False,
    )


def vectors_of(motion: SpaceMotion) -> np.ndarray:
    """Return (N, 70) float32 motion vectors, in `motion_vectors`' order, of what N pictures show; the size is 1."""
    pitch, yaw, roll = motion.angles.T
    size = torch.ones_like(pitch) if motion.scale is None else motion.scale
    head = torch.stack([size, yaw, pitch, roll], dim=1)
    return torch.cat([head, motion.translation, motion.deformation.flatten(1)], dim=1).float().numpy()


def motion_of_vectors(vectors: np.ndarray, like: SpaceMotion) -> SpaceMotion:
    """Return the motion of (N, 70) vectors on one picture's canonical keypoints, for `MotionSpaceNetworks.render`."""
    rows = torch.from_numpy(np.asarray(vectors, np.float32))
    angles = rows[:, [2, 1, 3]]
    return SpaceMotion(
        canonical=like.canonical.expand(len(rows), -1, -1),
        rotation=rotation_of_angles(angles),
        angles=angles,
        deformation=rows[:, EXPRESSION].unflatten(1, (KEYPOINT_COUNT, 3)),
        translation=rows[:, 4:7],
        scale=None if like.scale is None else rows[:, 0],
        transform=like.transform,
    )


def seen(networks: MotionSpaceNetworks, clip: MadeClip) -> SeenClip:
    """Return a made clip as the networks see it."""
    frames = frames_of_made_clip(clip, networks.parameters_used.picture_size, 0)
    motion = motions_of(networks, pictures_of(frames, np.arange(len(frames))))
    canonical = motion.canonical.flatten(1).float().numpy()
    return SeenClip(clip, frames, vectors_of(motion), canonical)


def spoken_clips(
    networks: MotionSpaceNetworks,
    identities: Sequence[int],
    clips: int,
    seconds: float,
    seed: int,
    performances: Iterator[MadePerformance] | None = None,
) -> Iterator[SeenClip]:
    """Yield `clips` clips of each identity, speaking, in emotions drawn by the seed.

    performances: in place of those. Raises SynthesiserMissingError where espeak-ng is missing.
    """
    count = len(identities) * clips
    performances = performances or made_performances(count, seed, seconds)
    size = made_drawn_size(networks.parameters_used.picture_size)
    for identity in identities:
        for _ in range(clips):
            yield seen(networks, made_clip(made_identity(identity), next(performances), size))


def speech_clip(model: TakinADAModel, seen_clip: SeenClip, name: str) -> SpeechClip:
    """Return what the second stage learns from a clip. model: whose listener hears; its own weights are not used."""
    clip = seen_clip.clip
    return SpeechClip(
        name,
        heard_layers(model, heard_decibels(clip)),
        seen_clip.vectors,
        seen_clip.canonical[0],
        clip.emotion.weights[0] * clip.emotion.strengths[0],
    )


def heard_decibels(clip: MadeClip) -> np.ndarray:
    """Return (4N, 80) decibels of a clip's sound, brought to the usual level."""
    return levelled_decibels(mel_decibels(np.asarray(clip.sound.waveform)[0]))


def lip_gap(vectors: np.ndarray, canonical: np.ndarray) -> np.ndarray:
    """Return (N,): how far apart the guided lips are in the head's own frame, of (N, 70) vectors on (63,) keypoints."""
    points = canonical.reshape(-1, 3) + vectors[:, EXPRESSION].reshape(len(vectors), KEYPOINT_COUNT, 3)
    return points[:, LOWER_LIP, 1] - points[:, UPPER_LIP, 1]
