"""Make the contact sheet of made heads: 64 people, and one of them speaking in every emotion.

`python docs/results/make_made_heads_sheet.py` writes made_heads.jpg beside this file; it needs espeak-ng.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from talking_portrait.core_models.types import EMOTION_NAMES, Emotion
from talking_portrait.training.made_heads.clip import made_clip
from talking_portrait.training.made_heads.identity import made_identity
from talking_portrait.training.made_heads.performance import made_performances
from talking_portrait.training.made_heads.portrait import draw_portrait

FILE = Path(__file__).resolve().with_name("made_heads.jpg")
TILE = 128
COLUMNS = 8
PEOPLE = range(64, 128)
SPEAKERS = (70, 75, 82, 67, 101, 119, 109)
"""One for each emotion."""
SECONDS = 3.2
QUALITY = 80


def rows_of(tiles: list[np.ndarray]) -> np.ndarray:
    """Return tiles in rows of COLUMNS."""
    rows = [np.concatenate(tiles[start : start + COLUMNS], axis=1) for start in range(0, len(tiles), COLUMNS)]
    return np.concatenate(rows)


def emotion_rows() -> np.ndarray:
    """Return a row of frames for each emotion, each of another speaker."""
    tiles: list[np.ndarray] = []
    for speaker, name in zip(SPEAKERS, EMOTION_NAMES, strict=True):
        performance = next(made_performances(1, 11, SECONDS, Emotion.mixed({name: 1.0})))
        clip = made_clip(made_identity(speaker), performance, TILE)
        tiles += list(clip.frames[np.linspace(14, len(clip.frames) - 2, COLUMNS).astype(int)])
    return rows_of(tiles)


def main() -> None:
    """Write the sheet."""
    people = rows_of([draw_portrait(made_identity(seed), TILE).frame for seed in PEOPLE])
    gap = np.full((8, people.shape[1], 3), 255, np.uint8)
    sheet = np.concatenate([people, gap, emotion_rows()])
    cv2.imwrite(str(FILE), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


if __name__ == "__main__":
    main()
