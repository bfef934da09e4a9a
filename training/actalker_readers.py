"""A small network that reads mouth, eyes and head turn off frames of 64 pixels; it measures, it is no product.

It is fitted to made frames whose truth is known, as they are and as the small video autoencoder gives them back, so
that the autoencoder's blur is not taken for a movement; and it is tried on people it never saw.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from ..core_models.strict_loading import load_strict
from ..core_models.whole_file import renamed_when_whole
from .actalker_data import FRAME_SIZE, ControlledClip
from .actalker_latents import decode_latents, encode_clips
from .correlation import correlation
from .opening_regressor import FittingParameters, fitted

READINGS = ("mouth_opening", "eye_opening", "yaw", "pitch")
"""What is read, in this order; units are those of `ControlledClip`."""
MIRROR_SIGNS = (1.0, 1.0, -1.0, 1.0)
"""What a picture's mirror image reads, over what the picture reads."""
WIDTHS = (3, 16, 32, 48, 64)
"""Channels before and after each convolution that reads the whole face; the size is halved after each."""
HIDDEN = 128
EYE_ROWS, EYE_COLUMNS = slice(8, 32), slice(8, 56)
"""Pixels in which the eyes of a face that is cut as `actalker_data` cuts it always lie."""
EYE_WIDTHS = (3, 24, 32, 48)
"""The same of those that read the eyes."""
EYE_HIDDEN = 64
LEAST_CONTRAST = 0.03
"""Added to the spread of the colours around the eyes, by which they are divided so that dark faces read as well."""
EYE_PLACE = READINGS.index("eye_opening")
GROUPS = 8
COLOUR_RANGE = 0.15
"""How far each colour channel of a picture is made brighter or darker while the reader is fitted."""
BATCH = 48
READ_AT_ONCE = 256


class FrameReader(nn.Module):
    """(B, 3, 64, 64) pictures in 0..1 to (B, 4): READINGS. The eyes are read off their surroundings alone."""

    def __init__(self) -> None:
        super().__init__()
        rows, columns = (part.stop - part.start for part in (EYE_ROWS, EYE_COLUMNS))
        self.face = _reading_layers(WIDTHS, (FRAME_SIZE, FRAME_SIZE), HIDDEN, len(READINGS) - 1)
        self.eyes = _reading_layers(EYE_WIDTHS, (rows, columns), EYE_HIDDEN, 1)
        self.register_buffer("mean", torch.zeros(len(READINGS)))
        self.register_buffer("deviation", torch.ones(len(READINGS)))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (B, 4) readings of (B, 3, 64, 64) pictures in 0..1."""
        face, eyes = self.face(pictures), self.eyes(_eye_patches(pictures))
        whole = torch.cat([face[:, :EYE_PLACE], eyes, face[:, EYE_PLACE:]], dim=1)
        return whole * self.deviation + self.mean

    @torch.no_grad()
    def read(self, frames: np.ndarray) -> np.ndarray:
        """Return (N, 4) float32: READINGS of frames (N, 64, 64, 3) uint8 RGB, a part at a time.

        Raises ValueError for frames of another shape or dtype.
        """
        if frames.ndim != 4 or frames.shape[1:] != (FRAME_SIZE, FRAME_SIZE, 3) or frames.dtype != np.uint8:
            raise ValueError(
                f"frames are {frames.dtype} {frames.shape}, expected uint8 (N, {FRAME_SIZE}, {FRAME_SIZE}, 3)"
            )
        parts = [frames[first : first + READ_AT_ONCE] for first in range(0, len(frames), READ_AT_ONCE)]
        read = [self(_pictures(part).to(self.mean.device)).cpu() for part in parts]
        return torch.cat(read).numpy() if read else np.empty((0, len(READINGS)), np.float32)


def _reading_layers(
    widths: Sequence[int], size: tuple[int, int], hidden: int, readings: int
) -> nn.Sequential:
    """Return convolutions of these widths, each followed by halving the size, and what reads the maps they leave."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(GROUPS, after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    left = (size[0] >> (len(widths) - 1)) * (size[1] >> (len(widths) - 1))
    layers += [nn.Flatten(), nn.Linear(widths[-1] * left, hidden), nn.ReLU(), nn.Linear(hidden, readings)]
    return nn.Sequential(*layers)


def _eye_patches(pictures: Tensor) -> Tensor:
    """Return (B, 3, 24, 48): the eyes' surroundings, each channel about its mean, over the spread of all."""
    patches = pictures[..., EYE_ROWS, EYE_COLUMNS]
    spread = patches.std(dim=(1, 2, 3), keepdim=True) + LEAST_CONTRAST
    return (patches - patches.mean(dim=(2, 3), keepdim=True)) / spread


