"""`talking-portrait run`: a workflow file in this process, or on a ComfyUI server."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..runtime.host import FOLDER_KIND, TEMP_VARIABLE
from .events import EventDisplay, EventListener, JsonEventLines, listeners
from .executor import GraphExecutor, RunReport
from .graph import Graph, WorkflowError
from .local_run import LocalRunner, RunResult, saved_files, using_folders
from .overrides import read_inputs_file
from .preparation import PreparedWorkflow, prepared_workflow
from .registry import node_classes
from .workflow_files import WorkflowFile, named_workflow

__all__ = ["run_command", "run_graph", "saved_files", "using_folders"]


def run_command(arguments: argparse.Namespace) -> int:
    """Run a workflow file and write the paths of what it saved to stdout, or with --json the events."""
    lines = JsonEventLines() if arguments.json else None
    try:
        result = _run(arguments, lines)
    except (WorkflowError, OSError) as error:
        if lines is not None:
            lines("error", refusal(error))
        raise
    if lines is not None:
        lines("saved", {"files": [str(path) for path in result.saved]})
    else:
        sys.stdout.writelines(f"{path}\n" for path in result.saved)
    return 0


def _run(arguments: argparse.Namespace, lines: JsonEventLines | None) -> RunResult:
    file = named_workflow(arguments.file)
    inputs = read_inputs_file(arguments.inputs) if arguments.inputs else None
    if arguments.header and not arguments.server:
        raise WorkflowError("--header is for a server: name it with --server")
    if arguments.out and Path(arguments.out).exists() and not Path(arguments.out).is_dir():
        raise WorkflowError(f"--out {arguments.out} is a file: name a folder for the results")
    if arguments.server:
        return _run_on_server(arguments, file, inputs, lines)
    with using_folders(input=arguments.input_folder, output=arguments.out), _folder_of_previews():
        prepared = prepared_workflow(file, arguments.set, inputs)
        return LocalRunner(keep_results=False).run(prepared, _listener(prepared, lines))


def _run_on_server(
    arguments: argparse.Namespace,
    file: WorkflowFile,
    inputs: dict[str, Any] | None,
    lines: JsonEventLines | None,
) -> RunResult:
    from .client import Client
    from .server_address import header_fields

    headers = header_fields(arguments.header) if arguments.header else None
    with Client(arguments.server, headers=headers, input_folder=arguments.input_folder) as client:
        prepared = client.prepare(file, assignments=arguments.set, inputs=inputs)
        folder = arguments.out or "output"
        return client.run(prepared, output_folder=folder, listener=_listener(prepared, lines))


def _listener(prepared: PreparedWorkflow, lines: JsonEventLines | None) -> EventListener:
    display = EventDisplay(prepared.graph)
    return display if lines is None else listeners(lines, display)


@contextlib.contextmanager
def _folder_of_previews() -> Iterator[None]:
    """Let previews go to a folder that is removed in the end, as ComfyUI does, unless the user has named one."""
    if os.environ.get(TEMP_VARIABLE):
        yield
        return
    folder = tempfile.mkdtemp(prefix=f"{FOLDER_KIND}-")
    try:
        with using_folders(temp=folder):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refusal(error: Exception) -> dict[str, Any]:
    """Return why nothing ran, in the form of ComfyUI's answer to a workflow that it refuses.

    {"error": {"type", "message", "details", "extra_info"}, "node_errors": {node id: {"errors", ...}}}.
    """
    problems = getattr(error, "validation", error)
    whole = getattr(problems, "error", None)
    if not whole:
        kind = "invalid_prompt" if isinstance(error, WorkflowError) else type(error).__name__
        whole = {"type": kind, "message": str(error), "details": "", "extra_info": {}}
    return {"error": dict(whole), "node_errors": getattr(problems, "node_errors", None) or {}}


def run_graph(graph: Graph, workflow: dict[str, Any] | None = None) -> RunReport:
    """Run a graph once in this process, showing on stderr which node is running.

    workflow: the same as the page saves it, for nodes that store it in files.
    """
    executor = GraphExecutor(node_classes(), EventDisplay(graph), keep_results=False)
    return executor.run(graph, workflow)
