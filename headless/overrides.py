"""Setting inputs of a graph: NODE.input=value from the command line, or values from a JSON file."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .graph import Graph, InputSpecification, WorkflowError, is_link, own_title

Definitions = Mapping[str, Mapping[str, InputSpecification]]
"""{class name: {input name: its declaration}}."""

UPLOAD_OPTIONS = ("image_upload", "audio_upload", "video_upload", "upload")

NAMES_FILE = "names_file"
"""Option of a text input that names a file: "input" for one of the input folder, "model" for a model's."""

WRAPPED = "__value__"
"""Key of a list that is a value and not a link, in API form."""

LARGEST_INPUTS_FILE = 5_000_000
"""Bytes."""

MOST_LISTED = 30
"""Nodes named in an error."""


class OverrideError(WorkflowError):
    """A setting that names no input of the graph, or one value that an input cannot have; its text says which."""


@dataclass(frozen=True)
class InputChange:
    """A value for one input of a graph. file: the file that the value names, None where it names none."""

    node_id: str
    name: str
    value: Any
    file: Path | None = None


def apply_overrides(graph: Graph, assignments: Sequence[str], definitions: Definitions) -> None:
    """Set inputs of a graph in place; assignments as of `input_changes`."""
    for change in input_changes(graph, definitions, assignments):
        graph[change.node_id]["inputs"][change.name] = change.value


def input_changes(
    graph: Graph,
    definitions: Definitions,
    assignments: Sequence[str] = (),
    inputs: Mapping[str, Any] | None = None,
    display_names: Mapping[str, str] | None = None,
) -> list[InputChange]:
    """Return what settings change in a graph, in the order in which they count: the last of an input wins.

    assignments: texts "NODE.input=value", which win over `inputs`. NODE is an id, or a title, display name or class
    name that only one node has, as it is written; it may hold dots and equals signs. The value is read as JSON, and
    as plain text where that fails or where the input is a text.
    inputs: {"NODE.input": value} or {"NODE": {"input": value}}. display_names: {class name: title of a new node}.
    A value ["id", output index] is a link. Files named relative to the current folder become absolute paths.
    Raises OverrideError for another form, for a node or input that is not there, naming those that are, and for lists
    and objects that are no links.
    """
    nodes = _NamedNodes(graph, definitions, display_names or {})
    changes = [nodes.change(*target, value) for target, value in _listed_inputs(inputs or {}, nodes)]
    return changes + [_assigned(assignment, nodes) for assignment in assignments]


def _listed_inputs(inputs: Mapping[str, Any], nodes: _NamedNodes) -> Iterator[tuple[tuple[str, str], Any]]:
    for key, value in inputs.items():
        if isinstance(value, Mapping) and WRAPPED not in value:
            node_id = nodes.node_id(key)
            yield from (((node_id, str(name)), inner) for name, inner in value.items())
        else:
            yield nodes.target(key), value


def _assigned(assignment: str, nodes: _NamedNodes) -> InputChange:
    """Return what NODE.input=value sets; of several equals signs the first after which an input is named counts."""
    first_problem: OverrideError | None = None
    for index in (index for index, letter in enumerate(assignment) if letter == "="):
        target, text = assignment[:index], assignment[index + 1 :]
        if "." not in target.strip(".") or target.startswith("."):
            continue
        try:
            node_id, name = nodes.target(target)
        except OverrideError as error:
            first_problem = first_problem or error
        else:
            return nodes.change(node_id, name, _read_value(text, nodes.specification(node_id, name)))
    raise first_problem or OverrideError(
        f"{assignment!r} is not of the form NODE.input=value, such as 3.image=face.jpg"
    )


def find_node(graph: Graph, name: str, display_names: Mapping[str, str] | None = None) -> str:
    """Return the id of the node with this id, or else the only one with this title, display name or class name.

    Raises OverrideError when there is none, or more than one.
    """
    return _NamedNodes(graph, {}, display_names or {}).node_id(name)


