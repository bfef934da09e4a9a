"""Workflow files: JSON in UI or API form, and pictures, videos and sounds that carry the workflow they came from."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .graph import WorkflowError, is_ui_format
from .media_tags import SIGNATURE_BYTES, MediaTagError, media_kind, media_tags

LARGEST_WORKFLOW = 20_000_000
"""Bytes of JSON, in a file of its own or carried by another; the largest shared ones have a few million."""

DEEPEST_NESTING = 100
"""Lists and objects within each other; a workflow has about ten."""

MOST_NODES = 5_000
"""Nodes of one workflow, those inside its subgraphs counted for each use."""

CARRYING_KINDS = "PNG, WebP, MP4, MOV, WebM, MKV, FLAC, OGG or MP3"


class WorkflowFileError(WorkflowError):
    """A file that holds no workflow that can be read; its text says why."""


@dataclass(frozen=True)
class WorkflowFile:
    """A workflow as a file holds it; at least one of the two forms is there.

    source: the file, or "-" for one that has no name. api: the graph in API form; where it is there, it is what runs.
    page: the same in UI form, as the page saves it, which gives places and titles.
    """

    source: Path
    api: dict[str, Any] | None = None
    page: dict[str, Any] | None = None


STANDARD_INPUT = "-"
"""What stands for the file when the workflow comes through a pipe."""


def named_workflow(name: str) -> WorkflowFile:
    """Return the workflow that a command line names: a file, or STANDARD_INPUT; see `read_workflow_file`."""
    if name == STANDARD_INPUT:
        return workflow_from_stream(sys.stdin.buffer)
    return read_workflow_file(name)


def read_workflow_file(path: str | Path) -> WorkflowFile:
    """Return the workflow of a JSON file (either form), or of a picture, video or sound that carries one.

    Raises WorkflowFileError for a file that is not there, is too large, broken or deeply nested, or holds no workflow.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            raise WorkflowFileError(f"{path} is a folder: name a workflow file in it")
        if path.is_fifo():  # as a shell gives for <(command)
            with path.open("rb") as pipe:
                return workflow_from_stream(pipe, path)
        if not path.is_file():
            raise WorkflowFileError(f"there is no workflow file {path}")
        with path.open("rb") as file:
            kind = media_kind(file.read(SIGNATURE_BYTES))
            file.seek(0)
            return workflow_from_stream(file, path) if kind is None else _carried_workflow(path, kind)
    except (OSError, ValueError) as error:
        if isinstance(error, WorkflowError):
            raise
        raise WorkflowFileError(f"the workflow file {path} cannot be read: {error}") from error


def workflow_from_stream(stream: BinaryIO, source: Path = Path("-")) -> WorkflowFile:
    """Return the workflow in the JSON that comes from a stream, such as stdin; see `read_workflow_file`."""
    content = stream.read(LARGEST_WORKFLOW + 1)
    kind = media_kind(content[:SIGNATURE_BYTES])
    if kind is not None:
        raise WorkflowFileError(
            f"{source} is no JSON but a file of kind {kind}: only JSON is read through a pipe, name the file instead"
        )
    return workflow_from_bytes(content, source)


def workflow_from_bytes(content: bytes, source: Path = Path("-")) -> WorkflowFile:
    """Return the workflow in JSON text, UTF-8 or UTF-16; see `read_workflow_file`."""
    return workflow_from_object(_parsed(content, str(source)), source)


def workflow_from_object(content: Any, source: Path = Path("-")) -> WorkflowFile:
    """Return a workflow that is here already as a JSON object: in UI or API form, or a request to /prompt with both.

    Raises WorkflowFileError for another value, and one that is nested too deeply or holds no nodes.
    """
    _expect_sound_values(content, str(source))
    if _is_request(content):
        carried = (content.get("extra_data") or {}).get("extra_pnginfo") or {}
        return _of_forms(content["prompt"], carried.get("workflow"), source)
    return _of_forms(content, None, source)


def _is_request(content: Any) -> bool:
    """Say whether this is what a client sends to /prompt."""
    return (
        isinstance(content, Mapping)
        and isinstance(content.get("prompt"), Mapping)
        and "class_type" not in content["prompt"]
        and isinstance(content.get("extra_data") or {}, Mapping)
        and isinstance((content.get("extra_data") or {}).get("extra_pnginfo") or {}, Mapping)
    )


