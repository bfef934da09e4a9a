"""What a motion intensity does in a model, in words: trained, standing in, or nothing."""

from __future__ import annotations

from ...wan_types import AUDIO_GUIDANCE, NO_STAND_IN, MotionIntensity
from .intensity_stand_ins import GUIDANCE_RANGE, LEAST_GUIDANCE, worded_prompt
from .parameters import FantasyTalkingParameters

_ANY_PROMPT = "(your prompt)"


def described_intensity(
    intensity: MotionIntensity, parameters: FantasyTalkingParameters | None = None, reads_prompts: bool = True
) -> str:
    """Return what is done with an intensity, one sentence.

    parameters: of the model; None where none is connected. reads_prompts: whether the model has a text encoder. Values
    that change are given as their mean up to the last key frame.
    """
    face, body = intensity.mean(_last_key(intensity))
    wanted = f"face {face:.2g}, body {body:.2g}"
    if parameters is None:
        return f"{wanted}: connect a model to see what acts on them."
    if parameters.intensity is not None:
        return f"{wanted}: the model's trained motion intensity network takes them; no stand-in is used."
    untrained = f"{wanted}: this model has no trained motion intensity"
    if intensity.stand_in == NO_STAND_IN:
        return f"{untrained} and no stand-in is chosen, so the sampler refuses them."
    if intensity.stand_in == AUDIO_GUIDANCE:
        factor = LEAST_GUIDANCE + GUIDANCE_RANGE * face
        return (
            f"{untrained}; guidance by sound times {factor:.2f} stands in for the face, nothing for the body."
        )
    if not reads_prompts:
        return f"{untrained} and reads no prompts, so words cannot stand in: the sampler refuses them."
    worded = worded_prompt(_ANY_PROMPT, intensity, _last_key(intensity))
    return f"{untrained}; the prompt '{worded}' stands in for the body, nothing for the face."


def _last_key(intensity: MotionIntensity) -> float:
    """Return seconds."""
    return max(float(gate.times[-1]) for gate in (intensity.face, intensity.body))