class _NamedNodes:
    """The nodes of a graph by what a person calls them."""

    def __init__(self, graph: Graph, definitions: Definitions, display_names: Mapping[str, str]) -> None:
        self._graph, self._definitions = graph, definitions
        self._named: dict[str, list[str]] = {}
        for node_id, node in graph.items():
            for name in _names(node, display_names):
                self._named.setdefault(name, []).append(node_id)

    def node_id(self, name: str) -> str:
        matches = self._matches(name)
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise OverrideError(f"{len(matches)} nodes are called {name!r}: use an id, {', '.join(matches)}")
        listed = [self._described(node_id) for node_id in self._graph][:MOST_LISTED]
        more = ", ..." if len(self._graph) > MOST_LISTED else ""
        raise OverrideError(f"the workflow has no node {name!r}; it has {', '.join(listed)}{more}")

    def _matches(self, name: str) -> list[str]:
        return [name] if name in self._graph else self._named.get(unicodedata.normalize("NFC", name), [])

    def _described(self, node_id: str) -> str:
        node = self._graph[node_id]
        title, kind = own_title(node), node.get("class_type")
        return f"{node_id} ({kind})" if title in (None, kind) else f"{node_id} ({kind}, {title!r})"

    def target(self, text: str) -> tuple[str, str]:
        """Return (node id, input name) of "NODE.input"; either may hold dots.

        Raises OverrideError when it names no input, or when dots make it name several.
        """
        cuts = [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "."]
        named = [(node, name) for node, name in cuts if node and name and self._matches(node)]
        if not named:
            if cuts and cuts[0][0]:
                self.node_id(cuts[0][0])
            raise OverrideError(f"{text!r} is not of the form NODE.input, such as 3.image")
        found = {
            (self.node_id(node), name)
            for node, name in named
            if len(self._matches(node)) == 1 and name in self._known_inputs(self.node_id(node))
        }
        if len(found) == 1:
            return found.pop()
        if found:
            options = " or ".join(f"input {name!r} of node {node_id}" for node_id, name in sorted(found))
            raise OverrideError(f"{text!r} may mean {options}: use the node's id")
        node, name = named[-1]
        self.expect_input(self.node_id(node), name)
        raise OverrideError(f"{text!r} is not of the form NODE.input, such as 3.image")

    def _known_inputs(self, node_id: str) -> set[str]:
        declared = self._definitions.get(str(self._graph[node_id].get("class_type")), {})
        shown = {s.name for s in declared.values() if s.category != "hidden"}
        return shown | set(self._graph[node_id]["inputs"])

    def expect_input(self, node_id: str, name: str) -> None:
        known = self._known_inputs(node_id)
        if name not in known:
            raise OverrideError(
                f"node {node_id} ({self._graph[node_id].get('class_type')}) has no input {name!r}; "
                f"it has {', '.join(sorted(known)) or 'none'}"
            )

    def specification(self, node_id: str, name: str) -> InputSpecification | None:
        return self._definitions.get(str(self._graph[node_id].get("class_type")), {}).get(name)

    def change(self, node_id: str, name: str, value: Any) -> InputChange:
        """Return the change of an input to a value, which is checked and made a whole path where it names a file."""
        self.expect_input(node_id, name)
        self._expect_value(node_id, name, value)
        if not isinstance(value, str):
            return InputChange(node_id, name, value)
        file = _existing_file(value)
        specification = self.specification(node_id, name)
        takes_files = specification is not None and (is_upload(specification) or names_model(specification))
        if takes_files and file is None and _is_whole_path(value):
            raise OverrideError(f"there is no file {value}, which is given for {name!r} of node {node_id}")
        return InputChange(node_id, name, str(file) if file and takes_files else value, file)

    def _expect_value(self, node_id: str, name: str, value: Any) -> None:
        if isinstance(value, list):
            if not is_link(value) or value[0] not in self._graph or value[1] < 0:
                raise OverrideError(
                    f"the value {json.dumps(value)[:80]} for {name!r} of node {node_id} is a list, which has to be a "
                    f'link, ["node id", output index], to a node of the workflow; a list of values is {{"{WRAPPED}": '
                    "[...]}"
                )
        elif isinstance(value, Mapping) and set(value) != {WRAPPED}:
            raise OverrideError(
                f"the value for {name!r} of node {node_id} is an object, expected a text, number, true or false"
            )


def _names(node: Mapping[str, Any], display_names: Mapping[str, str]) -> set[str]:
    """Return what a node is called: its class, and its own title or else that of its class."""
    kind = str(node.get("class_type"))
    title = own_title(node)
    shown = display_names.get(kind, kind) if title in (None, kind) else title
    return {unicodedata.normalize("NFC", name) for name in (kind, shown)}


def _existing_file(text: str) -> Path | None:
    """Return the absolute path of the file or folder that a text names from the current folder, None for none."""
    try:
        path = Path(text).expanduser()
        return path.absolute() if text.strip() and path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, with a null character, or of an unknown user
        return None


def _is_whole_path(text: str) -> bool:
    try:
        return Path(text).expanduser().is_absolute()
    except RuntimeError:  # of an unknown user
        return False


def _read_value(text: str, specification: InputSpecification | None) -> Any:
    """Return the value that a text stands for: JSON, or the text itself."""
    if specification is not None and is_upload(specification):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    wants_text = specification is not None and specification.type == "STRING"
    return text if wants_text and not (isinstance(value, str) or is_link(value)) else value


def is_upload(specification: InputSpecification) -> bool:
    """Say whether an input names a file of the input folder."""
    options = specification.options
    return any(options.get(option) for option in UPLOAD_OPTIONS) or options.get(NAMES_FILE) == "input"


def names_model(specification: InputSpecification) -> bool:
    """Say whether an input names a model's file by its path."""
    return specification.options.get(NAMES_FILE) == "model"


def read_inputs_file(path: str | Path) -> dict[str, Any]:
    """Return the values of a JSON file for `input_changes`: {"NODE.input": value} or {"NODE": {"input": value}}.

    Raises OverrideError for a file that is not there, too large, or no JSON object.
    """
    path = Path(path).expanduser()
    try:
        if path.stat().st_size > LARGEST_INPUTS_FILE:
            raise OverrideError(
                f"{path} is larger than {LARGEST_INPUTS_FILE // 1_000_000} MB: is it the file?"
            )
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise OverrideError(f"the file of inputs {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, OverrideError):
            raise
        raise OverrideError(f"the file of inputs {path} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise OverrideError(f'{path} holds no inputs: expected a JSON object, {{"NODE.input": value, ...}}')
    return values
