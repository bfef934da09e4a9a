"""Running the rows of a batch on workers: placing, retries, time limits, results."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .batch_folder import FAILED as NOTED_FAILED
from .batch_folder import THUMBNAIL_FILE, BatchFolder, RowRecord
from .batch_thumbnails import write_thumbnail
from .batch_worker import CANCELLED, DONE, EVENT, FAILED, READY, REFUSED, RowOrder
from .batch_workers import LOST, Inbox, StartWorker, Worker, WorkerMessage, end_workers
from .batch_workflow import BatchJob, BatchWorkflow
from .graph import WorkflowError

logger = logging.getLogger(__name__)

CANCEL_GRACE = 5.0
"""Seconds that a row over its time limit has to stop before its worker is ended."""
FAILED_STARTS = 5
"""A worker that ended so many times, one after the other, before it was ready is not started again."""
RESTART_SECONDS = 1.0
"""A worker that ended before it was ready is started again after this, twice as long each time."""
LONGEST_WAIT = 3600.0
"""Seconds between two looks at the time, however far every limit is."""

Listener = Callable[[str, "dict[str, Any]"], None]
"""Told "row_started" {name, number, worker, place, pid, attempt}, "row_finished" {name, number, status, files, seconds,
attempts, error}, "row_retried" {name, number, error, attempt}, "worker_lost" {worker, place, error}, and nodes' events
with the row's `name` added."""

FINISHED, EARLIER, REJECTED, BROKEN, WORKER_LOST, TOO_LONG, NOT_RUN = (
    *("done", "done earlier", "refused", "failed", "worker lost", "too long", "not run"),
)
"""How a row can end."""
GOOD = (FINISHED, EARLIER)


class BatchError(RuntimeError):
    """The batch cannot go on: workers do not start."""


@dataclass(frozen=True)
class RowResult:
    """What became of a row.

    status: one of those above. files: what it saved, relative to the row's folder. seconds: of the run. attempts: how
    often it was begun. error: why it did not end well, None if it did. worker: where it ran last.
    """

    job: BatchJob
    status: str = NOT_RUN
    files: tuple[str, ...] = ()
    seconds: float = 0.0
    attempts: int = 0
    error: str | None = None
    worker: str = ""


@dataclass(frozen=True)
class BatchParameters:
    """workers: how many at once. retries: how often a row is begun again whose worker was lost. time_limit: seconds
    that a row may take, None for no limit.
    """

    workers: int = 1
    retries: int = 2
    time_limit: float | None = None


@dataclass
class _Running:
    """A row on a worker. ends: when its time is over. stopping: it was asked to stop."""

    job: BatchJob
    folder: Path
    ends: float | None = None
    stopping: bool = False


class Placement:
    """Rows that wait, handed out so that workers keep the models they have."""

    def __init__(self, jobs: Iterable[BatchJob]) -> None:
        self._groups: dict[frozenset[str], deque[BatchJob]] = {}
        for job in jobs:
            self._groups.setdefault(job.models, deque()).append(job)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def next_for(self, has: frozenset[str], others: Iterable[frozenset[str]] = ()) -> BatchJob:
        """Return the next row for a worker that has some models: of the rows with most models in common; else of
        those that no other worker has the models for; else of those that most rows wait with. Then in their order.
        """
        taken = set(others)
        group = max(
            self._groups,
            key=lambda models: (
                len(models & has),
                models not in taken,
                len(self._groups[models]),
                -self._groups[models][0].row.number,
            ),
        )
        job = self._groups[group].popleft()
        if not self._groups[group]:
            del self._groups[group]
        return job

    def put_back(self, job: BatchJob) -> None:
        """Take a row again that has to be begun anew; it comes next among those with its models."""
        self._groups.setdefault(job.models, deque()).appendleft(job)


