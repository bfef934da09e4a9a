"""Frames that Takin-ADA's first stage learns from: pictures, guiding landmarks and head pose, by person and clip.

All frames lie in memory, as one safetensors file keeps them, so that a batch costs no decoding. Batches are functions
of seed and step alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core_models.face.opening_ratios import opening_ratios
from ..core_models.motion.keypoint_geometry import extractor_angles, keypoint_rotation
from ..core_models.strict_loading import read_weights
from ..core_models.types import frozen_array
from ..core_models.whole_file import renamed_when_whole
from .takin_ada_losses import GUIDING_LANDMARKS

MESH_OF_68 = {36: 33, 37: 159, 39: 133, 42: 362, 43: 386, 45: 263, 48: 61, 51: 0, 54: 291, 57: 17}
"""Point of the 478-point face mesh for each guiding landmark of the 68-point scheme.

Corners are the same points: 36/39 and 42/45 the outer and inner corners of the subject's right and the inner and outer
of the left eye, 48/54 the mouth's corners, 51/57 the outer middle of the upper and lower lip. 37 and 43, a third along
the upper lid in the 68 points, are the lid's middle here, which moves most."""
GUIDING_MESH_POINTS = tuple(MESH_OF_68[index] for index in GUIDING_LANDMARKS)
"""(10,) in the order of `GUIDING_LANDMARKS`, one for each guided keypoint."""
FRAMES_KIND = "takin_ada_frames_1"
CANDIDATES = 4
"""Further pictures drawn for equation 1, of which the one whose eyes and lips differ most is taken."""


@dataclass(frozen=True, eq=False)
class FrameSet:
    """F frames of known persons. Arrays are read-only: those that are given so are kept, others copied.

    pictures: (F, S, S, 3) uint8 RGB face crops. landmarks: (F, 10, 2) float32 x, y in half sides of the crop from its
    middle. angles: (F, 3) float32 degrees (pitch, yaw, roll) in the extractor's convention, the reference of the head
    pose. openings: (F, 3) float32 opening ratios of the eye at the picture's left, the one at its right, and the lips.
    persons, clips: (F,) int64; frames of a clip show one person and stand one after another.

    Raises ValueError for other shapes or dtypes, NaN, no frame, or a clip that shows two persons.
    """

    pictures: np.ndarray
    landmarks: np.ndarray
    angles: np.ndarray
    openings: np.ndarray
    persons: np.ndarray
    clips: np.ndarray

    def __post_init__(self) -> None:
        count, side = len(self.pictures), self.pictures.shape[1] if self.pictures.ndim == 4 else 0
        shapes = {
            "pictures": (count, side, side, 3),
            "landmarks": (count, len(GUIDING_MESH_POINTS), 2),
            "angles": (count, 3),
            "openings": (count, 3),
            "persons": (count,),
            "clips": (count,),
        }
        for name, shape in shapes.items():
            values = getattr(self, name)
            kind = {"pictures": np.uint8, "persons": np.int64, "clips": np.int64}.get(name, np.float32)
            if values.shape != shape or values.dtype != kind or 0 in shape:
                raise ValueError(
                    f"FrameSet.{name} is {values.dtype} {values.shape}, expected {np.dtype(kind)} {shape}, none 0"
                )
            if kind is np.float32 and not np.isfinite(values).all():
                raise ValueError(f"FrameSet.{name} holds NaN or infinity: leave out frames without a face")
            if values.flags.writeable:
                object.__setattr__(self, name, frozen_array(values, kind))
        pairs = np.unique(np.stack([self.clips, self.persons]), axis=1)
        if len(np.unique(pairs[0])) < pairs.shape[1]:
            raise ValueError(
                "a clip of the FrameSet shows more than one person: give each its own clip number"
            )

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def size(self) -> int:
        """Pixels of the pictures' sides."""
        return self.pictures.shape[1]

    def of_persons(self, persons: Iterable[int]) -> FrameSet:
        """Return the frames of some persons. Raises ValueError when there is none."""
        return self.rows(np.isin(self.persons, list(persons)))

    def rows(self, index: np.ndarray) -> FrameSet:
        """Return the frames that `index` picks. Raises ValueError when there is none."""
        return FrameSet(*(_given_away(getattr(self, f.name)[index]) for f in fields(self)))


