"""Sounds of the user's own files, and the demo's files."""

from __future__ import annotations

import math
import os

from ..core_models.audio.decode import Sound, decode_sound
from ..runtime.input_files import DEMO_DRIVING_FILE, DEMO_SPEECH_FILE

DEMO_SPEECH = DEMO_SPEECH_FILE
"""Path of seven seconds of speech that come with this package."""
DEMO_DRIVING_VIDEO = DEMO_DRIVING_FILE
"""Path of a film of a moving face that comes with this package."""


def load_sound(path: str | os.PathLike[str], *, start: float = 0.0, duration: float | None = None) -> Sound:
    """Return the sound of an audio or video file as it is: its own rate and channels.

    start: seconds left out at the beginning. duration: seconds taken, None for all the rest.
    Raises as `decode_sound`, and ValueError for a negative start, a duration that is not positive, or a part that is
    empty.
    """
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start is {start} s, expected 0 or more")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"the duration is {duration} s, expected more than 0")
    sound = decode_sound(path)
    first = round(start * sound.sample_rate)
    last = None if duration is None else first + max(1, round(duration * sound.sample_rate))
    if first >= sound.sample_count:
        raise ValueError(f"{path} has no sound after {start:g} s; it lasts {sound.duration:.2f} s")
    return Sound(sound.waveform[:, first:last], sound.sample_rate)
