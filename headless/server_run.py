"""One run on a ComfyUI server: queued, followed to its end through lost connections, cancelled when it shall stop."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime.host import WorkCancelledError
from .events import EventListener
from .graph import Graph
from .http import HttpError, is_passing
from .preparation import PreparedWorkflow
from .server_api import ComfyUIServer
from .server_errors import ServerRunError, ServerUnreachableError, WorkflowRefusedError
from .server_events import BLOCKED, EventStream, RunTelling, history_messages
from .validation import failure_sentences

logger = logging.getLogger(__name__)

CANCEL_TIMEOUT = 2.0
"""Seconds that each of the three questions which cancel a run may take."""
TIMES_UNKNOWN = 2
"""Times that a server may not know a run before it counts as lost."""


@dataclass(frozen=True)
class Pace:
    """How a run is followed, in seconds.

    events: longest wait for an event, after which a wish to stop is noticed. poll, slowest_poll: between two
    questions whether the run has ended, without a websocket; the first and, growing by a half each time, the longest.
    quiet_poll: the same while events come in. ended_poll: the first after an event said that the run has ended.
    known: between two questions whether the server still knows the run. outage: how long a server may be away.
    """

    events: float = 0.25
    poll: float = 0.5
    slowest_poll: float = 3.0
    quiet_poll: float = 5.0
    ended_poll: float = 0.05
    known: float = 10.0
    outage: float = 60.0


def run_graph_on_server(
    server: ComfyUIServer,
    prepared: PreparedWorkflow,
    listener: EventListener | None = None,
    stopped: Callable[[], bool] | None = None,
    pace: Pace | None = None,
) -> RunTelling:
    """Run a graph whose files are on the server already, and return what was told of it.

    listener: told ComfyUI's events. stopped: asked a few times a second; True cancels the run.
    Whatever ends this early, Ctrl-C too, cancels the run on the server, whether it waits or has begun.
    Raises WorkflowRefusedError, ServerRunError when a node fails or the run is stopped or lost there,
    ServerUnreachableError, WorkCancelledError when `stopped` says so.
    """
    return _ServerRun(server, prepared, listener, stopped or _never, pace or Pace()).run()


def _never() -> bool:
    return False


class _ServerRun:
    def __init__(
        self,
        server: ComfyUIServer,
        prepared: PreparedWorkflow,
        listener: EventListener | None,
        stopped: Callable[[], bool],
        pace: Pace,
    ) -> None:
        self._server, self._prepared, self._listener = server, prepared, listener
        self._stopped, self._pace = stopped, pace
        self._prompt_id = str(uuid.uuid4())
        self._away_since: float | None = None
        self._unknown, self._known_at = 0, time.monotonic()
        self._over = False

    def run(self) -> RunTelling:
        client_id = uuid.uuid4().hex
        with EventStream(self._server, client_id) as stream:
            try:
                self._queue(client_id)
                telling = RunTelling(self._prompt_id, self._listener)
                entry = self._followed(stream, telling)
            except BaseException:
                if not self._over:
                    cancel_run(self._server, self._prompt_id)
                raise
        telling.finish(entry)
        _expect_success(entry)
        return telling

    def _queue(self, client_id: str) -> None:
        graph = self._prepared.graph
        self._expect_going()
        try:
            answer = self._server.submit(graph, self._prepared.page, client_id, self._prompt_id)
        except ServerUnreachableError as error:
            self._expect_no_refusal(error)
            if not self._arrived():
                raise
            return
        self._prompt_id = answer["prompt_id"]
        if answer.get("node_errors"):
            raise refusal(answer, graph)

    def _expect_no_refusal(self, error: ServerUnreachableError) -> None:
        """Raise for an answer that says that the server did not take the run."""
        if isinstance(error, HttpError) and not is_passing(error):
            self._over = True
            if error.status == 400 and (error.content.get("error") or error.content.get("node_errors")):
                raise refusal(error.content, self._prepared.graph) from error
            raise error

    def _arrived(self) -> bool:
        """Say whether the server has the run although its answer was lost: nothing may run twice."""
        try:
            return self._is_known() or self._server.history(self._prompt_id) is not None
        except ServerUnreachableError:
            return False

    def _followed(self, stream: EventStream, telling: RunTelling) -> dict[str, Any]:
        """Return the history entry of the run once it has ended."""
        pause, ask_at = self._pace.poll, time.monotonic()
        while True:
            self._expect_going()
            event = stream.receive(max(0.0, min(self._pace.events, ask_at - time.monotonic())))
            if event is not None:
                telling.hear(*event)
                self._known_at = time.monotonic()
            if telling.ended and event is not None:
                pause = self._pace.ended_poll
            elif time.monotonic() < ask_at:
                continue
            entry = self._asked(stream, telling)
            if entry is not None:
                self._over = True
                self._hear_the_rest(stream, telling)
                return entry
            if stream.connected and not telling.ended:
                pause, ask_at = self._pace.poll, time.monotonic() + self._pace.quiet_poll
            else:
                pause, ask_at = min(pause * 1.5, self._pace.slowest_poll), time.monotonic() + pause

    def _hear_the_rest(self, stream: EventStream, telling: RunTelling) -> None:
        """Take the events that came before the history did."""
        while stream.connected and not telling.ended:
            event = stream.receive(0.0)
            if event is None:
                return
            telling.hear(*event)

    def _asked(self, stream: EventStream, telling: RunTelling) -> dict[str, Any] | None:
        """Ask whether the run has ended; return its history entry, None while it has not."""
        try:
            entry = self._server.history(self._prompt_id)
            if entry is None and self._is_doubtful(stream):
                self._unknown = 0 if self._is_known() else self._unknown + 1
                self._known_at, stream.missed = time.monotonic(), self._unknown > 0
                entry = self._server.history(self._prompt_id)
        except ServerUnreachableError as error:
            self._bear(error)
            return None
        self._away_since = None
        if entry is None and self._unknown >= TIMES_UNKNOWN:
            return self._lost(telling)
        return entry

    def _is_doubtful(self, stream: EventStream) -> bool:
        """Say whether the server may have forgotten the run: the connection broke, or nothing was heard for long."""
        return (
            stream.missed
            or self._away_since is not None
            or time.monotonic() - self._known_at > self._pace.known
        )

    def _is_known(self) -> bool:
        queue = self._server.queue()
        return self._prompt_id in queue.running + queue.waiting

    def _lost(self, telling: RunTelling) -> dict[str, Any]:
        """Return what the events said of a run whose history was cleared; raise for one that never ended."""
        entry = telling.entry()
        self._over = True
        if entry is None:
            raise ServerRunError(
                f"{self._server.name} no longer knows the run {self._prompt_id}: it was started anew, or its queue "
                "was cleared; run the workflow again"
            )
        return entry

    def _bear(self, error: ServerUnreachableError) -> None:
        """Let a server be away for a while. Raises ServerUnreachableError when it is away for too long."""
        if not is_passing(error):
            raise error
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            logger.warning("%s; waiting for it", error)
        if now - self._away_since > self._pace.outage:
            raise ServerUnreachableError(
                f"the server did not answer for {self._pace.outage:g} s while the run {self._prompt_id} "
                f"went on: {error}"
            ) from error

    def _expect_going(self) -> None:
        if self._stopped():
            raise WorkCancelledError("cancelled")


def cancel_run(server: ComfyUIServer, prompt_id: str) -> bool:
    """Stop one run, whether it waits or has begun, and no other; say whether the server was told.

    A run that it does not know needs no stopping. A server that cannot be reached is a warning, not an error.
    """
    asked = server.with_timeout(CANCEL_TIMEOUT)
    try:
        asked.remove_waiting(prompt_id)
        if prompt_id in asked.queue().running:
            asked.interrupt(prompt_id)
    except ServerUnreachableError as error:
        logger.warning("the run %s may go on, it could not be cancelled: %s", prompt_id, error)
        return False
    return True


def refusal(content: Mapping[str, Any], graph: Graph) -> WorkflowRefusedError:
    """Return the error for a workflow that the server refuses. content: its answer, {"error", "node_errors"}."""
    error, node_errors = content.get("error"), content.get("node_errors")
    error = error if isinstance(error, dict) else {"message": str(error)} if error else None
    node_errors = node_errors if isinstance(node_errors, dict) else {}
    try:
        sentences = failure_sentences(error, node_errors, graph)
    except (KeyError, TypeError, AttributeError):  # in another form than ComfyUI's
        sentences = []
    reasons = "; ".join(sentences) or json.dumps(content)[:500]
    return WorkflowRefusedError(f"the server refused the workflow: {reasons}", error, node_errors)


def _expect_success(entry: Mapping[str, Any]) -> None:
    """Raise ServerRunError for a run that failed or was stopped."""
    for event, data in history_messages(entry):
        if event == "execution_error" and data.get("exception_type") != BLOCKED:
            raise ServerRunError(
                f"node {data.get('node_id')} ({data.get('node_type')}) failed on the server: "
                f"{str(data.get('exception_message')).strip()}",
                data,
            )
        if event == "execution_interrupted":
            raise ServerRunError("the run was stopped on the server", data)
    status = entry.get("status")
    if isinstance(status, Mapping) and status.get("status_str") == "error":
        raise ServerRunError("the run failed on the server; its log says why")
