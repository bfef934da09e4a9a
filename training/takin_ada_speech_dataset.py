"""What Takin-ADA's second stage is trained on from videos: clips of a talking face and of all that HuBERT makes of it.

A dataset is a folder of clips, one safetensors file each, at any depth. A clip holds, for N frames at 25 fps, `motion`
(N, 70) and `canonical` (N, 63), float32, as KDTalker's clips do; `hidden_states` (2N, L, C) float16, every state of the
speech model at 50 Hz; and `emotion` (7,) float32 where somebody has labelled it. They take 2.6 MB a second for HuBERT
large, so training reads of those the steps it needs and no more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core_models.audio.listening_windows import STEPS_PER_FRAME
from ..core_models.keypoint_diffusion.motion_vectors import CANONICAL_SIZE, VECTOR_SIZE
from ..core_models.keypoint_diffusion.takin_ada import TakinADAParameters
from ..core_models.types import EMOTION_NAMES
from ..core_models.whole_file import renamed_when_whole
from .clip_file import opened_clip_file, require_finite
from .kdtalker_dataset import CLIP_SUFFIX

CLIP_ENTRY = "takin_ada_clip"
CLIP_VERSION = "1"
"""Entry and value of a file's metadata that say it is a clip."""
SPEECH_MODEL_ENTRY = "speech_model"
"""Entry that names what has heard it, such as "hubert_large"."""
FEWEST_FRAMES = 2
"""A frame of motion, and the one before it."""

_MADE_BY = "talking-portrait train takin-ada extract"
_PARTS = {"motion": np.float32, "canonical": np.float32, "hidden_states": np.float16}
_NAMED = 5


@dataclass(frozen=True)
class HeardClip:
    """A clip in memory, as a file keeps it. name: for messages. speech_model: what has heard it.

    motion (N, 70), canonical (N, 63), float32; hidden_states (2N, L, C) float16; emotion (7,) float32, weights times
    strength by EMOTION_NAMES, or None where nobody knows. Raises ValueError for other shapes, NaN or infinity, or fewer
    than two frames.
    """

    name: str
    motion: np.ndarray
    canonical: np.ndarray
    hidden_states: np.ndarray
    speech_model: str
    emotion: np.ndarray | None = None

    def __post_init__(self) -> None:
        _require_shapes(self.name, {part: values.shape for part, values in self.arrays.items()})
        for part, values in self.arrays.items():
            require_finite(values, part, self.name)

    @property
    def frames(self) -> int:
        """N."""
        return len(self.motion)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The file's arrays by name."""
        arrays = {part: np.ascontiguousarray(getattr(self, part), kind) for part, kind in _PARTS.items()}
        return arrays if self.emotion is None else {**arrays, "emotion": np.float32(self.emotion)}


@dataclass(frozen=True)
class HiddenStatesOnDisk:
    """Hidden states (2N, L, C) float16 of which a slice of steps is read when it is asked for."""

    path: Path
    name: str

    def __getitem__(self, steps: slice) -> np.ndarray:
        return _read(self.path, self.name, "hidden_states", steps)


@dataclass(frozen=True)
class SpeechClipFile:
    """A clip on disk, for `SpeechClip`'s place; what it holds is read when it is asked for, but for the emotion.

    name: its path within the dataset. frames: N. layers, width: L and C. speech_model: what has heard it. emotion: (7,)
    float32 or None. closed: None, for nobody has looked at the lips.
    """

    path: Path
    name: str
    frames: int
    layers: int
    width: int
    speech_model: str
    emotion: np.ndarray | None = None
    closed: np.ndarray | None = None

    @property
    def hidden_states(self) -> HiddenStatesOnDisk:
        """To be sliced along the steps; the same slice of an array is equal. Raises ValueError for NaN or infinity."""
        return HiddenStatesOnDisk(self.path, self.name)

    @property
    def motion(self) -> np.ndarray:
        """(N, 70) float32, read anew each time. Raises ValueError for NaN or infinity."""
        return _read(self.path, self.name, "motion", slice(None))

    @property
    def source(self) -> np.ndarray:
        """(63,) float32: canonical keypoints of the first frame, since a portrait, too, is one picture."""
        return _read(self.path, self.name, "canonical", slice(0, 1))[0]


def _read(path: Path, name: str, part: str, rows: slice) -> np.ndarray:
    with opened_clip_file(path) as file:
        values = file.get_slice(part)[rows]
    require_finite(values, part, name)
    return values


