"""`talking-portrait run`: a workflow file in this process, or on a ComfyUI server."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from ..runtime.host import Host, StandaloneHost, host
from .conversion import convert_to_api
from .executor import GraphExecutor, RunReport
from .graph import (
    Graph,
    copied_graph,
    is_ui_format,
    links_of,
    read_graph_file,
    unknown_nodes,
    unknown_nodes_advice,
)
from .overrides import Definitions, apply_overrides
from .page_workflow import page_workflow
from .registry import local_definitions, node_classes, object_info


def run_command(arguments: argparse.Namespace) -> int:
    """Run a workflow file and write the paths of what it saved to stdout."""
    content = read_graph_file(arguments.file)
    if arguments.server:
        from .client import run_on_server

        folder = Path(arguments.output_folder or "output")
        saved = run_on_server(arguments.server, content, arguments.set, folder)
    else:
        graph, workflow = prepared_graph(content, arguments.set)
        with using_folders(input=arguments.input_folder, output=arguments.output_folder):
            report = run_graph(graph, workflow)
            saved = saved_files(report, host())
    for path in saved:
        sys.stdout.write(f"{path}\n")
    return 0


def prepared_graph(content: dict[str, Any], assignments: list[str]) -> tuple[Graph, dict[str, Any] | None]:
    """Return a workflow file's content as a graph in API form with inputs set, and the same in UI form.

    The UI form, None for a graph that cannot run, is what saved files carry so that the page can restore it.
    Raises ValueError that names every node that this runner does not bring.
    """
    graph = graph_of(content, local_definitions())
    unknown = unknown_nodes(graph, node_classes())
    if unknown:
        raise ValueError(unknown_nodes_advice(unknown))
    apply_overrides(graph, assignments, local_definitions())
    unchanged = is_ui_format(content) and not assignments
    return graph, content if unchanged else drawn_workflow(graph, object_info(), content)


def graph_of(content: dict[str, Any], definitions: Definitions) -> Graph:
    """Return a workflow file's content, in UI or API form, as a graph in API form."""
    return convert_to_api(content, definitions) if is_ui_format(content) else copied_graph(content)


def drawn_workflow(graph: Graph, classes: dict[str, Any], content: dict[str, Any]) -> dict[str, Any] | None:
    """Return the graph in UI form, in the places of `content` if that is in UI form; None if it cannot run."""
    links = [link for node in graph.values() for link in links_of(node)]
    known = all(node.get("class_type") in classes for node in graph.values())
    if not known or any(origin not in graph for _, origin, _ in links):
        return None
    if any(slot >= len(classes[graph[origin]["class_type"]]["output"]) for _, origin, slot in links):
        return None
    return page_workflow(graph, classes, content if is_ui_format(content) else None)


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
