"""A run on a ComfyUI server, told as events: what the websocket says, checked, and what it missed, from the history."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from .events import EventListener
from .server_api import ComfyUIServer
from .websocket import TEXT, WebSocket

logger = logging.getLogger(__name__)

TOLD = frozenset(
    ("execution_start", "execution_cached", "executing", "progress", "progress_state", "executed")
)
ENDINGS = frozenset(("execution_success", "execution_error", "execution_interrupted"))
BLOCKED = "ExecutionBlocked"
"""Type of the execution_error of a node that was blocked; the run goes on."""

REOPENINGS = 6
"""Attempts to open a websocket again, in a row, before the run is followed without."""
FIRST_REOPENING, LONGEST_REOPENING = 0.5, 8.0
"""Seconds before the first attempt; every further one waits twice as long, up to the longest."""


def event_of(kind: int, payload: bytes) -> tuple[str, dict[str, Any]] | None:
    """Return a websocket message as (event, data); None for previews and what is no event of a run."""
    if kind != TEXT:
        return None
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    name, data = (message.get("type"), message.get("data")) if isinstance(message, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(data, dict) or name not in TOLD | ENDINGS:
        return None
    return (name, data) if _is_sound(name, data) else None


def _is_sound(name: str, data: Mapping[str, Any]) -> bool:
    """Say whether an event's data has the types that a listener may count on."""
    if not all(isinstance(data.get(key), str | None) for key in ("node", "display_node", "prompt_id")):
        return False
    if name == "progress":
        return all(type(data.get(key)) in (int, float) for key in ("value", "max"))
    if name in ("execution_cached", "progress_state"):
        return isinstance(data.get("nodes"), list if name == "execution_cached" else dict)
    return name != "executed" or isinstance(data.get("output"), dict | None)


class EventStream:
    """A client's events: read from a websocket that is opened again when it is lost.

    missed: whether events may have been lost since `missed` was last set to False.
    """

    def __init__(self, server: ComfyUIServer, client_id: str) -> None:
        self._server, self._client_id = server, client_id
        self._opened = contextlib.ExitStack()
        self._socket: WebSocket | None = None
        self._attempts, self._next_attempt = 0, 0.0
        self._warned = self.missed = False

    def __enter__(self) -> EventStream:
        self._open()
        if self._socket is None:
            self._attempts = REOPENINGS  # websockets are blocked, most likely: one more attempt
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def connected(self) -> bool:
        """Whether events come in."""
        return self._socket is not None

    def receive(self, timeout: float) -> tuple[str, dict[str, Any]] | None:
        """Return the next event, or None when none came within about `timeout` seconds."""
        if self._socket is None and self._attempts <= REOPENINGS and time.monotonic() >= self._next_attempt:
            self._open()
        if self._socket is None:
            time.sleep(timeout)
            return None
        try:
            message = self._socket.receive(timeout)
        except OSError as error:
            self._lost(error)
            return None
        if message is None:
            return None
        self._attempts = 0
        event = event_of(*message)
        if event is None or event[0] != "execution_error":
            return event
        return event[0], self._server.hidden_in(event[1])

    def _open(self) -> None:
        try:
            self._socket = self._opened.enter_context(self._server.events(self._client_id))
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        """Close what is left of the websocket and say when to try again."""
        self._opened.close()
        self._socket, self.missed = None, True
        pause = min(FIRST_REOPENING * 2**self._attempts, LONGEST_REOPENING)
        self._attempts, self._next_attempt = self._attempts + 1, time.monotonic() + pause
        level = logging.INFO if self._warned else logging.WARNING
        self._warned = True
        following = "trying again" if self._attempts <= REOPENINGS else "asking now and then how the run is"
        logger.log(level, "no live progress: %s; %s", self._server.hidden(str(error)), following)


class RunTelling:
    """Tells a listener what happens in one run, each ending and each output once, whatever the websocket missed."""

    def __init__(self, prompt_id: str, listener: EventListener | None) -> None:
        self.prompt_id, self._listener = prompt_id, listener
        self._names: set[str] = set()
        self._node: str | None = None
        self._ending: tuple[str, dict[str, Any]] | None = None
        self.outputs: dict[str, dict[str, Any]] = {}
        self.started: dict[str, None] = {}
        self.cached: tuple[str, ...] = ()
        self.blocked: list[str] = []

    @property
    def ended(self) -> bool:
        """Whether an event said that the run has ended."""
        return self._ending is not None

    def hear(self, name: str, data: Mapping[str, Any]) -> None:
        """Take an event of the websocket. An ending is told by `finish`, after the outputs."""
        if data.get("prompt_id", self.prompt_id) != self.prompt_id:
            return
        data = {**data, "prompt_id": self.prompt_id}
        if name in ENDINGS and data.get("exception_type") != BLOCKED:
            self._ending = (name, data)
        elif name == "executing" and data.get("node") in (None, self._node):
            return  # a websocket that was opened again is told once more; None is told by `finish`
        else:
            self._tell(name, data)

    def entry(self) -> dict[str, Any] | None:
        """Return what the events said about the run, in the history's form; None while it has not ended."""
        if self._ending is None:
            return None
        name = self._ending[0]
        status = {
            "status_str": "success" if name == "execution_success" else "error",
            "messages": [self._ending],
        }
        return {"outputs": self.outputs, "status": status}

    def finish(self, entry: Mapping[str, Any]) -> None:
        """Tell what the websocket has not told of a run that has ended. entry: of the server's history."""
        messages = history_messages(entry)
        for name, data in messages:
            if name in TOLD and name not in self._names and _is_sound(name, data):
                self._tell(name, {**data, "prompt_id": self.prompt_id})
        for node, output in entry.get("outputs", {}).items():
            if node not in self.outputs and isinstance(output, dict):
                self._tell(
                    "executed",
                    {"node": node, "display_node": node, "output": output, "prompt_id": self.prompt_id},
                )
        endings = [message for message in messages if message[0] in ENDINGS]
        name, data = endings[-1] if endings else self._ending or ("execution_success", {})
        self._tell(name, {**data, "prompt_id": self.prompt_id})
        self._tell("executing", {"node": None, "prompt_id": self.prompt_id})

    def _tell(self, name: str, data: dict[str, Any]) -> None:
        self._names.add(name)
        if name == "executed" and data.get("node"):
            self.outputs[data["node"]] = data.get("output") or {}
            if data["node"] not in self.cached:
                self.started.setdefault(data["node"])
        elif name == "executing" and data.get("node"):
            self._node = data["node"]
            self.started[data["node"]] = None
        elif name == "execution_cached":
            self.cached = tuple(node for node in data["nodes"] if isinstance(node, str))
        elif data.get("exception_type") == BLOCKED:
            self.blocked.append(str(data.get("exception_message", "")).removeprefix("Execution Blocked: "))
        if self._listener is not None:
            self._listener(name, data)


def history_messages(entry: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the (event, data) pairs that a history entry keeps; [] for the entries of old servers."""
    status = entry.get("status")
    listed = status.get("messages") if isinstance(status, Mapping) else None
    pairs = [
        pair
        for pair in (listed if isinstance(listed, list) else [])
        if isinstance(pair, list | tuple) and len(pair) == 2
    ]
    return [(name, data) for name, data in pairs if isinstance(name, str) and isinstance(data, dict)]
