"""Checking a graph before it runs, by ComfyUI's rules and with its error types and messages."""

from __future__ import annotations

import inspect
import traceback
from dataclasses import dataclass, field
from typing import Any

from .graph import Graph, InputSpecification, NodeClasses, input_specifications, is_output_node, title_of

Problem = dict[str, Any]
"""One problem as ComfyUI reports it: type, message, details, extra_info."""

CONVERSIONS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
LONGEST_LISTED_CHOICE = 20


@dataclass
class Validation:
    """What came out of checking a graph.

    outputs: ids of the output nodes that can run, in the graph's order.
    error: what makes the whole graph impossible, None when at least one output can run.
    node_errors: {node id: {"errors": [...], "dependent_outputs": [ids], "class_type": name}}.
    """

    outputs: list[str] = field(default_factory=list)
    error: Problem | None = None
    node_errors: dict[str, dict[str, Any]] = field(default_factory=dict)

    def raise_if_failed(self, graph: Graph) -> None:
        """Raise GraphValidationError unless every output can run."""
        if self.error is not None or self.node_errors:
            raise GraphValidationError(self, graph)


class GraphValidationError(ValueError):
    """A graph that cannot run as it is; its text names every node and input that is wrong."""

    def __init__(self, validation: Validation, graph: Graph) -> None:
        self.validation = validation
        super().__init__("; ".join(_sentences(validation, graph)))


def _sentences(validation: Validation, graph: Graph) -> list[str]:
    return list(failure_sentences(validation.error, validation.node_errors, graph))


def failure_sentences(error: Problem | None, node_errors: dict[str, Any], graph: Graph) -> list[str]:
    """Return ComfyUI's error report as plain sentences, one per problem."""
    sentences = []
    for node_id, report in node_errors.items():
        name = title_of(graph, node_id) if node_id in graph else report.get("class_type", "")
        for problem in report.get("errors", []):
            details = f": {problem['details']}" if problem.get("details") else ""
            sentences.append(f"node {node_id} ({name}): {problem['message']}{details}")
    if not sentences and error is not None:
        details = f" ({error['details']})" if error.get("details") else ""
        sentences.append(f"{error['message']}{details}")
    return sentences


def validate_graph(graph: Graph, node_classes: NodeClasses) -> Validation:
    """Check every output node of a graph and all that it needs.

    Constants of INT, FLOAT, STRING and BOOLEAN inputs are converted in place, as ComfyUI does.
    """
    for node_id, node in graph.items():
        problem = _class_problem(node_id, node, node_classes)
        if problem is not None:
            return Validation(error=problem)
    outputs = [node_id for node_id, node in graph.items() if is_output_node(node_classes[node["class_type"]])]
    if not outputs:
        return Validation(error=_problem("prompt_no_outputs", "Prompt has no outputs"))
    return _Validator(graph, node_classes).report(outputs)


def _class_problem(node_id: str, node: dict[str, Any], node_classes: NodeClasses) -> Problem | None:
    details = f"Node ID '#{node_id}'"
    if "class_type" not in node:
        message = "Cannot execute because a node is missing the class_type property."
        return _problem("invalid_prompt", message, details)
    if node["class_type"] not in node_classes:
        message = f"Cannot execute because node {node['class_type']} does not exist."
        return _problem("missing_node_type", message, details)
    return None


def _problem(kind: str, message: str, details: str = "", **extra: Any) -> Problem:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


class _InnerValidationError(Exception):
    """Checking a node broke down; `__cause__` is what it raised."""


