"""Workflows as the page saves them (UI form) turned into graphs that can run (API form).

Widget values are positional in UI form; links pass through reroutes, primitives, bypassed nodes and subgraphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .graph import Graph, is_link, unknown_nodes_advice
from .overrides import Definitions
from .widgets import widget_inputs

MUTED, BYPASSED = 2, 4
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
DRAWN_ONLY = (REROUTE, PRIMITIVE, "Note", "MarkdownNote")
"""Node types that exist on the page and never run."""

GROUP_NODE_PREFIXES = ("workflow>", "workflow/")

SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS = -10, -20
"""Ids of the two ends inside a subgraph's definition."""


@dataclass(frozen=True)
class _Link:
    origin: Any
    origin_slot: int
    target: Any
    target_slot: int


@dataclass(frozen=True)
class _Constant:
    """A value that takes the place of a link."""

    value: Any


class _Muted:
    """A link whose origin will not run: the input is left out, its widget's value too."""


_MUTED_ORIGIN = _Muted()
_Source = list[Any] | _Constant | _Muted | None
"""What feeds an input: [node id, output index], a constant, a muted node, or nothing (the widget's value)."""


@dataclass
class _Scope:
    """The nodes and links of the graph itself, or of one instance of a subgraph."""

    nodes: dict[Any, dict[str, Any]]
    links: dict[Any, _Link]
    definition: Mapping[str, Any]
    prefix: str = ""
    parent: _Scope | None = None
    instance: Mapping[str, Any] = field(default_factory=dict)

    def node_id(self, node: Mapping[str, Any]) -> str:
        return f"{self.prefix}{node['id']}"


def convert_to_api(workflow: Mapping[str, Any], definitions: Definitions) -> Graph:
    """Return the graph that the page would send for a workflow in UI form.

    definitions: the declared inputs of the node classes. Both serialisations (schema 0.4 and 1) are read.
    Raises ValueError for a file that is not in UI form, unknown node types, group nodes, broken links, or a link
    that goes in a circle through reroutes.
    """
    subgraphs = {
        definition["id"]: definition
        for definition in (workflow.get("definitions") or {}).get("subgraphs", [])
    }
    converter = _Converter(definitions, subgraphs)
    root = _scope(workflow)
    converter.expect_known_types([root, *converter.inner_scopes(root)])
    graph: Graph = {}
    for scope in [root, *converter.inner_scopes(root)]:
        for node in scope.nodes.values():
            if converter.runs(node):
                graph[scope.node_id(node)] = converter.converted(scope, node)
    return _without_dead_links(graph)


def _without_dead_links(graph: Graph) -> Graph:
    for node in graph.values():
        for name in [n for n, value in node["inputs"].items() if is_link(value) and value[0] not in graph]:
            del node["inputs"][name]
    return graph


def _scope(content: Mapping[str, Any], **place: Any) -> _Scope:
    nodes = content.get("nodes")
    if not isinstance(nodes, list) or any("id" not in node or "type" not in node for node in nodes):
        raise ValueError("this is not a workflow in UI form: its nodes lack an id or a type")
    links = {}
    for link in content.get("links") or []:
        if isinstance(link, Mapping):
            key = link["id"]
            ends = link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"]
        else:
            key, *ends = link[:5]
        links[key] = _Link(*ends)
    return _Scope({node["id"]: node for node in nodes}, links, content, **place)


