"""The folder of a batch: its lock, its journal, and rows' results that appear there only when they are whole.

Layout: NAME/ per row, with what the row saved and job.json, which says what it was; journal.jsonl; report.html and
report.jsonl; .unfinished/ while a batch runs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .graph import WorkflowError

logger = logging.getLogger(__name__)

JOURNAL_FILE, LOCK_FILE, UNFINISHED_FOLDER = "journal.jsonl", ".lock", ".unfinished"
REPORT_PAGE, REPORT_LINES = "report.html", "report.jsonl"
RECORD_FILE, THUMBNAIL_FILE = "job.json", ".thumbnail.jpg"
"""In a row's folder: what the row was, and a small picture of its first result."""

STARTED, DONE, FAILED = "started", "done", "failed"
"""States of a journal's entries."""


@dataclass(frozen=True)
class RowRecord:
    """What job.json says about a finished row.

    key: the digest of what was run. files: what it saved, paths relative to the row's folder. seconds: of the run.
    """

    name: str
    key: str
    settings: Mapping[str, Any]
    files: tuple[str, ...]
    seconds: float


class BatchFolder:
    """A batch's folder while the lock on it is held."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._journal = Journal(folder / JOURNAL_FILE)
        self._owned = {entry["name"] for entry in self._journal.entries()}

    @property
    def unfinished(self) -> Path:
        """Where rows are written until they are whole."""
        return self.path / UNFINISHED_FOLDER

    def finished(self, name: str, key: str) -> RowRecord | None:
        """Return what is known of a row that was done earlier, its files still there; None if it has to run."""
        record = read_record(self.path / name)
        if record is None or record.key != key:
            return None
        return record if all((self.path / name / file).is_file() for file in record.files) else None

    def require_free_name(self, name: str) -> None:
        """Raise WorkflowError when a row's folder holds what no batch put there, which must not be replaced."""
        folder = self.path / name
        if name.casefold() in (JOURNAL_FILE, REPORT_PAGE, REPORT_LINES):
            raise WorkflowError(f"a row cannot be called {name!r}: the batch has a file of that name")
        if folder.exists() and name not in self._owned and read_record(folder) is None:
            raise WorkflowError(
                f"{folder} is there already and is not of a batch: choose another name, or another --out"
            )

    def begin(self, name: str, key: str) -> Path:
        """Note that a row begins and return a new empty folder to write it into."""
        self._owned.add(name)
        self.note(STARTED, name=name, key=key)
        folder = self.unfinished / f"{name}.{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        return folder

    def finish(self, written: Path, record: RowRecord) -> Path:
        """Put a whole row in its place, instead of what an earlier batch left there, and note that it is done.

        written: the folder of `begin`. A row is in place with its record or not at all, whenever the power fails.
        """
        _write_record(written, record)
        _flush_folder(written)
        target = self.path / record.name
        replaced = self.unfinished / f"{record.name}.{uuid.uuid4().hex[:8]}.replaced"
        if target.exists():
            target.rename(replaced)
        try:
            written.rename(target)
        except OSError:
            if replaced.exists():
                replaced.rename(target)
            raise
        _flush_entry(self.path)
        self.note(DONE, name=record.name, key=record.key, seconds=round(record.seconds, 3))
        shutil.rmtree(replaced, ignore_errors=True)
        return target

    def discard(self, written: Path) -> None:
        """Remove what an unfinished row has written."""
        shutil.rmtree(written, ignore_errors=True)

    def note(self, state: str, **entry: Any) -> None:
        """Append an entry to the journal; it is on the disk when this returns."""
        self._journal.append({"state": state, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry})


@contextmanager
def open_batch_folder(folder: Path) -> Iterator[BatchFolder]:
    """Make a batch's folder and hold its lock inside a `with`; what an interrupted batch left unfinished goes.

    Raises WorkflowError while another batch holds the lock, OSError when the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise WorkflowError(
            f"another batch is writing into {folder}: wait for it, or choose another --out"
        ) from error
    try:
        shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)
        (folder / UNFINISHED_FOLDER).mkdir()
        yield BatchFolder(folder)
    finally:
        shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)
        lock.release()


def read_record(folder: Path) -> RowRecord | None:
    """Return what job.json in a row's folder says; None when there is none that can be read."""
    try:
        content = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        return RowRecord(
            name=str(content["name"]),
            key=str(content["key"]),
            settings=dict(content["settings"]),
            files=tuple(map(str, content["files"])),
            seconds=float(content["seconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _write_record(folder: Path, record: RowRecord) -> None:
    content = {
        "name": record.name,
        "key": record.key,
        "settings": dict(record.settings),
        "files": list(record.files),
        "seconds": round(record.seconds, 3),
    }
    (folder / RECORD_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _flush_folder(folder: Path) -> None:
    """Have every file of a folder on the disk before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _flush_entry(folder: Path) -> None:
    """Have a folder's new names on the disk; systems that cannot open folders do that by themselves."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Journal:
    """A file of JSON lines that only grows; an entry is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries with a name and a state. A line torn by a crash is left out."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                logger.warning("%s: line %d is torn and left out", self._path, number)
                continue
            if isinstance(entry, dict) and isinstance(entry.get("name"), str) and "state" in entry:
                entries.append(entry)
        return entries

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write an entry in one piece and wait until the disk has it."""
        line = json.dumps(entry).encode() + b"\n"
        with self._path.open("ab+", buffering=0) as file:
            if self._ends_torn(file):
                line = b"\n" + line
            file.write(line)
            os.fsync(file.fileno())

    @staticmethod
    def _ends_torn(file: Any) -> bool:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
