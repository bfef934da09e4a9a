"""Where the rows of a batch run: processes of this machine, ComfyUI servers, or a Ray cluster."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .batch_workers import (
    Inbox,
    ProcessWorker,
    StartWorker,
    WorkerMessage,
    visible_cards,
    worker_environment,
)
from .batch_workflow import BatchWorkflow
from .graph import WorkflowError


@dataclass(frozen=True)
class BatchPlace:
    """workers: how many there are at most. start_worker: starts the one of a number, from 0."""

    workers: int
    start_worker: StartWorker


@contextmanager
def batch_place(
    options: argparse.Namespace, workflow: BatchWorkflow, folder: Path, rows: int
) -> Iterator[BatchPlace]:
    """Give the place that the options name inside a `with`: `server`, a list of URLs; `ray`, an address; neither is
    this machine; `workers` is None for as many as there are graphics cards or servers.

    folder: for logs and passing files. rows: how many are to run; there are not more workers than that.
    Raises WorkflowError for more workers than servers, ImportError when Ray is not installed, OSError when the cluster
    cannot be reached.
    """
    if options.ray:
        from .ray_workers import ray_place

        with ray_place(options.ray, workflow, options.workers, rows) as place:
            yield place
    elif options.server:
        yield server_place(options.server, folder, options.workers, options.header)
    else:
        yield local_place(folder, min(options.workers or max(1, len(visible_cards())), rows))


def local_place(folder: Path, workers: int) -> BatchPlace:
    """Return processes of this machine as a place."""

    def start(number: int, inbox: Inbox[WorkerMessage]) -> ProcessWorker:
        environment = worker_environment(number, workers)
        return ProcessWorker(number, inbox, folder / f"worker-{number}.log", environment)

    return BatchPlace(workers, start)


def server_place(
    servers: Sequence[str], folder: Path, workers: int | None = None, headers: Sequence[str] | None = None
) -> BatchPlace:
    """Return ComfyUI servers as a place, one worker each.

    workers: use only so many of them. headers: "NAME: VALUE" that every request carries; None is the environment's.

    Raises WorkflowError for more workers than servers.
    """
    if workers is not None and workers > len(servers):
        raise WorkflowError(
            f"{workers} workers were asked for with {len(servers)} servers: a server runs one row at a time"
        )
    from .server_address import header_fields, server_address

    fields = header_fields(headers) if headers else None

    def start(number: int, inbox: Inbox[WorkerMessage]) -> ProcessWorker:
        where = {"server": servers[number], "headers": fields, "label": server_address(servers[number]).base}
        return ProcessWorker(number, inbox, folder / f"worker-{number}.log", place=where)

    return BatchPlace(workers or len(servers), start)
