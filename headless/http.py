"""HTTP with JSON, and uploads, with the standard library."""

from __future__ import annotations

import json
import mimetypes
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT = 60.0
"""Seconds without an answer after which a server counts as gone."""


class HttpError(OSError):
    """The server answered with an error; `content` is its JSON answer, or {"error": text}."""

    def __init__(self, url: str, status: int, content: Mapping[str, Any]) -> None:
        self.status, self.content = status, content
        super().__init__(f"{url} answered with HTTP {status}: {json.dumps(content)[:300]}")


def get_bytes(url: str) -> bytes:
    """Return what lies at a URL. Raises OSError when it cannot be had."""
    return _answer(urllib.request.Request(url))


def get_json(url: str) -> Any:
    """Return the JSON that lies at a URL. Raises OSError when it cannot be had or is not JSON."""
    return _as_json(get_bytes(url), url)


def post_json(url: str, content: Any) -> dict[str, Any]:
    """Send JSON and return the JSON answer, {} for an empty one."""
    body = json.dumps(content).encode()
    answer = _answer(urllib.request.Request(url, body, {"Content-Type": "application/json"}))
    return _as_json(answer, url) if answer.strip() else {}


def post_file(url: str, field: str, path: Path, fields: Mapping[str, str]) -> dict[str, Any]:
    """Send a file as a form does, with more fields, and return the JSON answer."""
    boundary = uuid.uuid4().hex
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    name = path.name.replace('"', "%22")
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
    parts.append(f"{head}Content-Type: {kind}\r\n\r\n".encode() + path.read_bytes())
    parts.append(f"\r\n--{boundary}--\r\n".encode())
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return _as_json(_answer(urllib.request.Request(url, b"".join(parts), headers)), url)


def _answer(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        raise HttpError(request.full_url, error.code, _error_content(error.read())) from error
    except urllib.error.URLError as error:
        raise ConnectionError(
            f"cannot reach {request.full_url} ({error.reason}): is ComfyUI running there?"
        ) from error


def _error_content(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {"error": body.decode(errors="replace")[:300]}


def _as_json(body: bytes, url: str) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise ConnectionError(f"{url} did not answer in JSON: is this a ComfyUI server?") from error
