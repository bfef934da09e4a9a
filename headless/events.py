"""What a run tells while it runs: ComfyUI's events, shown on the terminal or written as lines of JSON."""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from ..runtime.progress import TerminalProgress
from .graph import Graph, title_of

EventListener = Callable[[str, dict[str, Any]], None]
"""Told the name of an event and its data, both as ComfyUI's websocket has them: execution_start, execution_cached
{nodes}, executing {node, display_node}, progress {node, value, max}, progress_state {nodes}, executed {node,
display_node, output}, execution_success, execution_error {...}, execution_interrupted {...}; all with prompt_id."""


NOT_SHOWN = ("Cc", "Zl", "Zp")
"""Unicode's categories of control characters and line ends."""


def listeners(*several: EventListener) -> EventListener:
    """Return one listener that tells each of several, in order."""

    def tell(event: str, data: dict[str, Any]) -> None:
        for listener in several:
            listener(event, data)

    return tell


def one_line(text: str) -> str:
    """Return a text for the terminal: what would end the line or command the terminal becomes a space.

    Titles and messages come from files that others made.
    """
    return "".join(" " if unicodedata.category(letter) in NOT_SHOWN else letter for letter in text)


class EventDisplay:
    """Shows events to a person: one line per node that starts, a bar for its progress, why nodes were blocked."""

    def __init__(self, graph: Graph, stream: TextIO | None = None) -> None:
        """graph: in API form, for titles and the number of nodes. stream: standard error when None."""
        self._graph, self._stream = graph, stream
        self._started: set[str] = set()
        self._bars: dict[str, TerminalProgress] = {}

    def __call__(self, event: str, data: dict[str, Any]) -> None:
        """Show an event; those of other kinds, and data of another form, are left out."""
        show = {
            "executing": self._show_node,
            "progress": self._show_progress,
            "execution_error": self._show_blocked,
        }.get(event)
        if show is not None and isinstance(data, Mapping):
            show(data)

    def _show_node(self, data: Mapping[str, Any]) -> None:
        node_id = data.get("display_node") or data.get("node")
        if node_id is None:
            self._close_bars()
        if node_id is None or str(node_id) in self._started:
            return
        self._started.add(str(node_id))
        total = max(len(self._graph), len(self._started))
        self._write(f"[{len(self._started)}/{total}] {self._title(node_id)}")

    def _show_progress(self, data: Mapping[str, Any]) -> None:
        node_id, done, total = str(data.get("node")), data.get("value"), data.get("max")
        if not _is_finite(done) or not _is_finite(total):
            return
        if node_id not in self._bars:
            self._bars[node_id] = TerminalProgress(self._title(node_id), int(total), _never, self._stream)
        self._bars[node_id].update(int(done), int(total))
        if done >= total:
            del self._bars[node_id]

    def _close_bars(self) -> None:
        """Leave the bars of work that ended before its last step."""
        while self._bars:
            self._bars.popitem()[1].close()

    def _show_blocked(self, data: Mapping[str, Any]) -> None:
        if data.get("exception_type") == "ExecutionBlocked":
            node_id = data.get("node_id")
            reason = str(data.get("exception_message", "")).removeprefix("Execution Blocked: ")
            self._write(f"blocked: node {node_id} ({self._title(node_id)}): {reason}")

    def _title(self, node_id: Any) -> str:
        node_id = str(node_id)
        return one_line(title_of(self._graph, node_id) if node_id in self._graph else node_id)

    def _write(self, line: str) -> None:
        (self._stream or sys.stderr).write(f"{one_line(line)}\n")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _never() -> None:
    """Nothing is to be checked: the work that is shown runs elsewhere."""


class JsonEventLines:
    """Writes every event as one line of JSON, {"type": name, "data": {...}}, at once."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """stream: standard output when None."""
        self._stream = stream

    def __call__(self, event: str, data: Mapping[str, Any]) -> None:
        """Write an event. Numbers that JSON does not know become null, other objects their text."""
        stream = self._stream or sys.stdout
        stream.write(json.dumps({"type": event, "data": plain(data)}, allow_nan=False) + "\n")
        stream.flush()


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN and infinity as None, paths and other objects as their text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str | None) else str(value)
