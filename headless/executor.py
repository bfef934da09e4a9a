"""Running a graph in this process, by ComfyUI's rules."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..runtime.host import Host, StandaloneHost, WorkCancelledError, host
from .graph import ExecutionBlocker, Graph, NodeClasses, copied_graph, input_specifications, is_link, title_of
from .node_call import InputLists, NodeOutput, call_mapped, call_node
from .schedule import Schedule
from .signatures import Signatures
from .validation import validate_graph

logger = logging.getLogger(__name__)

EventListener = Callable[[str, dict[str, Any]], None]
"""Told of "executing" {node}, "execution_cached" {nodes}, "executed" {node, output}, "execution_error" {...}."""


class NodeFailedError(RuntimeError):
    """A node raised an error while running; `__cause__` is that error.

    node_id, class_type, title: which node.
    """

    def __init__(self, node_id: str, class_type: str, title: str, error: Exception) -> None:
        self.node_id, self.class_type, self.title = node_id, class_type, title
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


class GraphExecutor:
    """Runs graphs; keeps results and node objects for the next run of a graph that shares nodes with the last."""

    def __init__(
        self, node_classes: NodeClasses, listener: EventListener | None = None, keep_results: bool = True
    ) -> None:
        """keep_results: False drops every result once nothing waits for it, which bounds the memory of one run."""
        self._classes, self._listener, self._keep = node_classes, listener, keep_results
        self._signatures = Signatures()
        self._results: dict[int, NodeOutput] = {}
        self._nodes: dict[tuple[str, str], Any] = {}

    def run(self, graph: Mapping[str, Any], workflow: Mapping[str, Any] | None = None) -> RunReport:
        """Check a graph and run all of its output nodes.

        workflow: the same graph as the page saves it; nodes store it in the files that they save.
        Raises GraphValidationError before anything runs, NodeFailedError for the first node that fails, and
        whatever the host raises when the work is cancelled.
        """
        graph = copied_graph(graph)
        validation = validate_graph(graph, self._classes)
        validation.raise_if_failed(graph)
        with _inference_mode():
            run = _Run(self, graph, workflow, validation.outputs)
            try:
                return run.complete()
            finally:
                self._forget_unused(run.signatures)

    def _forget_unused(self, signatures: dict[str, int]) -> None:
        used = set(signatures.values()) if self._keep else set()
        self._results = {key: result for key, result in self._results.items() if key in used}

    def _tell(self, event: str, **data: Any) -> None:
        if self._listener is not None:
            self._listener(event, data)


def _inference_mode() -> contextlib.AbstractContextManager[Any]:
    import torch

    return torch.inference_mode()


class _Run:
    """One run of one graph."""

    def __init__(
        self, executor: GraphExecutor, graph: Graph, workflow: Mapping[str, Any] | None, outputs: list[str]
    ) -> None:
        self._executor, self._graph, self._workflow = executor, graph, workflow
        self._classes = executor._classes
        self._host = host()
        self._outputs = outputs
        self.signatures = executor._signatures.of_graph(graph, self._classes, outputs)
        self._done = {node_id for node_id, key in self.signatures.items() if key in executor._results}
        self._schedule = Schedule(graph, self._classes, self._done)
        self._report = RunReport(cached=sorted(self._done))

    def complete(self) -> RunReport:
        self._executor._tell("execution_cached", nodes=self._report.cached)
        for output in self._outputs:
            self._schedule.add(output)
        while self._schedule:
            self._advance(self._schedule.next_node())
        self._report.values = {
            node_id: self._result(node_id).values for node_id in self.signatures if self._has_result(node_id)
        }
        return self._report

    def _advance(self, node_id: str) -> None:
        """Run a node, or make it wait for the lazy inputs it asks for."""
        if not self._has_result(node_id):
            self._host.check_cancelled()
            if not self._run_node(node_id):
                return
            self._report.executed.append(node_id)
        self._done.add(node_id)
        self._schedule.finish(node_id)
        ui = self._result(node_id).ui
        if ui:
            self._report.ui[node_id] = ui
            self._executor._tell("executed", node=node_id, output=ui)
        if not self._executor._keep:
            self._drop_results_nobody_needs()

    def _run_node(self, node_id: str) -> bool:
        class_type = self._graph[node_id]["class_type"]
        title = title_of(self._graph, node_id)
        self._executor._tell("executing", node=node_id, title=title)
        try:
            with _task(self._host, title):
                node = self._node_object(node_id, class_type)
                inputs, missing = self._inputs(node_id)
                wanted = _lazy_wishes(node, inputs, missing)
                for name in wanted:
                    self._schedule.wait_for_input(node_id, name)
                if wanted:
                    return False
                result = call_node(node, inputs, lambda blocker: self._blocked(node_id, blocker))
        except WorkCancelledError:
            raise
        except Exception as error:
            raise NodeFailedError(node_id, class_type, title, error) from error
        self._executor._results[self.signatures[node_id]] = result
        return True

    def _node_object(self, node_id: str, class_type: str) -> Any:
        key = node_id, class_type
        if key not in self._executor._nodes:
            self._executor._nodes[key] = self._classes[class_type]()
        return self._executor._nodes[key]

    def _inputs(self, node_id: str) -> tuple[InputLists, set[str]]:
        """Return the inputs of a node as lists, and the names of those whose origin has not run."""
        inputs: InputLists = {}
        missing = set()
        specifications = input_specifications(self._classes[self._graph[node_id]["class_type"]])
        for name, value in self._graph[node_id]["inputs"].items():
            raw = name in specifications and specifications[name].options.get("rawLink")
            if is_link(value) and not raw:
                values = self._linked_values(value[0], int(value[1]))
                inputs[name] = [None] if values is None else values
                missing |= {name} if values is None else set()
            elif name in specifications:
                inputs[name] = [value]
        for specification in specifications.values():
            if specification.category == "hidden":
                inputs[specification.name] = [self._hidden(specification.type, node_id)]
        return inputs, missing

    def _linked_values(self, origin: str, slot: int) -> list[Any] | None:
        if not self._has_result(origin):
            return None
        values = self._result(origin).values
        return values[slot] if slot < len(values) else None

    def _hidden(self, kind: Any, node_id: str) -> Any:
        values = {
            "PROMPT": self._graph,
            "DYNPROMPT": GraphView(self._graph),
            "UNIQUE_ID": node_id,
            "EXTRA_PNGINFO": {"workflow": self._workflow} if self._workflow is not None else None,
        }
        return values.get(kind)

    def _blocked(self, node_id: str, blocker: ExecutionBlocker) -> ExecutionBlocker:
        """Return what a blocked node gives on: the blocker, its message told once."""
        if blocker.message is None:
            return blocker
        message = f"Execution Blocked: {blocker.message}"
        self._report.blocked.append(f"node {node_id} ({title_of(self._graph, node_id)}): {blocker.message}")
        self._executor._tell(
            "execution_error", node=node_id, exception_type="ExecutionBlocked", exception_message=message
        )
        return ExecutionBlocker(None)

    def _has_result(self, node_id: str) -> bool:
        return self.signatures.get(node_id) in self._executor._results

    def _result(self, node_id: str) -> NodeOutput:
        return self._executor._results[self.signatures[node_id]]

    def _drop_results_nobody_needs(self) -> None:
        pending = self._schedule.pending
        needed = {self.signatures[node_id] for node_id in pending if node_id in self.signatures}
        for node_id in pending:
            for value in self._graph[node_id]["inputs"].values():
                if is_link(value):
                    needed.add(self.signatures[value[0]])
        for key in set(self._executor._results) - needed:
            del self._executor._results[key]
        self._done.intersection_update([node_id for node_id in self._done if self._has_result(node_id)])


def _task(owner: Host, title: str) -> contextlib.AbstractContextManager[None]:
    return owner.running(title) if isinstance(owner, StandaloneHost) else contextlib.nullcontext()


def _lazy_wishes(node: Any, inputs: InputLists, missing: set[str]) -> list[str]:
    """Return the lazy inputs that a node asks for and that are not there yet."""
    if not hasattr(node, "check_lazy_status"):
        return []
    answers = call_mapped(node, "check_lazy_status", inputs)
    asked = [name for answer in answers if isinstance(answer, list) for name in answer]
    return [name for name in dict.fromkeys(asked) if name in missing or name not in inputs]


class GraphView:
    """What a node with the hidden input DYNPROMPT may ask about the graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def get_node(self, node_id: str) -> dict[str, Any]:
        """Return a node."""
        return self._graph[node_id]

    def has_node(self, node_id: str) -> bool:
        """Say whether a node is there."""
        return node_id in self._graph

    def all_node_ids(self) -> set[str]:
        """Return the ids of all nodes."""
        return set(self._graph)

    def get_original_prompt(self) -> Graph:
        """Return the whole graph."""
        return self._graph

    def get_display_node_id(self, node_id: str) -> str:
        """Return the id that the page shows for a node."""
        return node_id

    get_real_node_id = get_display_node_id
