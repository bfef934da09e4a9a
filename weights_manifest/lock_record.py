"""What is known of the weight files in a folder: talking_portrait.lock.json beside them.

One entry per file: which row it is, its size, sha256, source and revision, and when it was checked. A file
that has changed since (other size or time) no longer counts as verified.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

RECORD_NAME = "talking_portrait.lock.json"
WORK_FOLDER = ".talking_portrait"
"""Subfolder of a weights folder for locks and unfinished downloads."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerifiedFile:
    """A file whose sha256 was computed and found right.

    row: its manifest row. bytes, sha256: of the file. modified_ns: its modification time then.
    source: where it came from, or where its checksum is stated. revision: the hub's commit, when known.
    checked_at: when, ISO 8601 in UTC.
    """

    row: str
    bytes: int
    sha256: str
    modified_ns: int
    source: str
    revision: str | None = None
    checked_at: str = ""


def record_verified(path: Path, row: str, sha256: str, source: str, revision: str | None = None) -> None:
    """Write into the record beside `path` that the file was verified.

    A folder that cannot be written (another program's, say) keeps no record; that is logged, not an error.
    """
    status = path.stat()
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    entry = VerifiedFile(row, status.st_size, sha256, status.st_mtime_ns, source, revision, now)
    try:
        work = path.parent / WORK_FOLDER
        work.mkdir(exist_ok=True)
        with FileLock(work / "record.lock"):
            _write(path.parent / RECORD_NAME, {**_read(path.parent / RECORD_NAME), path.name: asdict(entry)})
    except OSError as error:
        logger.warning("cannot record that %s was verified: %s", path, error)


def recorded_file(path: Path) -> VerifiedFile | None:
    """Return what the record beside a file says of it, whether or not the file changed since; None without one."""
    content = _read(path.parent / RECORD_NAME).get(path.name)
    known = {field.name for field in fields(VerifiedFile)}
    if not isinstance(content, dict) or not {"row", "bytes", "sha256", "modified_ns", "source"} <= set(
        content
    ):
        return None
    return VerifiedFile(**{name: value for name, value in content.items() if name in known})


def verified_file(path: Path) -> VerifiedFile | None:
    """Return the record of a file that is as it was when it was verified, else None."""
    entry = recorded_file(path)
    status = path.stat()
    same = entry is not None and (status.st_size, status.st_mtime_ns) == (entry.bytes, entry.modified_ns)
    return entry if same else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
