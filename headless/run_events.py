"""The events of one run, with the names and data that ComfyUI's websocket has for them."""

from __future__ import annotations

import time
import traceback
import uuid
from collections.abc import Mapping
from typing import Any

from .events import EventListener
from .expanding_graph import ExpandingGraph
from .graph import ExecutionBlocker
from .node_call import InputLists


class ListenerFailedError(BaseException):
    """A listener raised; `__cause__` is its error. Not an Exception, so that no node takes it for its own."""


class RunEvents:
    """Tells a listener what happens in a run. The same names, data and order as ComfyUI 0.3.64."""

    def __init__(self, listener: EventListener | None, graph: ExpandingGraph) -> None:
        self._listener, self._graph = listener, graph
        self._prompt_id = str(uuid.uuid4())
        self._states: dict[str, dict[str, Any]] = {}

    def _tell(self, event: str, /, **data: Any) -> None:
        if self._listener is None:
            return
        try:
            self._listener(event, {**data, "prompt_id": self._prompt_id})
        except Exception as error:
            raise ListenerFailedError from error

    def started(self) -> None:
        """The run begins."""
        self._tell("execution_start", timestamp=_now())

    def cached(self, nodes: list[str]) -> None:
        """These nodes' earlier results are used."""
        self._tell("execution_cached", nodes=nodes, timestamp=_now())

    def executing(self, node_id: str) -> None:
        """A node begins, or is asked again after its lazy inputs came."""
        self._set_state(node_id, "running", 0, 1)
        self._tell("executing", node=node_id, display_node=self._graph.get_display_node_id(node_id))

    def progress(self, node_id: str, done: int, total: int) -> None:
        """A node has done a part of its work."""
        self._set_state(node_id, "running", done, total)
        self._tell("progress", node=node_id, value=done, max=total)

    def executed(self, node_id: str, ui: Mapping[str, Any] | None) -> None:
        """A node has something to show, or its earlier result is used."""
        display = self._graph.get_display_node_id(node_id)
        self._tell("executed", node=node_id, display_node=display, output=ui or None)

    def finished(self, node_id: str) -> None:
        """A node is done."""
        total = self._states.get(node_id, {}).get("max", 1)
        self._set_state(node_id, "finished", total, total)

    def _set_state(self, node_id: str, state: str, value: int, total: int) -> None:
        if self._listener is None:
            return
        self._states[node_id] = {
            "value": value,
            "max": total,
            "state": state,
            "node_id": node_id,
            "prompt_id": self._prompt_id,
            "display_node_id": self._graph.get_display_node_id(node_id),
            "parent_node_id": self._graph.get_parent_node_id(node_id),
            "real_node_id": self._graph.get_real_node_id(node_id),
        }
        self._tell("progress_state", nodes={key: dict(entry) for key, entry in self._states.items()})

    def blocked(self, node_id: str, blocker: ExecutionBlocker, executed: list[str]) -> None:
        """A node was not run because a blocker with a message reached it."""
        self._tell(
            "execution_error",
            node_id=node_id,
            node_type=self._graph.get_node(node_id)["class_type"],
            executed=list(executed),
            exception_message=f"Execution Blocked: {blocker.message}",
            exception_type="ExecutionBlocked",
            traceback=[],
            current_inputs=[],
            current_outputs=[],
        )

    def failed(
        self, node_id: str, error: BaseException, inputs: InputLists | None, executed: list[str]
    ) -> dict[str, Any]:
        """A node raised an error, which ends the run. Return the event's data."""
        real_id = self._graph.get_real_node_id(node_id)
        data = {
            "node_id": real_id,
            "node_type": self._graph.get_node(real_id)["class_type"],
            "executed": list(executed),
            "exception_message": f"{error}\n",
            "exception_type": _whole_name(type(error)),
            "traceback": traceback.format_tb(error.__traceback__),
            "current_inputs": {
                name: [_readable(value) for value in values] for name, values in (inputs or {}).items()
            },
            "current_outputs": list(self._graph.get_original_prompt()),
        }
        self._tell("execution_error", **data, timestamp=_now())
        return data

    def interrupted(self, node_id: str, executed: list[str]) -> None:
        """The user cancelled while a node ran."""
        real_id = self._graph.get_real_node_id(node_id)
        node_type = self._graph.get_node(real_id)["class_type"]
        self._tell(
            "execution_interrupted",
            node_id=real_id,
            node_type=node_type,
            executed=list(executed),
            timestamp=_now(),
        )

    def succeeded(self) -> None:
        """All that had to run has run."""
        self._tell("execution_success", timestamp=_now())

    def ended(self) -> None:
        """Nothing runs any more, however the run went."""
        self._tell("executing", node=None)


def _now() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def _whole_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _readable(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)
