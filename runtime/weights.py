"""Where weight files are on this machine, and bringing them here when asked.

Looked for, in this order: the path given; this package (embedded weights); ComfyUI's models folders, extra
model paths included; the folders of TALKING_PORTRAIT_MODELS; the user's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..weights_manifest.fetching import fetch_row
from ..weights_manifest.manifest import PACKAGE_FOLDER, WeightRow, weight_row
from .host import MODELS_VARIABLE, host


class WeightNotFoundError(FileNotFoundError):
    """A weight file is on none of the places searched; the message lists them and says how to get it."""


def find_weight(name: str, explicit: str | Path | None = None) -> Path:
    """Return the path of a manifest row's file on this machine.

    name: a row of the manifest. explicit: a file, or a folder that holds it; then nothing else is searched.
    A file of the wrong size (cut off while downloading) is not taken.
    Raises WeightNotFoundError (an OSError) when it is nowhere, ValueError for an unknown name.
    """
    row = weight_row(name)
    if explicit is not None and str(explicit).strip():
        return _explicit_weight(row, Path(explicit).expanduser())
    places = weight_folders(row)
    candidates = [folder / file for folder in places for file in row.file_names]
    damaged = []
    for path in candidates:
        if path.is_file():
            if row.bytes is None or path.stat().st_size == row.bytes:
                return path
            damaged.append(f"{path} has {path.stat().st_size} bytes instead of {row.bytes} and was not taken")
    raise WeightNotFoundError(_not_found_message(row, places, damaged))


def _explicit_weight(row: WeightRow, path: Path) -> Path:
    options = [path / file for file in row.file_names] if path.is_dir() else [path]
    for option in options:
        if option.is_file():
            return option
    raise WeightNotFoundError(f"{row.name}: there is no file {' or '.join(map(str, options))}")


def weight_folders(row: WeightRow) -> list[Path]:
    """Return the folders searched for a row's file, in order, whether they exist or not."""
    if row.source.kind == "embedded":
        return [(PACKAGE_FOLDER / row.source.path).parent]
    return host().model_folders(row.comfyui_folder)


def _not_found_message(row: WeightRow, places: list[Path], damaged: list[str]) -> str:
    searched = ", ".join(map(str, places))
    found = "".join(f" {line}." for line in damaged)
    if row.source.kind == "embedded":
        return f"{row.file}, a part of this package, is missing from {searched}: install it again.{found}"
    origin = row.source.url or row.source.instructions or f"{row.source.repository}, file {row.source.file}"
    return (
        f"{row.file} ({row.role}) was not found in {searched}.{found} Switch on 'download_if_missing' in the "
        f"loader, or get it from {origin} (licence {row.licence}) and put it into {fetch_folder(row)}; "
        f"{MODELS_VARIABLE} may name another folder"
    )


def fetch_folder(row: WeightRow) -> Path:
    """Return the folder a row's file is fetched into: ComfyUI's, the variable's, or the user's cache."""
    return host().model_folders(row.comfyui_folder)[0]


def fetch_weight(name: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the path of a manifest row's file, fetching it first when it is not on this machine.

    progress is called as (bytes done, bytes in total). The sha256 is checked before the file gets its name.
    Raises OSError when it cannot be fetched, ValueError for an unknown name or a row that cannot be fetched.
    """
    row = weight_row(name)
    try:
        return find_weight(name)
    except WeightNotFoundError:
        if row.source.kind != "url":
            raise
        return fetch_row(row, fetch_folder(row), progress)
