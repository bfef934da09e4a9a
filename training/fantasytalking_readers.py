"""What reads mouth, head and person off frames of 64 pixels in which heads move about; it measures, it is no product.

Three small networks in one file: the frame reader of the other system, one for where neck and face are, and one for
who it is. All learn from made frames whose truth is known, as they are and as the autoencoder gives them back.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..core_models.strict_loading import load_strict
from .actalker_data import FRAME_SIZE
from .actalker_readers import READINGS, FrameReader, fitted_frame_reader, reading_quality
from .correlation import correlation
from .fantasytalking_data import TalkingClip
from .identity_reader import IdentityReader, face_middles, fitted_identity_reader
from .opening_regressor import FittingParameters, fitted
from .stepwise_training import write_safetensors

MOUTH, YAW, PITCH = (READINGS.index(name) for name in ("mouth_opening", "yaw", "pitch"))
PLACES = ("neck x", "neck y", "face x", "face y")
"""What the place reader reads, in pixels: top of the neck, and middle of the face's box."""
MIDDLE = (FRAME_SIZE - 1) / 2
"""Of a picture, in pixels."""
_MIRRORED = (-1.0, 1.0, -1.0, 1.0)
_WIDTHS = (3, 16, 32, 48)
_HIDDEN, _GROUPS, _BATCH, _READ_AT_ONCE = 96, 8, 48, 256


class PlaceReader(nn.Module):
    """(B, 3, 64, 64) pictures in 0..1 to (B, 4): PLACES from the picture's middle."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(_WIDTHS):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(_GROUPS, after),
                nn.ReLU(),
            ]
        left = (FRAME_SIZE >> (len(_WIDTHS) - 1)) ** 2
        layers += [nn.Flatten(), nn.Linear(_WIDTHS[-1] * left, _HIDDEN), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(_HIDDEN, len(PLACES)))
        self.register_buffer("mean", torch.zeros(len(PLACES)))
        self.register_buffer("deviation", torch.ones(len(PLACES)))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (B, 4) places of (B, 3, 64, 64) pictures in 0..1."""
        return self.layers(pictures) * self.deviation + self.mean

    @torch.no_grad()
    def read(self, frames: np.ndarray) -> np.ndarray:
        """Return (N, 4) float32 PLACES in pixels of frames (N, 64, 64, 3) uint8."""
        parts = [frames[first : first + _READ_AT_ONCE] for first in range(0, len(frames), _READ_AT_ONCE)]
        return torch.cat([self(_pictures(part)) for part in parts]).numpy() + np.float32(MIDDLE)


