"""Workers of a batch on a Ray cluster, one actor per graphics card, or per core where there are none.

Files that rows name are sent to the actors, and what rows save comes back, so that machines need no disk in common.
Rows are put in place by the batch alone, so that a row whose worker is lost on the way back is simply run again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .batch_places import BatchPlace
from .batch_run import BatchError
from .batch_worker import DONE, READY, RowOrder
from .batch_workers import LET_GO_SECONDS, LOST, Inbox, WorkerMessage
from .batch_workflow import BatchWorkflow
from .ray_actor import PIECE_BYTES, RowActor

LONGEST_REPORT = 200
"""Characters of what Ray says about a lost actor."""


@dataclass(frozen=True)
class ActorResources:
    """What Ray sets aside for an actor. cards: graphics cards. cores: also how many threads torch takes there."""

    cards: int
    cores: int


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "--ray needs Ray: pip install 'talking-portrait[ray]', the same version as on the cluster"
        ) from error
    return ray


@contextmanager
def ray_place(address: str, workflow: BatchWorkflow, workers: int | None, rows: int) -> Iterator[BatchPlace]:
    """Give a Ray cluster as a place inside a `with`; a connection to Ray that is there already is used and stays.

    address: as of `ray.init`. workers: None is as many as there are graphics cards, or else cores.
    Raises ImportError when Ray is not installed, BatchError when the cluster cannot be reached.
    """
    ray = _ray()
    connects = not ray.is_initialized()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # Ray prints what happens on the cluster
        if connects:
            _connect(ray, address)
            stack.callback(ray.shutdown)
        count, resources = actors_for(ray.nodes(), workers, rows)
        actor_class = ray.remote(
            num_gpus=resources.cards,
            num_cpus=resources.cores,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(RowActor)
        yield BatchPlace(
            count, lambda number, inbox: RayWorker(number, inbox, actor_class.remote(), workflow)
        )


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BatchError(f"the Ray cluster {address} cannot be reached: {reason}") from error


def actors_for(nodes: list[Mapping[str, Any]], workers: int | None, rows: int) -> tuple[int, ActorResources]:
    """Return how many actors to start and what each needs.

    nodes: of `ray.nodes()`. workers: how many are wanted, None for one per graphics card or, where there are none, one
    per core. There are not more than rows. On processors, actors share the cores of the smallest machine's size.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    cards = sum(int(entry.get("GPU", 0)) for entry in resources)
    cores = [int(entry.get("CPU", 0)) for entry in resources if entry.get("CPU", 0) >= 1]
    count = max(1, min(workers or cards or sum(cores), rows))
    if cards:
        return count, ActorResources(cards=1, cores=1)
    share = max(1, min(sum(cores) // count, *cores)) if cores else 1
    return count, ActorResources(cards=0, cores=share)


class RayWorker:
    """A worker that is a Ray actor; a thread of this process speaks to it."""

    def __init__(self, number: int, inbox: Inbox[WorkerMessage], actor: Any, workflow: BatchWorkflow) -> None:
        self.number, self.place, self.pid = number, "Ray", 0
        self._inbox, self._actor, self._workflow = inbox, actor, workflow
        self._orders: queue.SimpleQueue[RowOrder | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        threading.Thread(target=self._serve, daemon=True, name=f"Ray worker {number}").start()

    def begin(self, order: RowOrder) -> None:
        self._orders.put(order)

    def cancel(self) -> None:
        self.end()  # an actor does one thing at a time and hears nothing meanwhile

    def end(self) -> None:
        import ray

        self._orders.put(None)
        with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
            ray.kill(self._actor)

    def let_go(self) -> None:
        import ray

        if self._idle.is_set():  # a row under way is not waited for: its files go when an actor starts there
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
                ray.get(self._actor.close.remote(), timeout=LET_GO_SECONDS)
        self.end()

    def _serve(self) -> None:
        """Run orders until the actor is lost, or whatever else keeps rows from coming back whole."""
        import ray

        error = "the worker was ended"
        try:
            self.place, self.pid = ray.get(self._actor.where.remote())
            self._idle.set()
            self._tell(READY)
            while (order := self._orders.get()) is not None:
                self._idle.clear()
                answer = self._answer(order)
                self._idle.set()
                self._tell(answer.pop("type"), answer)
        except (ray.exceptions.RayError, RuntimeError, OSError, ValueError, TypeError) as problem:
            error = f"the worker was lost: {lost_text(problem)}"
        finally:
            self.end()
            self._tell(LOST, {"error": error})

    def _tell(self, kind: str, data: Mapping[str, Any] | None = None) -> None:
        self._inbox.put(WorkerMessage(self, kind, data or {}))

    def _answer(self, order: RowOrder) -> dict[str, Any]:
        import ray

        workflow, files = self._workflow.portable(order.workflow)
        digests = {name: self._workflow.digest(path) for name, path in files.items()}
        self._send({digests[name]: path for name, path in files.items()})
        content = RowOrder(workflow, order.output).as_json()
        answer = dict(ray.get(self._actor.run.remote(content, digests)))
        if answer["type"] == DONE:
            for name in answer["saved"]:
                self._bring(name, order.output)
        return answer

    def _send(self, files: Mapping[str, Path]) -> None:
        """Send those of some files, {digest: path}, that the actor does not have."""
        import ray

        for digest in ray.get(self._actor.missing.remote(list(files))):
            with files[digest].open("rb") as file:
                piece = file.read(PIECE_BYTES)
                while True:
                    following = file.read(PIECE_BYTES)
                    ray.get(self._actor.receive.remote(digest, piece, not following))
                    if not following:
                        break
                    piece = following

    def _bring(self, name: str, folder: Path) -> None:
        """Write a file that a row saved there into its folder here."""
        import ray

        target = (folder / name).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise OSError(f"the worker names a file outside of the row's folder: {name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            while piece := ray.get(self._actor.read.remote(name, file.tell())):
                file.write(piece)


def lost_text(error: BaseException) -> str:
    """Return what went wrong with an actor, from the last line of Ray's report, and what to do about it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1][:LONGEST_REPORT] if lines else type(error).__name__
    missing = "ModuleNotFoundError" in text or "ImportError" in text
    return f"{text}; install talking-portrait on every machine of the cluster" if missing else text