def _of_forms(first: Any, second: Any, source: Path) -> WorkflowFile:
    """Return what two objects give, either of which may be missing or empty, in whichever forms they are."""
    api = page = None
    for content in (second, first):
        if content is None or content == {}:
            continue
        if not isinstance(content, Mapping):
            raise WorkflowFileError(f"{source} is not a workflow: expected a JSON object with nodes")
        if is_ui_format(content):
            page = dict(content)
        else:
            api = _without_leftovers(content, source)
    if api is None and page is None:
        raise WorkflowFileError(f"{source} holds no workflow: it is an empty JSON object")
    nodes = api if api is not None else page["nodes"]
    if not nodes:
        raise WorkflowFileError(f"the workflow {source} has no nodes")
    if len(nodes) > MOST_NODES:
        raise WorkflowFileError(
            f"the workflow {source} has {len(nodes)} nodes, at most {MOST_NODES} are read"
        )
    return WorkflowFile(source, api, page)


def _without_leftovers(content: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Return a graph in API form without what ComfyUI's runner writes into the graphs that it saves."""
    if not any(isinstance(node, Mapping) and "class_type" in node for node in content.values()):
        raise WorkflowFileError(
            f"{source} is not a workflow: expected a JSON object with nodes, in UI form (a list `nodes`) or API form "
            '({id: {"class_type": ..., "inputs": {...}}})'
        )
    return {
        node_id: {name: value for name, value in node.items() if name != "is_changed"}
        if isinstance(node, Mapping)
        else node
        for node_id, node in content.items()
    }


def _carried_workflow(path: Path, kind: str) -> WorkflowFile:
    try:
        tags = media_tags(path, kind, LARGEST_WORKFLOW)
    except MediaTagError as error:
        raise WorkflowFileError(f"no workflow can be read from {path}: {error}") from error
    forms, problems = {}, []
    for name in ("prompt", "workflow"):
        try:
            if tags.get(name):
                forms[name] = _parsed(tags[name], f"the {name} in {path}")
                _expect_sound_values(forms[name], f"the {name} in {path}")
        except WorkflowFileError as error:
            forms.pop(name, None)
            problems.append(error)
    if problems and not forms:
        raise problems[-1]
    if not forms:
        others = f"; it has {', '.join(sorted(tags)[:10])}, of other software" if tags else ""
        raise WorkflowFileError(
            f"{path} carries no workflow{others}: only files that ComfyUI or this program saved, with their "
            f"metadata kept, do ({CARRYING_KINDS})"
        )
    return _of_forms(forms.get("prompt"), forms.get("workflow"), path)


def _parsed(content: bytes | str, source: str) -> Any:
    """Return what a JSON text holds; NaN and Infinity, which old runners wrote, are read."""
    if len(content) > LARGEST_WORKFLOW:
        raise WorkflowFileError(
            f"{source} is not a workflow: it has more than {LARGEST_WORKFLOW // 1_000_000} MB of JSON"
        )
    if not content.strip():
        raise WorkflowFileError(f"{source} is not a workflow: it is empty")
    try:
        return json.loads(content)
    except RecursionError as error:
        raise WorkflowFileError(_too_deep(source)) from error
    except UnicodeDecodeError as error:
        raise WorkflowFileError(
            f"{source} is not a workflow: it is neither JSON nor one of the files that carry one ({CARRYING_KINDS})"
        ) from error
    except ValueError as error:
        raise WorkflowFileError(
            f"{source} is not a workflow: it is not JSON, or is cut off ({error})"
        ) from error


def _too_deep(source: str) -> str:
    return f"{source} is not a workflow: lists and objects are nested more than {DEEPEST_NESTING} deep"


def _expect_sound_values(content: Any, source: str) -> None:
    """Raise WorkflowFileError for values nested too deeply, and for texts that no file could hold."""
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            _expect_text(value, source)
        elif isinstance(value, Mapping | list):
            if depth > DEEPEST_NESTING:
                raise WorkflowFileError(_too_deep(source))
            inner = (item for pair in value.items() for item in pair) if isinstance(value, Mapping) else value
            waiting += [(item, depth + 1) for item in inner]


def _expect_text(text: str, source: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WorkflowFileError(
            f"{source} is not a workflow: its text {text[:40]!a} holds half a character (a lone surrogate)"
        ) from error
