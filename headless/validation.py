"""Checking a graph before it runs, by ComfyUI's rules and with its error types and messages."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from .graph import (
    Graph,
    InputSpecification,
    NodeClasses,
    WorkflowError,
    input_specifications,
    is_link,
    is_output_node,
    title_of,
)
from .input_rules import (
    InnerValidationError,
    OwnValidation,
    Problem,
    choice_problem,
    input_problem,
    problem_of,
    range_problem,
)
from .input_rules import types_match as types_match

CONVERSIONS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
LONGEST_SENTENCE = 1000
"""Characters of one problem in the text of an error; the report itself is not shortened."""

_Check = Generator[str, bool, bool]
"""A check that yields the id of each node that has to be checked first, is sent whether that can run, and returns
whether its own node can. Checks wait in a list, not in calls of each other, so that long chains of nodes end well."""


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


class GraphValidationError(WorkflowError):
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
            sentence = f"node {node_id} ({name}): {problem['message']}{details}"
            sentences.append(
                sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[:LONGEST_SENTENCE]} ..."
            )
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
        return Validation(error=problem_of("prompt_no_outputs", "Prompt has no outputs"))
    return _Validator(graph, node_classes).report(outputs)


def _class_problem(node_id: str, node: dict[str, Any], node_classes: NodeClasses) -> Problem | None:
    details = f"Node ID '#{node_id}'"
    if "class_type" not in node:
        message = "Cannot execute because a node is missing the class_type property."
        return problem_of("invalid_prompt", message, details)
    if str(node["class_type"]) not in node_classes:
        message = f"Cannot execute because node {node['class_type']} does not exist."
        return problem_of("missing_node_type", message, details)
    return None


class _Validator:
    """Checks nodes recursively from the outputs, each once."""

    def __init__(self, graph: Graph, node_classes: NodeClasses) -> None:
        self._graph, self._classes = graph, node_classes
        self._problems: dict[str, list[Problem]] = {}
        self._valid: dict[str, bool] = {}
        self._path: dict[str, None] = {}

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
            result.error = problem_of("prompt_outputs_failed_validation", message, "\n".join(summary))
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
        found: dict[str, None] = {}
        waiting = [output]
        while waiting:
            node_id = waiting.pop()
            if node_id in found or node_id not in self._graph:
                continue
            found[node_id] = None
            inputs = self._graph[node_id]["inputs"].values()
            waiting += [str(value[0]) for value in inputs if isinstance(value, list) and len(value) == 2]
        return list(found)

    def _checked_output(self, output: str) -> bool:
        try:
            return self._checked(output)
        except InnerValidationError as error:
            self._fail(
                output, _breakdown("exception_during_validation", "Exception when validating node", error)
            )
            return False

    def _checked(self, output: str) -> bool:
        """Check a node and what it needs; record and return whether it can run."""
        checks, problem = [self._check_of(output)], None
        answer: bool | None = None
        while checks:
            try:
                check = checks[-1]
                wanted = check.send(answer) if problem is None else check.throw(problem)
                checks.append(self._check_of(wanted))
                answer = problem = None
            except StopIteration as ended:
                checks.pop()
                answer, problem = ended.value, None
            except InnerValidationError as error:
                checks.pop()
                answer, problem = None, error
        if problem is not None:
            raise problem
        return bool(answer)

    def _check_of(self, node_id: str) -> _Check:
        if node_id not in self._valid:
            self._path[node_id] = None
            try:
                self._valid[node_id] = yield from _NodeCheck(self, node_id).run()
            finally:
                del self._path[node_id]
        return self._valid[node_id]

    def _fail(self, node_id: str, problem: Problem) -> None:
        self._problems.setdefault(node_id, []).append(problem)
        self._valid[node_id] = False

    def checked_origin(self, node_id: str, origin: str, specification: InputSpecification) -> _Check:
        """Check the node an input is linked to. Its problems are recorded with it, not with `node_id`."""
        if origin in self._path:
            path = list(self._path)
            members = " -> ".join([*path[path.index(origin) :], origin])
            details = f"{specification.name}, nodes {members}"
            problem = problem_of("dependency_cycle", "Dependency cycle detected", details)
            self._problems.setdefault(node_id, []).append(problem)
            return False
        try:
            return (yield origin)
        except InnerValidationError as error:
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
            raise InnerValidationError(f"a link leads to node {node_id!r}, which is not there") from missing
        return self._graph[node_id]

    def node_class(self, node_id: str) -> type:
        """Return a node's class."""
        return self._classes[self.node(node_id)["class_type"]]


