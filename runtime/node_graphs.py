"""Graphs that a node builds while it runs and gives back under "expand": they run in its place.

A node that expands returns {"result": (values and links into the graph,), "expand": builder.finalize()}.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from .host import StandaloneHost, host


def graph_builder(prefix: str | None = None) -> Any:
    """Return an empty graph for the node that is running: ComfyUI's own GraphBuilder there, `GraphBuilder` elsewhere.

    prefix: put in front of every id; "<node>.<call>.<graph>." when None, which makes ids unique and the same in
    every run, so that results can be kept.
    Raises RuntimeError outside of a running node when there is no prefix.
    """
    if host().in_comfyui:
        return sys.modules["comfy_execution.graph_utils"].GraphBuilder(prefix)
    return GraphBuilder(prefix)


class GraphBuilder:
    """A graph in the making, with the methods of ComfyUI's class of the same name."""

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = _prefix_of_running_node() if prefix is None else prefix
        self.nodes: dict[str, BuiltNode] = {}
        self._numbered = 0

    def node(self, class_type: str, id: str | None = None, **inputs: Any) -> BuiltNode:
        """Add a node, or return the one that has this id already. `id` is a number, counted from 1, when None."""
        if id is None:
            self._numbered += 1
            id = str(self._numbered)
        whole_id = self.prefix + id
        return self.nodes.setdefault(whole_id, BuiltNode(whole_id, class_type, inputs))

    def lookup_node(self, id: str) -> BuiltNode | None:
        """Return the node of an id given without the prefix, or None."""
        return self.nodes.get(self.prefix + id)

    def replace_node_output(self, node_id: str, index: int, new_value: Any) -> None:
        """Put a value, or nothing when it is None, wherever an output of a node is linked to."""
        link = [self.prefix + node_id, index]
        for node in self.nodes.values():
            for name in [name for name, value in node.inputs.items() if _is_same_link(value, link)]:
                node.set_input(name, new_value)

    def remove_node(self, id: str) -> None:
        """Remove a node; links to it stay."""
        del self.nodes[self.prefix + id]

    def finalize(self) -> dict[str, dict[str, Any]]:
        """Return the graph in API form."""
        return {node_id: node.serialize() for node_id, node in self.nodes.items()}


def _prefix_of_running_node() -> str:
    owner = host()
    prefix = owner.next_graph_prefix() if isinstance(owner, StandaloneHost) else None
    if prefix is None:
        raise RuntimeError("no node is running, so ids need a prefix: give GraphBuilder one of your own")
    return prefix


def _is_same_link(value: Any, link: list[Any]) -> bool:
    return isinstance(value, list) and value == link


class BuiltNode:
    """A node of a graph in the making."""

    def __init__(self, id: str, class_type: str, inputs: Mapping[str, Any]) -> None:
        self.id, self.class_type, self.inputs = id, class_type, dict(inputs)
        self.override_display_id: str | None = None

    def out(self, index: int) -> list[Any]:
        """Return a link to one of the outputs, counted from 0."""
        return [self.id, index]

    def get_input(self, name: str) -> Any:
        """Return what an input is set or linked to, or None."""
        return self.inputs.get(name)

    def set_input(self, name: str, value: Any) -> None:
        """Set an input to a value or a link; None takes it away."""
        if value is None:
            self.inputs.pop(name, None)
        else:
            self.inputs[name] = value

    def set_override_display_id(self, override_display_id: str) -> None:
        """Let the page show this node's progress on another node than the one that expands."""
        self.override_display_id = override_display_id

    def serialize(self) -> dict[str, Any]:
        """Return the node in API form."""
        shown = {"override_display_id": self.override_display_id} if self.override_display_id else {}
        return {"class_type": self.class_type, "inputs": dict(self.inputs), **shown}
