"""Calling a node's function: list mapping, merging of results, blocked inputs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .graph import ExecutionBlocker

InputLists = dict[str, list[Any]]
"""Every input as a list of values; most hold one."""


@dataclass(frozen=True)
class NodeOutput:
    """What a node gave.

    values: one list per output slot. ui: what the page would show, {name: list}.
    """

    values: list[list[Any]]
    ui: dict[str, list[Any]] = field(default_factory=dict)


def call_mapped(
    node: Any, function_name: str, inputs: InputLists, on_blocked: Callable | None = None
) -> list[Any]:
    """Call a node's function once per item of its longest input list; shorter lists repeat their last item.

    A node with INPUT_IS_LIST is called once with whole lists. A call that would be given an ExecutionBlocker
    is not made: its result is the blocker, or what `on_blocked` makes of it.
    """
    function = getattr(node, function_name)
    if getattr(node, "INPUT_IS_LIST", False):
        blocker = _first_blocker(value for values in inputs.values() for value in values)
        return [_called(function, inputs, blocker, on_blocked)]
    count = max((len(values) for values in inputs.values()), default=1)
    if count == 0:
        raise IndexError("list index out of range: an input list of the node is empty")
    results = []
    for index in range(count):
        arguments = {name: values[min(index, len(values) - 1)] for name, values in inputs.items()}
        results.append(_called(function, arguments, _first_blocker(arguments.values()), on_blocked))
    return results


def _first_blocker(values: Any) -> ExecutionBlocker | None:
    return next((value for value in values if isinstance(value, ExecutionBlocker)), None)


def _called(
    function: Callable,
    arguments: dict[str, Any],
    blocker: ExecutionBlocker | None,
    on_blocked: Callable | None,
) -> Any:
    if blocker is not None:
        return on_blocked(blocker) if on_blocked is not None else blocker
    result = function(**arguments)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def call_node(node: Any, inputs: InputLists, on_blocked: Callable) -> NodeOutput:
    """Run a node's FUNCTION and return its merged outputs.

    Raises NotImplementedError for a node that expands into a graph, ValueError for a result of a wrong form.
    """
    results = call_mapped(node, node.FUNCTION, inputs, on_blocked)
    values = []
    uis = []
    for result in results:
        if isinstance(result, dict):
            _refuse_expansion(result)
            if "ui" in result:
                uis.append(result["ui"])
            if "result" not in result:
                continue
            result = result["result"]
        values.append(_as_tuple(result, node))
    return NodeOutput(_merged(values, node), _merged_ui(uis))


def _refuse_expansion(result: dict[str, Any]) -> None:
    if "expand" in result:
        raise NotImplementedError(
            "the node expands into further nodes, which the headless runner does not do; run it in ComfyUI "
            "with --server"
        )


def _as_tuple(result: Any, node: Any) -> tuple[Any, ...]:
    slots = len(node.RETURN_TYPES)
    if isinstance(result, ExecutionBlocker):
        return (result,) * slots
    if result is None and slots == 0:
        return ()
    if not isinstance(result, tuple | list) or len(result) < slots:
        raise ValueError(
            f"the node's function {node.FUNCTION} returned {type(result).__name__}, expected a tuple of "
            f"{slots} values, one per output"
        )
    return tuple(result)


def _merged(results: list[tuple[Any, ...]], node: Any) -> list[list[Any]]:
    """Return one list per slot: OUTPUT_IS_LIST slots are concatenated over the calls, the others collected."""
    are_lists = getattr(node, "OUTPUT_IS_LIST", None) or (False,) * len(node.RETURN_TYPES)
    merged: list[list[Any]] = []
    for slot in range(len(node.RETURN_TYPES) if results else 0):
        column = [result[slot] for result in results]
        if are_lists[slot]:
            column = [
                item
                for value in column
                for item in ([value] if isinstance(value, ExecutionBlocker) else value)
            ]
        merged.append(column)
    return merged


def _merged_ui(uis: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [item for ui in uis for item in ui[name]] for name in (uis[0] if uis else {})}
