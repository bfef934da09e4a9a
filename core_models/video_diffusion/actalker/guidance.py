"""Four-stream guidance: nothing, the person, the person with sound, the person with sound and motion.

v = v0 + g1 (v1 - v0) + g2 (v2 - v1) + g3 (v3 - v2) is a weighted sum of the streams, so those of weight zero are not
computed, and streams that are equal are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

STREAMS = 4
"""0: no identity, no portrait; 1: both of these; 2: sound too; 3: motion too."""


@dataclass(frozen=True)
class GuidanceScales:
    """How far the result is pushed along each difference of streams; 1, 1, 1 is the last stream alone.

    The defaults are the released model's.
    """

    identity: float = 2.0
    audio: float = 7.5
    motion: float = 3.0


def stream_weights(scales: GuidanceScales, hears: bool = True, moves: bool = True) -> dict[int, float]:
    """Return {stream: weight} of the streams that need computing; the weights add up to 1.

    hears, moves: whether sound and motion change anything; where one does not, the stream that adds it equals the one
    before, which then stands for both.
    """
    g1, g2, g3 = scales.identity, scales.audio, scales.motion
    weights = [1 - g1, g1 - g2, g2 - g3, g3]
    standing = {0: 0, 1: 1}
    standing[2] = 2 if hears else 1
    standing[3] = 3 if moves else standing[2]
    summed: dict[int, float] = {}
    for stream, weight in enumerate(weights):
        summed[standing[stream]] = summed.get(standing[stream], 0.0) + weight
    return {stream: weight for stream, weight in summed.items() if weight != 0.0}


def ramp(start: float, end: float, steps: int, step: int) -> float:
    """Return a scale that goes evenly from `start` at step 0 to `end` at the last step."""
    return start if steps == 1 else start + (end - start) * step / (steps - 1)