def _require_shapes(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    frames = shapes["motion"][0] if shapes["motion"] else 0
    if frames < FEWEST_FRAMES:
        raise ValueError(f"{name} has {frames} frames, expected at least {FEWEST_FRAMES}")
    expected = {"motion": (frames, VECTOR_SIZE), "canonical": (frames, CANONICAL_SIZE)}
    states = shapes["hidden_states"]
    expected["hidden_states"] = (STEPS_PER_FRAME * frames, *states[1:])
    if "emotion" in shapes:
        expected["emotion"] = (len(EMOTION_NAMES),)
    wrong = [
        f"{part} has shape {shapes[part]}, expected {shape}"
        for part, shape in expected.items()
        if shapes[part] != shape
    ]
    if len(states) != 3 or 0 in states:
        wrong.append(f"hidden_states has shape {states}, expected (steps, layers, width)")
    if wrong:
        raise ValueError(f"{name}: {'; '.join(wrong)}: extract the clip again")


def write_speech_clip(path: Path, clip: HeardClip, facts: Mapping[str, str] | None = None) -> None:
    """Write a clip as a file that appears under its name when it is whole. facts: further entries of its metadata.

    Raises OSError when the folder is missing or cannot be written to.
    """
    from safetensors.numpy import save

    metadata = {**(facts or {}), CLIP_ENTRY: CLIP_VERSION, SPEECH_MODEL_ENTRY: clip.speech_model}
    content = save(clip.arrays, metadata)
    with renamed_when_whole(path) as unfinished:
        unfinished.write_bytes(content)


def open_speech_clip(path: Path, name: str | None = None) -> SpeechClipFile:
    """Return a clip on disk after a look at its header.

    Raises OSError, and ValueError for a file that is not a clip or lacks a part of one.
    """
    name = name or path.name
    with opened_clip_file(path) as file:
        metadata, present = file.metadata() or {}, set(file.keys())
        if metadata.get(CLIP_ENTRY) != CLIP_VERSION or not set(_PARTS) <= present:
            raise ValueError(
                f"{path} is not a clip for Takin-ADA (it holds {', '.join(sorted(present)[:_NAMED]) or 'nothing'}): "
                f"take it out of the folder, or make it with '{_MADE_BY}'"
            )
        read = [*_PARTS, *(["emotion"] if "emotion" in present else [])]
        shapes = {part: tuple(file.get_slice(part).get_shape()) for part in read}
        _require_shapes(name, shapes)
        emotion = file.get_tensor("emotion") if "emotion" in present else None
    frames, (_, layers, width) = shapes["motion"][0], shapes["hidden_states"]
    heard_by = metadata.get(SPEECH_MODEL_ENTRY, "unknown")
    return SpeechClipFile(path, name, frames, layers, width, heard_by, emotion)


def open_speech_clips(folder: str | os.PathLike[str]) -> list[SpeechClipFile]:
    """Return all clips below a folder, ordered by name; only their headers and emotions are read.

    Raises OSError for a folder that is missing, is none or cannot be read, ValueError when it holds no clip, a
    safetensors file of another kind, or clips that different speech models have heard.
    """
    folder = Path(folder)
    os.scandir(folder).close()  # gives the system's own error
    paths = (path for path in folder.rglob(f"*{CLIP_SUFFIX}") if not path.name.startswith("."))
    named = sorted((path.relative_to(folder).as_posix(), path) for path in paths)
    if not named:
        raise ValueError(
            f"{folder} holds no clips (*{CLIP_SUFFIX}): make them with '{_MADE_BY} VIDEOS --out {folder}'"
        )
    clips = [open_speech_clip(path, name) for name, path in named]
    _require_alike(clips)
    return clips


def _heard_by(clip: SpeechClipFile) -> str:
    return f"{clip.speech_model}, {clip.layers} hidden states, {clip.width} wide"


def _require_alike(clips: Sequence[SpeechClipFile]) -> None:
    first = {_heard_by(clip): clip.name for clip in reversed(clips)}
    if len(first) > 1:
        found = "; ".join(f"{name} by {heard_by}" for heard_by, name in sorted(first.items()))
        raise ValueError(
            f"different speech models have heard the clips: {found}. Extract all of them with one, or train on one "
            "kind at a time"
        )


def require_fitting_clips(clips: Sequence[SpeechClipFile], parameters: TakinADAParameters) -> None:
    """Raise ValueError unless a model of these sizes can be trained on the clips."""
    heard = (clips[0].layers, clips[0].width)
    if parameters.listener is not None or heard != (parameters.layers, parameters.speech_width):
        hears = "a listener of its own" if parameters.listener is not None else "a speech model"
        raise ValueError(
            f"the clips hold {heard[0]} hidden states, {heard[1]} wide, of {clips[0].speech_model}, but the model has "
            f"{hears} with {parameters.layers}, {parameters.speech_width} wide: train it on clips like "
            "those it began with, or begin a new run"
        )
    made = (parameters.layout.size, parameters.source_size)
    if made != (VECTOR_SIZE, CANONICAL_SIZE):
        raise ValueError(
            f"the clips hold {VECTOR_SIZE} numbers of motion and {CANONICAL_SIZE} of the source, but the model has "
            f"{made[0]} and {made[1]}: it makes another kind of motion"
        )
