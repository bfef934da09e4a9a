"""What comes of a run: its report, or the error that ended it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class NodeFailedError(RuntimeError):
    """A node raised an error while running; `__cause__` is that error.

    node_id, class_type, title: which node of the graph; what a node expanded into counts as that node.
    details: the data of ComfyUI's event execution_error.
    """

    def __init__(
        self,
        node_id: str,
        class_type: str,
        title: str,
        error: Exception,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.node_id, self.class_type, self.title = node_id, class_type, title
        self.details = dict(details or {})
        text = str(error) or type(error).__name__
        if not isinstance(error, ValueError | OSError | NotImplementedError):
            text = f"{type(error).__name__}: {text}"
        super().__init__(f"node {node_id} ({title}): {text}")


@dataclass
class RunReport:
    """What a run did.

    ui: {output node id: {"images": [...], ...}}, as ComfyUI's history has it.
    executed, cached: ids of the nodes that ran, and of those whose earlier results were used.
    blocked: messages of ExecutionBlockers that stopped nodes.
    values: {node id: one list per output slot} of every node whose results are still kept.
    """

    ui: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    values: dict[str, list[list[Any]]] = field(default_factory=dict)