class _Validator:
    """Checks nodes recursively from the outputs, each once."""

    def __init__(self, graph: Graph, node_classes: NodeClasses) -> None:
        self._graph, self._classes = graph, node_classes
        self._problems: dict[str, list[Problem]] = {}
        self._valid: dict[str, bool] = {}
        self._path: list[str] = []

    def report(self, outputs: list[str]) -> Validation:
        result = Validation()
        summary = []
        for output in outputs:
            if self._checked_output(output):
                result.outputs.append(output)
                continue
            summary += [f"{p['message']}: {p['details']}" for p in self._problems.get(output, [])]
            self._add_node_errors(result.node_errors, output)
        if not result.outputs:
            message = "Prompt outputs failed validation"
            result.error = _problem("prompt_outputs_failed_validation", message, "\n".join(summary))
        return result

    def _add_node_errors(self, node_errors: dict[str, Any], output: str) -> None:
        for node_id in self._ancestry(output):
            if self._problems.get(node_id):
                entry = node_errors.setdefault(
                    node_id,
                    {
                        "errors": self._problems[node_id],
                        "dependent_outputs": [],
                        "class_type": self._graph[node_id]["class_type"],
                    },
                )
                entry["dependent_outputs"].append(output)

    def _ancestry(self, output: str) -> list[str]:
        found, waiting = [], [output]
        while waiting:
            node_id = waiting.pop()
            if node_id in found or node_id not in self._graph:
                continue
            found.append(node_id)
            inputs = self._graph[node_id]["inputs"].values()
            waiting += [str(value[0]) for value in inputs if isinstance(value, list) and len(value) == 2]
        return found

    def _checked_output(self, output: str) -> bool:
        try:
            return self._checked(output)
        except _InnerValidationError as error:
            self._fail(
                output, _breakdown("exception_during_validation", "Exception when validating node", error)
            )
            return False

    def _checked(self, node_id: str) -> bool:
        """Check a node and what it needs; record and return whether it can run."""
        if node_id not in self._valid:
            self._path.append(node_id)
            try:
                self._valid[node_id] = _NodeCheck(self, node_id).run()
            finally:
                self._path.pop()
        return self._valid[node_id]

    def _fail(self, node_id: str, problem: Problem) -> None:
        self._problems.setdefault(node_id, []).append(problem)
        self._valid[node_id] = False

    def checked_origin(self, node_id: str, origin: str, specification: InputSpecification) -> bool:
        """Check the node an input is linked to. Its problems are recorded with it, not with `node_id`."""
        if origin in self._path:
            members = " -> ".join([*self._path[self._path.index(origin) :], origin])
            details = f"{specification.name}, nodes {members}"
            problem = _problem("dependency_cycle", "Dependency cycle detected", details)
            self._problems.setdefault(node_id, []).append(problem)
            return False
        try:
            return self._checked(origin)
        except _InnerValidationError as error:
            message = "Exception when validating inner node"
            problem = _breakdown("exception_during_inner_validation", message, error)
            problem["extra_info"]["input_name"] = specification.name
            self._fail(origin, problem)
            return False

    def record(self, node_id: str, problem: Problem) -> None:
        """Record a problem of a node."""
        self._problems.setdefault(node_id, []).append(problem)

    def node(self, node_id: str) -> dict[str, Any]:
        """Return a node, raising when a link names one that is not there."""
        if node_id not in self._graph:
            missing = KeyError(node_id)
            raise _InnerValidationError(f"a link leads to node {node_id!r}, which is not there") from missing
        return self._graph[node_id]

    def node_class(self, node_id: str) -> type:
        """Return a node's class."""
        return self._classes[self.node(node_id)["class_type"]]


def _breakdown(kind: str, message: str, error: _InnerValidationError) -> Problem:
    cause = error.__cause__ or error
    return _problem(
        kind,
        message,
        str(error),
        exception_message=str(error),
        exception_type=type(cause).__name__,
        traceback=traceback.format_tb(cause.__traceback__),
    )


class _NodeCheck:
    """The check of one node."""

    def __init__(self, validator: _Validator, node_id: str) -> None:
        self._validator, self._id = validator, node_id
        self._class = validator.node_class(node_id)
        self._inputs: dict[str, Any] = validator.node(node_id)["inputs"]
        self._specifications = input_specifications(self._class)
        self._validate = _ValidateInputs(self._class)
        self._valid = True
        self._received_types: dict[str, Any] = {}

    def run(self) -> bool:
        for specification in self._specifications.values():
            if specification.category != "hidden":
                self._check_input(specification)
        for name, answer in self._validate.answers(self._inputs, self._specifications, self._received_types):
            reason = "" if answer is False else f" - {answer}"
            problem = _problem(
                *("custom_validation_failed", "Custom validation failed for node", f"{name}{reason}"),
                input_name=name,
            )
            self._fail(problem)
        return self._valid

    def _fail(self, problem: Problem) -> None:
        self._valid = False
        self._validator.record(self._id, problem)

    def _check_input(self, specification: InputSpecification) -> None:
        name = specification.name
        if name not in self._inputs:
            if specification.category == "required":
                self._fail(
                    _problem("required_input_missing", "Required input is missing", name, input_name=name)
                )
        elif isinstance(self._inputs[name], list):
            self._check_link(specification, self._inputs[name])
        else:
            self._check_constant(specification)

    def _check_link(self, specification: InputSpecification, link: list[Any]) -> None:
        name = specification.name
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            self._fail(_input_problem("bad_linked_input", message, name, specification, received_value=link))
            return
        origin = str(link[0])
        received = self._received_type(origin, link[1])
        self._received_types[name] = received
        if not self._validate.checks_types and not types_match(received, specification.type):
            details = f"{name}, received_type({received}) mismatch input_type({specification.type})"
            message = "Return type mismatch between linked nodes"
            self._fail(
                _input_problem(
                    *("return_type_mismatch", message, details, specification),
                    received_type=received,
                    linked_node=link,
                )
            )
        elif not self._validator.checked_origin(self._id, origin, specification):
            self._valid = False

    def _received_type(self, origin: str, slot: int) -> Any:
        types = self._validator.node_class(origin).RETURN_TYPES
        if not 0 <= int(slot) < len(types):
            raise _InnerValidationError(
                f"a link asks for output {slot} of node {origin}, which has {len(types)} (counted from 0)"
            ) from IndexError("tuple index out of range")
        return types[int(slot)]

    def _check_constant(self, specification: InputSpecification) -> None:
        name = specification.name
        value = self._inputs[name]
        if isinstance(value, dict) and "__value__" in value:
            value = self._inputs[name] = value["__value__"]
        if specification.type in list(CONVERSIONS):
            try:
                value = self._inputs[name] = CONVERSIONS[specification.type](value)
            except (ValueError, TypeError, OverflowError) as error:
                message = f"Failed to convert an input value to a {specification.type} value"
                self._fail(
                    _input_problem(
                        *("invalid_input_type", message, f"{name}, {value}, {error}", specification),
                        received_value=value,
                        exception_message=str(error),
                    )
                )
                return
        if not self._validate.takes(name):
            problem = _range_problem(specification, value) or _choice_problem(specification, value)
            if problem is not None:
                self._fail(problem)


