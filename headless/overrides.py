"""Changing inputs of a graph from the command line: NODE.input=value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .graph import Graph, InputSpecification, is_link

Definitions = Mapping[str, Mapping[str, InputSpecification]]
"""{class name: {input name: its declaration}}."""

UPLOAD_OPTIONS = ("image_upload", "audio_upload", "video_upload", "upload")


def apply_overrides(graph: Graph, assignments: list[str], definitions: Definitions) -> None:
    """Set inputs of a graph in place.

    assignments: texts "NODE.input=value". NODE is an id, or a class name or title that only one node has. The
    value is read as JSON, and as plain text where that fails or where the input is a text. A link is replaced by
    the value. Files named relative to the current folder become absolute paths.
    Raises ValueError for another form, and for a node or input that is not there, naming those that are.
    """
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        name, dot, input_name = target.partition(".")
        if not (equals and dot and name and input_name):
            raise ValueError(f"{assignment!r} is not of the form NODE.input=value, such as 3.image=face.jpg")
        node_id = find_node(graph, name)
        set_input(graph, node_id, input_name, text, definitions)


def find_node(graph: Graph, name: str) -> str:
    """Return the id of the node with this id, or else the only one with this class name or title."""
    if name in graph:
        return name
    matches = [
        node_id
        for node_id, node in graph.items()
        if name in (node.get("class_type"), node.get("_meta", {}).get("title"))
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"{len(matches)} nodes are called {name!r}: use an id, {', '.join(matches)}")
    listed = ", ".join(f"{node_id} ({node.get('class_type')})" for node_id, node in graph.items())
    raise ValueError(f"the workflow has no node {name!r}; it has {listed}")


def set_input(graph: Graph, node_id: str, name: str, text: str, definitions: Definitions) -> None:
    """Set one input from a text; see `apply_overrides`."""
    node = graph[node_id]
    declared = definitions.get(node.get("class_type", ""))
    known = set(node["inputs"]) | (
        {s.name for s in declared.values() if s.category != "hidden"} if declared else set()
    )
    if name not in known:
        raise ValueError(
            f"node {node_id} ({node.get('class_type')}) has no input {name!r}; it has {', '.join(sorted(known))}"
        )
    specification = declared.get(name) if declared else None
    node["inputs"][name] = _value(text, specification)


def _value(text: str, specification: InputSpecification | None) -> Any:
    if specification is not None and is_upload(specification):
        path = Path(text).expanduser()
        return str(path.absolute()) if path.is_file() else text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    if (
        specification is not None
        and specification.type == "STRING"
        and not (isinstance(value, str) or is_link(value))
    ):
        return text
    return value


def is_upload(specification: InputSpecification) -> bool:
    """Say whether an input names a file of the input folder."""
    return any(specification.options.get(option) for option in UPLOAD_OPTIONS)
