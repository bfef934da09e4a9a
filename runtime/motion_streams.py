"""Motion streams by name: what `talking-portrait live --model` can choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..core_models.types import POCKET, Emotion
from .weights import find_weight

if TYPE_CHECKING:
    from ..core_models.keypoint_diffusion.motion_stream import MotionStream


def _pocket(emotion: Emotion | None, seed: int, look_ahead: int | None) -> MotionStream:
    from ..core_models.keypoint_diffusion.loading import load_pocket
    from ..core_models.keypoint_diffusion.motion_stream import PocketStream, PocketStreamParameters
    from ..core_models.keypoint_diffusion.sampler import SamplingParameters

    chosen = {} if look_ahead is None else {"look_ahead": look_ahead}
    parameters = PocketStreamParameters(SamplingParameters(seed=seed), **chosen)
    return PocketStream(load_pocket(find_weight(POCKET)), emotion, parameters)


def _takin_ada(path: Path, emotion: Emotion | None, seed: int, look_ahead: int | None) -> MotionStream:
    from ..core_models.keypoint_diffusion.takin_ada_loading import load_takin_ada
    from ..core_models.keypoint_diffusion.takin_ada_motion_stream import face_stream
    from ..core_models.keypoint_diffusion.takin_ada_performance import TakinADAOptions

    if look_ahead is not None:
        raise ValueError(
            f"--look-ahead is {look_ahead}, but how far a Takin-ADA model hears ahead is part of its training: leave "
            "it out"
        )
    return face_stream(load_takin_ada(path), emotion, TakinADAOptions.of({"seed": seed, "steps": LIVE_STEPS}))


LIVE_STEPS = 10
"""Denoising steps of Takin-ADA in a stream."""
STREAM_MAKERS: dict[str, Callable[[Emotion | None, int, int | None], MotionStream]] = {POCKET: _pocket}
"""Name -> what begins a stream of that model. Another model is one entry more."""


def motion_stream(
    name: str = POCKET, emotion: Emotion | None = None, seed: int = 0, look_ahead: int | None = None
) -> MotionStream:
    """Return a new stream of the model of that name, or of a Takin-ADA model over blendshapes in a .safetensors file.

    look_ahead: frames of sound it waits for after a block; None is the model's own choice.
    Raises ValueError for an unknown name or a look-ahead the model cannot have, OSError for missing weights.
    """
    if name.endswith(".safetensors"):
        return _takin_ada(Path(name), emotion, seed, look_ahead)
    if name not in STREAM_MAKERS:
        raise ValueError(
            f"there is no live model {name!r}; known: {', '.join(STREAM_MAKERS)}, or the .safetensors file of a "
            "Takin-ADA model"
        )
    return STREAM_MAKERS[name](emotion, seed, look_ahead)
