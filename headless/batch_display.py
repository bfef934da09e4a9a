"""What a batch tells while it runs: lines on the terminal and saved files on stdout, or events as lines of JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .events import JsonEventLines

if TYPE_CHECKING:
    from .batch_run import RowResult

LONGEST_ERROR = 300
"""Characters of an error on the terminal; the report has all of them."""


class BatchDisplay:
    """A batch's listener; see `batch_run.Listener`."""

    def __init__(self, as_json: bool = False) -> None:
        """as_json: write events to stdout instead: batch_start, row_started, ComfyUI's own with the row's `name`,
        row_finished, row_retried, worker_lost, batch_end.
        """
        self._out = sys.stdout  # what Ray's own threads print does not belong there
        self._lines = JsonEventLines(self._out) if as_json else None
        self._total = self._ended = self._ran = 0
        self._started = time.monotonic()

    def begin(self, rows: int, known: Sequence[RowResult]) -> None:
        """Tell how many rows there are, and which are done or refused before anything runs."""
        self._total, self._ended = rows, len(known)
        refused = [result for result in known if result.error is not None]
        if self._lines is not None:
            self._lines("batch_start", {"rows": rows, "done_earlier": len(known) - len(refused)})
            for result in refused:
                entry = {"name": result.job.row.name, "number": result.job.row.number, "files": []}
                self._lines("row_finished", {**entry, "status": result.status, "error": result.error})
            return
        if len(known) > len(refused):
            _write(f"{len(known) - len(refused)} of {rows} rows are done already")
        for result in refused:
            _write(f"line {result.job.row.line} ({result.job.row.name}) refused: {_short(result.error)}")

    def __call__(self, event: str, data: Mapping[str, Any]) -> None:
        """Show an event."""
        if event == "row_finished":
            self._ended += 1
            self._ran += 1
        if self._lines is not None:
            self._lines(event, data)
        elif event == "row_finished":
            self._show_end(data)
        elif event == "row_retried":
            _write(f"{data['name']} begins again: {_short(data['error'])}")

    def _show_end(self, data: Mapping[str, Any]) -> None:
        what = (
            f"{data['seconds']:.1f} s"
            if data["error"] is None
            else f"{data['status']}: {_short(data['error'])}"
        )
        _write(f"[{self._ended}/{self._total}] {data['name']}: {what}{self._remaining()}")
        for path in data["files"]:
            self._out.write(f"{path}\n")
        self._out.flush()

    def _remaining(self) -> str:
        """Return how long the rest takes if it goes on like this."""
        left = self._total - self._ended
        seconds = (time.monotonic() - self._started) / max(self._ran, 1) * left
        return f" (about {seconds / 60:.0f} min left)" if left and seconds >= 60 else ""

    def end(self, report: Path, results: Sequence[RowResult], seconds: float) -> None:
        """Tell how the batch ended and where its report is."""
        statuses = [result.status for result in results]
        counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
        if self._lines is not None:
            data = {"statuses": counts, "seconds": round(seconds, 3), "report": str(report)}
            self._lines("batch_end", data)
            return
        _write(f"{', '.join(f'{count} {status}' for status, count in counts.items())}; report: {report}")


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= LONGEST_ERROR else f"{line[:LONGEST_ERROR]} …"


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")
