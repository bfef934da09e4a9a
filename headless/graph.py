"""Graphs in API form, {node id: {"class_type": name, "inputs": {name: value or [node id, output index]}}}."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]
NodeClasses = Mapping[str, type]


class ExecutionBlocker:
    """A value that stops every node it reaches.

    message: shown as the reason; None stops silently.
    """

    def __init__(self, message: str | None = None) -> None:
        self.message = message


def is_link(value: Any) -> bool:
    """Say whether an input's value is a link: [node id, output index]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
    )


def links_of(node: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield (input name, origin node id, output index) for every linked input of a node."""
    for name, value in node.get("inputs", {}).items():
        if is_link(value):
            yield name, value[0], int(value[1])


def title_of(graph: Graph, node_id: str) -> str:
    """Return what a person would call the node: its title, or its class."""
    node = graph[node_id]
    return node.get("_meta", {}).get("title") or node.get("class_type") or node_id


@dataclass(frozen=True)
class InputSpecification:
    """One input as a node class declares it.

    type: "INT", "IMAGE", a comma list of types, or a list of the values to choose from.
    options: default, min, max, tooltip, ... category: "required", "optional" or "hidden".
    """

    name: str
    type: Any
    options: Mapping[str, Any]
    category: str

    @property
    def choices(self) -> list[Any] | None:
        """The values to choose from; None when the input is not a choice."""
        if isinstance(self.type, list | tuple):
            return list(self.type)
        if self.type == "COMBO" and "options" in self.options:
            return list(self.options["options"])
        return None


def input_specifications(node_class: type) -> dict[str, InputSpecification]:
    """Return the declared inputs of a node class by name: required first, then optional, then hidden."""
    declared = node_class.INPUT_TYPES()
    specifications = {}
    for category in ("required", "optional", "hidden"):
        for name, entry in declared.get(category, {}).items():
            if category == "hidden":
                specifications[name] = InputSpecification(name, entry, {}, category)
            else:
                options = entry[1] if len(entry) > 1 else {}
                specifications[name] = InputSpecification(name, entry[0], options, category)
    return specifications


def is_output_node(node_class: type) -> bool:
    """Say whether a node has an effect of its own, so that it runs even if nothing needs its outputs."""
    return getattr(node_class, "OUTPUT_NODE", False) is True


def unknown_nodes(graph: Graph, node_classes: NodeClasses) -> dict[str, str]:
    """Return {node id: class name} of the nodes whose classes are not known."""
    names = {node_id: str(node.get("class_type", "")) for node_id, node in graph.items()}
    return {node_id: name for node_id, name in names.items() if name and name not in node_classes}


def unknown_nodes_advice(unknown: Mapping[str, str]) -> str:
    """Return what to do about nodes, {node id: class name}, that the runner does not bring."""
    listed = ", ".join(f"{name} (node {node_id})" for node_id, name in unknown.items())
    return (
        f"unknown node types: {listed}; the runner brings this package's nodes and a few of ComfyUI's: run the "
        "workflow in a ComfyUI that has them all, with --server"
    )


def read_graph_file(path: str | Path) -> dict[str, Any]:
    """Return the JSON object of a workflow file, in UI or API form.

    Raises OSError for a file that cannot be read, ValueError for one that holds no JSON object.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no workflow file {path}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a workflow: it is not JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} is not a workflow: expected a JSON object with nodes")
    return content


def is_ui_format(content: Mapping[str, Any]) -> bool:
    """Say whether a workflow is what the page saves (nodes with positions), not the API form."""
    return isinstance(content.get("nodes"), list)


def copied_graph(graph: Mapping[str, Any]) -> Graph:
    """Return a deep copy with text ids, every node with an `inputs` object.

    Raises ValueError for something that is not a graph in API form.
    """
    copied: Graph = {}
    for node_id, node in graph.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("inputs", {}), Mapping):
            raise ValueError(
                f"this is not a workflow in API form: node {node_id!r} is {json.dumps(node, default=str)[:80]}, "
                'expected {"class_type": ..., "inputs": {...}}'
            )
        copied[str(node_id)] = {
            **copy.deepcopy(dict(node)),
            "inputs": copy.deepcopy(dict(node.get("inputs", {}))),
        }
    return copied
