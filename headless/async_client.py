"""The client of a ComfyUI server for asynchronous programs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .client import Client, Pace, Workflow
from .events import EventListener
from .http import TIMEOUT
from .local_run import RunResult
from .preparation import PreparedWorkflow
from .server_api import ServerQueue

Result = TypeVar("Result")

AsyncListener = Callable[[str, dict[str, Any]], Awaitable[None] | None]
"""As an EventListener, or a coroutine function with the same arguments."""

CANCEL_PATIENCE = 10.0
"""Seconds that a cancelled task waits until the run is cancelled on the server too."""


class AsyncClient:
    """A ComfyUI server for asynchronous scripts: `Client`, whose methods are awaited.

        async with AsyncClient("http://127.0.0.1:8188") as client:
            results = await asyncio.gather(*(client.run(file, output_folder="out") for file in files))

    Each call has a thread of its own, so any number of runs may be under way. Cancelling the task that awaits a run
    cancels the run on the server too.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        input_folder: Path | str | None = None,
        timeout: float = TIMEOUT,
        pace: Pace | None = None,
    ) -> None:
        """As of `Client`."""
        self._client = Client(url, headers=headers, input_folder=input_folder, timeout=timeout, pace=pace)

    def __repr__(self) -> str:
        return repr(self._client).replace("Client", type(self).__name__, 1)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the runs that are under way. A closed client runs nothing more."""
        self._client.close()

    async def run(
        self,
        workflow: Workflow,
        *,
        assignments: Sequence[str] = (),
        inputs: Mapping[str, Any] | None = None,
        output_folder: Path | str = "output",
        listener: AsyncListener | None = None,
    ) -> RunResult:
        """As `Client.run`. listener: called, or awaited, in the event loop; the run waits for it."""
        tell = None if listener is None else _in_loop(listener, asyncio.get_running_loop())
        return await _in_thread(
            lambda stopped: self._client.run(
                workflow,
                assignments=assignments,
                inputs=inputs,
                output_folder=output_folder,
                listener=tell,
                stopped=stopped,
            )
        )

    async def prepare(
        self,
        workflow: Workflow,
        *,
        assignments: Sequence[str] = (),
        inputs: Mapping[str, Any] | None = None,
    ) -> PreparedWorkflow:
        """As `Client.prepare`."""
        return await _in_thread(
            lambda _: self._client.prepare(workflow, assignments=assignments, inputs=inputs)
        )

    async def object_info(self, class_name: str | None = None) -> dict[str, Any]:
        """As `Client.object_info`."""
        return await _in_thread(lambda _: self._client.object_info(class_name))

    async def queue(self) -> ServerQueue:
        """As `Client.queue`."""
        return await _in_thread(lambda _: self._client.queue())

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """As `Client.history`."""
        return await _in_thread(lambda _: self._client.history(prompt_id))

    async def cancel(self, prompt_id: str) -> bool:
        """As `Client.cancel`."""
        return await _in_thread(lambda _: self._client.cancel(prompt_id))

    async def upload(self, path: Path | str) -> str:
        """As `Client.upload`."""
        return await _in_thread(lambda _: self._client.upload(path))

    async def download(self, entry: Mapping[str, str], folder: Path | str) -> Path:
        """As `Client.download`."""
        return await _in_thread(lambda _: self._client.download(entry, folder))


async def _in_thread(work: Callable[[Callable[[], bool]], Result]) -> Result:
    """Return what `work` returns in a thread of its own; it is told by its argument when it shall stop."""
    loop = asyncio.get_running_loop()
    stopped, done = threading.Event(), loop.create_future()
    context = contextvars.copy_context()

    def in_background() -> None:
        try:
            outcome, error = context.run(work, stopped.is_set), None
        except BaseException as raised:  # noqa: BLE001 - raised again where it is awaited
            outcome, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(_settle, done, outcome, error)

    threading.Thread(target=in_background, name="ComfyUI client", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait([done], timeout=CANCEL_PATIENCE)
        if done.done() and not done.cancelled():
            done.exception()  # looked at, so that nothing complains about it later
        raise


def _settle(done: asyncio.Future[Any], outcome: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(outcome)


def _in_loop(listener: AsyncListener, loop: asyncio.AbstractEventLoop) -> EventListener:
    """Return a listener for another thread, which lets `listener` be called in the loop and waits for it."""

    async def tell(name: str, data: dict[str, Any]) -> None:
        answer = listener(name, data)
        if inspect.isawaitable(answer):
            await answer

    return lambda name, data: asyncio.run_coroutine_threadsafe(tell(name, data), loop).result()
