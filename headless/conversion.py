"""Workflows as the page saves them (UI form) turned into graphs that can run (API form).

Widget values are positional in UI form; links pass through reroutes, primitives, bypassed nodes and subgraphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .graph import RUNNER_LACKS, Graph, UnknownNodesError, WorkflowError, is_link
from .overrides import Definitions
from .page_content import (
    MUTED,
    PageContent,
    PageLink,
    PageNode,
    PageSocket,
    packs_of_types,
    page_content,
    page_subgraphs,
)
from .widgets import widget_inputs, wrapped_value
from .workflow_files import MOST_NODES

REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
DRAWN_ONLY = (REROUTE, PRIMITIVE, "Note", "MarkdownNote")
"""Node types that exist on the page and never run."""

GROUP_NODE_PREFIXES = ("workflow>", "workflow/")

SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS = "-10", "-20"
"""Ids of the two ends inside a subgraph's definition."""


@dataclass(frozen=True)
class _Constant:
    """A value that takes the place of a link."""

    value: Any


class _Muted:
    """A link whose origin will not run: the input is left out, its widget's value too."""


_Source = list[Any] | _Constant | _Muted | None
"""What feeds an input: [node id, output index], a constant, a muted node, or nothing (the widget's value)."""


@dataclass(frozen=True)
class _Scope:
    """The graph itself, or one instance of a subgraph within `parent`. prefix: of the ids of its nodes."""

    content: PageContent
    prefix: str = ""
    parent: _Scope | None = None
    instance: PageNode | None = None

    def node_id(self, node: PageNode) -> str:
        return f"{self.prefix}{node.id}"

    def path(self) -> list[str]:
        """Return the types of the subgraphs this lies in, its own first."""
        types, scope = [], self
        while scope.instance is not None:
            types.append(scope.instance.type)
            scope = scope.parent
        return types


@dataclass(frozen=True)
class _Next:
    """The link to follow next; None where there is none."""

    scope: _Scope
    link: str | None


def convert_to_api(
    workflow: Mapping[str, Any], definitions: Definitions, lacking: str = RUNNER_LACKS
) -> Graph:
    """Return the graph that the page would send for a workflow in UI form.

    definitions: the declared inputs of the node classes. lacking: who has only these, and what to do, for the error.
    Both serialisations (schema 0.4 and 1) are read.
    Raises WorkflowError for a file that is not in UI form, unknown node types, group nodes, broken links, a link that
    goes in a circle through reroutes, and subgraphs that contain themselves or are too many.
    """
    content, subgraphs = page_content(workflow), page_subgraphs(workflow)
    converter = _Converter(content, subgraphs, definitions)
    unknown = converter.unknown_types()
    if unknown:
        _refuse_group_nodes(unknown)
        raise UnknownNodesError(unknown, packs_of_types([content, *subgraphs.values()]), lacking)
    return _without_dead_links(converter.graph())


def _refuse_group_nodes(unknown: Mapping[str, str]) -> None:
    groups = [f"{kind} (node {i})" for i, kind in unknown.items() if kind.startswith(GROUP_NODE_PREFIXES)]
    if groups:
        raise WorkflowError(
            f"group nodes are not supported: convert them to subgraphs on the page ({', '.join(groups)})"
        )


def _without_dead_links(graph: Graph) -> Graph:
    for node in graph.values():
        for name in [n for n, value in node["inputs"].items() if is_link(value) and value[0] not in graph]:
            del node["inputs"][name]
    return graph


