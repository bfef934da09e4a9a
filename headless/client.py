"""Running workflows on a ComfyUI server: uploads, progress, downloads, cancelling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runtime.host import WorkCancelledError, host
from .events import EventDisplay, EventListener
from .graph import WorkflowError
from .http import TIMEOUT, is_passing
from .local_run import RunResult
from .preparation import PreparedWorkflow, prepared_workflow
from .server_api import ComfyUIServer, ServerQueue
from .server_errors import ServerAddressError, ServerRunError, ServerUnreachableError, WorkflowRefusedError
from .server_events import RunTelling
from .server_files import download, reference, saved_references, send_file, with_uploads
from .server_run import Pace, cancel_run, run_graph_on_server
from .workflow_files import WorkflowFile, read_workflow_file, workflow_from_object

__all__ = [
    "Client",
    "ComfyUIServer",
    "Pace",
    "ServerAddressError",
    "ServerQueue",
    "ServerRunError",
    "ServerUnreachableError",
    "WorkflowRefusedError",
    "run_on_server",
]

Workflow = str | Path | Mapping[str, Any] | WorkflowFile | PreparedWorkflow
"""A workflow file's path, its content as JSON gives it (either form), or what was made of these."""

OBJECT_INFO_SECONDS = 60.0
"""How long a server's list of nodes is believed; it can have 20 MB."""
DOWNLOAD_ATTEMPTS = 3
DOWNLOAD_PAUSE = 1.0
"""Seconds after the first attempt; every further one waits as long again."""


