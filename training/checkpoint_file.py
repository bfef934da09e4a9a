"""Files of training state: tensors, numbers and text, whole or not at all, read without running code."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core_models.whole_file import renamed_when_whole

CHECKPOINT_FILE = "checkpoint.pt"
"""In a run's folder, rewritten as the run goes on."""


def run_checkpoint(place: Path) -> Path:
    """Return a run's checkpoint, or `place` itself when it is a file.

    Raises FileNotFoundError when there is no such place or the run has none yet.
    """
    path = place if place.is_file() else place / CHECKPOINT_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{place} holds no checkpoint: it is not the folder of a training run, or the run never began"
        )
    return path


def remove_unfinished(run: Path) -> None:
    """Remove what a killed process left half written. Nobody else may be writing into the run."""
    for path in run.glob(f".{Path(CHECKPOINT_FILE).stem}.*.part"):
        path.unlink(missing_ok=True)


def write_checkpoint_content(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint whose "kind" says what it is of; when this returns it is on the disk.

    The folder is made if it is missing. Raises OSError when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with renamed_when_whole(path) as unfinished, unfinished.open("wb") as file:
        torch.save(dict(content), file)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint_content(path: Path, kind: str, maker: str) -> Mapping[str, Any]:
    """Return what a checkpoint of a kind holds, on the CPU; no code of it is run.

    maker: what writes such files, for the error. Raises FileNotFoundError, and ValueError for a file that is damaged or
    something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a checkpoint, or it is cut off: go on from an earlier one")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch would read numbers that changed on the disk without a word
        if damaged is not None:
            raise ValueError(f"{damaged} in it is damaged")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a whole checkpoint: go on from an earlier one") from error
    if not isinstance(content, Mapping) or content.get("kind") != kind:
        raise ValueError(f"{path} is not a checkpoint of {maker}")
    return content