class _Converter:
    """Converts the nodes of a graph and of the subgraphs in it."""

    def __init__(
        self, content: PageContent, subgraphs: Mapping[str, PageContent], definitions: Definitions
    ) -> None:
        self._subgraphs, self._definitions = subgraphs, definitions
        self._scopes = self._all_scopes(_Scope(content))
        self._sources: dict[tuple[str, str, str], _Source] = {}

    def _all_scopes(self, root: _Scope) -> dict[str, _Scope]:
        """Return {prefix: scope} of the graph and every subgraph in it that is not off."""
        scopes: dict[str, _Scope] = {}
        waiting, nodes = [root], 0
        while waiting:
            scope = waiting.pop(0)
            scopes[scope.prefix] = scope
            nodes += len(scope.content.nodes)
            if nodes > MOST_NODES:
                raise WorkflowError(f"with its subgraphs the workflow has more than {MOST_NODES} nodes")
            for node in scope.content.nodes.values():
                if node.type in self._subgraphs and not node.is_off:
                    waiting.append(self._inside(scope, node))
        return scopes

    def _inside(self, scope: _Scope, instance: PageNode) -> _Scope:
        if instance.type in scope.path():
            raise WorkflowError(f"subgraph {instance.type} contains itself")
        prefix = f"{scope.node_id(instance)}:"
        return _Scope(self._subgraphs[instance.type], prefix, scope, instance)

    def _running(self) -> list[tuple[_Scope, PageNode]]:
        return [
            (scope, node)
            for scope in self._scopes.values()
            for node in scope.content.nodes.values()
            if not (node.type in DRAWN_ONLY or node.type in self._subgraphs or node.is_off)
        ]

    def unknown_types(self) -> dict[str, str]:
        """Return {node id: type} of the nodes that run and whose type is not known."""
        return {
            scope.node_id(node): node.type
            for scope, node in self._running()
            if node.type not in self._definitions
        }

    def graph(self) -> Graph:
        """Return the nodes that run, in API form."""
        return {scope.node_id(node): self._converted(scope, node) for scope, node in self._running()}

    def _converted(self, scope: _Scope, node: PageNode) -> dict[str, Any]:
        """Return a node in API form: the widgets' values, then the links over them."""
        inputs = widget_inputs(node.values, self._definitions[node.type])
        for socket in node.sockets:
            if socket.link is None:
                continue
            source = self._source(scope, socket.link, socket.type)
            if isinstance(source, _Muted):
                inputs.pop(socket.name, None)
            elif isinstance(source, _Constant):
                inputs[socket.name] = wrapped_value(source.value)
            elif source is not None:
                inputs[socket.name] = list(source)
        return {"class_type": node.type, "inputs": inputs, "_meta": {"title": node.title or node.type}}

    def _source(self, scope: _Scope, link_id: str, wanted: Any) -> _Source:
        """Return what a link brings in the end. wanted: the type of the input it leads to."""
        place: _Source | _Next = _Next(scope, link_id)
        followed: dict[tuple[str, str, str], None] = {}
        while isinstance(place, _Next):
            if place.link is None:
                place = None
                break
            step = place.scope.prefix, place.link, str(wanted)
            if step in followed:
                raise WorkflowError(f"link {place.link} goes in a circle through reroutes or bypassed nodes")
            if step in self._sources:
                place = self._sources[step]
                break
            followed[step] = None
            place = self._step(place.scope, place.link, wanted)
        self._sources.update(dict.fromkeys(followed, place))  # many inputs may share a long way
        return place

    def _step(self, scope: _Scope, link_id: str, wanted: Any) -> _Source | _Next:
        link = scope.content.links.get(link_id)
        if link is None:
            raise WorkflowError(f"the workflow is broken: link {link_id} is used by a node but not listed")
        if link.origin_slot < 0:
            raise WorkflowError(
                f"the workflow is broken: link {link_id} does not say which output it is from"
            )
        if link.origin == SUBGRAPH_INPUTS and scope.parent is not None:
            return _from_outside(scope, link.origin_slot)
        node = scope.content.nodes.get(link.origin)
        if node is None:
            raise WorkflowError(
                f"the workflow is broken: link {link_id} comes from node {link.origin}, which is gone"
            )
        return self._from_node(scope, node, link.origin_slot, wanted)

    def _from_node(self, scope: _Scope, node: PageNode, slot: int, wanted: Any) -> _Source | _Next:
        if node.type == PRIMITIVE:
            return None if node.first_value is None else _Constant(node.first_value)
        if node.mode == MUTED:
            return _Muted()
        if node.type == REROUTE:
            return _Next(scope, node.sockets[0].link if node.sockets else None)
        if node.is_off:
            socket = _bypass_socket(node, slot, wanted)
            return _Next(scope, None if socket is None else socket.link)
        if node.type in self._subgraphs:
            inner = self._scopes[f"{scope.node_id(node)}:"]
            return _Next(inner, _link_to_output(inner.content.links, slot))
        return [scope.node_id(node), slot]


def _link_to_output(links: Mapping[str, PageLink], slot: int) -> str | None:
    """Return the link that feeds an output of a subgraph."""
    found = (i for i, link in links.items() if link.target == SUBGRAPH_OUTPUTS and link.target_slot == slot)
    return next(found, None)


def _from_outside(scope: _Scope, slot: int) -> _Source | _Next:
    """Follow a link that comes into a subgraph: the instance's link, or its own widget's value."""
    names = scope.content.input_names
    if slot >= len(names):
        raise WorkflowError(
            f"the workflow is broken: input {slot} of subgraph {scope.instance.type} is used inside but not listed"
        )
    socket = next((socket for socket in scope.instance.sockets if socket.name == names[slot]), None)
    if socket is not None and socket.link is not None:
        return _Next(scope.parent, socket.link)
    promoted = [socket.name for socket in scope.instance.sockets if socket.is_widget]
    values = scope.instance.values
    if names[slot] in promoted and isinstance(values, list) and promoted.index(names[slot]) < len(values):
        return _Constant(values[promoted.index(names[slot])])
    return None


def _bypass_socket(node: PageNode, slot: int, wanted: Any) -> PageSocket | None:
    """Return the input that stands in for an output of a bypassed node; None when none fits."""
    sockets = node.sockets
    opposite = sockets[slot] if slot < len(sockets) else None
    if wanted in ("*", ""):
        return opposite or next(iter(sockets), None)
    given = node.output_types[slot] if slot < len(node.output_types) else "*"
    if opposite is not None and _fits(opposite.type, given) and _fits(opposite.type, wanted):
        return opposite
    exact = (socket for socket in sockets if socket.type == wanted)
    compatible = (s for s in sockets if _fits(s.type, given) and _fits(s.type, wanted))
    return next(exact, None) or next(compatible, None)


def _fits(first: Any, second: Any) -> bool:
    """Say whether the page would connect two types: equal, any, or with a type in common; case is ignored."""
    if first == second or "*" in (first, second) or "" in (first, second):
        return True
    parts = [{part.strip() for part in str(kind).lower().split(",")} for kind in (first, second)]
    return bool(parts[0] & parts[1])
