"""Signatures of nodes: equal for two nodes that must give the same result, whatever their ids are.

A signature covers the class, what IS_CHANGED says, the constants, and the signatures of all that it is linked to.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any

from .class_facts import ClassFacts
from .expanding_graph import ExpandingGraph
from .graph import is_link, links_of
from .node_call import InputLists, call_mapped

logger = logging.getLogger(__name__)


class Signatures:
    """Numbers equal signatures equally, over many graphs, so that comparing them stays cheap."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._unused = itertools.count()

    def keep_only(self, numbers: Collection[int]) -> None:
        """Forget all signatures but those of these numbers; one that comes again gets another number."""
        self._numbers = {parts: number for parts, number in self._numbers.items() if number in numbers}

    def add(
        self, node_ids: Iterable[str], graph: ExpandingGraph, facts: ClassFacts, found: dict[str, int]
    ) -> None:
        """Add to `found` the signatures of these nodes and of all that they are linked to.

        Raises ValueError for nodes that need each other in a circle.
        """
        for node_id in node_ids:
            for needed in _needed_first(node_id, graph, found):
                parts = _parts(needed, graph, facts, found)
                found[needed] = self._number(parts)

    def _number(self, parts: Hashable) -> int:
        if parts not in self._numbers:
            self._numbers[parts] = next(self._unused)
        return self._numbers[parts]


def _needed_first(node_id: str, graph: ExpandingGraph, found: Mapping[str, int]) -> list[str]:
    """Return a node and all that it is linked to and that has no signature, each after what it is linked to."""
    order: dict[str, None] = {}
    open_nodes: dict[str, None] = {}
    waiting = [node_id]
    while waiting:
        current = waiting[-1]
        if current in order or current in found:
            waiting.pop()
        elif current in open_nodes:
            waiting.pop()
            order[current] = None
            del open_nodes[current]
        else:
            open_nodes[current] = None
            origins = [origin for _, origin, _ in links_of(graph.get_node(current))]
            if any(origin in open_nodes for origin in origins):
                raise ValueError(f"dependency cycle among nodes {', '.join(open_nodes)}")
            waiting += origins
    return list(order)


def _parts(
    node_id: str, graph: ExpandingGraph, facts: ClassFacts, found: Mapping[str, int]
) -> tuple[Hashable, ...]:
    node = graph.get_node(node_id)
    parts: list[Hashable] = [node["class_type"], _hashable(_is_changed(node_id, node, facts))]
    if _result_depends_on_id(node["class_type"], facts):
        parts.append(node_id)
    for name, value in sorted(node["inputs"].items(), key=lambda item: item[0]):
        if is_link(value):
            parts.append((name, "link", found[value[0]], int(value[1])))
        else:
            parts.append((name, "constant", _hashable(value)))
    return tuple(parts)


def _result_depends_on_id(class_type: str, facts: ClassFacts) -> bool:
    never_the_same = getattr(facts.classes[class_type], "NOT_IDEMPOTENT", False)
    return bool(never_the_same) or facts.has_hidden(class_type, "UNIQUE_ID")


def _is_changed(node_id: str, node: Mapping[str, Any], facts: ClassFacts) -> Any:
    """Return what IS_CHANGED says, given constants only (links are None); a new NaN when it fails."""
    node_class = facts.classes[node["class_type"]]
    if not hasattr(node_class, "IS_CHANGED"):
        return False
    try:
        return call_mapped(node_class, "IS_CHANGED", _constants(node_id, node, facts))
    except Exception:
        logger.warning("IS_CHANGED of %s failed; the node runs again", node["class_type"], exc_info=True)
        return float("NaN")


def _constants(node_id: str, node: Mapping[str, Any], facts: ClassFacts) -> InputLists:
    """Return what ComfyUI gives IS_CHANGED: constants, None for links, and hidden inputs without the graph."""
    class_type = node["class_type"]
    specifications = facts.specifications(class_type)
    hidden = {"UNIQUE_ID": node_id, "PROMPT": {}}
    given: InputLists = {}
    for name, value in node["inputs"].items():
        if is_link(value) and not facts.takes_links(class_type, name):
            given[name] = [None]
        elif name in specifications:
            given[name] = [value]
    for specification in specifications.values():
        if specification.category == "hidden":
            given[specification.name] = [hidden.get(specification.type)]
    return given


def _hashable(value: Any) -> Hashable:
    """Return a value that compares as `value` does. NaN and unknown objects equal nothing but themselves."""
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: repr(item[0]))
        return tuple((_hashable(key), _hashable(item)) for key, item in items)
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, bool | int | float | str | None):
        return type(value).__name__, value
    return object()
