"""A graph that grows while it runs: nodes may expand into further nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .graph import Graph, NodeClasses, links_of, unknown_nodes

Scope = tuple[tuple[str, str], ...]
"""Where a node belongs: (id, class) of the nodes that expanded into it, outermost first; () for the graph's own."""


class ExpandingGraph:
    """A graph and what its nodes expanded into; also what a node with the hidden input DYNPROMPT is given."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._added: Graph = {}
        self._parents: dict[str, str] = {}
        self._displays: dict[str, str] = {}

    def get_node(self, node_id: str) -> dict[str, Any]:
        """Return a node. Raises ValueError when it is not there."""
        node = self._added.get(node_id) or self._graph.get(node_id)
        if node is None:
            raise ValueError(f"there is no node {node_id!r} in the graph")
        return node

    def has_node(self, node_id: str) -> bool:
        """Say whether a node is there."""
        return node_id in self._added or node_id in self._graph

    def all_node_ids(self) -> set[str]:
        """Return the ids of all nodes."""
        return {*self._graph, *self._added}

    def get_original_prompt(self) -> Graph:
        """Return the graph as it was before anything expanded."""
        return self._graph

    def add_ephemeral_node(
        self, node_id: str, node_info: dict[str, Any], parent_id: str, display_id: str
    ) -> None:
        """Add a node that another expanded into. display_id: the node that the page shows for it."""
        self._added[node_id] = node_info
        self._parents[node_id] = parent_id
        self._displays[node_id] = display_id

    def get_parent_node_id(self, node_id: str) -> str | None:
        """Return the node that expanded into a node, None for one of the graph's own."""
        return self._parents.get(node_id)

    def get_real_node_id(self, node_id: str) -> str:
        """Return the graph's own node that a node came from."""
        while node_id in self._parents:
            node_id = self._parents[node_id]
        return node_id

    def get_display_node_id(self, node_id: str) -> str:
        """Return the id that the page shows for a node."""
        seen = {node_id}
        while self._displays.get(node_id, node_id) not in seen:
            node_id = self._displays[node_id]
            seen.add(node_id)
        return node_id

    def scope_of(self, node_id: str) -> Scope:
        """Return where a node belongs."""
        chain: list[tuple[str, str]] = []
        parent = self._parents.get(node_id)
        while parent is not None:
            chain.append((parent, self.get_node(parent)["class_type"]))
            parent = self._parents.get(parent)
        return tuple(reversed(chain))

    def expand(self, parent_id: str, expansion: Mapping[str, Any]) -> list[str]:
        """Add what a node expanded into and return the new ids.

        Raises ValueError for an id that is taken, and for links to nodes that are not there.
        """
        for node_id, node in expansion.items():
            if self.has_node(node_id):
                raise ValueError(
                    f"the node expands into a node {node_id!r}, which is there already: ids must be unique and "
                    "the same in every run; use GraphBuilder"
                )
            self.add_ephemeral_node(node_id, node, parent_id, node.get("override_display_id", parent_id))
        for node in expansion.values():
            self._expect_origins(node)
        return list(expansion)

    def _expect_origins(self, node: Mapping[str, Any]) -> None:
        for name, origin, _ in links_of(node):
            if not self.has_node(origin):
                raise ValueError(
                    f"the graph that the node expands into links {name} to {origin!r}, not there"
                )


def expect_graph(expansion: Any, classes: NodeClasses) -> None:
    """Raise ValueError unless a value is a graph in API form of known classes."""
    if not isinstance(expansion, Mapping) or not all(map(_is_node, expansion.values())):
        raise ValueError(
            "the node expands into something else than a graph in API form, "
            '{id: {"class_type": ..., "inputs": {...}}}; use GraphBuilder and its finalize()'
        )
    unknown = unknown_nodes(dict(expansion), classes)
    if unknown:
        raise ValueError(f"the node expands into unknown node types: {', '.join(sorted(unknown.values()))}")


def _is_node(node: Any) -> bool:
    return (
        isinstance(node, Mapping) and bool(node.get("class_type")) and isinstance(node.get("inputs"), Mapping)
    )
