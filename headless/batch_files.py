"""Files that the rows of a batch name: which they are, their digests, and graphs that work without their folders."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..runtime.host import host
from ..runtime.input_files import input_path, landmarks_beside
from .overrides import Definitions, is_upload, names_model
from .preparation import PreparedWorkflow, drawn_page

PIECE_BYTES = 2**20

Input = tuple[str, str]
"""(node id, name of an input)."""


def named_files(prepared: PreparedWorkflow, definitions: Definitions) -> dict[Input, list[Path]]:
    """Return {(node id, input): files} for the inputs that name a file which may be read: an upload, or one that the
    user named. The second file, where there is one, is the landmarks beside a picture. Files of models are left out.
    """
    found = {}
    for node_id, node in prepared.graph.items():
        declared = definitions.get(node["class_type"], {})
        for name, value in node["inputs"].items():
            upload = name in declared and is_upload(declared[name])
            model = name in declared and names_model(declared[name])
            if isinstance(value, str) and not model and (upload or _named_by_user(value, prepared)):
                path = _readable(value)
                if path is not None:
                    landmarks = landmarks_beside(path)
                    found[node_id, name] = [path, landmarks] if landmarks else [path]
    return found


def _named_by_user(value: str, prepared: PreparedWorkflow) -> bool:
    return bool(prepared.files) and Path(host().input_folder, value).resolve() in prepared.files


def _readable(value: str) -> Path | None:
    try:
        return input_path(value)
    except (OSError, ValueError):
        return None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def portable_workflow(
    prepared: PreparedWorkflow, files: Mapping[Input, list[Path]], classes: Mapping[str, Any]
) -> tuple[PreparedWorkflow, dict[str, Path]]:
    """Return a workflow whose files all lie in the input folder, and {name in that folder: file of this machine}.

    Names of files that lie in the input folder stay; others get their own name, in a folder with a number where that
    is taken. classes: the node classes, as ComfyUI lists them.
    """
    graph = copy.deepcopy(prepared.graph)
    names: dict[str, Path] = {}
    for (node_id, name), (path, *companions) in files.items():
        value = graph[node_id]["inputs"][name]
        graph[node_id]["inputs"][name] = place = _place(value, path, names)
        names[place] = path
        names.update({str(PurePosixPath(place).with_name(other.name)): other for other in companions})
    sent = {path.resolve() for path in names.values()}
    page = prepared.page and drawn_page(graph, classes, prepared.page)
    return PreparedWorkflow(graph, page, prepared.files - sent), names


def _place(value: str, path: Path, names: Mapping[str, Path]) -> str:
    folder = host().input_folder
    inside = not Path(value).is_absolute() and ".." not in Path(value).parts and folder / value == path
    wanted = PurePosixPath(Path(value).as_posix() if inside else path.name)
    number, place = 1, wanted
    while names.get(str(place), path) != path:
        number, place = number + 1, wanted.parent / str(number + 1) / wanted.name
    return str(place)
