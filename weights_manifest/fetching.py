"""Fetching the file of a manifest row: from an address or the hub, verified before it gets its name."""

from __future__ import annotations

import logging
from pathlib import Path

from .checksums import ByteProgress, file_sha256, problem_with_file
from .downloading import FetchError, download
from .hub import hub_file, login_headers
from .lock_record import record_verified, verified_file
from .manifest import WeightRow

__all__ = ["FetchError", "download", "fetch_row", "file_sha256", "problem_with_file"]

logger = logging.getLogger(__name__)


def fetch_row(row: WeightRow, folder: Path, progress: ByteProgress | None = None) -> Path:
    """Fetch the file of a manifest row into `folder` and return its path.

    A file that is there already and passes the checks is kept. progress is called as (bytes done, bytes in
    total). What was verified is recorded beside the file (see lock_record).
    Raises FetchError (an OSError) when it cannot be fetched or fails its checks, ValueError when the row has
    no address to fetch from.
    """
    if row.source.kind not in ("url", "hub"):
        hint = row.source.instructions or f"its source is of kind {row.source.kind!r}"
        raise ValueError(f"the weight {row.name!r} cannot be fetched by address: {hint}")
    target = Path(folder) / row.file
    if is_verified(row, target, progress):
        return target
    if row.non_commercial:
        logger.warning("%s: %s; not for commercial use", row.file, row.licence)
    return (
        _fetch_url(row, target, progress) if row.source.kind == "url" else _fetch_hub(row, target, progress)
    )


def is_verified(row: WeightRow, path: Path, progress: ByteProgress | None = None) -> bool:
    """Return whether a file is there and known to be the row's: by its record, or by the manifest's sha256."""
    if not path.is_file():
        return False
    entry = verified_file(path)
    if entry is not None and row.sha256 in (None, entry.sha256) and row.bytes in (None, entry.bytes):
        return True
    if row.sha256 is None or problem_with_file(path, row, progress=progress) is not None:
        return False
    record_verified(path, row.name, row.sha256, "the manifest")
    return True


def _fetch_url(row: WeightRow, target: Path, progress: ByteProgress | None) -> Path:
    if row.sha256 is None:
        logger.warning("no checksum is known for %s: only its size is checked", row.file)
    download(row.source.url, target, row.bytes, row.sha256, progress)
    record_verified(target, row.name, row.sha256 or file_sha256(target), row.source.url)
    return target


def _fetch_hub(row: WeightRow, target: Path, progress: ByteProgress | None) -> Path:
    known = hub_file(row)
    checksum = row.sha256 or known.sha256
    if checksum is None:
        logger.warning("no checksum is known for %s: only its size is checked", row.file)
    download(known.url, target, row.bytes or known.bytes, checksum, progress, login_headers())
    source = f"hub:{row.source.repository}/{row.source.file}"
    record_verified(target, row.name, checksum or file_sha256(target), source, known.revision)
    return target
