"""Key frames written as text, "seconds: what holds there", as every node that has them reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

Content = TypeVar("Content")


def keyframe_parts(text: str) -> list[str]:
    """Return the key frames of a text, one by one: they are separated by commas, semicolons or new lines."""
    return [part for part in (part.strip() for part in re.split(r"[,;\n]", text)) if part]


def keyframe_time(text: str) -> float | None:
    """Return seconds, or None unless `text` is a finite number of at least 0."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def ordered_keyframes(
    text: str, read: Callable[[str], tuple[float, Content]], form: str, joining: str
) -> list[tuple[float, Content]]:
    """Return every key frame that `read` makes of the text's parts, in order of time.

    form: how key frames are written, and joining: how two at one time become one; both for the errors.
    Raises ValueError for a text without key frames or two key frames at one time, and what `read` raises.
    """
    keyframes = sorted((read(part) for part in keyframe_parts(text)), key=lambda keyframe: keyframe[0])
    if not keyframes:
        raise ValueError(f"there are no key frames in {text!r}: {form}")
    for (time, _), (following, _) in pairwise(keyframes):
        if time == following:
            raise ValueError(f"two key frames at {time:g} s: leave one out, or {joining}")
    return keyframes
