"""What a user chooses of a clip, where 0 or -1 stands for the model's own."""

from __future__ import annotations

from .conditions import IDENTITY_SCALE
from .guidance import Interval
from .scene_options import EXACT, PER_FRAME, RELEASE_SEED, FantasyTalkingOptions

OWN = 0
"""Of counts and sizes: the model's own."""
OWN_OR_NOT = -1
"""Of what 0 says something for, guidance and overlap: the model's own."""


def chosen_options(
    *,
    steps: int = OWN,
    shift: float = OWN,
    prompt_guidance: float = OWN_OR_NOT,
    prompt_start: float = 0.0,
    prompt_end: float = 1.0,
    audio_guidance: float = OWN_OR_NOT,
    audio_start: float = 0.0,
    audio_end: float = 1.0,
    guided_by_sound: bool = True,
    audio_scale: float = 1.0,
    identity_scale: float = IDENTITY_SCALE,
    timing: str = EXACT,
    hearing: str = PER_FRAME,
    masked_audio: bool = True,
    frames: int = OWN,
    window: int = OWN,
    overlap: int = OWN_OR_NOT,
    seed: int = RELEASE_SEED,
    first_block_cache: float = 0.0,
    keys_kept: bool = False,
) -> FantasyTalkingOptions:
    """Return the options that widgets say; `first_block_cache` of 0 is none.

    Raises ValueError for a guidance or overlap below 0 other than -1, intervals that end before they start, or an
    unknown timing or hearing.
    """
    return FantasyTalkingOptions(
        steps=steps or None,
        shift=shift or None,
        prompt_guidance=_own_or("prompt_guidance", prompt_guidance),
        audio_guidance=_own_or("audio_guidance", audio_guidance),
        guided_by_sound=guided_by_sound,
        audio_scale=audio_scale,
        identity_scale=identity_scale,
        timing=timing,
        hearing=hearing,
        masked_audio=masked_audio,
        frames=frames or None,
        window=window or None,
        overlap=_own_or("overlap", overlap),
        seed=seed,
        prompt_interval=Interval(prompt_start, prompt_end),
        audio_interval=Interval(audio_start, audio_end),
        first_block_cache=first_block_cache or None,
        keys_kept=keys_kept,
    )


def _own_or(name: str, value: float) -> float | None:
    if value < 0 and value != OWN_OR_NOT:
        raise ValueError(f"{name} is {value:g}, expected 0 or more, or -1 for the model's own")
    return None if value == OWN_OR_NOT else value
