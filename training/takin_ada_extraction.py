"""Clips for Takin-ADA's second stage out of a folder of videos, and who shows which emotion in them.

Faces, stretches, reports and what is kept are as in KDTalker's extraction; here HuBERT hears, and people may say in a
table which emotion a video shows.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core_models.audio.hubert import Hubert, hidden_states
from ..core_models.audio.listening_windows import STEP_SAMPLES, STEPS_PER_FRAME
from ..core_models.types import EMOTION_NAMES
from .kdtalker_extraction import Stretch
from .takin_ada_speech_dataset import HeardClip, open_speech_clip, write_speech_clip

FILE_COLUMN, EMOTION_COLUMN, STRENGTH_COLUMN = "file", "emotion", "strength"
"""Columns of a table of labels; the last one may be missing."""
NATURAL_STRENGTH, LARGEST_STRENGTH = 1.0, 2.0


@dataclass(frozen=True)
class TakinADAClips:
    """The kind of clips, for `extract_dataset`: all hidden states of a HuBERT, and the video's emotion.

    speech_model: the HuBERT's name. labels: {file: (7,) float32} as `read_labels` gives them.
    """

    hubert: Hubert
    speech_model: str
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    source_entry: str = "takin_ada_source"

    def clip(
        self, name: str, stretch: Stretch, waveform: np.ndarray, tick: Callable[[], None] | None = None
    ) -> HeardClip:
        """Return the clip of a stretch; the sound before and after it is heard, too.

        While a video is heard its hidden states are in memory, 5 MB a second for the large model.
        """
        progress = None if tick is None else lambda done, total: tick()
        frames = len(waveform) // (STEPS_PER_FRAME * STEP_SAMPLES)
        states = hidden_states(self.hubert, waveform, total_frames=frames, progress=progress)
        inside = slice(STEPS_PER_FRAME * stretch.first, STEPS_PER_FRAME * stretch.stop)
        return HeardClip(
            name,
            stretch.motion,
            stretch.canonical,
            states[inside].half().numpy(),
            self.speech_model,
            self.labels.get(name),
        )

    def write(self, path: Path, clip: HeardClip, facts: Mapping[str, str]) -> None:
        write_speech_clip(path, clip, facts)

    def frames(self, path: Path, name: str) -> int:
        return open_speech_clip(path, name).frames

    def beside(self, name: str) -> Mapping[str, Any]:
        emotion = self.labels.get(name)
        return {
            "speech_model": self.speech_model,
            "emotion": None if emotion is None else emotion.tolist(),
        }


def read_labels(path: Path, files: Collection[str]) -> dict[str, np.ndarray]:
    """Return {file: (7,) float32}, strength at the place of the emotion by EMOTION_NAMES, of a CSV table.

    The table has the columns file (its path below the videos, with /), emotion, and strength, which may be missing or
    empty: 1, a natural display; 0 to 2. files: those that there are. A file without a row has no label.
    Raises OSError, and ValueError naming the table's line for columns, files, emotions or strengths that cannot be.
    """
    labels: dict[str, np.ndarray] = {}
    with path.open(newline="", encoding="utf-8-sig") as table:
        for place, row in _rows(path, table):
            file = row[FILE_COLUMN]
            if file in labels:
                raise ValueError(f"{place}: {file!r} has a label already: leave one of its rows out")
            if file not in files:
                raise ValueError(
                    f"{place}: there is no file {file!r} among the videos: write its path below their folder"
                )
            labels[file] = _emotion_of(row, place)
    if not labels:
        raise ValueError(f"{path} has no rows below its head: write one for each video, or leave it out")
    return labels


def _rows(path: Path, table: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place for messages, row) of a table."""
    reader = csv.DictReader(table, strict=True)
    columns = {FILE_COLUMN, EMOTION_COLUMN, STRENGTH_COLUMN}
    try:
        named = [name.strip() for name in reader.fieldnames or ()]
        if not {FILE_COLUMN, EMOTION_COLUMN} <= set(named) <= columns or len(set(named)) < len(named):
            raise ValueError(
                f"{path}: the columns are {', '.join(named) or 'none'}, expected file, emotion and, if wanted, strength"
            )
        reader.fieldnames = named
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row or None in (row[FILE_COLUMN], row[EMOTION_COLUMN]):
                raise ValueError(f"{place}: the row has not {len(named)} columns")
            yield place, {name: (value or "").strip() for name, value in row.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV table in UTF-8: {error}") from error


def _emotion_of(row: Mapping[str, str], place: str) -> np.ndarray:
    name = row[EMOTION_COLUMN].lower()
    if name not in EMOTION_NAMES:
        raise ValueError(f"{place}: unknown emotion {name!r}; known: {', '.join(EMOTION_NAMES)}")
    text = row.get(STRENGTH_COLUMN, "")
    try:
        strength = float(text) if text else NATURAL_STRENGTH
    except ValueError:
        strength = math.nan
    if not 0 <= strength <= LARGEST_STRENGTH:
        raise ValueError(f"{place}: strength is {text!r}, expected a number from 0 to {LARGEST_STRENGTH:g}")
    weights = np.zeros(len(EMOTION_NAMES), np.float32)
    weights[EMOTION_NAMES.index(name)] = strength
    return weights
