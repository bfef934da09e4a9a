"""A downloader for plain addresses: resumes, verifies, and gives the file its name only when it is whole.

Unfinished bytes wait in a hidden subfolder of the target's folder; a lock there keeps two processes that want
the same file apart.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import itertools
import json
import logging
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from .checksums import READ_BYTES, ByteProgress
from .lock_record import WORK_FOLDER

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0
"""Longest silence of a server before it counts as gone."""
ATTEMPTS = 4
"""How often a broken connection is taken up again before the download is given up."""
RETRY_SECONDS = 1.0
LOCK_POLL_SECONDS = 0.25

_HTTP_ADVICE = {
    401: "it needs an access token: log in where the file is kept",
    403: "access was refused: accept the licence where the file is kept, or check the network's rules",
    404: "there is no such file: the address may have moved; look for a newer version of this package",
    416: "what was kept of an earlier download does not fit and was deleted: fetch again",
}
_HTML_STARTS = (b"<!doctype html", b"<html")

logger = logging.getLogger(__name__)


class FetchError(OSError):
    """A weight file could not be fetched; nothing was left under its name."""


class ConnectionBrokenError(FetchError):
    """The connection ended before the file did; what came is kept for another attempt."""


@dataclass(frozen=True)
class Request:
    """What to fetch and what to expect: the address, extra headers, size and sha256 where known."""

    url: str
    headers: Mapping[str, str]
    bytes: int | None = None
    sha256: str | None = None


def download(
    url: str,
    target: Path,
    expected_bytes: int | None = None,
    expected_sha256: str | None = None,
    progress: ByteProgress | None = None,
    headers: Mapping[str, str] | None = None,
) -> Path:
    """Download `url` to `target` and return it. The file appears under that name only when whole and checked.

    A broken connection is taken up again a few times; if that fails, or `progress` raises to cancel, what came
    so far waits in a hidden subfolder and the next call continues from there. headers are sent to the address
    itself, not to where it redirects.
    Raises FetchError, naming the address, for refused or broken connections, an HTML page in place of the
    file, a wrong size or checksum, a disk that is too full, or a folder that cannot be written.
    """
    request = Request(url, headers or {}, expected_bytes, expected_sha256)
    with claimed(target, progress) as taken:
        if not taken:
            partial = target.parent / WORK_FOLDER / f"{target.name}.partial"
            require_space(target.parent, expected_bytes, url, already=_size(partial))
            _fetch_whole(request, partial, progress)
            partial.replace(target)
            _validator_file(partial).unlink(missing_ok=True)
    return target


@contextmanager
def claimed(target: Path, progress: ByteProgress | None = None) -> Iterator[bool]:
    """Hold the lock of a target inside a `with`; gives True when another process has just finished that file.

    Raises FetchError when the folder cannot be written; whatever progress raises while waiting.
    """
    before = _stamp(target)
    try:
        (target.parent / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / WORK_FOLDER / f"{target.name}.lock")
        _acquire(lock, progress)
    except OSError as error:
        raise FetchError(
            f"cannot write to {target.parent}: {error}; choose another folder with --to, or set "
            "TALKING_PORTRAIT_MODELS"
        ) from error
    try:
        yield target.is_file() and _stamp(target) != before
    finally:
        lock.release()


def _acquire(lock: FileLock, progress: ByteProgress | None) -> None:
    told = False
    while True:
        try:
            lock.acquire(timeout=LOCK_POLL_SECONDS)
            return
        except Timeout:
            if not told:
                logger.warning("another process is fetching the same file; waiting for it")
                told = True
            if progress is not None:
                progress(0, 1)


def require_space(folder: Path, wanted: int | None, url: str, already: int = 0) -> None:
    """Raise FetchError when `wanted` bytes, `already` of them there, do not fit on the folder's disk."""
    free = shutil.disk_usage(folder).free
    if wanted is not None and free < wanted - already:
        raise FetchError(
            f"cannot fetch {url} to {folder}: it needs {wanted - already} bytes but only {free} are free; make "
            "room or choose another folder"
        )


def _fetch_whole(request: Request, partial: Path, progress: ByteProgress | None) -> None:
    """Bring the partial file to its end and check it; a file that fails the check is deleted."""
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(partial)
        try:
            found_bytes, found_sha256 = _continue(request, partial, progress)
            break
        except ConnectionBrokenError:
            if attempt == ATTEMPTS or _size(partial) <= before:
                raise
            logger.warning("the connection to %s broke; continuing", request.url)
            _pause(RETRY_SECONDS, progress, _size(partial), request.bytes)
    try:
        _require(request.url, "bytes", found_bytes, request.bytes)
        _require(request.url, "sha256", found_sha256, request.sha256)
    except FetchError:
        partial.unlink(missing_ok=True)
        raise