def _given_away(array: np.ndarray) -> np.ndarray:
    """Return an array that nobody else holds, read-only, so that `FrameSet` keeps it without a copy."""
    array.setflags(write=False)
    return array


def joined_frames(parts: Iterable[FrameSet], count: int | None = None) -> FrameSet:
    """Return the frames of all parts; persons and clips keep their numbers.

    count: frames of all parts together. With it parts may be made one by one, and are not held beside what they are
    joined to; without it all are held. Raises ValueError for no part, or for parts of other sizes or another count.
    """
    if count is None:
        parts = list(parts)
        count = sum(len(part) for part in parts)
    joined: dict[str, np.ndarray] = {}
    filled = 0
    for part in parts:
        joined = joined or _room_for(count, part)
        _fill(joined, filled, part)
        filled += len(part)
    if not joined:
        raise ValueError("there are no frames to join: give at least one clip")
    if filled < count:
        raise ValueError(f"there are {filled} frames to join, expected {count}")
    return FrameSet(**{name: _given_away(values) for name, values in joined.items()})


def _room_for(count: int, part: FrameSet) -> dict[str, np.ndarray]:
    arrays = {f.name: getattr(part, f.name) for f in fields(FrameSet)}
    return {name: np.empty((count, *values.shape[1:]), values.dtype) for name, values in arrays.items()}


def _fill(joined: dict[str, np.ndarray], first: int, part: FrameSet) -> None:
    count, size = joined["pictures"].shape[:2]
    if part.size != size or first + len(part) > count:
        raise ValueError(
            f"a part of {len(part)} frames of {part.size} px does not go with {first} of {count} frames of {size} px"
        )
    for name, whole in joined.items():
        whole[first : first + len(part)] = getattr(part, name)


def frames_digest(frames: FrameSet) -> str:
    """Return what tells sets of frames apart: a SHA-256 of all they hold, as hexadecimal digits. It copies nothing."""
    digest = hashlib.sha256()
    for entry in fields(frames):
        digest.update(memoryview(np.ascontiguousarray(getattr(frames, entry.name))).cast("B"))
    return digest.hexdigest()


