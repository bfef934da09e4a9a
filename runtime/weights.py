"""Where weight files are on this machine, and bringing them here when asked.

Looked for, in this order: the path given; this package (embedded weights); ComfyUI's models folders, extra
model paths included, under our and other packs' names; the folders of TALKING_PORTRAIT_MODELS; the user's cache;
the Hugging Face hub's cache.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..weights_manifest.manifest import EMBEDDED, PACKAGE_FOLDER, WeightRow, weight_row
from .host import MODELS_VARIABLE, host
from .hub_cache import cached_hub_file

KINDS_WITH_SUBFOLDERS = {
    "checkpoints": {"checkpoints"},
    "clip_vision": {"clip_vision"},
    "diffusion_models": {"diffusion_models", "unet"},
    "text_encoders": {"text_encoders", "clip"},
    "vae": {"vae"},
}
"""ComfyUI's own model folders, where people sort files into subfolders of their own."""

logger = logging.getLogger(__name__)


class WeightNotFoundError(FileNotFoundError):
    """A weight file is on none of the places searched; the message lists them and says how to get it.

    damaged: what was found under its name and not taken, a sentence each.
    """

    def __init__(self, message: str, damaged: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.damaged = tuple(damaged)


def find_weight(name: str, explicit: str | Path | None = None) -> Path:
    """Return the path of a manifest row's file on this machine.

    name: a row of the manifest. explicit: a file, or a folder that holds it; then nothing else is searched.
    A file of the wrong size (cut off while downloading) is not taken.
    Raises WeightNotFoundError (an OSError) when it is nowhere, ValueError for an unknown name.
    """
    row = weight_row(name)
    if explicit is not None and str(explicit).strip():
        return _explicit_weight(row, Path(explicit).expanduser())
    damaged = []
    for path in weight_candidates(row):
        size = path.stat().st_size
        if row.bytes is None or size == row.bytes:
            return path
        damaged.append(f"{path} has {size} bytes instead of {row.bytes} and was not taken")
    raise WeightNotFoundError(_not_found_message(row, damaged), damaged)


def weight_candidates(row: WeightRow) -> Iterator[Path]:
    """Give every existing file that has a row's name in a place searched, best place first."""
    folders = weight_folders(row)
    for path in [folder / file for folder in folders for file in row.file_names]:
        if path.is_file():
            yield path
    if row.source.kind == EMBEDDED:
        return
    for file in row.file_names:
        first, _, rest = file.partition("/")
        if rest:  # a path below ComfyUI's models folder
            yield from (path for folder in host().model_folders(first) if (path := folder / rest).is_file())
    yield from _in_subfolders(row, folders)
    if row.source.kind == "hub":
        cached = cached_hub_file(row.source.repository, row.source.file, row.source.revision)
        if cached is not None:
            yield cached


def _in_subfolders(row: WeightRow, folders: list[Path]) -> Iterator[Path]:
    names = {file for file in row.file_names if "/" not in file}
    roots = [folder for folder in folders if folder.name in KINDS_WITH_SUBFOLDERS.get(row.comfyui_folder, ())]
    for root in roots if names else []:
        for place, subfolders, files in os.walk(root, followlinks=False):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            yield from (
                Path(place, name) for name in sorted(names.intersection(files)) if Path(place) != root
            )


def _explicit_weight(row: WeightRow, path: Path) -> Path:
    options = [path / file for file in row.file_names] if path.is_dir() else [path]
    for option in options:
        if option.is_file():
            return option
    raise WeightNotFoundError(f"{row.name}: there is no file {' or '.join(map(str, options))}")


def weight_folders(row: WeightRow) -> list[Path]:
    """Return the folders searched for a row's file, in order, whether they exist or not."""
    if row.source.kind == EMBEDDED:
        return [(PACKAGE_FOLDER / row.source.path).parent]
    return host().model_folders(row.comfyui_folder)


def _not_found_message(row: WeightRow, damaged: list[str]) -> str:
    searched = ", ".join(map(str, weight_folders(row)))
    found = "".join(f" {line}." for line in damaged)
    if row.source.kind == EMBEDDED:
        return f"{row.file}, a part of this package, is missing from {searched}: install it again.{found}"
    place = f"put it into {fetch_folder(row)}; {MODELS_VARIABLE} may name another folder"
    if row.source.kind == "manual":
        return (
            f"{row.file} ({row.role}) was not found in {searched}.{found} {row.source.instructions} To have it "
            f"found, {place}"
        )
    return (
        f"{row.file} ({row.role}) was not found in {searched}.{found} Switch on 'download_if_missing' in the "
        f"loader, run 'talking-portrait weights fetch {row.name}', or get it from {origin(row)} (licence "
        f"{row.licence}) and {place}"
    )


def origin(row: WeightRow) -> str:
    """Return where a row's file comes from, for people to read."""
    source = row.source
    if source.kind == "hub":
        return f"https://huggingface.co/{source.repository} ({source.file})"
    return {"url": source.url, EMBEDDED: "this package", "manual": source.instructions}[source.kind]


def fetch_folder(row: WeightRow) -> Path:
    """Return the folder a row's file is fetched into: ComfyUI's, the variable's, or the user's cache."""
    return host().model_folders(row.comfyui_folder)[0]


def fetch_weight(
    name: str, progress: Callable[[int, int], None] | None = None, folder: Path | None = None
) -> Path:
    """Return the path of a manifest row's file, fetching it first when it is not on this machine.

    progress is called as (bytes done, bytes in total). folder: where to put it, in place of `fetch_folder`.
    The sha256 is checked before the file gets its name.
    Raises OSError when it cannot be fetched, ValueError for an unknown name or a row that cannot be fetched.
    """
    from ..weights_manifest.fetching import fetch_row

    row = weight_row(name)
    try:
        return find_weight(name)
    except WeightNotFoundError:
        if row.source.kind not in ("url", "hub"):
            raise
        return fetch_row(row, folder or fetch_folder(row), progress)
