"""Widget values of the page: which value belongs to which input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .graph import InputSpecification, is_link

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN")
SEED_NAMES = ("seed", "noise_seed")
UPLOAD_OPTIONS = ("image_upload", "audio_upload", "video_upload")

EMPTY_VALUES = {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False}


def is_widget(specification: InputSpecification) -> bool:
    """Say whether the page shows a widget for an input; others are sockets only."""
    shown = specification.type in WIDGET_TYPES or specification.choices is not None
    return shown and specification.category != "hidden" and not specification.options.get("forceInput")


def widget_slots(declared: Mapping[str, InputSpecification], value_count: int = 0) -> list[str | None]:
    """Return the input that each place of `widgets_values` belongs to; None for a widget that is not sent.

    Not sent are the control beside a seed, and the upload button, which comes after all required widgets (seen
    with frontend 1.27.10). An audio upload has a player too, which newer files leave out: the number of values
    in the file tells.
    """
    required: list[str | None] = []
    optional: list[str | None] = []
    for specification in declared.values():
        if is_widget(specification):
            slots = required if specification.category == "required" else optional
            slots += [specification.name, *([None] if _is_controlled(specification) else [])]
    options = [s.options for s in declared.values() if s.category == "required" and is_widget(s)]
    uploads = int(any(option.get(name) for option in options for name in UPLOAD_OPTIONS))
    if any(option.get("audio_upload") for option in options):
        uploads += int(value_count > len(required) + len(optional) + 1)
    return [*required, *[None] * uploads, *optional]


def _is_controlled(specification: InputSpecification) -> bool:
    """Say whether a "fixed, increment, randomize" widget follows."""
    named_seed = specification.type == "INT" and specification.name in SEED_NAMES
    return bool(specification.options.get("control_after_generate", named_seed))


def widget_inputs(values: Any, declared: Mapping[str, InputSpecification]) -> dict[str, Any]:
    """Return {input name: value} for every widget of a node; defaults where the file has no value.

    values: the node's `widgets_values`; anything but a list counts as empty, as on the page.
    """
    values = _without_forced(values if isinstance(values, list) else [], declared)
    inputs = {}
    for index, name in enumerate(widget_slots(declared, len(values))):
        if name is not None:
            value = values[index] if index < len(values) else default_value(declared[name])
            inputs[name] = wrapped_value(value)
    return inputs


def wrapped_value(value: Any) -> Any:
    """Return a widget's value as API form has it: a list is wrapped, since a plain one would be a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _without_forced(values: Sequence[Any], declared: Mapping[str, InputSpecification]) -> Sequence[Any]:
    """Drop the values that old files hold for inputs that have since become sockets; told by their count."""
    forced = {name for name, s in declared.items() if s.options.get("forceInput")}
    unforced = {name: replace(s, options={**s.options, "forceInput": False}) for name, s in declared.items()}
    slots = widget_slots(unforced, len(values))
    if not forced or len(slots) != len(values):
        return values
    return [value for value, name in zip(values, slots, strict=True) if name not in forced]


def widget_values(inputs: Mapping[str, Any], declared: Mapping[str, InputSpecification]) -> list[Any]:
    """Return a node's `widgets_values` for its inputs in API form; linked widgets have their default."""
    values: list[Any] = []
    previous: str | None = None
    for name in widget_slots(declared):
        if name is None:
            values.append(
                "fixed" if previous and _is_controlled(declared[previous]) else _upload_text(declared)
            )
        else:
            value = inputs.get(name)
            linked = value is None or is_link(value)
            value = default_value(declared[name]) if linked else value
            values.append(value["__value__"] if isinstance(value, dict) and "__value__" in value else value)
        previous = name
    return values


def _upload_text(declared: Mapping[str, InputSpecification]) -> str:
    """Return what the page stores for the upload button."""
    return "" if any(s.options.get("audio_upload") for s in declared.values()) else "image"


def default_value(specification: InputSpecification) -> Any:
    """Return the value a new node has for a widget."""
    if "default" in specification.options:
        return specification.options["default"]
    choices = specification.choices
    if choices is not None:
        return choices[0] if choices else ""
    return EMPTY_VALUES[specification.type]
