"""Guidance by prompt and by sound: up to three streams a step, as in the released loop.

v = v(negative) + s_p (v(prompt) - v(negative)) + s_a (v(prompt, sound) - v(prompt)) is a weighted sum of the streams,
so those of weight zero are not computed, and streams that are equal are computed once. At equal scales, such as the
release's 5 and 5, the stream in the middle weighs nothing: two streams give what three do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, order=True)
class Stream:
    """What one evaluation of the network is given: the prompt or the negative prompt, with sound or without."""

    prompted: bool
    hears: bool

    @property
    def name(self) -> str:
        """A name that no other stream has."""
        return f"{'prompt' if self.prompted else 'negative'}{'_sound' if self.hears else ''}"


@dataclass(frozen=True)
class GuidanceScales:
    """How far the result is pushed away from the negative prompt, and towards the sound; the release's are 5 and 5.

    prompt: 1 leaves the negative prompt out. audio: 1 leaves the stream without sound out; None is no guidance by
    sound at all: it is heard in both streams of the prompt's guidance.
    Raises ValueError for numbers that are not finite.
    """

    prompt: float = 5.0
    audio: float | None = 5.0

    def __post_init__(self) -> None:
        for name in ("prompt", "audio"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"the {name} guidance is {value}, expected a finite number")


@dataclass(frozen=True)
class Interval:
    """The part of a loop in which something is done, as shares of its steps, 0..1.

    Raises ValueError unless 0 <= start <= end <= 1.
    """

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"guidance from {self.start} to {self.end} of the steps: expected 0 <= start <= end <= 1"
            )

    def holds(self, step: int, steps: int) -> bool:
        """Whether a step, counted from 0, lies within: of 10 steps, 0.2 to 0.7 are steps 2 to 6."""
        # A share such as 0.7 of 10 steps must not miss step 7 by rounding.
        return self.start <= step / steps + _SLACK and step / steps + _SLACK < self.end


_SLACK = 1e-9


@dataclass(frozen=True)
class GuidanceSchedule:
    """The scales of each step: within its interval each is as chosen, outside of it there is no such guidance.

    Outside of its interval the prompt's scale is 1 and the sound's None, so each saves a pass, at the price of a weaker
    effect: an approximation. The release's authors ask for at least 0.7 of the steps for the sound.
    """

    scales: GuidanceScales = field(default_factory=GuidanceScales)
    prompt: Interval = field(default_factory=Interval)
    audio: Interval = field(default_factory=Interval)

    def at(self, step: int, steps: int) -> GuidanceScales:
        """Return the scales of a step, counted from 0."""
        prompt, audio = self.scales.prompt, self.scales.audio
        return GuidanceScales(
            prompt if self.prompt.holds(step, steps) else 1.0,
            audio if self.audio.holds(step, steps) else None,
        )


def stream_weights(
    scales: GuidanceScales, reads_prompt: bool = True, hears: bool = True
) -> dict[Stream, float]:
    """Return {stream: weight} of the streams that need computing; the weights add up to 1.

    reads_prompt: whether the negative prompt differs from the prompt to the model. hears: whether there is sound. Where
    one makes no difference, one stream stands for both.
    """
    summed: dict[Stream, float] = {}
    for stream, weight in _terms(scales).items():
        standing = Stream(stream.prompted or not reads_prompt, stream.hears and hears)
        summed[standing] = summed.get(standing, 0.0) + weight
    return {stream: weight for stream, weight in sorted(summed.items()) if weight != 0.0}


def _terms(scales: GuidanceScales) -> dict[Stream, float]:
    """Return the weight of each stream of the formula."""
    if scales.audio is None:
        return {Stream(False, True): 1 - scales.prompt, Stream(True, True): scales.prompt}
    return {
        Stream(False, False): 1 - scales.prompt,
        Stream(True, False): scales.prompt - scales.audio,
        Stream(True, True): scales.audio,
    }


def combined(weights: Mapping[Stream, float], velocities: Mapping[Stream, Tensor]) -> Tensor:
    """Return the guided velocity, float32: the weighted sum of the streams' velocities, all of one shape.

    Raises ValueError when a stream that has a weight was not computed.
    """
    missing = [stream.name for stream in weights if stream not in velocities]
    if missing or not weights:
        raise ValueError(
            f"no velocity of the streams {', '.join(missing)}" if missing else "there are no streams"
        )
    return sum(weight * velocities[stream].float() for stream, weight in weights.items())
