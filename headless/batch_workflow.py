"""A workflow that a batch runs many times: what the columns of a list set, each row's graph, and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .batch_files import Input, file_digest, named_files, portable_workflow
from .batch_jobs import JobListError, JobRow
from .graph import Graph, WorkflowError, copied_graph, is_link, title_of
from .local_run import using_files, using_folders
from .overrides import input_changes, is_upload
from .preparation import PreparedWorkflow, prepared_workflow
from .registry import definitions_from_object_info, node_classes, object_info
from .validation import validate_graph
from .workflow_files import WorkflowFile

DIGEST_FORM = 1
"""Changes when the digest of a row is made in another way, so that rows are run again."""

MODEL_SWITCH = "download_if_missing"
"""An input that nodes have which load weights."""


@dataclass(frozen=True)
class BatchJob:
    """A row that can be run, or why it cannot.

    row: as the list has it. settings: {(node id, input): value} of the row. key: digest of what is run, over the
    graph, the contents of the files that it names, and the row's name. models: digests of the loaders in the graph.
    problem: why the row cannot run, None if it can.
    """

    row: JobRow
    settings: Mapping[Input, Any]
    key: str = ""
    models: frozenset[str] = frozenset()
    problem: str | None = None


class BatchWorkflow:
    """One workflow, its common settings, and the node classes that it is checked with."""

    def __init__(
        self,
        file: WorkflowFile,
        assignments: Sequence[str] = (),
        inputs: Mapping[str, Any] | None = None,
        beside: Path | None = None,
        input_folder: Path | None = None,
        server_classes: Mapping[str, Any] | None = None,
    ) -> None:
        """assignments, inputs: of all rows, as of `prepared_workflow`; a row wins over these.

        beside: the folder where files that rows name are looked for first. input_folder: where the others are, the
        host's own if None. server_classes: the node classes of a server as it lists them under /object_info, if rows
        run there.

        Raises WorkflowError for a workflow or an assignment that cannot be used.
        """
        self._file, self._beside, self.input_folder = file, beside, input_folder
        self._on_server = server_classes is not None
        self._classes = server_classes if server_classes is not None else object_info()
        self._definitions = definitions_from_object_info(self._classes)
        self._graph = self._prepared(assignments, inputs or {}).graph
        self._names = {name: str(entry.get("display_name", name)) for name, entry in self._classes.items()}
        self._common = {self._changes([text], {})[0][0]: text for text in assignments}
        self._common_values = dict(self._changes((), inputs or {}))
        self._digests: dict[tuple[Path, int, int], str] = {}

    def jobs(self, rows: Sequence[JobRow]) -> list[BatchJob]:
        """Return a job for every row; those that fail the checks say why.

        Raises JobListError for columns that set no input, or one that more than one node has.
        """
        inputs = self._inputs_of_columns(rows)
        return [self._job(row, self._settings(row, inputs)) for row in rows]

    def prepared(self, job: BatchJob) -> PreparedWorkflow:
        """Return a job's graph, settings applied."""
        common = [text for place, text in self._common.items() if place not in job.settings]
        values = {place: value for place, value in self._common_values.items() if place not in job.settings}
        if job.row.typed:
            return self._prepared(common, _by_name({**values, **job.settings}))
        texts = [f"{place}={text}" for place, text in _by_name(job.settings).items()]
        return self._prepared([*common, *texts], _by_name(values))

    def _prepared(self, assignments: Sequence[str], values: Mapping[str, Any]) -> PreparedWorkflow:
        with using_folders(input=self.input_folder):
            return prepared_workflow(self._file, assignments, values, self._classes)

    def _inputs_of_columns(self, rows: Sequence[JobRow]) -> dict[str, Input]:
        lines: dict[str, int] = {}
        for row in rows:
            for column in row.settings:
                lines.setdefault(column, row.line)
        inputs, problems = {}, []
        for column, line in lines.items():
            try:
                inputs[column] = self._input_of(column)
            except WorkflowError as error:
                problems.append(f"line {line}: {error}")
        problems += [f"the columns {a!r} and {b!r} set the same input" for a, b in _same_targets(inputs)]
        if problems:
            raise JobListError("; ".join(problems))
        return inputs

    def _input_of(self, column: str) -> Input:
        if column in (name for node in self._graph for name in self._constants(node)):
            return self._bare_input(column)
        if "." not in column:
            raise WorkflowError(
                f"the column {column!r} sets no input of the workflow; columns may be {', '.join(self._columns())}, "
                "and name or id"
            )
        try:
            return self._changes((), {column: None})[0][0]
        except WorkflowError as error:
            raise WorkflowError(f"the column {column!r} sets no input: {error}") from error

    def _changes(self, assignments: Sequence[str], inputs: Mapping[str, Any]) -> list[tuple[Input, Any]]:
        """Return which inputs settings mean, and their values."""
        changes = input_changes(self._graph, self._definitions, assignments, inputs, self._names)
        return [((change.node_id, change.name), change.value) for change in changes]

    def _bare_input(self, name: str) -> Input:
        nodes = [node for node in self._graph if name in self._constants(node)]
        if len(nodes) > 1:
            ways = ", ".join(f"{node}.{name} ({title_of(self._graph, node)})" for node in nodes)
            raise WorkflowError(f"{len(nodes)} nodes have an input {name!r}: call the column one of {ways}")
        return nodes[0], name

    def _columns(self) -> list[str]:
        """Return every bare name that one node has, and NODE.input for the others."""
        names = [name for node in self._graph for name in self._constants(node)]
        shared = [n for n in dict.fromkeys(names) if names.count(n) > 1]
        longer = [
            f"{node}.{name}" for node in self._graph for name in self._constants(node) if name in shared
        ]
        return [name for name in names if name not in shared] + longer

    def _constants(self, node_id: str) -> list[str]:
        """Return the names of a node's inputs that hold a value and no link."""
        return [name for name, value in self._graph[node_id]["inputs"].items() if not is_link(value)]

    def _settings(self, row: JobRow, inputs: Mapping[str, Input]) -> dict[Input, Any]:
        return {
            inputs[column]: self._place_of(inputs[column], value) for column, value in row.settings.items()
        }

    def _place_of(self, target: Input, value: Any) -> Any:
        """Return the whole path for a file beside the list that an upload names, anything else as it is."""
        class_type = self._graph[target[0]].get("class_type", "")
        specification = self._definitions.get(class_type, {}).get(target[1])
        if not isinstance(value, str) or specification is None or not is_upload(specification):
            return value
        path = _path_beside(self._beside or Path(), value)
        return str(path.absolute()) if path is not None and _is_file(path) else value

    def _job(self, row: JobRow, settings: Mapping[Input, Any]) -> BatchJob:
        job = BatchJob(row, settings)
        try:
            prepared = self.prepared(job)
            if not self._on_server:
                self._check(prepared)
            return BatchJob(
                row, settings, self._key(row, prepared), models_in(prepared.graph, self._definitions)
            )
        except (WorkflowError, OSError) as error:
            return BatchJob(row, settings, problem=str(error))

    def _check(self, prepared: PreparedWorkflow) -> None:
        graph = copied_graph(prepared.graph)
        with using_folders(input=self.input_folder), using_files(prepared.files):
            validate_graph(graph, node_classes()).raise_if_failed(graph)

    def _key(self, row: JobRow, prepared: PreparedWorkflow) -> str:
        graph = {
            node_id: {"class_type": node["class_type"], "inputs": dict(node["inputs"])}
            for node_id, node in prepared.graph.items()
        }
        for (node_id, name), files in self.files_of(prepared).items():
            graph[node_id]["inputs"][name] = {"files": [self.digest(file) for file in files]}
        content = json.dumps([DIGEST_FORM, row.name, graph], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def files_of(self, prepared: PreparedWorkflow) -> dict[Input, list[Path]]:
        """Return the files that a graph's inputs name and that are here: each with the landmarks beside it."""
        with using_folders(input=self.input_folder), using_files(prepared.files):
            return named_files(prepared, self._definitions)

    def portable(self, prepared: PreparedWorkflow) -> tuple[PreparedWorkflow, dict[str, Path]]:
        """Return a job's graph for a machine that has none of its files, and what its input folder has to hold there,
        {name in that folder: file of this machine}.
        """
        with using_folders(input=self.input_folder):
            return portable_workflow(prepared, self.files_of(prepared), self._classes)

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file; what did not change since is not read again."""
        status = path.stat()
        seen = path, status.st_size, status.st_mtime_ns
        if seen not in self._digests:
            self._digests[seen] = file_digest(path)
        return self._digests[seen]


def _by_name(settings: Mapping[Input, Any]) -> dict[str, Any]:
    return {f"{node_id}.{name}": value for (node_id, name), value in settings.items()}


def _path_beside(folder: Path, name: str) -> Path | None:
    try:
        return folder / Path(name).expanduser()
    except RuntimeError:  # of an unknown user
        return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _same_targets(inputs: Mapping[str, Input]) -> list[tuple[str, str]]:
    first: dict[Input, str] = {}
    return [
        (first[place], column)
        for column, place in inputs.items()
        if first.setdefault(place, column) != column
    ]


def models_in(graph: Graph, definitions: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """Return a digest for every node of a graph that loads a model: of its class and its constants."""
    found = set()
    for node in graph.values():
        declared = definitions.get(node["class_type"], {})
        uploads = any(is_upload(specification) for specification in declared.values())
        if not uploads and ("Load" in node["class_type"] or MODEL_SWITCH in declared):
            constants = {name: value for name, value in node["inputs"].items() if not is_link(value)}
            content = json.dumps([node["class_type"], constants], sort_keys=True)
            found.add(hashlib.sha256(content.encode()).hexdigest())
    return frozenset(found)