class Batch:
    """One run over rows that are not done yet."""

    def __init__(
        self,
        folder: BatchFolder,
        workflow: BatchWorkflow,
        start_worker: StartWorker,
        parameters: BatchParameters,
        listener: Listener,
    ) -> None:
        """workflow: makes a row's graph when its turn comes. start_worker: starts the worker of a number, from 0."""
        self._folder, self._workflow, self._start_worker = folder, workflow, start_worker
        self._parameters, self._listener = parameters, listener
        self._inbox: Inbox[WorkerMessage] = queue.SimpleQueue()
        self._workers: dict[int, Worker] = {}
        self._running: dict[Worker, _Running] = {}
        self._models: dict[Worker, frozenset[str]] = {}
        self._idle: list[Worker] = []
        self._attempts: dict[int, int] = {}
        self._failed_starts: Counter[int] = Counter()
        self._restarts: dict[int, float] = {}
        self.results: dict[int, RowResult] = {}

    def run(self, jobs: list[BatchJob]) -> None:
        """Run rows; `results` holds what became of those that ended, by number, after an exception too.

        Raises BatchError when workers do not start; what cancels the work is passed on. No worker is left.
        """
        self._waiting = Placement(jobs)
        try:
            for number in range(min(self._parameters.workers, len(jobs))):
                self._workers[number] = self._start_worker(number, self._inbox)
            while self._waiting or self._running:
                self._place_rows()
                self._wait()
                self._stop_long_rows()
                self._start_again()
        finally:
            end_workers(self._workers.values())

    def _place_rows(self) -> None:
        while self._idle and self._waiting:
            worker = self._idle.pop(0)
            others = [models for other, models in self._models.items() if other is not worker]
            job = self._waiting.next_for(self._models.get(worker, frozenset()), others)
            self._begin(worker, job)

    def _begin(self, worker: Worker, job: BatchJob) -> None:
        name = job.row.name
        self._attempts[job.row.number] = attempt = self._attempts.get(job.row.number, 0) + 1
        folder = self._folder.begin(name, job.key)
        limit = self._parameters.time_limit
        self._running[worker] = _Running(job, folder, time.monotonic() + limit if limit else None)
        self._models[worker] = job.models
        self._tell(
            "row_started", job, worker=worker.number, place=worker.place, pid=worker.pid, attempt=attempt
        )
        try:
            prepared = self._workflow.prepared(job)
        except (WorkflowError, OSError) as error:  # a file that was there when the list was checked
            self._end(worker, self._running.pop(worker), REJECTED, str(error))
            self._idle.append(worker)
            return
        worker.begin(RowOrder(prepared, folder, self._workflow.input_folder))

    def _wait(self) -> None:
        """Take the next message, and all that are there already; go on when a row's time is over."""
        ends = [running.ends for running in self._running.values() if running.ends is not None]
        ends += self._restarts.values()
        timeout = min(LONGEST_WAIT, max(0.0, min(ends) - time.monotonic())) if ends else LONGEST_WAIT
        with contextlib.suppress(queue.Empty):
            self._take(self._inbox.get(timeout=timeout))
            while True:
                self._take(self._inbox.get_nowait())

    def _take(self, message: WorkerMessage) -> None:
        worker, running = message.worker, self._running.get(message.worker)
        if self._workers.get(worker.number) is not worker:
            return
        if message.type == LOST:
            self._lost(worker, str(message.data.get("error")))
        elif message.type == READY:
            del self._failed_starts[worker.number]
            self._idle.append(worker)
        elif message.type == EVENT and running is not None:
            self._listener(message.data["event"], {**message.data["data"], "name": running.job.row.name})
        elif message.type in (DONE, FAILED) and running is not None:
            del self._running[worker]
            self._idle.append(worker)
            if message.type == DONE:
                self._finish(worker, running, message.data)
            else:
                self._fail(worker, running, message.data)

    def _finish(self, worker: Worker, running: _Running, answer: Mapping[str, Any]) -> None:
        row, files = running.job.row, tuple(answer["saved"])
        write_thumbnail([running.folder / file for file in files], running.folder / THUMBNAIL_FILE)
        seconds = float(answer["seconds"])
        try:
            record = RowRecord(row.name, running.job.key, row.settings, files, seconds)
            self._folder.finish(running.folder, record)
        except OSError as error:
            self._end(worker, running, BROKEN, f"the result cannot be put in place: {error}")
            return
        self._record(worker, running, FINISHED, files=files, seconds=seconds)

    def _fail(self, worker: Worker, running: _Running, answer: Mapping[str, Any]) -> None:
        if answer.get("traceback"):
            logger.info("row %s:\n%s", running.job.row.name, answer["traceback"])
        if running.stopping:
            self._end(worker, running, TOO_LONG, self._over_time())
        elif answer["reason"] == REFUSED:
            self._end(worker, running, REJECTED, answer["error"])
        else:
            cancelled = answer["reason"] == CANCELLED
            self._end(worker, running, BROKEN, "the run was cancelled" if cancelled else answer["error"])

    def _lost(self, worker: Worker, error: str) -> None:
        """Put a worker that has ended aside, begin its row again or give it up, and start another worker."""
        running = self._running.pop(worker, None)
        was_ready = running is not None or worker in self._idle
        self._idle = [other for other in self._idle if other is not worker]
        self._models.pop(worker, None)
        del self._workers[worker.number]
        self._listener("worker_lost", {"worker": worker.number, "place": worker.place, "error": error})
        if running is not None:
            self._again_or_lost(worker, running, error)
        if not was_ready:
            self._failed_starts[worker.number] += 1
        failures = self._failed_starts[worker.number]
        if failures < FAILED_STARTS:
            pause = RESTART_SECONDS * 2 ** (failures - 1) if failures else 0.0
            self._restarts[worker.number] = time.monotonic() + pause
        elif not self._workers and not self._restarts:
            raise BatchError(f"no worker starts: {error}")

    def _start_again(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._restarts.items() if due <= now or not self._waiting]:
            del self._restarts[number]
            if self._waiting:
                self._workers[number] = self._start_worker(number, self._inbox)

    def _again_or_lost(self, worker: Worker, running: _Running, error: str) -> None:
        attempts = self._attempts[running.job.row.number]
        if running.stopping:
            self._end(worker, running, TOO_LONG, self._over_time())
        elif attempts > self._parameters.retries:
            self._end(worker, running, WORKER_LOST, f"{error} ({attempts} attempts)")
        else:
            self._folder.discard(running.folder)
            self._tell("row_retried", running.job, error=error, attempt=attempts)
            self._waiting.put_back(running.job)

    def _over_time(self) -> str:
        return f"it took longer than the {self._parameters.time_limit:g} s that a row may take"

    def _stop_long_rows(self) -> None:
        now = time.monotonic()
        for worker, running in list(self._running.items()):
            if running.ends is None or now < running.ends:
                continue
            if running.stopping:
                running.ends = None
                worker.end()
            else:
                running.stopping, running.ends = True, now + CANCEL_GRACE
                worker.cancel()

    def _end(self, worker: Worker, running: _Running, status: str, error: str) -> None:
        """Give a row up."""
        self._folder.discard(running.folder)
        self._folder.note(
            NOTED_FAILED, name=running.job.row.name, key=running.job.key, status=status, error=error
        )
        self._record(worker, running, status, error=error)

    def _record(self, worker: Worker, running: _Running, status: str, **more: Any) -> None:
        job = running.job
        result = RowResult(
            job,
            status,
            attempts=self._attempts[job.row.number],
            worker=f"{worker.place} {worker.number}",
            **more,
        )
        self.results[job.row.number] = result
        self._tell(
            "row_finished",
            job,
            status=status,
            files=[str(self._folder.path / job.row.name / file) for file in result.files],
            seconds=round(result.seconds, 3),
            attempts=result.attempts,
            error=result.error,
        )

    def _tell(self, event: str, job: BatchJob, **data: Any) -> None:
        self._listener(event, {"name": job.row.name, "number": job.row.number, **data})