class Client:
    """A ComfyUI server for scripts.

        with Client("http://127.0.0.1:8188") as client:
            result = client.run("workflow.json", inputs={"Load Image.image": "face.jpg"}, output_folder="out")

    It may be used by several threads at once. Every method raises ServerUnreachableError when the server is down,
    does not answer in time, or is none of ComfyUI's; no message, log or `repr` holds credentials.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        input_folder: Path | str | None = None,
        timeout: float = TIMEOUT,
        pace: Pace | None = None,
    ) -> None:
        """url, headers: where the server is and what it wants; see `server_address`.

        input_folder: where the files that workflows name are on this machine; the host's input folder when None.
        timeout: seconds without an answer after which the server counts as gone. pace: of following a run.
        Raises ServerAddressError. The server is first asked by the methods.
        """
        self._server = ComfyUIServer(url, headers, timeout)
        self._input_folder, self._pace = input_folder, pace or Pace()
        self._closed = threading.Event()
        self._classes: tuple[float, dict[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._server.name!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the runs that other threads have under way. A closed client runs nothing more."""
        self._closed.set()

    def run(
        self,
        workflow: Workflow,
        *,
        assignments: Sequence[str] = (),
        inputs: Mapping[str, Any] | None = None,
        output_folder: Path | str = "output",
        listener: EventListener | None = None,
        stopped: Callable[[], bool] | None = None,
    ) -> RunResult:
        """Run a workflow on the server and return what it saved, downloaded into `output_folder`.

        assignments, inputs: settings; see `prepare`. listener: told ComfyUI's events, as for a run in this process.
        stopped: asked a few times a second; True cancels the run here and on the server, as Ctrl-C does.
        Raises WorkflowError (WorkflowRefusedError with the server's reasons) before anything runs, ServerRunError
        when a node fails or the run is stopped or lost on the server, WorkCancelledError when `stopped` says so.
        """
        started = time.perf_counter()

        def is_stopped() -> bool:
            return self._closed.is_set() or (stopped is not None and stopped())

        def check_stopped() -> None:
            if is_stopped():
                raise WorkCancelledError("the client was closed" if self._closed.is_set() else "cancelled")

        check_stopped()
        prepared = self._with_files(self.prepare(workflow, assignments=assignments, inputs=inputs))
        telling = run_graph_on_server(self._server, prepared, listener, is_stopped, self._pace)
        saved = self._downloaded(telling, Path(output_folder), check_stopped)
        return _result(telling, saved, time.perf_counter() - started)

    def prepare(
        self,
        workflow: Workflow,
        *,
        assignments: Sequence[str] = (),
        inputs: Mapping[str, Any] | None = None,
    ) -> PreparedWorkflow:
        """Return a workflow in API form with settings applied, by the node classes of this server.

        assignments: texts "Load Image.image=face.jpg". inputs: {"Load Image.image": "face.jpg"} or {"Load Image":
        {"image": "face.jpg"}}. A node is named by its id, title or class. A prepared workflow stays as it is.
        Raises WorkflowError.
        """
        if isinstance(workflow, PreparedWorkflow):
            if assignments or inputs:
                raise WorkflowError("a prepared workflow has its settings already: give them to `prepare`")
            return workflow
        return prepared_workflow(_workflow_file(workflow), assignments, inputs, self._known_classes())

    def object_info(self, class_name: str | None = None) -> dict[str, Any]:
        """Return the node classes of the server, or only one, {class name: description}."""
        return self._server.object_info(class_name)

    def queue(self) -> ServerQueue:
        """Return the ids of the runs that are running and waiting."""
        return self._server.queue()

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return what the server keeps of a run that has ended, None while it has not."""
        return self._server.history(prompt_id)

    def cancel(self, prompt_id: str) -> bool:
        """Stop one run, whether it waits or has begun, and no other; say whether the server could be told."""
        return cancel_run(self._server, prompt_id)

    def upload(self, path: Path | str) -> str:
        """Send a file, unless the server has it, and return the name that inputs there know it by."""
        return send_file(self._server, Path(path))

    def download(self, entry: Mapping[str, str], folder: Path | str) -> Path:
        """Download a file that a run made, also a preview, and return its path.

        entry: {"filename", "subfolder", "type"}, as a result's `ui` has it.
        """
        return download(self._server, reference(entry), Path(folder), lambda: None)

    def _known_classes(self) -> dict[str, Any]:
        known = self._classes
        if known is None or time.monotonic() - known[0] > OBJECT_INFO_SECONDS:
            known = self._classes = (time.monotonic(), self._server.object_info())
        return known[1]

    def _with_files(self, prepared: PreparedWorkflow) -> PreparedWorkflow:
        folder = Path(self._input_folder or host().input_folder).absolute()
        return with_uploads(self._server, prepared, self._known_classes(), folder)

    def _downloaded(self, telling: RunTelling, folder: Path, check_stopped: Callable[[], None]) -> list[Path]:
        """Return the paths of what the run saved, fetched; a run that is cancelled meanwhile leaves nothing."""
        wanted = saved_references(telling.outputs)
        saved: list[Path] = []
        try:
            for found in wanted:
                saved.append(
                    _patiently(lambda found=found: download(self._server, found, folder, check_stopped))
                )
        except (KeyboardInterrupt, WorkCancelledError):
            for path in saved:
                path.unlink(missing_ok=True)
            raise
        return saved


def _workflow_file(workflow: str | Path | Mapping[str, Any] | WorkflowFile) -> WorkflowFile:
    if isinstance(workflow, WorkflowFile):
        return workflow
    return workflow_from_object(workflow) if isinstance(workflow, Mapping) else read_workflow_file(workflow)


def _patiently(fetch: Callable[[], Path]) -> Path:
    """Try a few times to fetch a file."""
    for attempt in range(1, DOWNLOAD_ATTEMPTS):
        try:
            return fetch()
        except ServerUnreachableError as error:
            if not is_passing(error):
                raise
            time.sleep(attempt * DOWNLOAD_PAUSE)
    return fetch()


def _result(telling: RunTelling, saved: Sequence[Path], seconds: float) -> RunResult:
    cached = telling.cached
    return RunResult(
        saved=tuple(saved),
        executed=tuple(node for node in telling.started if node not in cached),
        cached=cached,
        blocked=tuple(telling.blocked),
        ui=telling.outputs,
        seconds=seconds,
    )


def run_on_server(
    url: str, workflow: Workflow, assignments: Sequence[str], output_folder: Path
) -> list[Path]:
    """Run a workflow on a ComfyUI server, showing its progress, and return the downloaded results.

    url: such as http://127.0.0.1:8188. assignments: as of `apply_overrides`.
    Raises what `Client.run` raises.
    """
    with Client(url) as client:
        prepared = client.prepare(workflow, assignments=assignments)
        shown = EventDisplay(prepared.graph)
        return list(client.run(prepared, output_folder=output_folder, listener=shown).saved)
