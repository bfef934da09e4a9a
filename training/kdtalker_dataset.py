"""What KDTalker is trained on: clips of a talking face's motion and of what was heard, and windows drawn from them.

A dataset is a folder of clips, one safetensors file each, at any depth, and `norm.npz` with their statistics. A clip
holds, for N frames at 25 fps, `motion` (N, 70) as `motion_vectors` orders it, `canonical` (N, 63) keypoints and
`audio` (N, 512) Wav2Lip features; all float32.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np

from ..core_models.audio.wav2lip_encoder import FEATURE_SIZE
from ..core_models.keypoint_diffusion.motion_vectors import CANONICAL_SIZE, VECTOR_SIZE
from ..core_models.types import frozen_array
from ..core_models.whole_file import renamed_when_whole
from .clip_file import opened_clip_file, require_finite

CLIP_SUFFIX = ".safetensors"
CLIP_ENTRY = "kdtalker_clip"
CLIP_VERSION = "1"
"""Entry and value of a file's metadata that say it is a clip."""
STATISTICS_FILE = "norm.npz"
UNHEARD_FRAMES = 2
"""Frames at a clip's end whose sound features already look beyond it; the release leaves them out."""

_SIZES = {"motion": VECTOR_SIZE, "canonical": CANONICAL_SIZE, "audio": FEATURE_SIZE}
_NAMED = 5

_EPOCHS, _WINDOWS = 0, 1
"""Streams of random numbers that are independent of each other."""


class ClipWindow(NamedTuple):
    """A piece of a clip, float32: canonical (63,) and reference motion (70,) of one frame, and the motion (L, 70) and
    audio (L, 512) of the L frames after it."""

    canonical: np.ndarray
    reference: np.ndarray
    motion: np.ndarray
    audio: np.ndarray


class ClipSource(Protocol):
    """A clip that windows can be cut from, in memory or on disk."""

    name: str
    frames: int

    def window(self, first: int, length: int) -> ClipWindow:
        """Return frame `first` as reference and the `length` frames after it."""


@dataclass(frozen=True)
class Clip:
    """A clip in memory. name: for messages. motion (N, 70), canonical (N, 63), audio (N, 512), float32.

    Raises ValueError for other shapes, NaN or infinity, or no frames.
    """

    name: str
    motion: np.ndarray
    canonical: np.ndarray
    audio: np.ndarray

    def __post_init__(self) -> None:
        for part in _SIZES:
            object.__setattr__(self, part, frozen_array(getattr(self, part)))
        _require_shapes(self.name, {part: getattr(self, part).shape for part in _SIZES})
        for part in _SIZES:
            require_finite(getattr(self, part), part, self.name)

    @property
    def frames(self) -> int:
        """N."""
        return len(self.motion)

    def window(self, first: int, length: int) -> ClipWindow:
        """Return frame `first` as reference and the `length` frames after it."""
        after = slice(first + 1, first + 1 + length)
        return ClipWindow(self.canonical[first], self.motion[first], self.motion[after], self.audio[after])


@dataclass(frozen=True)
class ClipFile:
    """A clip on disk, of which only what is asked for is read. name: its path within the dataset. frames: N."""

    path: Path
    name: str
    frames: int

    def read(self, parts: Sequence[str] = tuple(_SIZES)) -> dict[str, np.ndarray]:
        """Return whole arrays of it by name. Raises ValueError for NaN or infinity."""
        with opened_clip_file(self.path) as file:
            arrays = {part: file.get_tensor(part) for part in parts}
        for part, values in arrays.items():
            require_finite(values, part, self.name)
        return arrays

    def loaded(self) -> Clip:
        """Return it in memory."""
        return Clip(self.name, **self.read())

    def window(self, first: int, length: int) -> ClipWindow:
        """Return frame `first` as reference and the `length` frames after it. Raises ValueError for NaN or infinity."""
        stop = first + 1 + length
        with opened_clip_file(self.path) as file:
            canonical = file.get_slice("canonical")[first : first + 1]
            motion = file.get_slice("motion")[first:stop]
            audio = file.get_slice("audio")[first + 1 : stop]
        for part, values in (("canonical", canonical), ("motion", motion), ("audio", audio)):
            require_finite(values, part, self.name)
        return ClipWindow(canonical[0], motion[0], motion[1:], audio)