def _pictures(frames: np.ndarray) -> Tensor:
    """Return (N, 3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float() / 255


def true_readings(clip: ControlledClip) -> np.ndarray:
    """Return (N, 4) float32: what READINGS of a clip's frames truly are."""
    return np.column_stack([clip.mouth_opening, clip.eye_opening, clip.turn])


def reconstructed(
    autoencoder: AutoencoderKLTemporalDecoder, clips: Sequence[ControlledClip]
) -> list[np.ndarray]:
    """Return each clip's frames (N, 64, 64, 3) uint8 as the autoencoder gives them back from the latents' modes."""
    return [decode_latents(autoencoder, encode_clips(autoencoder, [clip])[0]) for clip in clips]


def fitted_frame_reader(
    clips: Sequence[ControlledClip],
    seen: Sequence[np.ndarray] = (),
    steps: int = 1500,
    seed: int = 0,
) -> FrameReader:
    """Return a reader fitted to clips, in evaluation mode; the same arguments give the same one.

    seen: the clips' frames (N, 64, 64, 3) uint8 once more, such as `reconstructed`, which read what the clips' do; the
    reader learns from both alike, and from their mirror images.
    Raises ValueError for no clips, for frames of other numbers than the clips', or for steps below 1.
    """
    if not clips:
        raise ValueError("there are no clips to fit a reader to")
    if seen and [len(frames) for frames in seen] != [len(clip) for clip in clips]:
        raise ValueError(
            f"seen holds {[len(frames) for frames in seen][:5]} ... frames, but the clips "
            f"{[len(clip) for clip in clips][:5]} ...: give every clip's frames once more"
        )
    frames = np.concatenate([*(clip.frames for clip in clips), *seen])
    truth = np.concatenate([true_readings(clip) for clip in clips] * (2 if seen else 1))
    wanted = torch.from_numpy(np.concatenate([truth, truth * np.float32(MIRROR_SIGNS)]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = FrameReader()
    return fitted(
        reader, _drawn_readings(reader, frames, seed), wanted, FittingParameters(steps, seed, BATCH)
    )


def _drawn_readings(reader: FrameReader, frames: np.ndarray, seed: int) -> Callable[[np.ndarray], Tensor]:
    """Return what reads the frames of an index, their colours changed at random; numbers from F on are mirrored."""
    generator = torch.Generator().manual_seed(seed)

    def read(index: np.ndarray) -> Tensor:
        pictures = _pictures(frames[index % len(frames)])
        mirrored = torch.from_numpy(index >= len(frames))[:, None, None, None]
        pictures = torch.where(mirrored, pictures.flip(3), pictures)
        gain = 2 * torch.rand(len(index), 3, 1, 1, generator=generator) - 1
        return reader((pictures * (1 + COLOUR_RANGE * gain)).clamp(max=1))

    return read


@dataclass(frozen=True)
class ReadingQuality:
    """How well READINGS are read, (4,) each. overall: correlation over all frames. within: mean over clips of the
    correlation within a clip, which the person's looks do not help. error: mean absolute error in the readings' units.
    """

    overall: np.ndarray
    within: np.ndarray
    error: np.ndarray


def reading_quality(
    reader: FrameReader, clips: Sequence[ControlledClip], seen: Sequence[np.ndarray] = ()
) -> ReadingQuality:
    """Return how well a reader reads clips. seen: in place of the clips' own frames, such as `reconstructed`.

    Raises ValueError for no clips.
    """
    if not clips:
        raise ValueError("there are no clips to read")
    read = [reader.read(frames) for frames in (seen or [clip.frames for clip in clips])]
    true = [true_readings(clip) for clip in clips]
    within = [correlation(one, other) for one, other in zip(read, true, strict=True)]
    whole_read, whole_true = np.concatenate(read), np.concatenate(true)
    return ReadingQuality(
        overall=correlation(whole_read, whole_true),
        within=np.mean(within, axis=0),
        error=np.abs(whole_read - whole_true).mean(axis=0),
    )


def write_frame_reader(reader: FrameReader, target: Path) -> None:
    """Write a reader as the safetensors file that `load_frame_reader` reads, whole or not at all.

    Raises ValueError for a name that does not end in .safetensors.
    """
    from safetensors.torch import save_file

    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"weights are written as safetensors, but the name is {target.name!r}")
    with renamed_when_whole(target) as unfinished:
        save_file(reader.state_dict(), str(unfinished))


def load_frame_reader(path: str | os.PathLike[str]) -> FrameReader:
    """Return a reader from its file, frozen, in evaluation mode. Raises what `load_strict` raises."""
    return load_strict(FrameReader, path).requires_grad_(False)
