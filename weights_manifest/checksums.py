"""Checksums of weight files, and whether a file is the one its manifest row means."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from .manifest import WeightRow

READ_BYTES = 1 << 20

ByteProgress = Callable[[int, int], None]
"""Called as (bytes done, bytes in total) while bytes are read or fetched; whatever it raises ends the work."""


def file_sha256(path: Path, progress: ByteProgress | None = None) -> str:
    """Return the sha256 of a file in hex, reading it in chunks."""
    digest, done = hashlib.sha256(), 0
    total = path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, max(total, done))
    return digest.hexdigest()


def problem_with_file(
    path: Path, row: WeightRow, sha256: str | None = None, progress: ByteProgress | None = None
) -> str | None:
    """Return what is wrong with a file that should be a row's, in words, or None. Reads the whole file.

    sha256: the checksum to expect when the manifest states none.
    """
    size = path.stat().st_size
    if row.bytes is not None and size != row.bytes:
        return f"it has {size} bytes instead of {row.bytes}"
    expected = row.sha256 or sha256
    if expected is not None:
        found = file_sha256(path, progress)
        if found != expected:
            return f"its sha256 is {found} instead of {expected}"
    return None
