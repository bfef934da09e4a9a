"""The node classes the headless runner knows: ComfyUI's few that it brings, and this package's own."""

from __future__ import annotations

import functools
from typing import Any

from .graph import InputSpecification, NodeClasses, input_specifications


@functools.cache
def node_classes() -> NodeClasses:
    """Return {class name: class}. As in ComfyUI, a core node keeps its name against a pack's."""
    from ..nodes import NODE_CLASS_MAPPINGS

    return {**NODE_CLASS_MAPPINGS, **core_node_classes()}


def core_node_classes() -> NodeClasses:
    """Return {class name: class} of ComfyUI's nodes that the runner brings."""
    from .core_nodes import CORE_NODES

    return CORE_NODES


def local_definitions() -> dict[str, dict[str, InputSpecification]]:
    """Return the declared inputs of every known class."""
    return {name: input_specifications(node_class) for name, node_class in node_classes().items()}


def definitions_from_object_info(object_info: dict[str, Any]) -> dict[str, dict[str, InputSpecification]]:
    """Return the declared inputs of every class as a ComfyUI server lists them under /object_info."""
    definitions = {}
    for class_name, info in object_info.items():
        inputs = {}
        for category in ("required", "optional", "hidden"):
            for name, entry in info.get("input", {}).get(category, {}).items():
                kind, options = (entry, {}) if isinstance(entry, str) else (entry[0], (entry[1:] or [{}])[0])
                inputs[name] = InputSpecification(name, kind, options or {}, category)
        definitions[class_name] = inputs
    return definitions


def object_info() -> dict[str, dict[str, Any]]:
    """Return what a ComfyUI server would list under /object_info for the known classes."""
    from ..nodes import NODE_DISPLAY_NAME_MAPPINGS
    from .core_nodes import CORE_DISPLAY_NAMES

    titles = {**NODE_DISPLAY_NAME_MAPPINGS, **CORE_DISPLAY_NAMES}
    return {
        name: _described(name, node_class, titles.get(name, name))
        for name, node_class in node_classes().items()
    }


def _described(name: str, node_class: type, display_name: str) -> dict[str, Any]:
    inputs = node_class.INPUT_TYPES()
    outputs = list(node_class.RETURN_TYPES)
    return {
        "input": inputs,
        "input_order": {category: list(entries) for category, entries in inputs.items()},
        "output": outputs,
        "output_is_list": list(getattr(node_class, "OUTPUT_IS_LIST", [False] * len(outputs))),
        "output_name": list(getattr(node_class, "RETURN_NAMES", outputs)),
        "output_tooltips": list(getattr(node_class, "OUTPUT_TOOLTIPS", [])),
        "name": name,
        "display_name": display_name,
        "description": getattr(node_class, "DESCRIPTION", ""),
        "category": getattr(node_class, "CATEGORY", ""),
        "output_node": getattr(node_class, "OUTPUT_NODE", False),
    }
