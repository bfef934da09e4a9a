"""Fetching weight files: streamed to a temporary name, checked, and renamed only when whole."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from .manifest import WeightRow

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0
"""Longest silence of a server before it counts as gone."""

_HTTP_ADVICE = {
    401: "it needs an access token: log in where the file is kept",
    403: "access was refused: accept the licence where the file is kept, or check the network's rules",
    404: "there is no such file: the address may have moved; look for a newer version of this package",
}
_HTML_STARTS = (b"<!doctype html", b"<html")

logger = logging.getLogger(__name__)


class FetchError(OSError):
    """A weight file could not be fetched; nothing was left under its name."""


def fetch_row(row: WeightRow, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch the file of a manifest row into `folder` and return its path.

    A file that is there already and passes the checks is kept. progress is called as (bytes done, bytes in
    total).
    Raises FetchError (an OSError) when it cannot be fetched or fails its checks, ValueError when the row has
    no address to fetch from.
    """
    if row.source.kind != "url":
        hint = row.source.instructions or f"its source is of kind {row.source.kind!r}"
        raise ValueError(f"the weight {row.name!r} cannot be fetched by address: {hint}")
    target = Path(folder) / row.file
    if target.is_file() and problem_with_file(target, row) is None:
        return target
    if row.sha256 is None:
        logger.warning("no checksum is known for %s: only its size is checked", row.file)
    return download(row.source.url, target, row.bytes, row.sha256, progress)


def problem_with_file(path: Path, row: WeightRow) -> str | None:
    """Return what is wrong with a file that should be a row's, in words, or None. Reads the whole file."""
    size = path.stat().st_size
    if row.bytes is not None and size != row.bytes:
        return f"it has {size} bytes instead of {row.bytes}"
    if row.sha256 is not None:
        found = file_sha256(path)
        if found != row.sha256:
            return f"its sha256 is {found} instead of {row.sha256}"
    return None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex, reading it in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    url: str,
    target: Path,
    expected_bytes: int | None = None,
    expected_sha256: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Download `url` to `target` and return it. The file appears under that name only when whole and checked.

    Whatever ends the download early (an error, or `progress` raising to cancel) removes the partial file.
    Raises FetchError, naming the address, for refused or broken connections, an HTML page in place of the
    file, a wrong size or checksum, or a disk that is too full; another OSError for a folder that cannot be
    written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _require_space(target.parent, expected_bytes, url)
    partial = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with partial.open("wb") as file:
            found_bytes, found_sha256 = _stream_to(file, url, expected_bytes, progress)
        _require(url, "bytes", found_bytes, expected_bytes)
        _require(url, "sha256", found_sha256, expected_sha256)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _stream_to(
    file, url: str, expected_bytes: int | None, progress: Callable[[int, int], None] | None
) -> tuple[int, str]:
    """Write what the address sends to an open file; return how many bytes, and their sha256."""
    digest, done = hashlib.sha256(), 0
    with _opened(url) as response:
        total = expected_bytes or int(response.headers.get("Content-Length") or 0)
        for chunk in _chunks(response, url):
            if done == 0 and chunk.lstrip()[:15].lower().startswith(_HTML_STARTS):
                raise FetchError(
                    f"{url} sent a web page instead of the file: a login or error page, or a network's "
                    "notice; open the address in a browser to see it"
                )
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, max(total, done))
    return done, digest.hexdigest()


def _opened(url: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "talking-portrait"})
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        advice = _HTTP_ADVICE.get(error.code, "the server has a problem: try again later")
        raise FetchError(f"cannot fetch {url}: HTTP {error.code} {error.reason}; {advice}") from error
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"cannot reach {url}: {error}; check the network connection") from error


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(f"the connection to {url} broke: {error}; try again") from error
        if not chunk:
            return
        yield chunk


def _require(url: str, what: str, found: int | str, expected: int | str | None) -> None:
    if expected is not None and found != expected:
        raise FetchError(
            f"{url} sent a file whose {what} is {found}, expected {expected}: the download is incomplete "
            "or damaged, or the file has changed; nothing was kept"
        )


def _require_space(folder: Path, expected_bytes: int | None, url: str) -> None:
    free = shutil.disk_usage(folder).free
    if expected_bytes is not None and free < expected_bytes:
        raise FetchError(
            f"cannot fetch {url} to {folder}: it needs {expected_bytes} bytes but only {free} are free "
            "on that disk"
        )
