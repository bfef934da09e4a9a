"""What the command line lists: nodes and weight files."""

from __future__ import annotations

import json
from typing import Any

from ..runtime.weights import WeightNotFoundError, find_weight
from ..weights_manifest.manifest import read_manifest
from .registry import object_info


def list_nodes(as_json: bool = False) -> str:
    """Return the nodes the headless runner knows, as a table or in the form of ComfyUI's /object_info."""
    described = object_info()
    if as_json:
        return json.dumps(described, indent=2) + "\n"
    return _table([(name, info["category"], info["display_name"]) for name, info in described.items()])


def list_weights(as_json: bool = False) -> str:
    """Return the weight files of the manifest with where each was found."""
    rows = [_weight_entry(row) for row in read_manifest().values()]
    if as_json:
        return json.dumps(rows, indent=2) + "\n"
    shown = [
        (row["name"], row["file"], _megabytes(row["bytes"]), row["licence"], row["found"] or "not here")
        for row in rows
    ]
    return _table(shown)


def _weight_entry(row: Any) -> dict[str, Any]:
    try:
        found: str | None = str(find_weight(row.name))
    except WeightNotFoundError:
        found = None
    return {"name": row.name, "file": row.file, "bytes": row.bytes, "licence": row.licence, "found": found}


def _megabytes(size: int | None) -> str:
    return "size unknown" if size is None else f"{size / 1e6:.1f} MB"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"