def guiding_landmarks(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Return (F, 10, 2) float32 in half sides from the middle, of mesh landmarks (F, 478, 2 or 3) in pixels.

    (0, 0) is the centre of the first pixel of pictures of `size` pixels, so pixel i lies at (2 i + 1) / size - 1.
    """
    points = np.asarray(landmarks, np.float64)[:, GUIDING_MESH_POINTS, :2]
    return ((2 * points + 1) / size - 1).astype(np.float32)


def extractor_degrees(rotation: np.ndarray) -> np.ndarray:
    """Return (F, 3) float32 degrees of the extractor's convention, of (F, 3) of the package's (`face.pose`)."""
    return extractor_angles(keypoint_rotation(rotation)).astype(np.float32)


def clip_frames(
    pictures: np.ndarray, landmarks: np.ndarray, rotation: np.ndarray, person: int, clip: int
) -> FrameSet:
    """Return the frames of one clip.

    pictures: (F, S, S, 3) uint8. landmarks: (F, 478, 3) pixels. rotation: (F, 3) degrees (pitch, yaw, roll), the
    package's convention: the known pose of made heads, `fit_head_pose` of others.
    Raises ValueError as `FrameSet` does.
    """
    count = len(pictures)
    return FrameSet(
        pictures=pictures,
        landmarks=guiding_landmarks(landmarks, pictures.shape[1]),
        angles=extractor_degrees(rotation),
        openings=opening_ratios(landmarks).astype(np.float32),
        persons=np.full(count, person, np.int64),
        clips=np.full(count, clip, np.int64),
    )


def write_frames(frames: FrameSet, path: str | os.PathLike[str]) -> None:
    """Write frames as one safetensors file, whole or not at all."""
    from safetensors.numpy import save_file

    arrays = {f.name: np.ascontiguousarray(getattr(frames, f.name)) for f in fields(frames)}
    with renamed_when_whole(Path(path)) as unfinished:
        save_file(
            arrays, str(unfinished), {"kind": FRAMES_KIND, "facts": json.dumps({"frames": len(frames)})}
        )


def read_frames(path: str | os.PathLike[str]) -> FrameSet:
    """Return the frames of a file. Raises FileNotFoundError, and ValueError for a file that is no such set."""
    file = read_weights(path)
    names = {f.name for f in fields(FrameSet)}
    if file.metadata.get("kind") != FRAMES_KIND or set(file.tensors) != names:
        raise ValueError(f"{path} holds no frames for Takin-ADA's first stage: make them anew")
    return FrameSet(**{name: _given_away(values.numpy()) for name, values in file.tensors.items()})


class FrameBatch(NamedTuple):
    """B samples. source, driving: of one clip; further: the same person with another expression.

    Pictures are (B, 3, S, S) float32 in 0..1, landmarks (B, 10, 2), angles (B, 3) degrees.
    """

    source: Tensor
    driving: Tensor
    further: Tensor
    source_landmarks: Tensor
    driving_landmarks: Tensor
    source_angles: Tensor
    driving_angles: Tensor


def pictures_of(frames: FrameSet, index: np.ndarray) -> Tensor:
    """Return the pictures that `index` picks, (B, 3, S, S) float32 in 0..1."""
    return torch.from_numpy(frames.pictures[index]).permute(0, 3, 1, 2).contiguous().float() / 255


class FrameSampler:
    """Draws samples of a `FrameSet`; every person counts alike. Raises ValueError when no clip has two frames."""

    def __init__(self, frames: FrameSet) -> None:
        self.frames = frames
        clips, counts = np.unique(frames.clips, return_counts=True)
        usable = set(clips[counts > 1].tolist())
        if not usable:
            raise ValueError("no clip has two frames: source and driving picture are to come from one clip")
        self._of_clip = {clip: np.flatnonzero(frames.clips == clip) for clip in usable}
        self._of_person: dict[int, np.ndarray] = {}
        self._clips_of: dict[int, list[int]] = {}
        for clip in sorted(usable):
            person = int(frames.persons[self._of_clip[clip][0]])
            self._clips_of.setdefault(person, []).append(clip)
            self._of_person[person] = np.flatnonzero(frames.persons == person)
        self._persons = sorted(self._clips_of)

    @cached_property
    def digest(self) -> str:
        """The frames' `frames_digest`, computed once."""
        return frames_digest(self.frames)

    def indices(self, size: int, seed: int, step: int) -> np.ndarray:
        """Return (size, 3) indices of source, driving and further frame: a function of the arguments alone."""
        rng = np.random.default_rng([seed, step])
        return np.stack([self._sample(rng) for _ in range(size)])

    def batch(self, size: int, seed: int, step: int) -> FrameBatch:
        """Return the samples of a step."""
        source, driving, further = self.indices(size, seed, step).T
        frames = self.frames
        numbers = [
            torch.from_numpy(values[index])
            for values in (frames.landmarks, frames.angles)
            for index in (source, driving)
        ]
        return FrameBatch(*(pictures_of(frames, index) for index in (source, driving, further)), *numbers)

    def _sample(self, rng: np.random.Generator) -> tuple[int, int, int]:
        person = self._persons[rng.integers(len(self._persons))]
        clips = self._clips_of[person]
        source, driving = rng.choice(self._of_clip[clips[rng.integers(len(clips))]], 2, replace=False)
        return int(source), int(driving), self._further(int(source), person, rng)

    def _further(self, source: int, person: int, rng: np.random.Generator) -> int:
        candidates = rng.choice(self._of_person[person], CANDIDATES)
        away = np.abs(self.frames.openings[candidates] - self.frames.openings[source]).sum(axis=1)
        return int(candidates[away.argmax()])
