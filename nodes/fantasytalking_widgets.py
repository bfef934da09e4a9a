"""Widgets that FantasyTalking's nodes share, those for its own Wan and those for ComfyUI's."""

from __future__ import annotations

from typing import Any

CATEGORY = "TalkingPortrait/FantasyTalking"

Widget = tuple[Any, dict[str, Any]]
"""A type, or a list of choices, and its options, as ComfyUI takes them."""


def number(tooltip: str, default: float, largest: float, smallest: float = 0.0, step: float = 0.05) -> Widget:
    """Return a widget for a number."""
    options = {"default": default, "min": smallest, "max": largest, "step": step, "tooltip": tooltip}
    return "FLOAT", options


def choice(choices: tuple[str, ...], tooltip: str) -> Widget:
    """Return a widget for one of several; the first is the default."""
    return list(choices), {"default": choices[0], "tooltip": tooltip}


def switch(tooltip: str, default: bool) -> Widget:
    """Return a widget for on or off."""
    return "BOOLEAN", {"default": default, "tooltip": tooltip}


def guidance_input(name: str, own: bool) -> Widget:
    """Return the widget of prompt_guidance or audio_guidance. own: whether -1 stands for the model's own."""
    released = "-1 is the model's own; the release's is 5" if own else "The release's is 5"
    tooltip = {
        "prompt_guidance": "How far the result is pushed from the negative prompt to the prompt; 1 is not at all and "
        f"saves a pass. {released}.",
        "audio_guidance": "How far the result is pushed towards the sound; 1 is not at all. "
        f"{released}, 3 to 7 is recommended.",
    }[name]
    return number(tooltip, *((-1.0, 30.0, -1.0) if own else (5.0, 30.0, 0.0)), step=0.1)


def interval_inputs(by: str) -> dict[str, Widget]:
    """Return the widgets of the part of the steps with guidance. by: "prompt" or "audio"."""
    name, end = {
        "prompt": ("prompt", "Less than 1 is faster and approximate."),
        "audio": ("sound", "Below 0.7 the lips no longer follow; less than 1 is approximate."),
    }[by]
    text = f"Guidance by {name} {{}} after this part of the steps, as a share of them. {{}}"
    return {
        f"{by}_start": number(text.format("begins", "0 from the first."), 0.0, 1.0),
        f"{by}_end": number(text.format("ends", end), 1.0, 1.0),
    }


AUDIO_SCALE_INPUT = number("How strongly sound acts in the network; 0 is no sound, 1 as trained.", 1.0, 10.0)
MASKED_AUDIO_INPUT = switch(
    "Leave places without sound out of the attention. Off: as the release does without flash attention.", True
)
GUIDED_BY_SOUND_INPUT = switch(
    "Off: no guidance by sound, but sound in every pass; audio_guidance is not used.", True
)
DOWNLOAD_ADAPTER_INPUT = switch(
    "Fetch the published audio weights when they are missing; 1.7 GB or more.", False
)


def adapter_input(automatic: str) -> Widget:
    """Return the widget for a file of FantasyTalking's weights. automatic: what that takes, a sentence's end."""
    from ..runtime.fantasytalking_adapter_files import adapter_choices

    return choice(tuple(adapter_choices()), f"automatic: {automatic}. All forms hold the same weights.")
