"""Running a graph in this process, by ComfyUI's rules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from .class_facts import ClassFacts
from .events import EventListener
from .expanding_graph import ExpandingGraph
from .graph import NodeClasses, copied_graph
from .graph_run import GraphRun, RunWishes
from .kept_results import KeptResults
from .node_call import NodeOutput
from .run_report import NodeFailedError, RunReport
from .signatures import Signatures
from .validation import validate_graph

__all__ = ["EventListener", "GraphExecutor", "NodeFailedError", "RunReport"]


class GraphExecutor:
    """Runs graphs; keeps results and node objects for the next run of a graph that shares nodes with the last."""

    def __init__(
        self, node_classes: NodeClasses, listener: EventListener | None = None, keep_results: bool = True
    ) -> None:
        """listener: told ComfyUI's events of every run; see events.py.

        keep_results: False drops every result once nothing waits for it, which bounds the memory of one run.
        """
        self._classes, self._listener, self._keep = node_classes, listener, keep_results
        self._signatures, self._kept = Signatures(), KeptResults()

    def run(
        self,
        graph: Mapping[str, Any],
        workflow: Mapping[str, Any] | None = None,
        listener: EventListener | None = None,
    ) -> RunReport:
        """Check a graph and run all of its output nodes.

        workflow: the same graph as the page saves it; nodes store it in the files that they save.
        listener: told this run's events; the executor's own when None.
        Raises GraphValidationError before anything runs, NodeFailedError for the first node that fails, what the
        host raises when the work is cancelled, and what the listener raises.
        """
        graph = copied_graph(graph)
        validation = validate_graph(graph, self._classes)
        validation.raise_if_failed(graph)
        wishes = RunWishes(validation.outputs, listener or self._listener, self._keep, workflow)
        run = GraphRun(ExpandingGraph(graph), ClassFacts(self._classes), wishes, self._signatures, self._kept)
        with _inference_mode():
            return run.complete()

    def forget_results(self, unwanted: Callable[[NodeOutput], bool]) -> None:
        """Let nodes run again whose kept results, with `values` and `ui`, are unwanted."""
        self._kept.forget(unwanted)


def _inference_mode() -> contextlib.AbstractContextManager[Any]:
    import torch

    return torch.inference_mode()
