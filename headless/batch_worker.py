"""The process that runs rows of a batch, one after another, and keeps its models: `talking-portrait batch-worker`.

Orders come in as lines of JSON, answers go out as lines of JSON. What nodes print goes to standard error. The
process ends when its orders end, in the middle of a row too.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ..runtime.host import StandaloneHost, WorkCancelledError, host
from .events import EventListener, plain
from .graph import WorkflowError
from .preparation import PreparedWorkflow
from .server_errors import ServerUnreachableError

READY, EVENT, DONE, FAILED = "ready", "event", "done", "failed"
"""Types of answers."""
REFUSED, BROKEN, CANCELLED = "refused", "broken", "cancelled"
"""Why a row failed: what it asks for cannot run, a node raised an error, the work was cancelled."""

PROGRESS_INTERVAL = 0.5
"""Seconds between two answers about the progress within one node."""
EXIT_GRACE = 3.0
"""Seconds that a row has to stop by itself once nobody waits for it any more."""


@dataclass(frozen=True)
class RowOrder:
    """One row to run. Folders are those of the machine that runs it; `output` is empty when the row begins."""

    workflow: PreparedWorkflow
    output: Path
    input: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the order as it goes to a worker."""
        return {
            "graph": self.workflow.graph,
            "page": self.workflow.page,
            "files": sorted(map(str, self.workflow.files)),
            "output": str(self.output),
            "input": str(self.input) if self.input else None,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RowOrder:
        """Return the order that `as_json` made `content` of."""
        files = frozenset(map(Path, content["files"]))
        workflow = PreparedWorkflow(content["graph"], content["page"], files)
        return cls(workflow, Path(content["output"]), Path(content["input"]) if content["input"] else None)


RowRunner = Callable[[RowOrder, EventListener], "list[Path]"]
"""Runs a row and returns the files it saved, in or below the order's output folder."""


def local_row_runner() -> RowRunner:
    """Return a runner in this process that keeps node objects and models from row to row.

    Results are dropped once nothing in the row waits for them, so that a row needs no more memory than a single run.
    """
    from .local_run import LocalRunner

    runner = LocalRunner(keep_results=False)

    def run(order: RowOrder, listener: EventListener) -> list[Path]:
        return list(
            runner.run(order.workflow, listener, input_folder=order.input, output_folder=order.output).saved
        )

    return run


def server_row_runner(url: str, headers: Mapping[str, str] | None = None) -> RowRunner:
    """Return a runner on a ComfyUI server that sends what rows name and downloads what they save.

    url, headers: as of `server_address`.
    Raises ServerUnreachableError when it is down.
    """
    from .client import Client

    clients: dict[Path | None, Client] = {None: Client(url, headers=headers)}
    clients[None].queue()

    def run(order: RowOrder, listener: EventListener) -> list[Path]:
        client = clients.setdefault(order.input, Client(url, headers=headers, input_folder=order.input))
        result = client.run(
            order.workflow, output_folder=order.output, listener=listener, stopped=_is_cancelled
        )
        return list(result.saved)

    return run


def _is_cancelled() -> bool:
    try:
        host().check_cancelled()
    except WorkCancelledError:
        return True
    return False


def row_answer(run: RowRunner, order: RowOrder, tell: EventListener) -> dict[str, Any]:
    """Run a row and return the answer about it: DONE with `saved` (paths relative to the output folder, with /) and
    `seconds`, or FAILED with `reason`, `error` and, for a node's error, `traceback`.

    ServerUnreachableError gets out, for then another worker should have the row; and what is no Exception.
    """
    started = time.perf_counter()
    try:
        saved = run(order, tell)
    except ServerUnreachableError:
        raise
    except WorkCancelledError:
        return {"type": FAILED, "reason": CANCELLED, "error": "cancelled"}
    except WorkflowError as error:
        return {"type": FAILED, "reason": REFUSED, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever a node raises ends its row alone
        text = " ".join(str(error).split()) or type(error).__name__
        return {"type": FAILED, "reason": BROKEN, "error": text, "traceback": traceback.format_exc()}
    seconds = time.perf_counter() - started
    folder = order.output.resolve()
    files = [path.resolve().relative_to(folder).as_posix() for path in saved]
    return {"type": DONE, "saved": list(dict.fromkeys(files)), "seconds": seconds}


class _ThrottledEvents:
    """Passes events on, those about progress within a node not more often than needed."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell, self._last = tell, float("-inf")

    def __call__(self, event: str, data: Mapping[str, Any]) -> None:
        if event in ("progress", "progress_state"):
            if time.monotonic() - self._last < PROGRESS_INTERVAL:
                return
            self._last = time.monotonic()
        self._tell({"type": EVENT, "event": event, "data": plain(data)})


def work(orders: TextIO, answers: TextIO) -> None:
    """Run the rows that `orders` name until they end.

    The first line says where: {} is in this process, {"server": URL, "headers": {...}} on a ComfyUI server.
    """
    tell = _Answers(answers)
    run = _row_runner(json.loads(orders.readline()))
    tell({"type": READY, "pid": os.getpid()})
    waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    ended = threading.Event()
    threading.Thread(target=_read_orders, args=(orders, waiting, ended), daemon=True).start()
    try:
        while (order := waiting.get()) is not None:
            _forget_cancelling()
            tell(row_answer(run, RowOrder.from_json(order), _ThrottledEvents(tell)))
    finally:
        ended.set()
        _forget_cancelling()


class _Answers:
    """Writes answers, from any thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def __call__(self, answer: Mapping[str, Any]) -> None:
        with self._lock:
            self._stream.write(json.dumps(answer) + "\n")
            self._stream.flush()


def _row_runner(place: Mapping[str, Any]) -> RowRunner:
    if place.get("server") is None:
        return local_row_runner()
    return server_row_runner(place["server"], place.get("headers"))


def _read_orders(
    orders: TextIO, waiting: queue.SimpleQueue[dict[str, Any] | None], ended: threading.Event
) -> None:
    """Hand orders on; cancel at once when asked to, and end the process when nobody is there any more."""
    for line in orders:
        order = json.loads(line)
        if order.get("cancel"):
            _cancel()
        else:
            waiting.put(order)
    if not ended.is_set():
        _cancel()
    waiting.put(None)
    if not ended.wait(EXIT_GRACE):
        os._exit(1)  # a row that does not stop holds the main thread


def _cancel() -> None:
    owner = host()
    if isinstance(owner, StandaloneHost):
        owner.cancel()


def _forget_cancelling() -> None:
    owner = host()
    if isinstance(owner, StandaloneHost):
        owner.allow_work()


def work_on_standard_streams() -> int:
    """Run the rows that standard input names; see `work`. What anything else prints goes to standard error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        orders = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
        work(orders, answers)  # not closed after an error: the thread that reads may hold it
    return 0
