"""What a ComfyUI server can be asked, with its answers checked."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from urllib.request import Request

from .graph import Graph
from .http import (
    TIMEOUT,
    Access,
    Answer,
    content_size,
    get_json,
    open_answer,
    post_file,
    post_json,
    shown_url,
)
from .server_address import server_address
from .server_errors import ServerUnreachableError
from .websocket import WebSocket, open_websocket

USUAL_UPLOAD_LIMIT = 100 * 2**20
"""Bytes that ComfyUI takes unless --max-upload-size says more."""


@dataclass(frozen=True)
class ServerQueue:
    """Ids of the runs that a server is at, and of those that wait, in their order."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]


class ComfyUIServer:
    """The HTTP interface of a ComfyUI server.

    Every method raises ServerUnreachableError when the server cannot be reached or does not answer as ComfyUI does.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> None:
        """url, headers: as of `server_address`. timeout: seconds without an answer."""
        self._access = Access(server_address(url, headers), timeout)

    def __repr__(self) -> str:
        return f"ComfyUIServer({self.name!r})"

    @property
    def name(self) -> str:
        """The server's URL without credentials."""
        return self._access.address.base

    def hidden(self, text: str) -> str:
        """Return a text with the credentials in it struck out."""
        return self._access.address.hidden(text)

    def hidden_in(self, content: Any) -> Any:
        """Return what JSON may hold with the credentials in its texts struck out."""
        return self._access.address.hidden_in(content)

    def with_timeout(self, timeout: float) -> ComfyUIServer:
        """Return the same server, asked with another patience."""
        other = object.__new__(ComfyUIServer)
        other._access = dataclasses.replace(self._access, timeout=timeout)
        return other

    def object_info(self, class_name: str | None = None) -> dict[str, Any]:
        """Return the node classes of the server, or only one: {class name: description}."""
        path = "/object_info" if class_name is None else f"/object_info/{quote(class_name, safe='')}"
        classes = {name: info for name, info in self._get(path).items() if isinstance(info, dict)}
        if not classes and class_name is None:
            raise self._unexpected(path)
        return {name: _sound_class(info) for name, info in classes.items()}

    def submit(
        self, graph: Graph, page: Mapping[str, Any] | None, client_id: str, prompt_id: str
    ) -> dict[str, Any]:
        """Queue a graph and return the answer, {"prompt_id", "number", "node_errors"}.

        page: the graph in UI form, for the files that are saved. client_id: who is told the events.
        prompt_id: the id that the run shall have; old servers choose one of their own.
        Raises HttpError with the server's reasons when it refuses the graph.
        """
        request: dict[str, Any] = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id}
        if page is not None:
            request["extra_data"] = {"extra_pnginfo": {"workflow": page}}
        answer = post_json(self._url("/prompt"), request, self._access)
        errors = answer.get("node_errors") if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(errors or {}, dict):
            raise self._unexpected("/prompt")
        if not isinstance(answer.get("prompt_id"), str) or not answer["prompt_id"]:
            raise self._unexpected("/prompt")
        return {**answer, "node_errors": self.hidden_in(errors)}

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return what is kept of a run that has ended, {"outputs", "status", ...}; None while it has not."""
        path = f"/history/{quote(prompt_id, safe='')}"
        entry = self._get(path).get(prompt_id)
        if entry is not None and not (isinstance(entry, dict) and isinstance(entry.get("outputs", {}), dict)):
            raise self._unexpected(path)
        return None if entry is None else {**entry, "status": self.hidden_in(entry.get("status"))}

    def queue(self) -> ServerQueue:
        """Return which runs the server is at and which wait."""
        answer = self._get("/queue")
        return ServerQueue(_ids(answer.get("queue_running")), _ids(answer.get("queue_pending")))

    def remove_waiting(self, prompt_id: str) -> None:
        """Take a run that has not begun out of the queue."""
        post_json(self._url("/queue"), {"delete": [prompt_id]}, self._access)

    def interrupt(self, prompt_id: str) -> None:
        """Stop a run that has begun. Old servers stop whatever they are at: ask only for what is running."""
        post_json(self._url("/interrupt"), {"prompt_id": prompt_id}, self._access)

    def upload(self, path: Path, name: str | None = None) -> str:
        """Send a file into the server's input folder, as `name`, and return the name that it got there."""
        fields = {"type": "input"}
        url = self._url("/upload/image")
        try:
            answer = post_file(url, "image", path, name or path.name, fields, self._access)
        except ServerUnreachableError as error:
            if path.stat().st_size > USUAL_UPLOAD_LIMIT and "--max-upload-size" not in str(error):
                raise ServerUnreachableError(
                    f"{error}; ComfyUI takes no file over 100 MB unless it is started with --max-upload-size"
                ) from error
            raise
        names = (
            (answer.get("name"), answer.get("subfolder", "")) if isinstance(answer, dict) else (None, None)
        )
        if not all(isinstance(part, str) for part in names) or not names[0]:
            raise self._unexpected("/upload/image")
        return str(PurePosixPath(names[1], names[0]))

    def input_size(self, name: str) -> int | None:
        """Return the size in bytes of a file in the server's input folder; None when there is no such file."""
        return content_size(
            self._url("/view", {"filename": name, "subfolder": "", "type": "input"}), self._access
        )

    def view(self, reference: Mapping[str, str]) -> contextlib.AbstractContextManager[Answer]:
        """Give a file's content inside a `with`. reference: its "filename", "subfolder" and "type"."""
        query = {key: str(reference.get(key, "")) for key in ("filename", "subfolder", "type")}
        return open_answer(Request(self._url("/view", query)), self._access)

    def events(self, client_id: str) -> contextlib.AbstractContextManager[WebSocket]:
        """Give the websocket of a client's events inside a `with`. Raises OSError when there is none to be had."""
        headers = self._access.address.headers
        return open_websocket(self._url("/ws", {"clientId": client_id}), headers)

    def _url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        return self._access.address.url(path, query)

    def _get(self, path: str) -> dict[str, Any]:
        answer = get_json(self._url(path), self._access)
        if not isinstance(answer, dict):
            raise self._unexpected(path)
        return answer

    def _unexpected(self, path: str) -> ServerUnreachableError:
        return ServerUnreachableError(
            f"{shown_url(self._url(path))} did not answer as ComfyUI does: is this a ComfyUI server?"
        )


