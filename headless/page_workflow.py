"""A graph in API form drawn as the page saves it (UI form), so that files made from it restore it on the canvas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .graph import Graph, InputSpecification, is_link, links_of, own_title
from .registry import definitions_from_object_info
from .widgets import is_widget, widget_values

COLUMN_WIDTH, COLUMN_GAP = 320, 60
TITLE_HEIGHT, ROW_HEIGHT, ROW_GAP = 40, 24, 50
"""Pixels of the canvas."""

SCHEMA_VERSION = 0.4

KEPT_PROPERTIES = ("pos", "size", "title", "color", "bgcolor", "flags")
"""What a node keeps from the source workflow's node of the same id."""

NOTES = ("Note", "MarkdownNote")

_PLAIN_NUMBER = re.compile(r"0|[1-9][0-9]{0,14}")
"""An id that the page can keep as a number."""


def page_workflow(
    graph: Graph, object_info: Mapping[str, Any], source: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the graph in UI form, schema 0.4.

    object_info: the node classes, as ComfyUI lists them. source: a workflow in UI form that the graph came from;
    places, sizes and titles of its nodes, its notes and its groups are kept.
    """
    numbers = _numbers(graph)
    drawing = _Drawing(graph, object_info, numbers)
    nodes = [drawing.node(node_id) for node_id in graph]
    _take_over(nodes, source or {})
    return {
        "last_node_id": max([node["id"] for node in nodes if isinstance(node["id"], int)], default=0),
        "last_link_id": len(drawing.links),
        "nodes": nodes,
        "links": drawing.links,
        "groups": _groups(source or {}),
        "config": {},
        "extra": {},
        "version": SCHEMA_VERSION,
    }


def _groups(source: Mapping[str, Any]) -> list[Any]:
    groups = source.get("groups")
    return list(groups) if isinstance(groups, list) else []


def _numbers(graph: Graph) -> dict[str, int]:
    """Return a whole number for every node id; ids that are numbers keep theirs."""
    numbers = {node_id: int(node_id) for node_id in graph if _PLAIN_NUMBER.fullmatch(node_id)}
    following = max(numbers.values(), default=0)
    for node_id in graph:
        if node_id not in numbers:
            following += 1
            numbers[node_id] = following
    return numbers


class _Drawing:
    """Nodes and links of one graph."""

    def __init__(self, graph: Graph, object_info: Mapping[str, Any], numbers: dict[str, int]) -> None:
        self._graph, self._numbers, self._object_info = graph, numbers, object_info
        self._definitions = definitions_from_object_info(
            {node["class_type"]: object_info[node["class_type"]] for node in graph.values()}
        )
        self.links: list[list[Any]] = []
        self._link_of: dict[tuple[str, str], int] = {}
        self._links_from: dict[tuple[str, int], list[int]] = {}
        self._order = {node_id: index for index, node_id in enumerate(graph)}
        self._heights = self._all_heights()
        self._places = _places(graph, self._heights)
        for node_id in graph:
            self._add_links(node_id)

    def node(self, node_id: str) -> dict[str, Any]:
        """Return one node as the page saves it."""
        class_type = self._graph[node_id]["class_type"]
        drawn = {
            "id": self._numbers[node_id],
            "type": class_type,
            "pos": self._places[node_id],
            "size": [COLUMN_WIDTH, self._heights[node_id]],
            "flags": {},
            "order": self._order[node_id],
            "mode": 0,
            "inputs": [self._socket(node_id, specification) for specification in self._sockets(node_id)],
            "outputs": self._outputs(node_id),
            "properties": {"Node name for S&R": class_type},
            "widgets_values": widget_values(self._graph[node_id]["inputs"], self._definitions[class_type]),
        }
        title = own_title(self._graph[node_id])
        return drawn if title in (None, class_type) else {**drawn, "title": title}

    def _sockets(self, node_id: str) -> list[InputSpecification]:
        """Return the inputs that are drawn with a socket: those without a widget, and linked widgets."""
        inputs = self._graph[node_id]["inputs"]
        declared = self._definitions[self._graph[node_id]["class_type"]].values()
        shown = [s for s in declared if s.category != "hidden"]
        plain = [s for s in shown if not is_widget(s)]
        return plain + [s for s in shown if is_widget(s) and is_link(inputs.get(s.name))]

    def _socket(self, node_id: str, specification: InputSpecification) -> dict[str, Any]:
        socket = {
            "name": specification.name,
            "type": _socket_type(specification),
            "link": self._link_of.get((node_id, specification.name)),
        }
        return {**socket, "widget": {"name": specification.name}} if is_widget(specification) else socket

    def _outputs(self, node_id: str) -> list[dict[str, Any]]:
        info = self._object_info[self._graph[node_id]["class_type"]]
        names = info.get("output_name") or ()
        return [
            {
                "name": names[slot] if slot < len(names) else _type_name(kind),
                "type": _type_name(kind),
                "links": self._links_from.get((node_id, slot), []),
            }
            for slot, kind in enumerate(info.get("output") or ())
        ]

    def _add_links(self, node_id: str) -> None:
        linked = {name: (origin, slot) for name, origin, slot in links_of(self._graph[node_id])}
        for target_slot, specification in enumerate(self._sockets(node_id)):
            if specification.name not in linked:
                continue
            origin, slot = linked[specification.name]
            kind = _type_name(self._object_info[self._graph[origin]["class_type"]]["output"][slot])
            number = len(self.links) + 1
            ends = [self._numbers[origin], slot, self._numbers[node_id], target_slot]
            self.links.append([number, *ends, kind])
            self._link_of[node_id, specification.name] = number
            self._links_from.setdefault((origin, slot), []).append(number)

    def _all_heights(self) -> dict[str, int]:
        heights = {}
        for node_id, node in self._graph.items():
            declared = self._definitions[node["class_type"]].values()
            rows = sum(s.category != "hidden" for s in declared)
            rows = max(rows, len(self._object_info[node["class_type"]].get("output") or ()))
            heights[node_id] = TITLE_HEIGHT + ROW_HEIGHT * rows
        return heights


def _socket_type(specification: InputSpecification) -> str:
    return "COMBO" if specification.choices is not None else _type_name(specification.type)


def _type_name(kind: Any) -> str:
    return kind if isinstance(kind, str) else "COMBO"


def _places(graph: Graph, heights: Mapping[str, int]) -> dict[str, list[int]]:
    """Return [x, y] of every node: a column further right than all that it is linked to."""
    columns = _columns(graph)
    places = {}
    bottoms: dict[int, int] = {}
    for node_id in graph:
        column = columns[node_id]
        y = bottoms.get(column, 0)
        places[node_id] = [column * (COLUMN_WIDTH + COLUMN_GAP), y]
        bottoms[column] = y + heights[node_id] + ROW_GAP
    return places


def _columns(graph: Graph) -> dict[str, int]:
    """Return the column of every node; 0 for those in a circle, which is refused before anything runs."""
    origins = {
        node_id: {origin for _, origin, _ in links_of(node) if origin in graph}
        for node_id, node in graph.items()
    }
    targets: dict[str, list[str]] = {}
    for node_id, linked in origins.items():
        for origin in linked:
            targets.setdefault(origin, []).append(node_id)
    columns = dict.fromkeys(graph, 0)
    left = {node_id: len(linked) for node_id, linked in origins.items()}
    ready = [node_id for node_id, count in left.items() if count == 0]
    for node_id in ready:
        for target in targets.get(node_id, ()):
            columns[target] = max(columns[target], columns[node_id] + 1)
            left[target] -= 1
            if left[target] == 0:
                ready.append(target)
    return columns


def _take_over(nodes: list[dict[str, Any]], source: Mapping[str, Any]) -> None:
    """Give nodes the places and titles of the source's nodes of the same id and type; add its notes."""
    taken = {node["id"]: node for node in nodes}
    for original in source.get("nodes") or []:
        node = taken.get(original.get("id"))
        if node is not None and node["type"] == original.get("type"):
            node.update({name: original[name] for name in KEPT_PROPERTIES if name in original})
        elif node is None and original.get("type") in NOTES:
            nodes.append(dict(original))