def _pause(seconds: float, progress: ByteProgress | None, done: int, total: int | None) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if progress is not None:
            progress(done, max(total or 0, done))
        time.sleep(min(0.1, seconds))


def _continue(request: Request, partial: Path, progress: ByteProgress | None) -> tuple[int, str]:
    """Fetch what the partial file lacks; return the size and sha256 of all of it."""
    start, validator = _resumable(request, partial)
    headers = {"Range": f"bytes={start}-", **({"If-Range": validator} if validator else {})} if start else {}
    with _opened(request, headers, partial) as response:
        if response.status != 206:
            start = 0
        length = response.headers.get("Content-Length")
        total = request.bytes or (start + int(length) if length else None)
        chunks = _chunks(response, request.url)
        first = next(chunks, b"")
        if start == 0:
            _refuse_web_page(first, request.url)
        digest, done = _digest_of(partial, start), start
        with _disk(request.url, partial):
            _validator_file(partial).write_text(json.dumps(_validator(request, response)), encoding="utf-8")
            file = partial.open("ab" if start else "wb")
        with file:
            for chunk in itertools.chain([first], chunks):
                with _disk(request.url, partial):
                    file.write(chunk)
                    file.flush()
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, max(total or 0, done))
    if length and done < start + int(length):
        raise _broken(request.url, f"it ended after {done} of {start + int(length)} bytes")
    return done, digest.hexdigest()


def _refuse_web_page(start: bytes, url: str) -> None:
    if start.lstrip()[:15].lower().startswith(_HTML_STARTS):
        raise FetchError(
            f"{url} sent a web page instead of the file: a login or error page, or a network's notice; open the "
            "address in a browser to see it"
        )


def _resumable(request: Request, partial: Path) -> tuple[int, str | None]:
    """Return from which byte to continue, and the validator that says the file is still the same.

    No validator is needed when the sha256 is known: it is checked at the end.
    """
    size = _size(partial)
    try:
        known = json.loads(_validator_file(partial).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if size == 0 or known.get("url") != request.url or (request.bytes is not None and size >= request.bytes):
        return 0, None
    if request.sha256 is not None and known.get("sha256") is not None:
        return (size, None) if known["sha256"] == request.sha256 else (0, None)
    return (size, known["validator"]) if known.get("validator") else (0, None)


def _validator(request: Request, response: http.client.HTTPResponse) -> dict[str, str | None]:
    tag = response.headers.get("ETag")
    strong = tag if tag and not tag.startswith("W/") else None
    validator = strong or response.headers.get("Last-Modified")
    return {"url": request.url, "sha256": request.sha256, "validator": validator}


def _validator_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _digest_of(partial: Path, size: int):
    """Return the running sha256 of the first bytes of the partial file."""
    digest = hashlib.sha256()
    if size:
        with partial.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
    return digest


def _opened(request: Request, headers: Mapping[str, str], partial: Path) -> http.client.HTTPResponse:
    message = urllib.request.Request(request.url, headers={"User-Agent": "talking-portrait", **headers})
    for name, value in request.headers.items():
        message.add_unredirected_header(name, value)
    try:
        return urllib.request.urlopen(message, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            partial.unlink(missing_ok=True)
        advice = _HTTP_ADVICE.get(error.code, "the server has a problem: try again later")
        raise FetchError(f"cannot fetch {request.url}: HTTP {error.code} {error.reason}; {advice}") from error
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"cannot reach {request.url}: {error}; check the network connection") from error


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _broken(url, str(error)) from error
        if not chunk:
            return
        yield chunk


def _broken(url: str, reason: str) -> ConnectionBrokenError:
    return ConnectionBrokenError(
        f"the connection to {url} broke: {reason}; what came is kept: fetch again to continue"
    )


def _require(url: str, what: str, found: int | str, expected: int | str | None) -> None:
    if expected is not None and found != expected:
        raise FetchError(
            f"{url} sent a file whose {what} is {found}, expected {expected}: the download is incomplete "
            "or damaged, or the file has changed; nothing was kept"
        )


@contextmanager
def _disk(url: str, partial: Path) -> Iterator[None]:
    """Turn a failure to write the partial file into a FetchError, and delete what a full disk holds of it."""
    try:
        yield
    except OSError as error:
        folder = partial.parent.parent
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(f"cannot write to {folder} while fetching {url}: {error}") from error
        partial.unlink(missing_ok=True)
        raise FetchError(
            f"the disk of {folder} became full while fetching {url}; nothing was kept: make room or choose "
            "another folder"
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _stamp(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