def _sound_class(info: dict[str, Any]) -> dict[str, Any]:
    """Return a class's description without what no node can mean; one odd pack must not spoil a server."""
    categories = info.get("input")
    categories = categories if isinstance(categories, dict) else {}
    inputs = {
        category: {name: entry for name, entry in entries.items() if _is_declaration(entry)}
        for category, entries in categories.items()
        if isinstance(entries, dict)
    }
    output, names = info.get("output"), info.get("output_name")
    output = output if isinstance(output, list) else []
    if not isinstance(names, list) or len(names) != len(output):
        names = [str(kind) for kind in output]
    return {**info, "input": inputs, "output": output, "output_name": names}


def _is_declaration(entry: Any) -> bool:
    """Say whether an input is declared as ComfyUI does: a type, or [type or choices, options]."""
    if not isinstance(entry, list):
        return isinstance(entry, str)
    return (
        bool(entry)
        and isinstance(entry[0], str | list)
        and all(isinstance(more, dict) for more in entry[1:2])
    )


def _ids(entries: Any) -> tuple[str, ...]:
    """Return the ids of queue entries, [number, id, graph, ...]; entries of another form are left out."""
    listed = entries if isinstance(entries, list) else []
    pairs = [entry[:2] for entry in listed if isinstance(entry, list) and len(entry) > 1]
    return tuple(run for _, run in pairs if isinstance(run, str))
