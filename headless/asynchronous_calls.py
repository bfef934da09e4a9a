"""Asynchronous functions of nodes, side by side, on an event loop in the thread that runs the graph."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from typing import Any

WAIT_INTERVAL = 0.1
"""Seconds between two looks whether the user has cancelled while nothing but asynchronous work goes on."""

CLOSING_TIMEOUT = 0.5
"""Seconds that cancelled work gets to clean up after itself."""


class AsynchronousCalls:
    """Runs coroutines; they go on only while `start` or `wait` is called."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[Any]] = []

    def start(
        self, coroutine: Coroutine[Any, Any, Any], context: contextlib.AbstractContextManager[Any]
    ) -> asyncio.Task[Any]:
        """Return a task that has run, inside of a context, up to the first point where it waits.

        Raises RuntimeError inside of a running event loop, which cannot run another one.
        """
        _expect_no_event_loop(coroutine)
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        task = self._loop.create_task(_inside(context, coroutine))
        self._tasks.append(task)
        self._loop.run_until_complete(asyncio.sleep(0))
        return task

    def wait(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Go on with all that was started until one of these tasks is done, or for WAIT_INTERVAL."""
        if self._loop is not None:
            some = asyncio.wait(list(tasks), timeout=WAIT_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
            self._loop.run_until_complete(some)

    def close(self) -> None:
        """Cancel what still goes on and wait a little until it has ended. Errors of it are of no interest any more."""
        if self._loop is None or self._loop.is_closed():
            return
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=CLOSING_TIMEOUT))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()
        self._loop.close()


def finished_coroutine(
    coroutine: Coroutine[Any, Any, Any], context: contextlib.AbstractContextManager[Any]
) -> Any:
    """Return what a coroutine gives, waiting for it. Raises RuntimeError inside of a running event loop."""
    _expect_no_event_loop(coroutine)
    return asyncio.run(_inside(context, coroutine))


async def _inside(
    context: contextlib.AbstractContextManager[Any], coroutine: Coroutine[Any, Any, Any]
) -> Any:
    with context:
        return await coroutine


def _expect_no_event_loop(coroutine: Coroutine[Any, Any, Any]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    coroutine.close()
    raise RuntimeError(
        "an asynchronous node cannot run in the thread of a running event loop: run the workflow in another "
        "thread, such as by asyncio.to_thread"
    )
