"""Gates of the face's regions over time: read from a text, and many tracks mixed by them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..audio.frame_clock import exact_rate
from ..types import FaceMotion
from .keyframe_text import keyframe_parts, keyframe_time
from .region_names import expect_known_regions
from .regions import mix_motion

_HELP = (
    "write 'seconds: region gate' with commas between, such as '0: lips 1 + jaw 1, 2.5: lips 0 + jaw 0', or only "
    "'lips 1 + jaw 1' for the whole length"
)

GateKeys = Mapping[str, tuple[tuple[float, float], ...]]
"""Region -> its keys as (seconds, gate), in order of time."""


def gates_from_text(text: str) -> GateKeys:
    """Return the gates that a text describes, such as "0: lips 1 + jaw 1, 2.5: lips 0".

    Key frames are separated by commas, semicolons or new lines and may come in any order; each is the time in
    seconds, a colon, and regions with their gates of 0..1, joined by "+". Without a time a gate holds throughout.
    A region passes smoothly between the keys that name it; regions that are not named keep the gates they have.
    Raises ValueError for a key of another form, keys with a time beside some without, an unknown region, a gate
    outside 0..1, or two for one time.
    """
    keys: dict[str, list[tuple[float, float]]] = {}
    parts = keyframe_parts(text)
    if len({":" in part for part in parts}) > 1:
        raise ValueError(f"some gates in {text!r} have a time and others none: {_HELP}")
    for part in parts:
        seconds, terms = _key(part)
        for term in _terms(terms):
            region, gate = _term(term, part)
            if any(time == seconds for time, _ in keys.get(region, [])):
                raise ValueError(f"two gates of {region!r} at {seconds:g} s in {text!r}: leave one out")
            keys.setdefault(region, []).append((seconds, gate))
    return {region: tuple(sorted(values)) for region, values in keys.items()}


def _key(text: str) -> tuple[float, str]:
    time, colon, terms = text.partition(":")
    if not colon:
        return 0.0, text
    seconds = keyframe_time(time)
    if seconds is None:
        raise ValueError(f"cannot read the time of the key frame {text!r}: {_HELP}")
    return seconds, terms


def _terms(text: str) -> list[str]:
    """Return the terms of a key: "lips 1 + jaw 1" and "lips=1 jaw=1" mean the same."""
    equal = re.sub(r"\s*=\s*", "=", text)
    return [term for part in equal.split("+") for term in (part.split() if "=" in part else [part])]


def _term(term: str, key: str) -> tuple[str, float]:
    words = term.replace("=", " ").split()
    if len(words) not in (1, 2):
        raise ValueError(f"cannot read the gate {term.strip()!r} in {key!r}: {_HELP}")
    region = words[0].lower()
    expect_known_regions([region])
    try:
        gate = float(words[1]) if len(words) == 2 else 1.0
    except ValueError as error:
        raise ValueError(f"the gate {words[1]!r} in {key!r} is not a number") from error
    if not 0 <= gate <= 1:
        raise ValueError(f"the gate of {region!r} in {key!r} is {gate:g}, expected 0 to 1")
    return region, gate


def gates_over_frames(keys: GateKeys, frames: int, fps: float) -> dict[str, np.ndarray]:
    """Return {region: (frames,) gates}, read in the middle of each frame; between keys along half a cosine."""
    times = np.array([float((index + 0.5) / exact_rate(fps)) for index in range(frames)])
    return {region: _eased(times, values) for region, values in keys.items()}


def _eased(times: np.ndarray, keys: tuple[tuple[float, float], ...]) -> np.ndarray:
    starts, gates = np.array(keys).T
    position = np.interp(times, starts, np.arange(len(starts)))
    lower = np.minimum(position.astype(int), len(starts) - 1)
    share = (1 - np.cos(np.pi * (position - lower))) / 2
    upper = np.minimum(lower + 1, len(starts) - 1)
    return gates[lower] + share * (gates[upper] - gates[lower])


def mix_motions(
    base: FaceMotion,
    others: Sequence[FaceMotion],
    gates: Sequence[Mapping[str, float]],
    keys: Sequence[GateKeys] = (),
) -> FaceMotion:
    """Return `base` with each of `others` mixed over it in turn, by its own gates: the last one lies on top.

    gates: one {region: 0..1} for each of `others`. keys: their gates over time, in place of the constant ones.
    Raises as `mix_motion`, and ValueError when there are not as many gates as tracks.
    """
    if len(gates) != len(others):
        raise ValueError(f"{len(others)} motions to mix in, but gates for {len(gates)}: give each its own")
    over_time = [*keys, *[{} for _ in range(len(others) - len(keys))]]
    mixed = base
    for other, constant, moving in zip(others, gates, over_time, strict=True):
        timed = gates_over_frames(moving, base.frame_count, base.fps)
        mixed = mix_motion(mixed, other, {**constant, **timed})
    return mixed
