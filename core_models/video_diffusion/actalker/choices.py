"""What a user chooses of a clip, where 0 or -1 stands for the model's own."""

from __future__ import annotations

from .model import ACTalkerParameters, ClipDefaults
from .performance import ACTalkerOptions

OWN = 0
"""Of counts, sizes and weights: the model's own."""
OWN_OR_NOT = -1
"""Of what 0 says something for, the shift and how much head and expression move: the model's own."""


def chosen_options(
    parameters: ACTalkerParameters,
    *,
    steps: int = OWN,
    window: int = OWN,
    overlap: int = 0,
    shift: int = OWN_OR_NOT,
    identity_guidance: float = OWN,
    head_motion: float = OWN_OR_NOT,
    expression_motion: float = OWN_OR_NOT,
    strength: float = 1.0,
    frames: int = OWN,
    seed: int = 0,
    streams_at_once: int = 4,
) -> ACTalkerOptions:
    """Return the options that widgets say. Raises ValueError for a bucket below 0 other than -1."""
    return ACTalkerOptions(
        steps=steps or None,
        window=window or None,
        overlap=overlap,
        shift=None if shift == OWN_OR_NOT else shift,
        identity_guidance=identity_guidance or None,
        motion_buckets=chosen_buckets(parameters.defaults, head_motion, expression_motion),
        strength=strength,
        frames=frames or None,
        seed=seed,
        streams_at_once=streams_at_once,
    )


def chosen_buckets(defaults: ClipDefaults, head: float, expression: float) -> tuple[float, float]:
    """Return how much head and expression are told to move, each the model's own where it is -1."""
    wanted = []
    for name, value, own in zip(
        ("head", "expression"), (head, expression), defaults.motion_buckets, strict=True
    ):
        if value < 0 and value != OWN_OR_NOT:
            raise ValueError(f"{name}_motion is {value:g}, expected 0 or more, or -1 for the model's own")
        wanted.append(own if value == OWN_OR_NOT else float(value))
    return wanted[0], wanted[1]


def picture_multiple(parameters: ACTalkerParameters, reduction: int) -> int:
    """Return what both sides of a picture must be multiples of: what the UNet halves, times the autoencoder's."""
    return reduction * 2 ** (len(parameters.unet.channels) - 1)
