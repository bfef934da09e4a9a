"""Signatures of nodes: equal for two nodes that must give the same result, whatever their ids are.

A signature covers the class, what IS_CHANGED says, the constants, and the signatures of all that it is linked to.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

from .graph import Graph, NodeClasses, input_specifications, is_link
from .node_call import call_mapped

logger = logging.getLogger(__name__)


class Signatures:
    """Numbers equal signatures equally, over many graphs, so that comparing them stays cheap."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def of_graph(self, graph: Graph, node_classes: NodeClasses, node_ids: list[str]) -> dict[str, int]:
        """Return the signature of each of the nodes and of all that they are linked to."""
        found: dict[str, int] = {}
        for node_id in node_ids:
            self._add(node_id, graph, node_classes, found)
        return found

    def _add(self, node_id: str, graph: Graph, node_classes: NodeClasses, found: dict[str, int]) -> int:
        if node_id not in found:
            node = graph[node_id]
            node_class = node_classes[node["class_type"]]
            parts: list[Hashable] = [node["class_type"], _hashable(_is_changed(node, node_class))]
            if _result_depends_on_id(node_class):
                parts.append(node_id)
            for name, value in sorted(node["inputs"].items()):
                if is_link(value):
                    origin = self._add(value[0], graph, node_classes, found)
                    parts.append((name, "link", origin, int(value[1])))
                else:
                    parts.append((name, "constant", _hashable(value)))
            found[node_id] = self._numbers.setdefault(tuple(parts), len(self._numbers))
        return found[node_id]


def _result_depends_on_id(node_class: type) -> bool:
    hidden = node_class.INPUT_TYPES().get("hidden", {}).values()
    return "UNIQUE_ID" in hidden or bool(getattr(node_class, "NOT_IDEMPOTENT", False))


def _is_changed(node: Mapping[str, Any], node_class: type) -> Any:
    """Return what IS_CHANGED says, given constants only (links are None); a new NaN when it fails."""
    if not hasattr(node_class, "IS_CHANGED"):
        return False
    specifications = input_specifications(node_class)
    constants = {
        name: [None if is_link(value) else value]
        for name, value in node["inputs"].items()
        if name in specifications
    }
    try:
        return call_mapped(node_class, "IS_CHANGED", constants)
    except Exception:
        logger.warning("IS_CHANGED of %s failed; the node runs again", node["class_type"], exc_info=True)
        return float("NaN")


def _hashable(value: Any) -> Hashable:
    """Return a value that compares as `value` does. NaN and unknown objects equal nothing but themselves."""
    if isinstance(value, Mapping):
        return tuple((key, _hashable(item)) for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, bool | int | float | str | None):
        return type(value).__name__, value
    return object()