class _Converter:
    """Converts nodes; knows the node classes and the subgraphs."""

    def __init__(self, definitions: Definitions, subgraphs: Mapping[str, Mapping[str, Any]]) -> None:
        self._definitions, self._subgraphs = definitions, subgraphs

    def runs(self, node: Mapping[str, Any]) -> bool:
        """Say whether the node is sent to run."""
        hidden = node["type"] in DRAWN_ONLY or node["type"] in self._subgraphs
        return not hidden and node.get("mode", 0) not in (MUTED, BYPASSED)

    def expect_known_types(self, scopes: list[_Scope]) -> None:
        """Raise ValueError naming every node that runs and whose type is not known."""
        unknown = {
            scope.node_id(node): node["type"]
            for scope in scopes
            for node in scope.nodes.values()
            if self.runs(node) and node["type"] not in self._definitions
        }
        if not unknown:
            return
        if any(str(kind).startswith(GROUP_NODE_PREFIXES) for kind in unknown.values()):
            listed = ", ".join(f"{kind} (node {node_id})" for node_id, kind in unknown.items())
            raise ValueError(
                f"group nodes are not supported: convert them to subgraphs on the page ({listed})"
            )
        raise ValueError(unknown_nodes_advice(unknown))

    def inner_scopes(self, scope: _Scope) -> Iterator[_Scope]:
        """Yield the inside of every subgraph that is not muted or bypassed, outer ones first."""
        for node in scope.nodes.values():
            if node["type"] in self._subgraphs and node.get("mode", 0) not in (MUTED, BYPASSED):
                inner = self._inside(scope, node)
                yield inner
                yield from self.inner_scopes(inner)

    def _inside(self, scope: _Scope, instance: Mapping[str, Any]) -> _Scope:
        prefix = f"{scope.node_id(instance)}:"
        if prefix.count(":") > len(self._subgraphs):
            raise ValueError(f"subgraph {instance['type']} contains itself")
        definition = self._subgraphs[instance["type"]]
        return _scope(definition, prefix=prefix, parent=scope, instance=instance)

    def converted(self, scope: _Scope, node: Mapping[str, Any]) -> dict[str, Any]:
        """Return a node in API form: the widgets' values, then the links over them."""
        declared = self._definitions[node["type"]]
        inputs = widget_inputs(node.get("widgets_values"), declared)
        for socket in node.get("inputs") or []:
            if socket.get("link") is None:
                continue
            source = self._source(scope, socket["link"], socket.get("type", "*"), ())
            if isinstance(source, _Muted):
                inputs.pop(socket["name"], None)
            elif isinstance(source, _Constant):
                inputs[socket["name"]] = source.value
            elif source is not None:
                inputs[socket["name"]] = source
        return {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title") or node["type"]},
        }

    def _source(self, scope: _Scope, link_id: Any, wanted: Any, path: tuple[Any, ...]) -> _Source:
        """Return what a link brings in the end. path: the links followed so far."""
        step = scope.prefix, link_id
        if step in path:
            raise ValueError(f"link {link_id} goes in a circle through reroutes or bypassed nodes")
        if link_id not in scope.links:
            raise ValueError(f"the workflow is broken: link {link_id} is used by a node but not listed")
        link = scope.links[link_id]
        path = (*path, step)
        if link.origin == SUBGRAPH_INPUTS:
            return self._from_outside(scope, link.origin_slot, wanted, path)
        if link.origin not in scope.nodes:
            raise ValueError(
                f"the workflow is broken: link {link_id} comes from node {link.origin}, which is gone"
            )
        return self._from_node(scope, scope.nodes[link.origin], link.origin_slot, wanted, path)

    def _from_node(
        self, scope: _Scope, node: Mapping[str, Any], slot: int, wanted: Any, path: tuple[Any, ...]
    ) -> _Source:
        if node["type"] == PRIMITIVE:
            values = node.get("widgets_values") or []
            return _Constant(values[0]) if values else None
        if node.get("mode", 0) == MUTED:
            return _MUTED_ORIGIN
        if node["type"] == REROUTE:
            return self._from_socket(scope, (node.get("inputs") or [{}])[0], wanted, path)
        if node.get("mode", 0) == BYPASSED:
            return self._from_socket(scope, _bypass_socket(node, slot, wanted), wanted, path)
        if node["type"] in self._subgraphs:
            return self._from_inside(scope, node, slot, wanted, path)
        return [scope.node_id(node), slot]

    def _from_socket(
        self, scope: _Scope, socket: Mapping[str, Any], wanted: Any, path: tuple[Any, ...]
    ) -> _Source:
        link_id = socket.get("link")
        return None if link_id is None else self._source(scope, link_id, wanted, path)

    def _from_inside(
        self, scope: _Scope, instance: Mapping[str, Any], slot: int, wanted: Any, path: tuple[Any, ...]
    ) -> _Source:
        """Follow a link that comes out of a subgraph."""
        inner = self._inside(scope, instance)
        for link_id, link in inner.links.items():
            if link.target == SUBGRAPH_OUTPUTS and link.target_slot == slot:
                return self._source(inner, link_id, wanted, path)
        return None

    def _from_outside(self, scope: _Scope, slot: int, wanted: Any, path: tuple[Any, ...]) -> _Source:
        """Follow a link that comes into a subgraph: the instance's link, or its own widget's value."""
        name = scope.definition["inputs"][slot]["name"]
        sockets = scope.instance.get("inputs") or []
        socket = next((socket for socket in sockets if socket["name"] == name), {})
        if socket.get("link") is not None:
            return self._source(scope.parent, socket["link"], wanted, path)
        promoted = [entry["name"] for entry in sockets if entry.get("widget")]
        values = scope.instance.get("widgets_values")
        if name in promoted and isinstance(values, list) and promoted.index(name) < len(values):
            return _Constant(values[promoted.index(name)])
        return None


def _bypass_socket(node: Mapping[str, Any], slot: int, wanted: Any) -> Mapping[str, Any]:
    """Return the input that stands in for an output of a bypassed node; an empty one when none fits."""
    sockets = node.get("inputs") or []
    if not sockets:
        return {}
    opposite = sockets[slot] if slot < len(sockets) else None
    if wanted in ("*", ""):
        return opposite or sockets[0]
    given = (node.get("outputs") or [{}] * (slot + 1))[slot].get("type", "*")
    if opposite is not None and _fits(opposite["type"], given) and _fits(opposite["type"], wanted):
        return opposite
    exact = (socket for socket in sockets if socket["type"] == wanted)
    compatible = (s for s in sockets if _fits(s["type"], given) and _fits(s["type"], wanted))
    return next(exact, None) or next(compatible, {})


def _fits(first: Any, second: Any) -> bool:
    """Say whether the page would connect two types: equal, any, or with a type in common; case is ignored."""
    if first == second or "*" in (first, second) or "" in (first, second):
        return True
    parts = [{part.strip() for part in str(kind).lower().split(",")} for kind in (first, second)]
    return bool(parts[0] & parts[1])
