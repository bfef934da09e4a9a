"""Calling a node's function: list mapping, merging of results, blocked inputs, expansions."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from .asynchronous_calls import finished_coroutine
from .graph import ExecutionBlocker, Graph

InputLists = dict[str, list[Any]]
"""Every input as a list of values; most hold one."""


@dataclass(frozen=True)
class NodeOutput:
    """What a node gave.

    values: one list per output slot. ui: what the page would show, {name: list}.
    """

    values: list[list[Any]]
    ui: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class CallResult:
    """What one call of a node's function gave.

    values: one per output slot, where a call that expanded may have links into its graph; None when it gave none.
    graph: what it expanded into, None for an ordinary call.
    """

    values: tuple[Any, ...] | None
    graph: Graph | None = None


LinkedValues = Callable[[CallResult, Any], "list[Any] | None"]


@dataclass(frozen=True)
class MappedCall:
    """How a function is called over lists.

    on_blocked: makes the result of a call that would be given a blocker; the blocker itself when None.
    around: gives the context in which the call of a number, counted from 0, runs.
    start: is given the coroutine of an asynchronous function and that context, and returns a task, or the result
    when it waits for it.
    """

    on_blocked: Callable[[ExecutionBlocker], Any] = lambda blocker: blocker
    around: Callable[[int], contextlib.AbstractContextManager[Any]] = lambda _: contextlib.nullcontext()
    start: Callable[[Coroutine[Any, Any, Any], contextlib.AbstractContextManager[Any]], Any] = (
        finished_coroutine
    )


def call_mapped(
    node: Any, function_name: str, inputs: InputLists, call: MappedCall | None = None
) -> list[Any]:
    """Call a node's function once per item of its longest input list; shorter lists repeat their last item.

    A node with INPUT_IS_LIST is called once with whole lists. A call that would be given an ExecutionBlocker is not
    made.
    """
    function, call = getattr(node, function_name), call or MappedCall()
    if getattr(node, "INPUT_IS_LIST", False):
        blocker = _first_blocker(value for values in inputs.values() for value in values)
        return [_called(function, inputs, blocker, call, 0)]
    count = max((len(values) for values in inputs.values()), default=1)
    if count == 0:
        raise IndexError("list index out of range: an input list of the node is empty")
    results = []
    for index in range(count):
        arguments = {name: values[min(index, len(values) - 1)] for name, values in inputs.items()}
        results.append(_called(function, arguments, _first_blocker(arguments.values()), call, index))
    return results


def _first_blocker(values: Iterable[Any]) -> ExecutionBlocker | None:
    return next((value for value in values if isinstance(value, ExecutionBlocker)), None)


def _called(
    function: Callable[..., Any],
    arguments: dict[str, Any],
    blocker: ExecutionBlocker | None,
    call: MappedCall,
    index: int,
) -> Any:
    if blocker is not None:
        return call.on_blocked(blocker)
    with call.around(index):
        result = function(**arguments)
    return call.start(result, call.around(index)) if inspect.iscoroutine(result) else result


def call_results(results: list[Any], node: Any) -> tuple[list[CallResult], dict[str, list[Any]]]:
    """Return what the calls of a node gave, and their ui merged.

    Raises ValueError for a result of a wrong form.
    """
    parsed = [_call_result(result, node) for result in results]
    uis = [result["ui"] for result in results if isinstance(result, dict) and "ui" in result]
    return parsed, {name: [item for ui in uis for item in ui[name]] for name in (uis[0] if uis else {})}


def _call_result(result: Any, node: Any) -> CallResult:
    if not isinstance(result, dict):
        return CallResult(_as_tuple(result, node))
    if "expand" in result:
        return CallResult(_as_tuple(result.get("result"), node), result["expand"])
    return CallResult(_as_tuple(result["result"], node) if "result" in result else None)


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


def merged_values(
    results: list[CallResult], node: Any, linked: LinkedValues = lambda _, __: None
) -> list[list[Any]]:
    """Return one list per slot: OUTPUT_IS_LIST slots are concatenated over the calls, the others collected.

    linked: None for an ordinary value of a result, the values that it links to for a link.
    """
    given = [result for result in results if result.values is not None]
    are_lists = getattr(node, "OUTPUT_IS_LIST", None) or (False,) * len(node.RETURN_TYPES)
    slots = range(len(node.RETURN_TYPES) if given else 0)
    return [
        [item for result in given for item in _slot_values(result, slot, are_lists[slot], linked)]
        for slot in slots
    ]


def _slot_values(result: CallResult, slot: int, is_list: bool, linked: LinkedValues) -> list[Any]:
    value = result.values[slot] if result.values is not None else None
    values = linked(result, value)
    if values is None:
        return list(value) if is_list and not isinstance(value, ExecutionBlocker) else [value]
    if not is_list:
        return values
    return [item for value in values for item in (value if isinstance(value, list) else [value])]
