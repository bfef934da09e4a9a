"""`talking-portrait convert`: a workflow file in API form, from UI form or from a file that carries one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..core_models.whole_file import renamed_when_whole
from .graph import Graph
from .preparation import prepared_workflow
from .run_arguments import add_file_argument
from .workflow_files import named_workflow


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert` to its parser, which runs `convert_command`."""
    add_file_argument(parser)
    parser.add_argument("--out", metavar="X.json", type=Path, help="write it there instead of to stdout")
    parser.set_defaults(command=convert_command, tells_kinds_of_errors=True)


def convert_command(options: argparse.Namespace) -> int:
    """Write the graph that the page would send for a workflow: to stdout, or whole or not at all to a file.

    Raises WorkflowError for a file that holds no workflow, or one of node types that are not known here, and OSError
    when the file cannot be written.
    """
    graph = prepared_workflow(named_workflow(options.file)).graph
    if options.out is None:
        is_unicode = str(sys.stdout.encoding).lower().startswith("utf")
        sys.stdout.write(_as_json(graph, ascii_only=not is_unicode))
        return 0
    with renamed_when_whole(options.out.expanduser().absolute()) as unfinished:
        unfinished.write_text(_as_json(graph, ascii_only=False), encoding="utf-8")
    return 0


def _as_json(graph: Graph, ascii_only: bool) -> str:
    return json.dumps(graph, indent=2, ensure_ascii=ascii_only) + "\n"
