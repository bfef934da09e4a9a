"""Running a workflow on a ComfyUI server: uploads, progress, downloads, cancelling."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode

from ..runtime.host import host
from ..runtime.progress import TerminalProgress
from .graph import Graph, is_link, title_of
from .http import HttpError, get_bytes, get_json, post_file, post_json
from .overrides import Definitions, apply_overrides, is_upload
from .registry import definitions_from_object_info
from .run_command import drawn_workflow, graph_of
from .validation import failure_sentences
from .websocket import TEXT, WebSocket, open_websocket

POLL_INTERVAL = 0.5
"""Seconds between two questions whether the run has ended."""


class ServerRunError(RuntimeError):
    """The server refused the workflow, or a node failed there."""


def run_on_server(
    url: str, content: dict[str, Any], assignments: list[str], output_folder: Path
) -> list[Path]:
    """Run a workflow file's content on a ComfyUI server and return the downloaded results.

    url: such as http://127.0.0.1:8188. content: in UI or API form. assignments: as of `apply_overrides`.
    Files that inputs name here are uploaded. On Ctrl-C the run is cancelled on the server too.
    Raises ServerRunError when the server refuses the workflow or a node fails, OSError when it cannot be reached.
    """
    server = ComfyUIServer(url)
    classes = server.object_info()
    definitions = definitions_from_object_info(classes)
    graph = graph_of(content, definitions)
    apply_overrides(graph, assignments, definitions)
    upload_files(server, graph, definitions)
    history = server.run(graph, drawn_workflow(graph, classes, content))
    return server.download(history, output_folder)


def upload_files(server: ComfyUIServer, graph: Graph, definitions: Definitions) -> None:
    """Upload every file of this machine that an input names, and put the server's name for it in its place.

    A name that the server already lists means the server's file.
    """
    folder = host().input_folder
    for node in graph.values():
        for name, specification in definitions.get(node.get("class_type", ""), {}).items():
            value = node["inputs"].get(name)
            if is_link(value) or not isinstance(value, str) or not is_upload(specification):
                continue
            path = folder / value
            if value and value not in (specification.choices or ()) and path.is_file():
                node["inputs"][name] = server.upload(path)


class ComfyUIServer:
    """The HTTP interface of a ComfyUI server."""

    def __init__(self, url: str) -> None:
        self._url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._client_id = uuid.uuid4().hex

    def object_info(self) -> dict[str, Any]:
        """Return the node classes of the server."""
        return get_json(f"{self._url}/object_info")

    def upload(self, path: Path) -> str:
        """Upload a file into the server's input folder and return its name there."""
        answer = post_file(f"{self._url}/upload/image", "image", path, {"type": "input"})
        return str(PurePosixPath(answer.get("subfolder", ""), answer["name"]))

    def run(self, graph: Graph, workflow: dict[str, Any] | None = None) -> dict[str, Any]:
        """Queue a graph, show its progress until it ends, and return its history entry.

        workflow: the graph as the page saves it, for the files that are saved.
        """
        display = _Display(graph)
        with contextlib.ExitStack() as stack:
            events = self._events(stack)
            prompt_id = self._queue(graph, workflow)
            try:
                return self._finished(prompt_id, events, display)
            except BaseException:
                self._cancel(prompt_id)
                raise

    def _events(self, stack: contextlib.ExitStack) -> WebSocket | None:
        """Return the stream of events; None when it cannot be had, then only the history is asked."""
        try:
            return stack.enter_context(open_websocket(f"{self._url}/ws?clientId={self._client_id}"))
        except OSError as error:
            sys.stderr.write(f"no live progress: {error}\n")
            return None

    def _queue(self, graph: Graph, workflow: dict[str, Any] | None) -> str:
        request: dict[str, Any] = {"prompt": graph, "client_id": self._client_id}
        if workflow is not None:
            request["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            answer = post_json(f"{self._url}/prompt", request)
        except HttpError as error:
            raise ServerRunError(_refusal(error.content, graph)) from error
        if answer.get("node_errors"):
            self._cancel(answer["prompt_id"])
            raise ServerRunError(_refusal(answer, graph))
        return answer["prompt_id"]

    def _finished(self, prompt_id: str, events: WebSocket | None, display: _Display) -> dict[str, Any]:
        pause = _Pause(events, display)
        while True:
            entry = get_json(f"{self._url}/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                _expect_success(entry)
                return entry
            pause.wait()

    def _cancel(self, prompt_id: str) -> None:
        """Stop a run, whether it has begun or still waits; a server that is gone needs no stopping."""
        with contextlib.suppress(OSError):
            post_json(f"{self._url}/queue", {"delete": [prompt_id]})
            running = get_json(f"{self._url}/queue").get("queue_running", [])
            if any(prompt_id in entry for entry in running):
                post_json(f"{self._url}/interrupt", {"prompt_id": prompt_id})

    def download(self, entry: Mapping[str, Any], folder: Path) -> list[Path]:
        """Download the files that a run saved in the server's output folder, and return their paths here."""
        saved = []
        for output in entry.get("outputs", {}).values():
            for references in output.values():
                for reference in references:
                    if isinstance(reference, dict) and reference.get("type") == "output":
                        saved.append(self._download(reference, folder))
        return saved

    def _download(self, reference: Mapping[str, str], folder: Path) -> Path:
        folder = folder.absolute()
        target = (folder / reference.get("subfolder", "") / reference["filename"]).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise ServerRunError(f"the server names a file outside of the output folder: {target}")
        target.parent.mkdir(parents=True, exist_ok=True)
        query = urlencode(
            {key: reference.get(key, "") for key in ("filename", "subfolder", "type")}, quote_via=quote
        )
        unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        try:
            unfinished.write_bytes(get_bytes(f"{self._url}/view?{query}"))
            target = _free_name(target)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
        return target


def _free_name(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        candidate, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return candidate


def _refusal(content: Mapping[str, Any], graph: Graph) -> str:
    error = content.get("error")
    if isinstance(error, str):
        error = {"message": error}
    sentences = failure_sentences(error, content.get("node_errors") or {}, graph)
    return "the server refused the workflow: " + ("; ".join(sentences) or json.dumps(content)[:500])


def _expect_success(entry: Mapping[str, Any]) -> None:
    """Raise ServerRunError for a run that failed or was stopped."""
    status = entry.get("status") or {}
    for event, data in status.get("messages", []):
        if event == "execution_error":
            raise ServerRunError(
                f"node {data.get('node_id')} ({data.get('node_type')}) failed on the server: "
                f"{str(data.get('exception_message')).strip()}"
            )
        if event == "execution_interrupted":
            raise ServerRunError("the run was stopped on the server")
    if status.get("status_str") == "error":
        raise ServerRunError("the run failed on the server; its log says why")


class _Pause:
    """Waits between two questions; shows the events that come meanwhile."""

    def __init__(self, events: WebSocket | None, display: _Display) -> None:
        self._events, self._display = events, display

    def wait(self) -> None:
        if self._events is None:
            time.sleep(POLL_INTERVAL)
            return
        try:
            message = self._events.receive(POLL_INTERVAL)
            while message is not None and not self._display.show(*message):
                message = self._events.receive(POLL_INTERVAL)
        except OSError as error:
            sys.stderr.write(f"no live progress any more: {error}\n")
            self._events = None


class _Display:
    """Shows the server's events on stderr."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self._started = graph, 0
        self._bars: dict[str, TerminalProgress] = {}

    def show(self, kind: int, payload: bytes) -> bool:
        """Show a message; return whether it may mean that the run has ended."""
        if kind != TEXT:
            return False
        message = json.loads(payload)
        data = message.get("data") or {}
        node = data.get("display_node") or data.get("node")
        if message.get("type") == "executing" and node is not None:
            self._started += 1
            sys.stderr.write(f"[{self._started}/{len(self._graph)}] {self._title(node)}\n")
        elif message.get("type") == "progress" and node is not None:
            bar = self._bars.setdefault(node, TerminalProgress(self._title(node), data["max"], lambda: None))
            bar.update(int(data["value"]), int(data["max"]))
        return message.get("type") in ("execution_success", "execution_error", "execution_interrupted")

    def _title(self, node: str) -> str:
        return title_of(self._graph, node) if node in self._graph else node
