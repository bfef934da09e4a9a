"""HTTP with JSON, uploads and downloads, with the standard library. Messages show no query and no headers."""

from __future__ import annotations

import functools
import http.client
import json
import mimetypes
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from .server_address import ServerAddress
from .server_errors import ServerUnreachableError

TIMEOUT = 60.0
"""Seconds without an answer after which a server counts as gone."""
ANSWER_TIMEOUTS = 5
"""A JSON answer that trickles in has this many timeouts to be whole."""
LARGEST_ANSWER = 256 * 2**20
"""Bytes of JSON; the node list of a ComfyUI with hundreds of packs has about 20 MB."""
LARGEST_ERROR = 2**20
SHOWN_CHARACTERS = 300
"""Of a server's answer, in a message."""
PIECE = 2**18
"""Bytes that are read or sent at once."""

SIGN_IN_ADVICE = (
    ": it wants credentials: put them into the URL (https://name:password@host), or give "
    '--header "Authorization: ..."'
)
ADVICE = {
    401: SIGN_IN_ADVICE,
    403: SIGN_IN_ADVICE,
    413: ": the file is larger than the server takes: start ComfyUI with a greater --max-upload-size",
}
"""What to do, by HTTP status."""

PASSING_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
"""HTTP errors of a server that is busy or starting, or of a proxy in front of it."""

LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
"""Hosts that no proxy can reach."""


class HttpError(ServerUnreachableError):
    """The server answered with an error; `content` is its JSON answer, or {"error": text}."""

    def __init__(self, url: str, status: int, content: Mapping[str, Any]) -> None:
        self.status, self.content = status, content
        answer = json.dumps(content)[:SHOWN_CHARACTERS]
        super().__init__(f"{shown_url(url)} answered with HTTP {status}: {answer}{ADVICE.get(status, '')}")


def is_passing(error: ServerUnreachableError) -> bool:
    """Say whether what went wrong may be over in a while: all but the answers that say the question is wrong."""
    return not isinstance(error, HttpError) or error.status in PASSING_STATUS


@dataclass(frozen=True)
class Access:
    """How a server is asked. address: whose headers are sent and whose secrets are hidden. timeout: seconds."""

    address: ServerAddress = field(default=ServerAddress(""))
    timeout: float = TIMEOUT


PLAIN = Access()
"""Without credentials."""


