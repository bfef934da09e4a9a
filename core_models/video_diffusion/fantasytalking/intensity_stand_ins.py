"""Motion intensity in models that have no trained network for it: guidance by sound, or words in the prompt.

Neither was trained for it. How much either changes is not known from the paper.
"""

from __future__ import annotations

from ...types import AudioEmbedding
from ...wan_types import AUDIO_GUIDANCE, NO_STAND_IN, PROMPT_WORDING, MotionIntensity
from .parameters import FantasyTalkingParameters
from .scene_options import FantasyTalkingOptions

LEAST_GUIDANCE, GUIDANCE_RANGE = 0.6, 0.8
"""Guidance by sound that stands in for an intensity of 0, as a share of what was chosen, and how much 1 adds to it.

Of the usual 5 they make 3 to 7, the range that the release's authors recommend.
"""

WORDING = (
    (0.3, "moving very little, calm and still"),
    (0.7, "moving naturally"),
    (1.0, "moving a lot, with large, lively gestures"),
)
"""Up to which intensity of the body which words stand in for it; the paper calls 0.1 subtle, 0.5 natural, 1 intense."""
_SLACK = 1e-6
"""Intensities are float32, in which 0.3 is 0.30000001."""


def worded_prompt(prompt: str, intensity: MotionIntensity | None, duration: float) -> str:
    """Return a prompt with words that stand in for the body's intensity, where that stand-in was chosen.

    duration: of the clip in seconds; its mean intensity counts. Nothing was trained for it: the effect is not measured.
    """
    if intensity is None or intensity.stand_in != PROMPT_WORDING:
        return prompt
    _, body = intensity.mean(duration)
    words = next(words for limit, words in WORDING if body <= limit + _SLACK)
    start = prompt.strip().rstrip(".,")
    return f"{start}, {words}." if start else f"A person talking, {words}."


def audio_guidance_factor(
    parameters: FantasyTalkingParameters,
    intensity: MotionIntensity | None,
    audio: AudioEmbedding | None,
    options: FantasyTalkingOptions,
    duration: float,
) -> float:
    """Return what the guidance by sound is multiplied by: 1, or 0.6 to 1.4 where it stands in for the face's intensity.

    Raises ValueError for an intensity in a model without a network for it when nothing stands in, or guidance by sound
    that stands in where there is none: without sound, switched off, at 0, at 1 (which stays 1: multiplied it would be
    guidance, and a pass, that nobody chose), or in no step.
    """
    if intensity is None or parameters.intensity is not None:
        return 1.0
    if intensity.stand_in == NO_STAND_IN:
        raise ValueError(
            "this model has no trained motion intensity: leave it out, or choose 'audio_guidance' or 'prompt' to stand "
            "in for it"
        )
    if intensity.stand_in != AUDIO_GUIDANCE:
        return 1.0
    lacking = _lacking_guidance(parameters, audio, options)
    if lacking is not None:
        raise ValueError(
            f"guidance by sound is to stand in for motion intensity, but {lacking}: choose 'prompt', or leave the "
            "intensity out"
        )
    face, _ = intensity.mean(duration)
    return LEAST_GUIDANCE + GUIDANCE_RANGE * face


def _lacking_guidance(
    parameters: FantasyTalkingParameters, audio: AudioEmbedding | None, options: FantasyTalkingOptions
) -> str | None:
    """Return why there is no guidance by sound that could be more or less, in words; None where there is."""
    own = parameters.defaults
    guidance = own.audio_guidance if options.audio_guidance is None else options.audio_guidance
    steps = own.steps if options.steps is None else options.steps
    if audio is None:
        return "there is no sound"
    if not options.guided_by_sound:
        return "it is switched off"
    if options.audio_scale == 0:
        return "the sound is switched off (audio_scale is 0)"
    if guidance in (0, 1):
        return f"it is switched off (audio_guidance is {guidance:g})"
    if not any(options.audio_interval.holds(step, steps) for step in range(steps)):
        return "it is switched off in all steps (audio_start and audio_end)"
    return None
