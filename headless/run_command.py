"""`talking-portrait run`: a workflow file in this process, or on a ComfyUI server."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from ..runtime.host import Host, StandaloneHost, host
from .executor import GraphExecutor, RunReport
from .graph import Graph, copied_graph, is_ui_format, read_graph_file
from .overrides import apply_overrides
from .registry import local_definitions, node_classes


def run_command(arguments: argparse.Namespace) -> int:
    """Run a workflow file and write the paths of what it saved to stdout."""
    content = read_graph_file(arguments.file)
    if arguments.server:
        from .client import run_on_server

        folder = Path(arguments.output_folder or "output")
        saved = run_on_server(arguments.server, content, arguments.set, folder)
    else:
        graph, workflow = prepared_graph(content, arguments.set, arguments.file)
        with using_folders(input=arguments.input_folder, output=arguments.output_folder):
            report = run_graph(graph, workflow)
            saved = saved_files(report, host())
    for path in saved:
        sys.stdout.write(f"{path}\n")
    return 0


def prepared_graph(
    content: dict[str, Any], assignments: list[str], path: Path | str | None = None
) -> tuple[Graph, dict[str, Any] | None]:
    """Return a workflow file's content as a graph in API form with inputs set, and as the page saves it."""
    definitions = local_definitions()
    if is_ui_format(content):
        from .conversion import convert_to_api

        graph = convert_to_api(content, definitions)
    else:
        graph = copied_graph(content)
    apply_overrides(graph, assignments, definitions)
    return graph, content if is_ui_format(content) else None


def run_graph(graph: Graph, workflow: dict[str, Any] | None = None) -> RunReport:
    """Run a graph once in this process, telling on stderr which node is running."""
    executor = GraphExecutor(node_classes(), _NodeLog(len(graph)).tell, keep_results=False)
    report = executor.run(graph, workflow)
    for message in report.blocked:
        sys.stderr.write(f"blocked: {message}\n")
    return report


class _NodeLog:
    """One line on stderr per node."""

    def __init__(self, total: int) -> None:
        self._total, self._started = total, 0

    def tell(self, event: str, data: dict[str, Any]) -> None:
        if event == "executing":
            self._started += 1
            sys.stderr.write(f"[{min(self._started, self._total)}/{self._total}] {data['title']}\n")


def saved_files(report: RunReport, owner: Host) -> list[Path]:
    """Return the files that output nodes saved, previews left out."""
    found = []
    for ui in report.ui.values():
        for references in ui.values():
            for reference in references:
                if isinstance(reference, dict) and reference.get("type") == "output":
                    found.append(owner.output_folder / reference["subfolder"] / reference["filename"])
    return found


def using_folders(**folders: Path | str | None) -> contextlib.AbstractContextManager[None]:
    """Let the standalone host use other folders inside a `with`."""
    owner = host()
    given = {name: Path(folder) for name, folder in folders.items() if folder is not None}
    return owner.using_folders(**given) if isinstance(owner, StandaloneHost) else contextlib.nullcontext()
