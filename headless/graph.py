"""Graphs in API form, {node id: {"class_type": name, "inputs": {name: value or [node id, output index]}}}."""

from __future__ import annotations

import copy
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Graph = dict[str, dict[str, Any]]
NodeClasses = Mapping[str, type]


class WorkflowError(ValueError):
    """Something is wrong with a workflow file, its graph, or a setting of one of its inputs.

    The base of WorkflowFileError, OverrideError and GraphValidationError: what the user gave cannot run.
    """


class ExecutionBlocker:
    """A value that stops every node it reaches.

    message: shown as the reason; None stops silently.
    """

    def __init__(self, message: str | None = None) -> None:
        self.message = message


def is_link(value: Any) -> bool:
    """Say whether an input's value is a link: [node id, output index]."""
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)):
        return False
    return isinstance(value[1], int) or (isinstance(value[1], float) and value[1].is_integer())


def links_of(node: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield (input name, origin node id, output index) for every linked input of a node."""
    for name, value in node.get("inputs", {}).items():
        if is_link(value):
            yield name, value[0], int(value[1])


def title_of(graph: Graph, node_id: str) -> str:
    """Return what a person would call the node: its title, or its class."""
    return own_title(graph[node_id]) or graph[node_id].get("class_type") or node_id


def own_title(node: Mapping[str, Any]) -> str | None:
    """Return the title that a file gives a node, None where it gives none."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return title if isinstance(title, str) and title else None


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


class UnknownNodesError(WorkflowError):
    """A workflow has nodes whose types are not known here; its text names them all, and the packs they come from.

    unknown: {node id: class name}.
    """

    def __init__(self, unknown: Mapping[str, str], packs: Mapping[str, str], where: str) -> None:
        """packs: {class name: pack it comes from}, as far as a file says it. where: who lacks them, and what to do."""
        self.unknown = dict(unknown)
        ids: dict[str, list[str]] = {}
        for node_id, name in unknown.items():
            ids.setdefault(name, []).append(node_id)
        listed = [
            f"{name} (node{'s' if len(nodes) > 1 else ''} {', '.join(nodes)}"
            + (f"; from {packs[name]})" if name in packs else ")")
            for name, nodes in ids.items()
        ]
        super().__init__(f"unknown node types: {', '.join(listed)}; {where}")


RUNNER_LACKS = (
    "the runner brings this package's nodes and a few of ComfyUI's: run the workflow in a ComfyUI that has them all, "
    "with --server"
)
SERVER_LACKS = "the server does not have them: install their packs there and start it again"


def unknown_nodes(graph: Graph, node_classes: Container[str]) -> dict[str, str]:
    """Return {node id: class name} of the nodes whose classes are not known."""
    names = {node_id: node.get("class_type") for node_id, node in graph.items()}
    return {
        node_id: str(name)
        for node_id, name in names.items()
        if name is not None and str(name) not in node_classes
    }


def is_ui_format(content: Mapping[str, Any]) -> bool:
    """Say whether a workflow is what the page saves (nodes with positions), not the API form."""
    return isinstance(content.get("nodes"), list)


def copied_graph(graph: Mapping[str, Any]) -> Graph:
    """Return a deep copy with text ids, in links too, every node with an `inputs` object.

    Raises WorkflowError for something that is not a graph in API form.
    """
    copied: Graph = {}
    for node_id, node in graph.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("inputs", {}), Mapping):
            raise WorkflowError(
                f"this is not a workflow in API form: node {node_id!r} is {json.dumps(node, default=str)[:80]}, "
                'expected {"class_type": ..., "inputs": {...}}'
            )
        inputs = {name: _with_text_id(value) for name, value in node.get("inputs", {}).items()}
        copied[str(node_id)] = {**copy.deepcopy(dict(node)), "inputs": inputs}
    return copied


def _with_text_id(value: Any) -> Any:
    """Return a copy of an input's value; of a link whose node id is a number, as hand-written files have it, a link."""
    if isinstance(value, list) and len(value) == 2 and type(value[0]) is int:
        return [str(value[0]), value[1]]
    return copy.deepcopy(value)
