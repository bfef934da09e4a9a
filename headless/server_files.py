"""Files on their way to a ComfyUI server and back: uploads of what inputs name, downloads of what a run saved."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from ..runtime.input_files import landmarks_beside
from .graph import Graph, InputSpecification, WorkflowError, is_link, title_of
from .overrides import NAMES_FILE, Definitions, InputChange, is_upload
from .page_values import page_with_values
from .preparation import PreparedWorkflow, drawn_page
from .registry import definitions_from_object_info
from .server_api import ComfyUIServer
from .server_errors import ServerRunError

DIGEST_CHARACTERS = 12
LONGEST_STEM = 120
"""Bytes of a file's own name that its name on the server keeps."""
UNSAFE_IN_NAMES = re.compile(r'[\x00-\x1f\x7f"%*/:<>?\\|]|\.\.')
"""What forms, URLs and file systems do not carry well."""
INPUT_MARK = " [input]"
ELSEWHERE_MARKS = (" [output]", " [temp]")
"""How a file's name says in which of the server's folders it lies."""

LANDMARKS_SUFFIX = ".landmarks.json"
PIECE = 2**20


def with_uploads(
    server: ComfyUIServer, prepared: PreparedWorkflow, classes: Mapping[str, Any], folder: Path
) -> PreparedWorkflow:
    """Return the workflow with the server's names for this machine's files, which are sent there.

    classes: as the server lists them under /object_info. folder: the input folder of this machine; the files outside
    of it that the user named are sent too. A name that the server already lists means the server's file. A file that
    the server has is not sent again.
    Raises WorkflowError for a file that lies elsewhere and that the user did not name.
    """
    definitions = definitions_from_object_info(classes)
    files = list(_files_to_send(prepared, definitions, folder))
    sent = {path: send_file(server, path) for path in dict.fromkeys(path for *_, path in files)}
    changes = [InputChange(node_id, name, sent[path]) for node_id, name, path in files]
    graph = copy.deepcopy(prepared.graph)
    for change in changes:
        graph[change.node_id]["inputs"][change.name] = change.value
    if prepared.page is None or not changes:
        return dataclasses.replace(prepared, graph=graph)
    page = page_with_values(prepared.page, changes, definitions) or drawn_page(graph, classes, prepared.page)
    return dataclasses.replace(prepared, graph=graph, page=page)


def _files_to_send(
    prepared: PreparedWorkflow, definitions: Definitions, folder: Path
) -> Iterator[tuple[str, str, Path]]:
    """Yield (node id, input, whole path) of the files of this machine; see `with_uploads`."""
    graph = prepared.graph
    for node_id, name, value in _file_inputs(graph, definitions):
        path = _local_file(value, folder)
        if path is None:
            continue
        if path not in prepared.files and not path.is_relative_to(folder.resolve()):
            raise WorkflowError(
                f"node {node_id} ({title_of(graph, node_id)}) names the file {value} outside of the input folder "
                f'{folder}: it is only sent if you name it yourself, --set "{node_id}.{name}={value}"'
            )
        yield node_id, name, path


def _file_inputs(graph: Graph, definitions: Definitions) -> Iterator[tuple[str, str, str]]:
    """Yield (node id, input, file name) of the inputs that name no file of the server."""
    for node_id, node in graph.items():
        for name, specification in definitions.get(str(node.get("class_type")), {}).items():
            value = node["inputs"].get(name)
            if is_link(value) or not isinstance(value, str) or not value or not _from_input(specification):
                continue
            if value not in (specification.choices or ()) and not value.endswith(ELSEWHERE_MARKS):
                yield node_id, name, value


def _from_input(specification: InputSpecification) -> bool:
    """Say whether an input names a file of the input folder; some list the output folder, or a model's files."""
    options = specification.options
    if options.get(NAMES_FILE) == "input":
        return True
    return is_upload(specification) and options.get("image_folder", "input") == "input"


def _local_file(value: str, folder: Path) -> Path | None:
    """Return the file of this machine that a name means, None if there is none."""
    try:
        path = (folder / value.removesuffix(INPUT_MARK)).resolve()
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None


def send_file(server: ComfyUIServer, path: Path) -> str:
    """Send a file, unless the server has it, and return its name there.

    The name holds a digest of the content, so that two files of one name stay apart and none is sent twice. The
    landmarks beside a picture, photo.landmarks.json beside photo.jpg, go along under the same name.
    Raises ServerUnreachableError, OSError for a file that cannot be read.
    """
    landmarks = landmarks_beside(path)
    digest = _digest(path, *([landmarks] if landmarks else []))
    stem = f"{_plain_stem(path.stem)}-{digest}"
    if landmarks is not None:
        _sent(server, landmarks, stem + LANDMARKS_SUFFIX)
    return _sent(server, path, stem + UNSAFE_IN_NAMES.sub("_", path.suffix))


