"""One run of one graph: every node in its turn, from the first one to the report."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime.host import StandaloneHost, WorkCancelledError, host
from .asynchronous_calls import AsynchronousCalls
from .class_facts import ClassFacts
from .events import EventListener
from .expanding_graph import ExpandingGraph, expect_graph
from .graph import ExecutionBlocker, is_link, links_of, title_of
from .kept_results import KeptResults, ResultKey
from .node_call import (
    CallResult,
    InputLists,
    MappedCall,
    NodeOutput,
    call_mapped,
    call_results,
    merged_values,
)
from .run_events import ListenerFailedError, RunEvents
from .run_report import NodeFailedError, RunReport
from .schedule import DependencyCycleError, Schedule
from .signatures import Signatures

OUT_OF_MEMORY = ("OutOfMemoryError", "NotEnoughMemoryError")
"""Errors of PyTorch and of the model cache after which, as in ComfyUI, no model stays loaded."""


@dataclass(frozen=True)
class RunWishes:
    """What is wanted of a run.

    outputs: ids of the output nodes to run. listener: told the events. keep_results: False drops every result once
    nothing waits for it. workflow: the graph as the page saves it, for nodes that store it in files.
    """

    outputs: list[str]
    listener: EventListener | None = None
    keep_results: bool = True
    workflow: Mapping[str, Any] | None = None


class GraphRun:
    """Runs a checked graph once."""

    def __init__(
        self,
        graph: ExpandingGraph,
        facts: ClassFacts,
        wishes: RunWishes,
        numbering: Signatures,
        kept: KeptResults,
    ) -> None:
        self._graph, self._facts, self._wishes = graph, facts, wishes
        self._numbering, self._kept = numbering, kept
        self._signatures: dict[str, int] = {}
        self._host = host()
        self._events = RunEvents(wishes.listener, graph)
        self._schedule = Schedule(graph, facts, self._has_result)
        self._calls = AsynchronousCalls()
        self._begun: dict[str, list[Any]] = {}
        self._expanded: dict[str, list[CallResult]] = {}
        self._inputs_of_current: InputLists | None = None
        self._current = wishes.outputs[0]
        self._keeps_all = wishes.keep_results or facts.sees_graph(graph.get_original_prompt())
        self._report = RunReport()

    def complete(self) -> RunReport:
        """Run all output nodes and what they need."""
        try:
            self._begin()
            while self._schedule:
                self._step()
            self._events.succeeded()
            self._events.ended()
        except (WorkCancelledError, KeyboardInterrupt):
            self._events.interrupted(self._current, self._report.executed)
            self._events.ended()
            raise
        except ListenerFailedError as error:
            raise error.__cause__ or error from None
        finally:
            self._calls.close()
            if not self._wishes.keep_results:
                self._kept.clear_results()
        return self._finished_report()

    def _begin(self) -> None:
        self._events.started()
        self._numbering.add(self._wishes.outputs, self._graph, self._facts, self._signatures)
        own = self._graph.get_original_prompt()
        self._kept.keep_only((), self._names(own), set(self._signatures.values()))
        self._numbering.keep_only({*self._signatures.values(), *self._kept.numbers})
        self._report.cached = [node_id for node_id in own if self._has_result(node_id)]
        self._events.cached(self._report.cached)
        for output in self._wishes.outputs:
            self._schedule.add(output)

    def _names(self, node_ids: Iterable[str]) -> set[tuple[str, str]]:
        return {(node_id, self._class_type(node_id)) for node_id in node_ids}

    def _class_type(self, node_id: str) -> str:
        return self._graph.get_node(node_id)["class_type"]

    def _step(self) -> None:
        """Bring one node further, or wait for asynchronous ones."""
        self._host.check_cancelled()
        node_id = self._next_node()
        if node_id is None:
            self._calls.wait(task for results in self._begun.values() for task in _unfinished(results))
        elif self._has_result(node_id):
            self._finish(node_id, self._result(node_id).ui, told=False)
        else:
            self._run(node_id)
        for begun in [key for key, results in self._begun.items() if not _unfinished(results)]:
            self._schedule.release(begun)

    def _next_node(self) -> str | None:
        try:
            return self._schedule.next_node()
        except DependencyCycleError as error:
            self._inputs_of_current = None
            shown = [self._graph.get_display_node_id(node_id) for node_id in self._schedule.pending]
            inside = [
                key for key, node_id in zip(shown, self._schedule.pending, strict=True) if key != node_id
            ]
            raise self._failure([*inside, *shown][0], error) from error

    def _run(self, node_id: str) -> None:
        """Run a node, or make it wait for what it asks for."""
        self._current, self._inputs_of_current = node_id, None
        try:
            output = self._output(node_id)
        except WorkCancelledError:
            raise
        except Exception as error:
            raise self._failure(node_id, error) from error
        if output is not None:
            self._kept.results[self._key(node_id)] = output
            self._report.executed.append(node_id)
            self._finish(node_id, output.ui, told=True)

    def _failure(self, node_id: str, error: Exception) -> NodeFailedError:
        details = self._events.failed(node_id, error, self._inputs_of_current, self._report.executed)
        self._events.ended()
        if type(error).__name__ in OUT_OF_MEMORY:
            _forget_models()
        real_id = self._graph.get_real_node_id(node_id)
        return NodeFailedError(real_id, details["node_type"], self._title(real_id), error, details)

    def _title(self, node_id: str) -> str:
        return title_of({node_id: self._graph.get_node(node_id)}, node_id)

    def _finish(self, node_id: str, ui: dict[str, list[Any]], told: bool) -> None:
        self._schedule.finish(node_id)
        if ui:
            self._report.ui[node_id] = ui
        if not told:
            self._events.executed(node_id, ui)
        self._events.finished(node_id)
        if not self._keeps_all:
            self._kept.clear_results(self._needed_results())

    def _output(self, node_id: str) -> NodeOutput | None:
        """Return what a node gives; None when it has to come up again later."""
        if node_id in self._expanded:
            return self._output_of_expansion(node_id)
        if node_id in self._begun:
            results = [_result_of(result) for result in self._begun.pop(node_id)]
            return self._concluded(node_id, results)
        return self._called(node_id)

    def _called(self, node_id: str) -> NodeOutput | None:
        self._events.executing(node_id)
        inputs, missing = self._inputs(node_id)
        self._inputs_of_current = inputs
        node = self._node_object(node_id)
        wanted = self._lazy_wishes(node_id, node, inputs, missing)
        for name in wanted:
            self._schedule.wait_for_input(node_id, name)
        if wanted:
            return None
        results = call_mapped(node, node.FUNCTION, inputs, self._call_of(node_id, inside=True))
        if _unfinished(results):
            self._begun[node_id] = results
            self._schedule.hold(node_id)
            return None
        return self._concluded(node_id, [_result_of(result) for result in results])

    def _call_of(self, node_id: str, inside: bool) -> MappedCall:
        """Return how a node's functions are called. inside: it is its FUNCTION, which may build graphs."""
        title = self._title(self._graph.get_display_node_id(node_id))

        def around(index: int) -> contextlib.AbstractContextManager[None]:
            if not isinstance(self._host, StandaloneHost):
                return contextlib.nullcontext()
            return self._host.running(title, listener, f"{node_id}.{index}" if inside else None)

        def tell_progress(done: int, total: int) -> None:
            self._events.progress(node_id, done, total)

        listener = tell_progress if self._wishes.listener is not None else None
        if not inside:
            return MappedCall(around=around)
        return MappedCall(lambda blocker: self._blocked(node_id, blocker), around, self._calls.start)

    def _lazy_wishes(self, node_id: str, node: Any, inputs: InputLists, missing: set[str]) -> list[str]:
        """Return the lazy inputs that a node asks for and that are not there yet."""
        if not hasattr(node, "check_lazy_status"):
            return []
        answers = call_mapped(node, "check_lazy_status", inputs, self._call_of(node_id, inside=False))
        asked = [name for answer in answers if isinstance(answer, list) for name in answer]
        return [name for name in dict.fromkeys(asked) if name in missing or name not in inputs]

    def _concluded(self, node_id: str, results: list[Any]) -> NodeOutput | None:
        """Return what the calls of a node gave; None when it expanded into nodes that have to run first."""
        node = self._node_object(node_id)
        parsed, ui = call_results(results, node)
        if ui:
            self._report.ui[node_id] = ui
            self._events.executed(node_id, ui)
        if all(result.graph is None for result in parsed):
            return NodeOutput(merged_values(parsed, node), ui)
        self._expand(node_id, parsed)
        return None

    def _expand(self, node_id: str, results: list[CallResult]) -> None:
        """Add what a node expanded into to the graph, and make the node wait for what its result links to."""
        added: list[str] = []
        for result in results:
            if result.graph is not None:
                expect_graph(result.graph, self._facts.classes)
                added += self._graph.expand(node_id, result.graph)
        self._keeps_all |= self._facts.sees_graph({key: self._graph.get_node(key) for key in added})
        self._expanded[node_id] = results
        self._numbering.add(added, self._graph, self._facts, self._signatures)
        scope = (*self._graph.scope_of(node_id), (node_id, self._class_type(node_id)))
        self._kept.keep_only(scope, self._names(added), {self._signatures[key] for key in added})
        for output in added:
            if self._facts.is_output(self._class_type(output)):
                self._schedule.add(output)
        for origin, _ in _links([results]):
            self._schedule.wait_for(node_id, origin)

    def _output_of_expansion(self, node_id: str) -> NodeOutput:
        def linked(result: CallResult, value: Any) -> list[Any] | None:
            is_ordinary = result.graph is None or not is_link(value)
            return None if is_ordinary else self._linked_values(value[0], int(value[1])) or []

        values = merged_values(self._expanded.pop(node_id), self._node_object(node_id), linked)
        return NodeOutput(values, self._report.ui.get(node_id, {}))

    def _node_object(self, node_id: str) -> Any:
        class_type = self._class_type(node_id)
        scope = self._graph.scope_of(node_id)
        return self._kept.node_object(scope, (node_id, class_type), self._facts.classes[class_type])

    def _inputs(self, node_id: str) -> tuple[InputLists, set[str]]:
        """Return the inputs of a node as lists, and the names of those whose origin has not run."""
        node = self._graph.get_node(node_id)
        specifications = self._facts.specifications(node["class_type"])
        inputs: InputLists = {}
        missing = set()
        for name, value in node["inputs"].items():
            if is_link(value) and not self._facts.takes_links(node["class_type"], name):
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
        return values[slot] if 0 <= slot < len(values) else None

    def _hidden(self, kind: Any, node_id: str) -> Any:
        workflow = self._wishes.workflow
        values = {
            "PROMPT": self._graph.get_original_prompt(),
            "DYNPROMPT": self._graph,
            "UNIQUE_ID": node_id,
            "EXTRA_PNGINFO": {"workflow": workflow} if workflow is not None else None,
        }
        return values.get(kind)

    def _blocked(self, node_id: str, blocker: ExecutionBlocker) -> ExecutionBlocker:
        """Return what a blocked node gives on: the blocker, its message told once."""
        if blocker.message is None:
            return blocker
        self._report.blocked.append(f"node {node_id} ({self._title(node_id)}): {blocker.message}")
        self._events.blocked(node_id, blocker, self._report.executed)
        return ExecutionBlocker(None)

    def _key(self, node_id: str) -> ResultKey:
        return self._graph.scope_of(node_id), self._signatures[node_id]

    def _has_result(self, node_id: str) -> bool:
        return node_id in self._signatures and self._key(node_id) in self._kept.results

    def _result(self, node_id: str) -> NodeOutput:
        return self._kept.results[self._key(node_id)]

    def _needed_results(self) -> set[ResultKey]:
        """Return which results nodes may still ask for: those that lead to one still to run."""
        waiting = [*self._schedule.pending, *(link[0] for link in _links(self._expanded.values()))]
        seen = set(waiting)
        while waiting:
            node_id = waiting.pop()
            if self._has_result(node_id):
                continue
            for _, origin, _ in links_of(self._graph.get_node(node_id)):
                if origin not in seen:
                    seen.add(origin)
                    waiting.append(origin)
        return {self._key(node_id) for node_id in seen if node_id in self._signatures}

    def _finished_report(self) -> RunReport:
        for node_id in self._report.cached:
            if self._has_result(node_id) and self._result(node_id).ui:
                self._report.ui.setdefault(node_id, self._result(node_id).ui)
        self._report.values = {
            node_id: self._result(node_id).values for node_id in self._signatures if self._has_result(node_id)
        }
        return self._report


def _forget_models() -> None:
    from ..runtime.model_cache import model_cache

    model_cache().clear()


def _unfinished(results: list[Any]) -> list[asyncio.Task[Any]]:
    return [result for result in results if isinstance(result, asyncio.Task) and not result.done()]


def _result_of(result: Any) -> Any:
    return result.result() if isinstance(result, asyncio.Task) else result


def _links(expanded: Iterable[list[CallResult]]) -> Iterator[tuple[str, int]]:
    """Yield (node id, slot) of everything that the results of calls that expanded link to."""
    for result in itertools.chain.from_iterable(expanded):
        for value in result.values or () if result.graph is not None else ():
            if is_link(value):
                yield value[0], int(value[1])
