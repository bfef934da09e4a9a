"""Changing widgets' values of a workflow in UI form, and nothing else of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from .conversion import convert_to_api
from .graph import WorkflowError, is_link
from .overrides import WRAPPED, Definitions, InputChange
from .widgets import widget_slots


def page_with_values(
    page: Mapping[str, Any], changes: Sequence[InputChange], definitions: Definitions
) -> dict[str, Any] | None:
    """Return a copy of a workflow in UI form with the values of some widgets changed.

    changes: node ids as in API form; the last of an input counts. definitions: the declared inputs of the node classes.
    None when a change is not of a widget's value: of a link, inside a subgraph, of a node that the page does not have.
    """
    changed = copy.deepcopy(dict(page))
    if not changes:
        return changed
    values = {(change.node_id, change.name): change.value for change in changes}
    nodes = {str(node["id"]): node for node in changed["nodes"]}
    if not all(_set_value(nodes.get(i), name, value, definitions) for (i, name), value in values.items()):
        return None
    try:
        graph = convert_to_api(changed, definitions)
    except WorkflowError:
        return None
    kept = all(i in graph and graph[i]["inputs"].get(name) == value for (i, name), value in values.items())
    return changed if kept else None


def _set_value(node: dict[str, Any] | None, name: str, value: Any, definitions: Definitions) -> bool:
    """Set one widget's value in place; say whether there is a place for it."""
    if node is None or is_link(value) or not isinstance(node.get("widgets_values"), list):
        return False
    values = node["widgets_values"]
    slots = widget_slots(definitions.get(node["type"], {}), len(values))
    if name not in slots or slots.index(name) >= len(values):
        return False
    values[slots.index(name)] = value[WRAPPED] if isinstance(value, Mapping) else value
    return True