def shown_url(url: str) -> str:
    """Return a URL without what may be secret: name, password, query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def get_json(url: str, access: Access = PLAIN) -> Any:
    """Return the JSON that lies at a URL. Raises ServerUnreachableError when it cannot be had or is not JSON."""
    return _json_answer(urllib.request.Request(url), access)


def post_json(url: str, content: Any, access: Access = PLAIN) -> Any:
    """Send JSON and return the JSON answer, {} for an empty one. Raises ServerUnreachableError."""
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    return _json_answer(request, access)


def post_file(
    url: str, field_name: str, path: Path, name: str, fields: Mapping[str, str], access: Access = PLAIN
) -> Any:
    """Send a file as a form does, piece by piece, with more fields, and return the JSON answer.

    name: what the file is called there. Raises ServerUnreachableError, OSError for a file that cannot be read.
    """
    boundary = uuid.uuid4().hex
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field_name}"; filename="{name}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    )
    head, tail = "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()
    size = path.stat().st_size
    request = urllib.request.Request(
        url,
        _form_pieces(head, path, size, tail),
        {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + size + len(tail)),
        },
    )
    return _json_answer(request, access)


def _form_pieces(head: bytes, path: Path, size: int, tail: bytes) -> Iterator[bytes]:
    yield head
    with path.open("rb") as file:
        while size > 0:
            piece = file.read(min(PIECE, size))
            if not piece:
                raise OSError(f"{path} became shorter while it was being sent")
            size -= len(piece)
            yield piece
    yield tail


def content_size(url: str, access: Access) -> int | None:
    """Return how many bytes lie at a URL; None when the server does not say so.

    Raises ServerUnreachableError when it cannot be reached.
    """
    try:
        with open_answer(urllib.request.Request(url, method="HEAD"), access) as answer:
            return answer.size
    except HttpError:
        return None


class Answer:
    """An answer whose body is read piece by piece. size: of the body in bytes, None when it is not known."""

    def __init__(self, response: http.client.HTTPResponse, url: str, access: Access) -> None:
        self._response, self._url, self._access = response, url, access
        length = response.headers.get("Content-Length", "")
        self.size = int(length) if length.isdecimal() else None

    def pieces(self) -> Iterator[bytes]:
        """Yield the body. Raises ServerUnreachableError for one that ends early or stops coming."""
        received = 0
        while True:
            with _named_errors(self._url, self._access):
                piece = self._response.read1(PIECE)
            if not piece:
                break
            received += len(piece)
            yield piece
        if self.size is not None and received != self.size:
            raise ServerUnreachableError(
                f"{shown_url(self._url)} ended after {received} of {self.size} bytes: try again"
            )


@contextmanager
def open_answer(request: urllib.request.Request, access: Access) -> Iterator[Answer]:
    """Give the answer to a request inside a `with`. Raises ServerUnreachableError, HttpError for an error answer."""
    for name, value in access.address.headers.items():
        request.add_unredirected_header(name, value)
    url = request.full_url
    response = _response(request, access)
    with response:
        if isinstance(response, urllib.error.HTTPError):
            raise HttpError(url, response.code, _error_content(response, access))
        yield Answer(response, url, access)


def _response(
    request: urllib.request.Request, access: Access
) -> http.client.HTTPResponse | urllib.error.HTTPError:
    """Return the answer, be it an error, which holds the whole URL and therefore must not go along with another."""
    try:
        with _named_errors(request.full_url, access):
            opener = _opener(urlsplit(request.full_url).hostname in LOOPBACK)
            return opener.open(request, timeout=access.timeout)
    except urllib.error.HTTPError as error:
        return error


@contextmanager
def _named_errors(url: str, access: Access) -> Iterator[None]:
    """Turn what the standard library raises for a server that cannot be talked to into one kind of error."""
    shown = shown_url(url)
    try:
        yield
    except (urllib.error.HTTPError, ServerUnreachableError):
        raise
    except TimeoutError as error:
        raise ServerUnreachableError(f"{shown} did not answer within {access.timeout:g} s") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise ServerUnreachableError(f"{shown} did not answer within {access.timeout:g} s") from error
        raise ServerUnreachableError(
            f"cannot reach {shown} ({error.reason}): is ComfyUI running there?"
        ) from error
    except OSError as error:
        raise ServerUnreachableError(f"the connection to {shown} broke ({error})") from error
    except http.client.HTTPException as error:
        raise ServerUnreachableError(
            f"{shown} did not answer in HTTP ({type(error).__name__}): is this a ComfyUI server?"
        ) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows questions to another address; credentials go along only to the same server, and nothing is sent twice."""

    def redirect_request(self, req: urllib.request.Request, *arguments: Any) -> urllib.request.Request | None:
        target = arguments[-1]
        if req.get_method() not in ("GET", "HEAD"):
            raise ServerUnreachableError(
                f"{shown_url(req.full_url)} sends on to {shown_url(target)}: give the server's URL as it is there"
            )
        following = super().redirect_request(req, *arguments)
        if following is not None and urlsplit(target)[:2] == urlsplit(req.full_url)[:2]:
            following.unredirected_hdrs.update(req.unredirected_hdrs)
        return following


@functools.cache
def _opener(direct: bool) -> urllib.request.OpenerDirector:
    """Return what opens URLs: directly, or through the proxies that the environment names."""
    return urllib.request.build_opener(_Redirects, *([urllib.request.ProxyHandler({})] if direct else []))


def _json_answer(request: urllib.request.Request, access: Access) -> Any:
    with open_answer(request, access) as answer:
        body = _limited(answer, request.full_url, access)
    if request.get_method() == "POST" and not body.strip():
        return {}
    found, content = _parsed(body)
    if not found:
        raise ServerUnreachableError(
            f"{shown_url(request.full_url)} did not answer in JSON: is this a ComfyUI server?"
        )
    return content


def _parsed(text: str | bytes) -> tuple[bool, Any]:
    """Return (whether a text is JSON, what it says)."""
    try:
        return True, json.loads(text)
    except (ValueError, RecursionError):
        return False, None


def _limited(answer: Answer, url: str, access: Access) -> bytes:
    """Return a whole body, unless it is larger or slower than any JSON of ComfyUI."""
    deadline = time.monotonic() + access.timeout * ANSWER_TIMEOUTS
    body = bytearray()
    for piece in answer.pieces():
        body += piece
        if len(body) > LARGEST_ANSWER:
            raise ServerUnreachableError(
                f"{shown_url(url)} answered with more than {LARGEST_ANSWER >> 20} MiB: is this a ComfyUI server?"
            )
        if time.monotonic() > deadline:
            raise ServerUnreachableError(
                f"{shown_url(url)} did not finish its answer within {access.timeout * ANSWER_TIMEOUTS:g} s"
            )
    return bytes(body)


def _error_content(error: urllib.error.HTTPError, access: Access) -> dict[str, Any]:
    """Return an error answer without our credentials, which some servers send back in it."""
    try:
        body = error.read(LARGEST_ERROR).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        body = ""
    body = access.address.hidden(body)
    _, content = _parsed(body)
    return content if isinstance(content, dict) else {"error": " ".join(body.split())[:SHOWN_CHARACTERS]}