def _input_problem(
    kind: str, message: str, details: str, specification: InputSpecification, **extra: Any
) -> Problem:
    configuration = (specification.type, dict(specification.options))
    return _problem(
        kind, message, details, input_name=specification.name, input_config=configuration, **extra
    )


def _range_problem(specification: InputSpecification, value: Any) -> Problem | None:
    smallest, biggest = specification.options.get("min"), specification.options.get("max")
    name = specification.name
    if smallest is not None and value < smallest:
        message = f"Value {value} smaller than min of {smallest}"
        return _input_problem("value_smaller_than_min", message, name, specification, received_value=value)
    if biggest is not None and value > biggest:
        message = f"Value {value} bigger than max of {biggest}"
        return _input_problem("value_bigger_than_max", message, name, specification, received_value=value)
    return None


def _choice_problem(specification: InputSpecification, value: Any) -> Problem | None:
    choices = specification.choices
    if choices is None or value in choices:
        return None
    shown = str(choices) if len(choices) <= LONGEST_LISTED_CHOICE else f"(list of length {len(choices)})"
    details = f"{specification.name}: '{value}' not in {shown}"
    return _input_problem(
        "value_not_in_list", "Value not in list", details, specification, received_value=value
    )


def types_match(received: Any, wanted: Any) -> bool:
    """Say whether an output of type `received` fits an input of type `wanted`: equal, "*", or any overlap."""
    if received == wanted or "*" in (received, wanted):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    return bool({part.strip() for part in received.split(",")} & {part.strip() for part in wanted.split(",")})


class _ValidateInputs:
    """A node class's own VALIDATE_INPUTS, and which inputs it wants."""

    def __init__(self, node_class: type) -> None:
        self._function = getattr(node_class, "VALIDATE_INPUTS", None)
        self._wants_lists = getattr(node_class, "INPUT_IS_LIST", False)
        self._names: set[str] = set()
        self._takes_all = False
        if self._function is not None:
            parameters = inspect.signature(self._function).parameters.values()
            self._names = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
            self._takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)

    @property
    def checks_types(self) -> bool:
        """Whether it checks the types of linked inputs itself."""
        return "input_types" in self._names

    def takes(self, name: str) -> bool:
        """Say whether it checks an input itself, which then skips the built-in range and choice checks."""
        return self._takes_all or name in self._names

    def answers(
        self,
        inputs: dict[str, Any],
        specifications: dict[str, InputSpecification],
        received_types: dict[str, Any],
    ) -> list[tuple[str, Any]]:
        """Return (input name, answer) for each input it was given, if its answer is not True."""
        if self._function is None or not (self._names or self._takes_all):
            return []
        given = {
            name: None if isinstance(value, list) else value
            for name, value in inputs.items()
            if name in specifications and self.takes(name)
        }
        if self.checks_types:
            given["input_types"] = received_types
        answer = self._call({name: [value] if self._wants_lists else value for name, value in given.items()})
        return [] if answer is True else [(name, answer) for name in given]

    def _call(self, arguments: dict[str, Any]) -> Any:
        try:
            return self._function(**arguments)
        except Exception as error:
            raise _InnerValidationError(str(error)) from error