def _require_shapes(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    frames = shapes["motion"][0] if shapes["motion"] else 0
    for part, size in _SIZES.items():
        if shapes[part] != (frames, size) or frames == 0:
            raise ValueError(
                f"{name}: {part} has shape {shapes[part]}, expected ({frames or 'frames'}, {size}): extract the "
                "clip again"
            )


def write_clip(path: Path, clip: Clip, facts: Mapping[str, str] | None = None) -> None:
    """Write a clip as a file that appears under its name when it is whole. facts: further entries of its metadata.

    Raises OSError when the folder is missing or cannot be written to.
    """
    from safetensors.numpy import save

    content = save(
        {part: np.array(getattr(clip, part)) for part in _SIZES},
        {**(facts or {}), CLIP_ENTRY: CLIP_VERSION},
    )
    with renamed_when_whole(path) as unfinished:
        unfinished.write_bytes(content)


def clip_facts(path: Path) -> dict[str, str]:
    """Return a clip file's metadata. Raises OSError, and ValueError for a file that is no safetensors file."""
    with opened_clip_file(path) as file:
        return file.metadata() or {}


def open_clip(path: Path, name: str | None = None) -> ClipFile:
    """Return a clip on disk after a look at its header.

    Raises OSError, and ValueError for a file that is not a clip or lacks a part of one.
    """
    name = name or path.name
    with opened_clip_file(path) as file:
        version = (file.metadata() or {}).get(CLIP_ENTRY)
        present = set(file.keys())
        if version != CLIP_VERSION or not set(_SIZES) <= present:
            raise ValueError(
                f"{path} is not a clip for KDTalker (it holds {', '.join(sorted(present)[:_NAMED]) or 'nothing'}): "
                "take it out of the folder, or make it with 'talking-portrait train kdtalker extract'"
            )
        shapes = {part: tuple(file.get_slice(part).get_shape()) for part in _SIZES}
    _require_shapes(name, shapes)
    return ClipFile(path, name, shapes["motion"][0])


def open_clips(folder: str | os.PathLike[str]) -> list[ClipFile]:
    """Return all clips below a folder, ordered by name; only their headers are read.

    Raises OSError for a folder that is missing, is none or cannot be read, ValueError when it holds no clip or a
    safetensors file of another kind.
    """
    folder = Path(folder)
    os.scandir(folder).close()  # gives the system's own error
    paths = (path for path in folder.rglob(f"*{CLIP_SUFFIX}") if not path.name.startswith("."))
    named = sorted((path.relative_to(folder).as_posix(), path) for path in paths)
    if not named:
        raise ValueError(
            f"{folder} holds no clips (*{CLIP_SUFFIX}): make them with "
            f"'talking-portrait train kdtalker extract VIDEOS --out {folder}'"
        )
    return [open_clip(path, name) for name, path in named]


def usable_starts(frames: int, window: int) -> int:
    """Return how many frames of a clip may be a reference: 0..n - window, n = min(frames - 1, frames - 2).

    The window's last frame is then at most the last but two, as in the release.
    """
    return max(0, min(frames - 1, frames - UNHEARD_FRAMES) - window + 1)


def shortest_clip(window: int) -> int:
    """Return how many frames a clip needs to give one window."""
    return window + UNHEARD_FRAMES


def long_enough(clips: Iterable[ClipSource], window: int) -> tuple[list[ClipSource], list[str]]:
    """Return the clips that give a window, and the names of those that are too short.

    Raises ValueError naming them when all are.
    """
    clips = list(clips)
    fitting = [clip for clip in clips if usable_starts(clip.frames, window)]
    short = [
        f"{clip.name} ({clip.frames} frames)" for clip in clips if not usable_starts(clip.frames, window)
    ]
    if not fitting:
        raise ValueError(
            f"no clip has the {shortest_clip(window)} frames that a window of {window} needs: {shown(short) or 'none'}"
        )
    return fitting, short


def shown(names: Sequence[str]) -> str:
    """Return the first names of a list for a message, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def person_of(name: str) -> str:
    """Return what stands for the person in a clip's name: the first folder, or the clip where there is none."""
    return PurePosixPath(name).parts[0]


def split_by_person(
    clips: Sequence[ClipSource], held_out_share: float
) -> tuple[list[ClipSource], list[ClipSource]]:
    """Return (training, held-out) clips; a person is in one of them only, whatever else is in the dataset.

    Persons are ordered by a hash of their names; the first `held_out_share` of them, at least one where there are two,
    are held out. A share of 0 holds out none. Raises ValueError for a share outside 0..0.9.
    """
    if not 0 <= held_out_share <= 0.9:
        raise ValueError(f"held_out_share is {held_out_share}, expected 0 to 0.9")
    persons = sorted({person_of(clip.name) for clip in clips}, key=_hashed)
    count = round(held_out_share * len(persons))
    if held_out_share > 0:
        count = min(max(1, count), len(persons) - 1)
    held_out = set(persons[:count])
    return (
        [clip for clip in clips if person_of(clip.name) not in held_out],
        [clip for clip in clips if person_of(clip.name) in held_out],
    )


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


class WindowDraw(NamedTuple):
    """Which windows make a batch: (B,) clip numbers, and (B,) frames that are their references."""

    clips: np.ndarray
    firsts: np.ndarray


def draw_windows(starts: np.ndarray, batch: int, seed: int, step: int) -> WindowDraw:
    """Return the windows of training step `step`, a function of nothing but the arguments.

    starts: (clips,) how many frames of each clip may be a reference, > 0. As in the release, every clip gives one
    window at a random place before any gives a second, in an order that is drawn anew each time.
    """
    places = step * batch + np.arange(batch)
    epochs, inside = np.divmod(places, len(starts))
    clips = np.empty(batch, np.int64)
    for epoch in np.unique(epochs):
        order = np.random.default_rng([seed, _EPOCHS, int(epoch)]).permutation(len(starts))
        clips[epochs == epoch] = order[inside[epochs == epoch]]
    firsts = np.random.default_rng([seed, _WINDOWS, step]).integers(0, starts[clips])
    return WindowDraw(clips, firsts)


def read_windows(clips: Sequence[ClipSource], drawn: WindowDraw, length: int) -> ClipWindow:
    """Return the drawn windows, each array with a leading axis for the batch."""
    windows = [clips[clip].window(int(first), length) for clip, first in zip(*drawn, strict=True)]
    return ClipWindow(*(np.stack(parts) for parts in zip(*windows, strict=True)))


def data_digest(clips: Iterable[ClipSource]) -> str:
    """Return a short text that changes when clips come, go or change length."""
    lines = "\n".join(f"{clip.name} {clip.frames}" for clip in clips)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def read_into_memory(
    clips: Sequence[ClipFile], progress: Callable[[int, int], None] | None = None
) -> list[Clip]:
    """Return clips in memory; `progress` is called with (clips done, total)."""
    loaded = []
    for clip in clips:
        loaded.append(clip.loaded())
        if progress is not None:
            progress(len(loaded), len(clips))
    return loaded