def _breakdown(kind: str, message: str, error: InnerValidationError) -> Problem:
    cause = error.__cause__ or error
    return problem_of(
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
        self._validate = OwnValidation(self._class)
        self._valid = True
        self._received_types: dict[str, Any] = {}

    def run(self) -> _Check:
        for specification in self._specifications.values():
            if specification.category != "hidden":
                yield from self._check_input(specification)
        yield from self._check_undeclared_links()
        for name, answer in self._validate.answers(self._inputs, self._specifications, self._received_types):
            reason = "" if answer is False else f" - {answer}"
            problem = problem_of(
                *("custom_validation_failed", "Custom validation failed for node", f"{name}{reason}"),
                input_name=name,
            )
            self._fail(problem)
        return self._valid

    def _fail(self, problem: Problem) -> None:
        self._valid = False
        self._validator.record(self._id, problem)

    def _check_input(self, specification: InputSpecification) -> Generator[str, bool, None]:
        name = specification.name
        if name not in self._inputs:
            if specification.category == "required":
                self._fail(
                    problem_of("required_input_missing", "Required input is missing", name, input_name=name)
                )
        elif isinstance(self._inputs[name], list):
            yield from self._check_link(specification, self._inputs[name])
        else:
            self._check_constant(specification)
            value = self._inputs[name]
            if is_link(value) and specification.type not in list(
                CONVERSIONS
            ):  # wrapped, but taken for a link
                yield from self._check_link(specification, value)

    def _check_undeclared_links(self) -> Generator[str, bool, None]:
        """Check where links lead at inputs that the class does not declare: a run follows these all the same."""
        for name, value in self._inputs.items():
            specification = self._specifications.get(name)
            if is_link(value) and (specification is None or specification.category == "hidden"):
                self._received_type(*value)
                anything = InputSpecification(name, "*", {}, "optional")
                if not (yield from self._validator.checked_origin(self._id, value[0], anything)):
                    self._valid = False

    def _check_link(self, specification: InputSpecification, link: list[Any]) -> Generator[str, bool, None]:
        name = specification.name
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            self._fail(input_problem("bad_linked_input", message, name, specification, received_value=link))
            return
        origin = str(link[0])
        received = self._received_type(origin, link[1])
        self._received_types[name] = received
        if not self._validate.checks_types and not types_match(received, specification.type):
            details = f"{name}, received_type({received}) mismatch input_type({specification.type})"
            message = "Return type mismatch between linked nodes"
            self._fail(
                input_problem(
                    *("return_type_mismatch", message, details, specification),
                    received_type=received,
                    linked_node=link,
                )
            )
        elif not (yield from self._validator.checked_origin(self._id, origin, specification)):
            self._valid = False

    def _received_type(self, origin: str, slot: Any) -> Any:
        types = self._validator.node_class(origin).RETURN_TYPES
        if not is_link([origin, slot]):
            raise InnerValidationError(
                f"a link asks for output {slot!r} of node {origin}, expected a whole number, counted from 0"
            ) from TypeError("tuple indices must be integers or slices")
        if not 0 <= slot < len(types):
            raise InnerValidationError(
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
                    input_problem(
                        *("invalid_input_type", message, f"{name}, {value}, {error}", specification),
                        received_value=value,
                        exception_message=str(error),
                    )
                )
                return
        problem = None
        if not self._validate.takes(name):
            problem = range_problem(specification, value) or choice_problem(specification, value)
        elif not isinstance(value, str):  # a class's own check of a choice is of further names
            problem = choice_problem(specification, value)
        if problem is not None:
            self._fail(problem)
