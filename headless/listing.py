"""What the command line lists: the nodes."""

from __future__ import annotations

import json

from .registry import core_node_classes, object_info


def list_nodes(as_json: bool = False, with_core: bool = False) -> str:
    """Return this package's nodes, as a table or in the form of ComfyUI's /object_info.

    with_core: also the nodes of ComfyUI that the runner brings.
    """
    described = object_info()
    if not with_core:
        described = {name: info for name, info in described.items() if name not in core_node_classes()}
    if as_json:
        return json.dumps(described, indent=2) + "\n"
    return _table([(name, info["category"], info["display_name"]) for name, info in described.items()])


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"