def _pictures(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float() / 255


def true_places(clip: TalkingClip) -> np.ndarray:
    """Return (N, 4) float32: what PLACES of a clip's frames truly are."""
    corners = clip.face_box.reshape(-1, 2, 2).astype(np.float32) - 0.5
    return np.concatenate([clip.place, corners.mean(axis=1)], axis=1)


@dataclass(frozen=True)
class ClipReadings:
    """What is read off N frames. mouth: (N,) opening. turn: (N, 2) degrees of yaw and pitch. place: (N, 2) x and y of
    the neck in pixels. person: (32,) embedding of length 1."""

    mouth: np.ndarray
    turn: np.ndarray
    place: np.ndarray
    person: np.ndarray

    @property
    def face_motion(self) -> float:
        """How much the head turns: the spread of yaw and pitch together, degrees."""
        return spread(self.turn)

    @property
    def body_motion(self) -> float:
        """How much the neck moves: the spread of x and y together, pixels."""
        return spread(self.place)


def spread(track: np.ndarray) -> float:
    """Return the square root of the summed variances over time of (N, C)."""
    return float(np.sqrt(np.var(np.asarray(track, np.float64), axis=0).sum()))


class TalkingReader(nn.Module):
    """All that is read off frames."""

    def __init__(self) -> None:
        super().__init__()
        self.face, self.place, self.people = FrameReader(), PlaceReader(), IdentityReader()

    def read(self, frames: np.ndarray) -> ClipReadings:
        """Return what frames (N, 64, 64, 3) uint8 RGB show. Raises ValueError for another shape or dtype, or none."""
        read = self.face.read(frames)
        places = self.place.read(frames)
        return ClipReadings(
            mouth=read[:, MOUTH],
            turn=read[:, [YAW, PITCH]],
            place=places[:, :2],
            person=self.people.person(face_middles(frames, places[:, 2:])),
        )


@dataclass(frozen=True)
class ReaderSteps:
    """Updates of each of the three networks."""

    face: int = 1500
    place: int = 800
    people: int = 800


def fitted_talking_reader(
    clips: Sequence[TalkingClip],
    seen: Sequence[np.ndarray] = (),
    steps: ReaderSteps = ReaderSteps(),
    seed: int = 0,
) -> TalkingReader:
    """Return a reader fitted to clips, in evaluation mode; the same arguments give the same one.

    seen: the clips' frames once more, (N, 64, 64, 3) uint8 each, as an autoencoder gives them back.
    Raises ValueError for clips of fewer than two people, other numbers of frames, or steps below 1.
    """
    people = faces_of_people(clips, seen)
    reader = TalkingReader()
    reader.people = fitted_identity_reader(list(people.values()), steps.people, seed)
    reader.place = fitted_place_reader(clips, seen, steps.place, seed)
    reader.face = fitted_frame_reader(clips, seen, steps.face, seed)
    return reader.eval().requires_grad_(False)


def faces_of_people(
    clips: Sequence[TalkingClip], seen: Sequence[np.ndarray] = ()
) -> dict[int, list[np.ndarray]]:
    """Return the middles of the faces, (N, 36, 28, 3) uint8 of each clip, by the person's number."""
    people: dict[int, list[np.ndarray]] = {}
    for frames, clip in zip([*(clip.frames for clip in clips), *seen], [*clips, *clips], strict=False):
        faces = face_middles(frames, true_places(clip)[:, 2:])
        people.setdefault(clip.identity_seed, []).append(faces)
    return people


def fitted_place_reader(
    clips: Sequence[TalkingClip], seen: Sequence[np.ndarray] = (), steps: int = 800, seed: int = 0
) -> PlaceReader:
    """Return a place reader fitted to clips and to their mirror images. Arguments as of `fitted_talking_reader`."""
    frames = np.concatenate([*(clip.frames for clip in clips), *seen])
    truth = np.concatenate([true_places(clip) for clip in clips] * (2 if seen else 1)) - np.float32(MIDDLE)
    wanted = torch.from_numpy(np.concatenate([truth, truth * np.float32(_MIRRORED)]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = PlaceReader()

    def read(index: np.ndarray) -> Tensor:
        pictures = _pictures(frames[index % len(frames)])
        mirrored = torch.from_numpy(index >= len(frames))[:, None, None, None]
        return reader(torch.where(mirrored, pictures.flip(3), pictures))

    return fitted(reader, read, wanted, FittingParameters(steps, seed, _BATCH))


def reader_quality(reader: TalkingReader, clips: Sequence[TalkingClip]) -> dict[str, float]:
    """Return how well clips are read: correlation within clips of each reading, and "people found".

    That is the share of clips whose likest other clip is of the same person, among clips of people who have several.
    Raises ValueError for no clips.
    """
    found = reading_quality(reader.face, clips)
    quality = dict(zip(READINGS, map(float, found.within), strict=True))
    within = [correlation(reader.place.read(clip.frames), true_places(clip)) for clip in clips]
    quality |= dict(zip(PLACES, map(float, np.mean(within, axis=0)), strict=True))
    return {**quality, "people found": people_found(reader, clips)}


def people_found(reader: TalkingReader, clips: Sequence[TalkingClip]) -> float:
    """Return the share of clips whose likest other clip is of the same person; NaN where nobody has two."""
    seeds = np.array([clip.identity_seed for clip in clips])
    embedded = np.stack([reader.read(clip.frames).person for clip in clips])
    alike = embedded @ embedded.T
    np.fill_diagonal(alike, -np.inf)
    judged = [(seeds == seed).sum() > 1 for seed in seeds]
    right = seeds[alike.argmax(axis=1)] == seeds
    return float(right[judged].mean()) if any(judged) else float("nan")


def write_talking_reader(reader: TalkingReader, target: Path) -> None:
    """Write a reader as the file that `load_talking_reader` reads, whole or not at all.

    Raises ValueError for a name that does not end in .safetensors.
    """
    write_safetensors(target, reader.state_dict(), {})


def load_talking_reader(path: str | os.PathLike[str]) -> TalkingReader:
    """Return a reader from its file, frozen, in evaluation mode. Raises what `load_strict` raises."""
    return load_strict(TalkingReader, path).requires_grad_(False)
