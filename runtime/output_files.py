"""Files that nodes save: the next free name in the output folder, and the graph to store in them."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .host import host

DEFAULT_NAME = "TalkingPortrait"

CONTROL_CHARACTER = "Cc"
"""Unicode's category of line ends, escape and their like."""


@dataclass(frozen=True)
class OutputFile:
    """A file about to be saved.

    path: where. folder: the host's output or temporary folder, in or below which it lies.
    kind: "output" or "temp", which of them.
    """

    path: Path
    folder: Path
    kind: str = "output"

    @property
    def reference(self) -> dict[str, str]:
        """What ComfyUI's page needs to show the file."""
        subfolder = self.path.parent.relative_to(self.folder).as_posix()
        return {
            "filename": self.path.name,
            "subfolder": "" if subfolder == "." else subfolder,
            "type": self.kind,
        }


def next_output_file(
    prefix: str, suffix: str, size: tuple[int, int] = (0, 0), kind: str = "output"
) -> OutputFile:
    """Return the next free name, prefix_00001_ + suffix, in the host's output folder, and make its folder.

    kind: "output", or "temp" for the host's temporary folder.
    prefix: may name folders below the output folder. As in ComfyUI, %width% and %height% in it stand for
    `size`, in pixels, and %year%, %month%, %day%, %hour%, %minute%, %second% for the time.
    Raises ValueError for a prefix that leads out of the output folder, names that folder itself or has control
    characters, which would break the list of saved files; OSError when the folder cannot be made.
    """
    folder, target = _folder_and_target(prefix, size, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    used = [_counter(path.name, target.name) for path in target.parent.iterdir()]
    return OutputFile(target.with_name(f"{target.name}_{max(used, default=0) + 1:05}_{suffix}"), folder, kind)


def prefix_validity(prefix: str | None) -> bool | str:
    """Return True, or why files cannot be called by a filename_prefix, for a node's VALIDATE_INPUTS.

    So a long run is not lost for a name at its end. A linked prefix arrives as None and is checked when the node runs.
    """
    if prefix is None:
        return True
    try:
        _folder_and_target(prefix, (0, 0), "output")
    except ValueError as error:
        return str(error)
    return True


def _folder_and_target(prefix: str, size: tuple[int, int], kind: str) -> tuple[Path, Path]:
    """Return the host's folder and what in it a prefix names; raises ValueError as `next_output_file`."""
    folder = Path(host().temp_folder if kind == "temp" else host().output_folder).resolve()
    if prefix.endswith(("/", "\\")) or not prefix.strip():
        prefix += DEFAULT_NAME
    if any(unicodedata.category(letter) == CONTROL_CHARACTER for letter in prefix):
        raise ValueError(f"filename_prefix {prefix!r} has control characters: leave them out")
    try:
        target = (folder / _filled_in(prefix, size)).resolve()
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"filename_prefix {prefix!r} cannot name a file ({error})") from error
    if not target.is_relative_to(folder):
        raise ValueError(f"filename_prefix {prefix!r} leads out of the output folder {folder}")
    if target == folder:
        raise ValueError(
            f"filename_prefix {prefix!r} names the output folder {folder} itself, not a file in it"
        )
    return folder, target


def _filled_in(prefix: str, size: tuple[int, int]) -> str:
    now = datetime.now()
    values = {"width": size[0], "height": size[1]}
    for name in ("year", "month", "day", "hour", "minute", "second"):
        values[name] = f"{getattr(now, name):02}"
    return re.sub(r"%(\w+)%", lambda found: str(values.get(found[1], found[0])), prefix.replace("\\", "/"))


def _counter(name: str, prefix: str) -> int:
    """Return the number in a file's name prefix_00012_.mp4, or 0 when it is another file."""
    found = re.match(re.escape(prefix) + r"_(\d+)_", name)
    return int(found[1]) if found else 0


def workflow_metadata(
    prompt: Mapping[str, Any] | None, extra_pnginfo: Mapping[str, Any] | None
) -> dict[str, str]:
    """Return the graph as text tags for a saved file, as ComfyUI's own nodes write them.

    prompt: the graph in API form; extra_pnginfo: what the page sent along, its graph under "workflow".
    Empty when ComfyUI was told to save no metadata.
    """
    settings = getattr(sys.modules.get("comfy.cli_args"), "args", None)
    if getattr(settings, "disable_metadata", False):
        return {}
    entries = {**(extra_pnginfo or {}), **({"prompt": prompt} if prompt is not None else {})}
    return {key: json.dumps(value) for key, value in entries.items()}