def _sent(server: ComfyUIServer, path: Path, name: str) -> str:
    return name if server.input_size(name) == path.stat().st_size else server.upload(path, name)


def _plain_stem(stem: str) -> str:
    shortened = UNSAFE_IN_NAMES.sub("_", stem).encode()[:LONGEST_STEM].decode(errors="ignore")
    return shortened.strip(" .") or "file"


def _digest(*paths: Path) -> str:
    """Return a text that stands for the content of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    return digest.hexdigest()[:DIGEST_CHARACTERS]


@dataclass(frozen=True)
class SavedReference:
    """A file that a run made, as ComfyUI names it. kind: "output", "temp" or "input"."""

    filename: str
    subfolder: str
    kind: str

    def query(self) -> dict[str, str]:
        """Return it as ComfyUI writes it."""
        return {"filename": self.filename, "subfolder": self.subfolder, "type": self.kind}


def saved_references(outputs: Mapping[str, Any]) -> list[SavedReference]:
    """Return the files that a run saved for good, each once, in the order of its outputs; previews are left out.

    outputs: {node id: {"images": [{"filename", "subfolder", "type"}, ...], ...}}.
    """
    lists = [found for node in outputs.values() if isinstance(node, Mapping) for found in node.values()]
    entries = [entry for found in lists if isinstance(found, list) for entry in found]
    references = [reference(entry) for entry in entries if isinstance(entry, Mapping) and "filename" in entry]
    return list(dict.fromkeys(found for found in references if found.kind == "output"))


def reference(entry: Mapping[str, Any]) -> SavedReference:
    """Return a file's name as ComfyUI lists it, checked.

    Raises ServerRunError for one that is no plain name, or leads out of its folder.
    """
    filename, subfolder, kind = (
        entry.get("filename"),
        entry.get("subfolder") or "",
        entry.get("type", "output"),
    )
    if not all(isinstance(text, str) for text in (filename, subfolder, kind)):
        raise ServerRunError(f"the server names a file in a form that is not ComfyUI's: {str(entry)[:200]}")
    parts = [part for part in re.split(r"[/\\]", subfolder) if part not in ("", ".")]
    absolute = PureWindowsPath(subfolder).anchor or PureWindowsPath(filename).anchor
    plain = filename not in ("", ".", "..") and not re.search(r"[/\\\x00]", filename)
    if absolute or ".." in parts or not plain or "\x00" in subfolder:
        raise ServerRunError(
            f"the server names a file outside of the output folder: {subfolder!r} / {filename!r}; nothing is written"
        )
    return SavedReference(filename, "/".join(parts), kind)


def download(
    server: ComfyUIServer, wanted: SavedReference, folder: Path, check_stopped: Callable[[], None]
) -> Path:
    """Download a file into its sub-folder of `folder`, piece by piece, and return its path.

    It has its name only when it is whole; a name that is taken gets a number, x-1.png. check_stopped: called
    between pieces; what it raises ends the download.
    Raises ServerUnreachableError, ServerRunError for a link that leads out of the folder, OSError when it cannot
    be written.
    """
    place = folder.absolute() / wanted.subfolder
    if not place.resolve().is_relative_to(folder.resolve()):
        raise ServerRunError(f"the server names a file outside of the output folder: {place.resolve()}")
    place.mkdir(parents=True, exist_ok=True)
    unfinished = place / f".{uuid.uuid4().hex}.part"
    try:
        with unfinished.open("xb") as file, server.view(wanted.query()) as answer:
            for piece in answer.pieces():
                check_stopped()
                file.write(piece)
        return _named(unfinished, place / wanted.filename)
    finally:
        unfinished.unlink(missing_ok=True)


def _named(unfinished: Path, target: Path) -> Path:
    """Give a whole file its name, or the first free one after it, never in place of another file."""
    candidate, number = target, 1
    while not _linked(unfinished, candidate):
        candidate, number = target.with_stem(f"{target.stem}-{number}"), number + 1
    return candidate


def _linked(unfinished: Path, target: Path) -> bool:
    """Give a file a name; say whether it was free."""
    try:
        os.link(unfinished, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if target.exists() or target.is_symlink():
            return False
        unfinished.replace(target)
    return True
