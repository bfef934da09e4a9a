"""Rules for single inputs of a node, as ComfyUI has them: ranges, choices, types, and the node's own check."""

from __future__ import annotations

import inspect
from typing import Any

from .graph import InputSpecification

Problem = dict[str, Any]
"""One problem as ComfyUI reports it: type, message, details, extra_info."""

LONGEST_LISTED_CHOICE = 20


def problem_of(kind: str, message: str, details: str = "", **extra: Any) -> Problem:
    """Return one problem in ComfyUI's form."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


class InnerValidationError(Exception):
    """Checking a node broke down; `__cause__` is what it raised."""


def input_problem(
    kind: str, message: str, details: str, specification: InputSpecification, **extra: Any
) -> Problem:
    """Return one problem of an input in ComfyUI's form, with how the input is declared."""
    configuration = (specification.type, dict(specification.options))
    return problem_of(
        kind, message, details, input_name=specification.name, input_config=configuration, **extra
    )


def range_problem(specification: InputSpecification, value: Any) -> Problem | None:
    """Return what is wrong with a number that is outside of the range its input declares; None for nothing."""
    if not isinstance(value, int | float):
        return None
    smallest, biggest = specification.options.get("min"), specification.options.get("max")
    name = specification.name
    if smallest is not None and value < smallest:
        message = f"Value {value} smaller than min of {smallest}"
        return input_problem("value_smaller_than_min", message, name, specification, received_value=value)
    if biggest is not None and value > biggest:
        message = f"Value {value} bigger than max of {biggest}"
        return input_problem("value_bigger_than_max", message, name, specification, received_value=value)
    return None


def choice_problem(specification: InputSpecification, value: Any) -> Problem | None:
    """Return what is wrong with a value that is not one of those to choose from; None for nothing."""
    choices = specification.choices
    if choices is None or value in choices:
        return None
    shown = str(choices) if len(choices) <= LONGEST_LISTED_CHOICE else f"(list of length {len(choices)})"
    details = f"{specification.name}: '{value}' not in {shown}"
    return input_problem(
        "value_not_in_list", "Value not in list", details, specification, received_value=value
    )


def types_match(received: Any, wanted: Any) -> bool:
    """Say whether an output of type `received` fits an input of type `wanted`: equal, "*", or any overlap."""
    if received == wanted or "*" in (received, wanted):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    return bool({part.strip() for part in received.split(",")} & {part.strip() for part in wanted.split(",")})


class OwnValidation:
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
            raise InnerValidationError(str(error)) from error
