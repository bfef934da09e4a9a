"""Edits over time as text: "0: neutral, 0.5: smile=0.8 yaw=10, 2: neutral"."""

from __future__ import annotations

import re

from .expression_editor import EditKeyframe, ExpressionEdit
from .expression_sliders import SLIDER_NAMES
from .keyframe_text import keyframe_time, ordered_keyframes

NEUTRAL = "neutral"

_KEYFRAME_HELP = (
    "write 'seconds: slider=value slider=value', one to a line or with commas between, such as "
    "'0: neutral, 0.5: smile=0.8 yaw=10'"
)


def edits_from_keyframes(text: str) -> tuple[EditKeyframe, ...]:
    """Return the edits over time that a text describes, such as "0: neutral, 0.5: smile=0.8 yaw=10".

    Key frames are separated by commas, semicolons or new lines and may come in any order, as those of emotions do.
    Each is the time in seconds, a colon, and sliders with their values; sliders that are not named are at rest, and
    "neutral" alone puts all there.
    Raises ValueError for a text without key frames, a key frame of another form, an unknown slider (the known ones
    are listed), a value that is no number or out of range, a slider named twice, or two key frames at one time.
    """
    return tuple(ordered_keyframes(text, _keyframe, _KEYFRAME_HELP, "join their sliders in one line"))


def _keyframe(text: str) -> EditKeyframe:
    time, colon, sliders = text.partition(":")
    seconds = keyframe_time(time)
    if not colon or seconds is None:
        raise ValueError(f"cannot read the key frame {text!r}: {_KEYFRAME_HELP}")
    terms = re.sub(r"\s*=\s*", "=", sliders).split()
    if terms == [NEUTRAL]:
        return seconds, ExpressionEdit()
    values: dict[str, float] = {}
    for term in terms:
        name, value = _term(term, text)
        if name in values:
            raise ValueError(f"the slider {name!r} is set twice in {text!r}: leave one out")
        values[name] = value
    if not values:
        raise ValueError(f"the key frame {text!r} sets no slider: {_KEYFRAME_HELP}")
    try:
        return seconds, ExpressionEdit(**values)
    except ValueError as error:
        raise ValueError(f"in the key frame {text!r}: {error}") from error


def _term(term: str, keyframe: str) -> tuple[str, float]:
    name, equals, value = term.partition("=")
    name = name.lower()
    if not equals:
        raise ValueError(f"cannot read {term!r} in {keyframe!r}: {_KEYFRAME_HELP}")
    if name not in SLIDER_NAMES:
        raise ValueError(f"unknown slider {name!r} in {keyframe!r}; known: {', '.join(SLIDER_NAMES)}")
    number = _number(value)
    if number is None:
        raise ValueError(f"the value {value!r} of {name!r} in {keyframe!r} is not a number")
    return name, number


def _number(text: str) -> float | None:
    """Return a finite number, None for any other text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
