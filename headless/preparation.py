"""A workflow file made ready to run: in API form, with the user's settings, and the files that these name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .conversion import convert_to_api
from .graph import (
    RUNNER_LACKS,
    SERVER_LACKS,
    Graph,
    UnknownNodesError,
    WorkflowError,
    copied_graph,
    links_of,
    unknown_nodes,
)
from .overrides import Definitions, InputChange, input_changes
from .page_content import packs_of_types, page_content, page_subgraphs
from .page_values import page_with_values
from .page_workflow import page_workflow
from .registry import definitions_from_object_info
from .registry import object_info as local_object_info
from .workflow_files import WorkflowFile


@dataclass(frozen=True)
class PreparedWorkflow:
    """A workflow that is ready to run.

    graph: in API form, settings applied. page: the same in UI form, which saved files carry so that the page can
    restore it; None for a graph that cannot be drawn. files: whole paths, links followed, of the files that the user's
    settings name, and of the landmarks beside them; only these may lie outside of the input, output and temporary
    folders (`StandaloneHost.using_files`).
    """

    graph: Graph
    page: dict[str, Any] | None = None
    files: frozenset[Path] = frozenset()


def prepared_workflow(
    file: WorkflowFile,
    assignments: Sequence[str] = (),
    inputs: Mapping[str, Any] | None = None,
    object_info: Mapping[str, Any] | None = None,
) -> PreparedWorkflow:
    """Return a workflow file as a graph with its inputs set.

    A file that holds both forms runs its API form, which is what really ran, and keeps the look of its UI form.
    assignments: texts "NODE.input=value". inputs: {"NODE.input": value} or {"NODE": {"input": value}}; an assignment
    wins over these; see `input_changes`. object_info: the node classes as a server lists them under /object_info; None
    for those that this runner brings.
    Raises WorkflowError for a workflow that cannot be read, unknown node types (all named at once, UnknownNodesError),
    and settings of nodes or inputs that are not there (OverrideError).
    """
    classes = local_object_info() if object_info is None else object_info
    lacking = RUNNER_LACKS if object_info is None else SERVER_LACKS
    definitions = definitions_from_object_info(classes)
    page = _page_of(file)
    graph = _graph_of(file, page, definitions, lacking)
    changes = input_changes(graph, definitions, assignments, inputs, _display_names(classes))
    for change in changes:
        graph[change.node_id]["inputs"][change.name] = change.value
    return PreparedWorkflow(graph, _drawn(graph, classes, page, changes, definitions), _files_named(changes))


def _page_of(file: WorkflowFile) -> Mapping[str, Any] | None:
    """Return a file's UI form; None where it has none, or only a broken one beside the API form."""
    if file.page is None:
        return None
    try:
        page_content(file.page)
        page_subgraphs(file.page)
    except WorkflowError:
        if file.api is None:
            raise
        return None
    return file.page


def _graph_of(
    file: WorkflowFile, page: Mapping[str, Any] | None, definitions: Definitions, lacking: str
) -> Graph:
    if file.api is None:
        return convert_to_api(page or {}, definitions, lacking)
    graph = copied_graph(file.api)
    unknown = unknown_nodes(graph, definitions)
    if unknown:
        contents = [] if page is None else [page_content(page), *page_subgraphs(page).values()]
        raise UnknownNodesError(unknown, packs_of_types(contents), lacking)
    return graph


def _display_names(classes: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(info.get("display_name") or name) for name, info in classes.items()}


def _files_named(changes: Sequence[InputChange]) -> frozenset[Path]:
    from ..runtime.input_files import landmarks_beside

    named = [change.file for change in changes if change.file is not None]
    beside = [landmarks_beside(path) for path in named if path.is_file()]
    return frozenset(path.resolve() for path in (*named, *beside) if path is not None)


def _drawn(
    graph: Graph,
    classes: Mapping[str, Any],
    page: Mapping[str, Any] | None,
    changes: Sequence[InputChange],
    definitions: Definitions,
) -> dict[str, Any] | None:
    """Return the page as it is but for the changed values; drawn anew where a change is not one of a widget's value."""
    kept = None if page is None else page_with_values(page, changes, definitions)
    return drawn_page(graph, classes, page) if kept is None else kept


def drawn_page(
    graph: Graph, classes: Mapping[str, Any], source: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Return the graph in UI form, in the places of `source`, a workflow in UI form; None if it cannot run.

    classes: as a server lists them under /object_info.
    """
    links = [link for node in graph.values() for link in links_of(node)]
    known = all(node.get("class_type") in classes for node in graph.values())
    if not known or any(origin not in graph for _, origin, _ in links):
        return None
    outputs = {
        node_id: len(classes[node["class_type"]].get("output") or ()) for node_id, node in graph.items()
    }
    if any(not 0 <= slot < outputs[origin] for _, origin, slot in links):
        return None
    return page_workflow(graph, classes, source)
