"""What can be chosen when motion is sampled, by name. Imports nothing heavy: menus are made of it."""

from __future__ import annotations

LEADING, TRAILING = "leading", "trailing"
SPACINGS = (LEADING, TRAILING)
ABSOLUTE, RELATIVE = "absolute", "relative"
MODES = (ABSOLUTE, RELATIVE)
SILENCE, REPEAT = "silence", "repeat"
AUDIO_PADDINGS = (SILENCE, REPEAT)
SOURCE, GENERATED = "source", "generated"
SCALES = (SOURCE, GENERATED)
MOST_VARIATIONS = 64
"""Clips that are asked for at once at the most."""

PARAMETERS_ENTRY = "kdtalker_parameters"
"""Entry of a safetensors file's metadata that says it is a KDTalker of our training, and holds its sizes."""

TAKIN_ADA_ENTRY = "takin_ada_parameters"
"""The same for Takin-ADA's second stage."""


def successive_seeds(seed: int, count: int) -> list[int]:
    """Return `count` seeds from `seed` on, each in 0..2**64 - 1: after the largest comes 0."""
    return [(seed + index) % 2**64 for index in range(count)]
