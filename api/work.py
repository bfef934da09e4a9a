"""Work that takes a while: told to a callback, and ended by `cancel`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..core_models.types import ProgressCallback
from ..runtime.host import WorkCancelledError, host

if TYPE_CHECKING:
    from ..runtime.host import Progress


class CallbackProgress:
    """Every step told to a callback as (done, total); what it raises ends the work, as cancelling does."""

    def __init__(self, callback: ProgressCallback, total: int, check_cancelled: Callable[[], None]) -> None:
        self._callback, self._total, self._check_cancelled = callback, total, check_cancelled

    def update(self, done: int, total: int | None = None, preview: Any = None) -> None:
        """Tell that `done` of `total` steps are done; raise when the user has cancelled."""
        self._check_cancelled()
        self._total = total or self._total
        self._callback(done, self._total)


def progress_of(callback: ProgressCallback | None, total: int = 1) -> Progress:
    """Return what shows work of `total` steps: the callback, or without one the host's own display."""
    if callback is None:
        return host().progress(total)
    return CallbackProgress(callback, total, host().check_cancelled)


def cancel() -> None:
    """End the work under way, or the next if there is none: it raises WorkCancelledError at its next step.

    May be called from another thread or a signal handler. Nothing half written stays, and work may begin again at once.
    Raises RuntimeError inside ComfyUI, whose own Cancel button does this.
    """
    if host().in_comfyui:
        raise RuntimeError("inside ComfyUI its own Cancel ends the work: interrupt the queue there")
    host().cancel()


@contextmanager
def cancellable() -> Iterator[None]:
    """Let `cancel` end what is inside once: the work that comes after is not cancelled any more."""
    try:
        yield
    except WorkCancelledError:
        if not host().in_comfyui:
            host().allow_work()
        raise
