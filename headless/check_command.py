"""`talking-portrait check`: whether a workflow could run here, and what is missing, without running it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from .events import one_line
from .graph import Graph, UnknownNodesError, WorkflowError, copied_graph, links_of, title_of
from .input_rules import problem_of
from .local_run import using_files, using_folders
from .missing_weights import MissingWeights, missing_weights
from .overrides import read_inputs_file
from .preparation import PreparedWorkflow, prepared_workflow
from .registry import local_definitions, node_classes
from .run_arguments import add_file_argument, add_setting_arguments
from .validation import Validation, failure_sentences, validate_graph
from .weights_command import size_text
from .workflow_files import named_workflow

READY, NOT_READY = 0, 2
"""Exit codes."""


@dataclass(frozen=True)
class WorkflowCheck:
    """What is known of a workflow before it runs.

    graph: in API form, None for a file that holds no workflow that can be read. outputs: ids of the output nodes that
    can run. error, node_errors: as ComfyUI answers a request to /prompt. weights: what loaders miss.
    """

    graph: Graph | None
    outputs: tuple[str, ...] = ()
    error: dict[str, Any] | None = None
    node_errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: tuple[MissingWeights, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether nothing is wrong, and every missing weight file is one that its loader fetches itself."""
        wrong = self.graph is None or self.error or self.node_errors
        return not wrong and all(missing.is_fetched for missing in self.weights)


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check` to its parser, which runs `check_command`."""
    add_file_argument(parser)
    add_setting_arguments(parser)
    parser.add_argument("--input-folder", help="where files are looked for (default: ./input)")
    parser.add_argument("--json", action="store_true", help="everything that was found, as JSON")
    parser.set_defaults(command=check_command, tells_kinds_of_errors=True)


def check_command(options: argparse.Namespace) -> int:
    """Write what was found to stdout; return 0 for a workflow that could run now, 2 for another."""
    with using_folders(input=options.input_folder):
        found = _check(options)
    text = _as_json(found) if options.json else "\n".join(map(one_line, _lines(options.file, found)))
    sys.stdout.write(text + "\n")
    return READY if found.is_ready else NOT_READY


def _check(options: argparse.Namespace) -> WorkflowCheck:
    try:
        inputs = read_inputs_file(options.inputs) if options.inputs else None
        return checked_workflow(prepared_workflow(named_workflow(options.file), options.set, inputs))
    except UnknownNodesError as error:
        return WorkflowCheck(None, error=problem_of("missing_node_type", str(error), unknown=error.unknown))
    except WorkflowError as error:
        return WorkflowCheck(None, error=problem_of("invalid_prompt", str(error)))


def checked_workflow(prepared: PreparedWorkflow) -> WorkflowCheck:
    """Return what is wrong with a workflow, and which weight files the nodes that would run miss."""
    graph = copied_graph(prepared.graph)
    with using_files(prepared.files):
        validation = validate_graph(graph, node_classes())
        running = _needed_by(graph, validation)
        weights = missing_weights(graph, running, local_definitions())
    return WorkflowCheck(
        graph, tuple(validation.outputs), validation.error, validation.node_errors, tuple(weights)
    )


def _needed_by(graph: Graph, validation: Validation) -> list[str]:
    """Return the outputs that can run and all nodes that these need, origins before what they are linked to."""
    found: dict[str, None] = {}
    waiting = list(validation.outputs)
    while waiting:
        node_id = waiting.pop()
        if node_id not in found:
            found[node_id] = None
            waiting += [origin for _, origin, _ in links_of(graph[node_id])]
    return list(reversed(found))


def _as_json(found: WorkflowCheck) -> str:
    return json.dumps(
        {
            "ready": found.is_ready,
            "outputs": found.outputs,
            "error": found.error,
            "node_errors": found.node_errors,
            "missing_weights": [{**asdict(one), "command": one.command} for one in found.weights],
        },
        indent=2,
        default=str,
    )


def _lines(file: str, found: WorkflowCheck) -> list[str]:
    graph = found.graph or {}
    lines = [f"error: {text}" for text in failure_sentences(found.error, found.node_errors, graph)]
    for missing in found.weights:
        lines += _weight_lines(missing)
    titles = ", ".join(title_of(graph, node_id) for node_id in found.outputs)
    state = "can run" if found.is_ready else "cannot run yet"
    return [*lines, f"{file} {state}" + (f": {len(graph)} nodes, outputs {titles}" if titles else "")]


def _weight_lines(missing: MissingWeights) -> list[str]:
    files = [f"{name} ({size_text(size)})" for name, size in missing.files.items()]
    place = f"node {missing.node_id} ({missing.title})"
    if not files:  # what this package itself brings
        return [f"missing for {place}: {missing.reason}"]
    if missing.is_fetched:
        return [f"will be fetched by {place}: {', '.join(files)}"]
    lines = [f"missing for {place}: {', '.join(files)}", f"  {missing.command}"]
    if missing.by_hand:
        lines.append(f"  by hand, as the command says: {', '.join(missing.by_hand)}")
    return lines
