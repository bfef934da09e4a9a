"""How long work shows itself: ComfyUI's progress bar with previews, or a bar on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from .host import Progress

UPDATE_INTERVAL = 0.05
"""Seconds between two messages to ComfyUI's page, or to who listens: frames come far faster than anybody looks."""
PREVIEW_INTERVAL = 0.25
"""Seconds between two preview pictures."""
PREVIEW_SIZE = 512
"""Longest side of a preview in pixels."""


class ComfyUIProgress:
    """Steps and preview pictures on the node that is running; cancelling raises ComfyUI's own exception."""

    def __init__(self, bar: Any, total: int, check_cancelled: Callable[[], None]) -> None:
        self._bar, self._total, self._check_cancelled = bar, total, check_cancelled
        self._updated = self._previewed = float("-inf")

    def update(self, done: int, total: int | None = None, preview: Image | np.ndarray | None = None) -> None:
        """Show that `done` of `total` steps are done; raise when the user has cancelled."""
        self._check_cancelled()
        self._total = total or self._total
        now = time.monotonic()
        if done < self._total and now - self._updated < UPDATE_INTERVAL:
            return
        self._updated = now
        picture = None
        if preview is not None and (done >= self._total or now - self._previewed >= PREVIEW_INTERVAL):
            self._previewed = now
            picture = ("JPEG", _as_picture(preview), PREVIEW_SIZE)
        self._bar.update_absolute(done, self._total, picture)


def _as_picture(preview: Image | np.ndarray) -> Image:
    from PIL import Image

    return preview if isinstance(preview, Image.Image) else Image.fromarray(preview)


class TerminalProgress:
    """A tqdm bar on stderr; the bar is drawn from the second step on and closed by the last one."""

    def __init__(
        self, task: str, total: int, check_cancelled: Callable[[], None], stream: TextIO | None = None
    ) -> None:
        """stream: where the bar is drawn, standard error when None."""
        self._task, self._total, self._check_cancelled = task, total, check_cancelled
        self._stream = stream
        self._bar: Any = None

    def update(self, done: int, total: int | None = None, preview: Image | np.ndarray | None = None) -> None:
        """Show that `done` of `total` steps are done; raise when the user has cancelled."""
        self._check_cancelled()
        self._total = total or self._total
        if self._bar is None:
            self._bar = _terminal_bar(self._task, self._total, self._stream)
        if self._bar.disable:
            return
        self._bar.total = self._total
        self._bar.update(done - self._bar.n)
        if done >= self._total:
            self._bar.close()

    def close(self) -> None:
        """Leave the bar as it is, on a line of its own."""
        if self._bar is not None:
            self._bar.close()


def _terminal_bar(task: str, total: int, stream: TextIO | None) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total, desc=task or None, file=stream or sys.stderr, mininterval=0.2, disable=None, leave=True
    )


class ReportedProgress:
    """Steps told to a listener, at most one each UPDATE_INTERVAL; the last step is always told."""

    def __init__(
        self, listener: Callable[[int, int], None], total: int, check_cancelled: Callable[[], None]
    ) -> None:
        """listener: called with the steps done and their total."""
        self._listener, self._total, self._check_cancelled = listener, total, check_cancelled
        self._told = float("-inf")

    def update(self, done: int, total: int | None = None, preview: Image | np.ndarray | None = None) -> None:
        """Tell that `done` of `total` steps are done; raise when the user has cancelled."""
        self._check_cancelled()
        self._total = total or self._total
        now = time.monotonic()
        if done >= self._total or now - self._told >= UPDATE_INTERVAL:
            self._told = now
            self._listener(done, self._total)


class PreviewedProgress:
    """Progress whose preview comes from another callback: what was shown last goes along with every update."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._picture: np.ndarray | None = None
        self._last: tuple[int, int] | None = None

    def show(self, picture: np.ndarray) -> None:
        """Show an (H, W, 3) uint8 picture now, with what the last update said, and with the updates from now on."""
        self._picture = picture
        if self._last is not None:
            self.update(*self._last)

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` steps are done; raise when the user has cancelled."""
        self._last = (done, total)
        self._progress.update(done, total, preview=self._picture)
