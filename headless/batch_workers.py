"""Workers of a batch as the batch sees them, and those that are processes of this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..runtime.host import TEMP_VARIABLE
from ..weights_manifest.manifest import PACKAGE_FOLDER
from .batch_worker import RowOrder

logger = logging.getLogger(__name__)

LOST = "lost"
"""Type of the message that a worker has ended: `error` says how. The other types are a worker's answers."""

LET_GO_SECONDS = 2.0
"""A worker that has to cancel its work on a server, or to remove files elsewhere, gets so long for it."""

ENDING_SECONDS = 5.0
"""A worker that says nothing more gets so long to end by itself, so that it is told how it did."""

LAST_WORDS_BYTES, LAST_WORDS_LINES = 4096, 3
"""How much of what a worker wrote before it ended is told."""

WORKER_COMMAND = (sys.executable, str(PACKAGE_FOLDER / "__main__.py"), "batch-worker")
"""Starts a worker; by its path, so that a checkout and an installed package work alike."""


@dataclass(frozen=True)
class WorkerMessage:
    """What a worker tells: an answer of `batch_worker`, or LOST."""

    worker: Worker
    type: str
    data: Mapping[str, Any] = field(default_factory=dict)


Inbox = queue.SimpleQueue
"""Where all workers of a batch put their messages, WorkerMessage."""


class Worker(Protocol):
    """Something that runs one row at a time and tells an inbox about it: READY first, LOST when it has ended.

    number: from 0. place: what runs it, for people. pid: the id of its process there, known once it is ready.
    """

    number: int
    place: str
    pid: int

    def begin(self, order: RowOrder) -> None:
        """Start a row; returns at once. Called only when the worker is ready and has no row."""

    def cancel(self) -> None:
        """Ask the row under way to stop; the answer comes as always."""

    def end(self) -> None:
        """End the worker at once, in the middle of a row too."""

    def let_go(self) -> None:
        """End the worker; one that has work or files elsewhere gets a moment to put an end to them there."""


StartWorker = Callable[[int, Inbox], Worker]
"""Starts the worker of a number, from 0, that tells an inbox."""


class ProcessWorker:
    """A worker in a process of its own, in no group with this one: Ctrl-C reaches it only through this one."""

    def __init__(
        self,
        number: int,
        inbox: Inbox[WorkerMessage],
        log: Path,
        environment: Mapping[str, str] | None = None,
        place: Mapping[str, Any] | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """Start the process.

        number: from 0. log: where what it writes to standard error goes; passing files go beside it. environment:
        further variables. place: {"server": URL} runs rows on a ComfyUI server instead. command: what starts the
        process, WORKER_COMMAND if None.
        """
        self.number, self._inbox, self._log = number, inbox, log
        self._cancels_elsewhere = (place or {}).get("server") is not None
        self.place = str((place or {}).get("label") or "this machine")
        temporary = log.with_suffix(".temp")
        temporary.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                list(command or WORKER_COMMAND),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environment or {}), TEMP_VARIABLE: str(temporary)},
                encoding="utf-8",
                **_own_group(),
            )
        self.pid = self._process.pid
        self._send(place or {})
        threading.Thread(target=self._listen, daemon=True, name=f"batch worker {number}").start()

    def begin(self, order: RowOrder) -> None:
        self._send(order.as_json())

    def cancel(self) -> None:
        self._send({"cancel": True})

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()

    def let_go(self) -> None:
        if self._cancels_elsewhere:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LET_GO_SECONDS)
        self.end()

    def _send(self, content: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):  # a worker that is gone is told of by LOST
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        """Pass answers on until the worker ends, or says something that is none; that it is lost is told always."""
        try:
            for line in self._process.stdout:
                answer = json.loads(line)
                self._inbox.put(WorkerMessage(self, answer.pop("type"), answer))
        except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
            logger.warning("worker %d: an answer that is none: %s", self.number, error)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDING_SECONDS)
        finally:
            self.end()
            self._inbox.put(WorkerMessage(self, LOST, {"error": self._how_it_ended()}))

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        hint = ", as the system does when memory runs out" if code == -getattr(signal, "SIGKILL", 0) else ""
        words = _last_words(self._log)
        return f"the worker {how}{hint}" + (f"; it last wrote: {words}" if words else "")


def end_workers(workers: Iterable[Worker]) -> None:
    """End workers, all at once."""
    threads = [threading.Thread(target=worker.let_go) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _own_group() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(log: Path) -> str:
    """Return the last lines a worker wrote, in one line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return " / ".join([line.strip() for line in lines if line.strip()][-LAST_WORDS_LINES:])


def worker_environment(number: int, workers: int) -> dict[str, str]:
    """Return the variables of one of several worker processes: its graphics card, and its share of the cores.

    Variables that the user has set stay as they are.
    """
    variables = {}
    cards = visible_cards()
    if cards:
        variables["CUDA_VISIBLE_DEVICES"] = cards[number % len(cards)]
    if workers > 1 and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    return variables


def visible_cards() -> list[str]:
    """Return the names CUDA gives to the graphics cards that this process may use."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]
