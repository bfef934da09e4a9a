"""Which files one model's weights lie in: a file, a folder, an index of shards, or some shards.

A set of shards that is not complete is an error that names each one missing, and the file that says there is one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ...strict_loading import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES, UnreadableWeightsError

INDEX_SUFFIX = ".index.json"
TRANSFORMER_FOLDER = "transformer"
"""Subfolder of a diffusers pipeline that holds the transformer."""
WeightPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One file or folder, or the shards of one model."""

_NUMBERED = re.compile(r"(?P<start>.*)-(?P<number>\d+)-of-(?P<count>\d+)(?P<end>\.\w+)")


def weight_files(paths: WeightPaths) -> tuple[Path, ...]:
    """Return the files that hold a model's weights.

    paths: a weight file; a shard, whose siblings are found by its name; an index of shards (.index.json); a folder
    with any of these, or with a folder `transformer` that has them; or all the shards.
    Raises FileNotFoundError for what is not there, naming every missing shard, and ValueError for a folder of which it
    is not clear which files are meant.
    """
    if isinstance(paths, str | os.PathLike):
        path = Path(paths)
        return _of_folder(path) if path.is_dir() else _of_file(path)
    given = tuple(Path(path) for path in paths)
    if not given:
        raise ValueError("no weight files are given, expected at least one")
    if len(given) == 1:
        return weight_files(given[0])
    return _all_there(given, _siblings_by_name(given), _what_says_so(given[0]))


def _of_file(path: Path) -> tuple[Path, ...]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path}")
    if path.name.endswith(INDEX_SUFFIX):
        return _of_index(path)
    if _NUMBERED.fullmatch(path.name) is None:
        return (path,)
    return _all_there((), _siblings_by_name((path,)), _what_says_so(path))


def _of_index(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        wanted = [index.parent / name for name in names]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableWeightsError(
            f"{index} is not an index of shards ({error!r}): delete it and fetch it again"
        ) from error
    if any(Path(name).name != name for name in names):
        raise UnreadableWeightsError(f"{index} names files outside of its folder: it is not to be trusted")
    return _all_there((), wanted, str(index))


def _of_folder(folder: Path) -> tuple[Path, ...]:
    inner = folder / TRANSFORMER_FOLDER
    found = _candidates(folder)
    if not found and inner.is_dir():
        folder, found = inner, _candidates(inner)
    if not found:
        raise FileNotFoundError(
            f"the folder {folder} holds no weights: expected a .safetensors file, shards or their index"
        )
    if len(found) > 1:
        names = ", ".join(sorted(path.name for path in found))
        raise ValueError(f"{folder} holds more than one model: give the path of one of {names}")
    return _of_file(found[0])


def _candidates(folder: Path) -> list[Path]:
    """Return one path for each model in a folder: its index, its only file, or one of its shards."""
    indices = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    if indices:
        return indices
    models: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SAFETENSORS_SUFFIXES:
            numbered = _NUMBERED.fullmatch(path.name)
            models.setdefault(path.name if numbered is None else numbered["start"], path)
    return list(models.values())


def _siblings_by_name(given: Sequence[Path]) -> list[Path]:
    """Return every shard that the names speak of (name-00002-of-00007.safetensors); without a number, the given."""
    wanted: list[Path] = []
    for path in given:
        found = _NUMBERED.fullmatch(path.name)
        if found is None:
            wanted.append(path)
            continue
        for number in range(1, int(found["count"]) + 1):
            digits = str(number).zfill(len(found["number"]))
            wanted.append(path.with_name(f"{found['start']}-{digits}-of-{found['count']}{found['end']}"))
    return list(dict.fromkeys(wanted))


def _what_says_so(path: Path) -> str:
    return f"the name of {path}"


def _all_there(given: Sequence[Path], wanted: Sequence[Path], says_so: str) -> tuple[Path, ...]:
    by_name = {path.name: path for path in given}
    found = tuple(by_name.get(path.name, path) for path in wanted)
    missing = [str(path) for path in found if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(found)} shards are missing: {', '.join(missing)}. {says_so} says that they "
            "are part of the model: fetch them, then load again"
        )
    unknown = [str(p) for p in found if p.suffix.lower() not in SAFETENSORS_SUFFIXES | PICKLE_SUFFIXES]
    if unknown:
        raise UnreadableWeightsError(f"{', '.join(unknown)}: not weight files, named by {says_so}")
    return found
