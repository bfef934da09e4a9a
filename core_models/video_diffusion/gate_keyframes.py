"""Gates and intensities written as text: over time, and several settings one after the other."""

from __future__ import annotations

import numpy as np

from ..motion.keyframe_text import keyframe_time, ordered_keyframes
from ..video_types import Gate

_KEYFRAME_HELP = "write 'seconds: gate' with commas between, such as '0: 1, 2.5: 0'"
_LINE_HELP = "write the audio gate and the motion gate of each clip on a line of its own, such as '1 0.5'"
_INTENSITY_HELP = (
    "write each clip's intensity on a line of its own, such as '0.5', or of face and body, as '0.8 0.3'"
)


def gate_from_keyframes(text: str) -> Gate:
    """Return the gate that a text describes, such as "0: 1, 2.5: 0": seconds, a colon, and 0..1.

    Key frames are separated by commas, semicolons or new lines and may come in any order; between them the gate goes
    evenly, outside it is held. Raises ValueError for no key frame, one of another form, a gate outside 0..1, or two at
    one time.
    """
    keyframes = ordered_keyframes(text, _keyframe, _KEYFRAME_HELP, "give it one gate")
    times, values = zip(*keyframes, strict=True)
    return Gate(np.array(values), np.array(times))


def _keyframe(text: str) -> tuple[float, float]:
    time, colon, gate = text.partition(":")
    seconds = keyframe_time(time)
    if not colon or seconds is None:
        raise ValueError(f"cannot read the key frame {text!r}: {_KEYFRAME_HELP}")
    return seconds, _gate(gate, text, _KEYFRAME_HELP)


def _gate(text: str, where: str, advice: str) -> float:
    return _number(text, "gate", where, advice)


def _number(text: str, what: str, where: str, advice: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"the {what} {text.strip()!r} in {where!r} is not a number: {advice}") from error
    if not 0 <= value <= 1:
        raise ValueError(f"the {what} in {where!r} is {value:g}, expected 0 to 1")
    return value


def chosen_gate(constant: float, keyframes: str = "") -> Gate:
    """Return the gate over time where a text gives one, else the constant. Raises ValueError as above."""
    return gate_from_keyframes(keyframes) if keyframes.strip() else Gate.constant(constant)


def gates_of_lines(text: str) -> tuple[list[float], list[float], list[str]]:
    """Return the audio gates, the motion gates and a label of each line of a text, such as "1 0.5".

    Empty lines are left out; the two may have a comma between. Raises ValueError for a text without lines, a line of
    other than two numbers, or a gate outside 0..1.
    """
    pairs = [_pair(line) for line in _lines(text, "gates", _LINE_HELP)]
    audio, motion = (list(column) for column in zip(*pairs, strict=True))
    return audio, motion, [f"audio {heard:g}, motion {moved:g}" for heard, moved in pairs]


def intensities_of_lines(text: str) -> tuple[list[tuple[float, float]], list[str]]:
    """Return the intensities (face, body) and a label of each line of a text, such as "0.8 0.3", or "0.5" for both.

    Empty lines are left out; the two may have a comma between. Raises ValueError for a text without lines, a line of
    other than one or two numbers, or one outside 0..1.
    """
    pairs = [_intensities(line) for line in _lines(text, "intensities", _INTENSITY_HELP)]
    return pairs, [_label(face, body) for face, body in pairs]


def _lines(text: str, what: str, advice: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"there are no {what}: {advice}")
    return lines


def _pair(line: str) -> tuple[float, float]:
    words = line.replace(",", " ").split()
    if len(words) != 2:
        raise ValueError(f"cannot read the gates {line!r}: {_LINE_HELP}")
    return _gate(words[0], line, _LINE_HELP), _gate(words[1], line, _LINE_HELP)


def _intensities(line: str) -> tuple[float, float]:
    words = line.replace(",", " ").split()
    if len(words) not in (1, 2):
        raise ValueError(f"cannot read the intensities {line!r}: {_INTENSITY_HELP}")
    values = [_number(word, "intensity", line, _INTENSITY_HELP) for word in words]
    return values[0], values[-1]


def _label(face: float, body: float) -> str:
    return f"intensity {face:g}" if face == body else f"face {face:g}, body {body:g}"
