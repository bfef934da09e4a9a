"""Motion streams by name: what `talking-portrait live --model` can choose."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..core_models.audio.listening_windows import ListeningWindows
from ..core_models.types import BLENDSHAPES, POCKET, Emotion
from .speech_encoders import HUBERT_BASE, HUBERT_LARGE, hubert_handle, hubert_network, hubert_rows
from .weight_files import found_files
from .weights import find_weight

if TYPE_CHECKING:
    from ..core_models.keypoint_diffusion.motion_stream import MotionStream
    from ..core_models.keypoint_diffusion.takin_ada import TakinADAModel
    from ..core_models.keypoint_diffusion.takin_ada_motion_stream import HubertEar

LIVE_STEPS = 10
"""Denoising steps of Takin-ADA in a stream."""
HUBERT_WINDOWS = ListeningWindows(block_steps=10, behind_steps=200, ahead_steps=10)
"""HuBERT in a stream: 0.2 s at a time, with 4 s before and 0.2 s after."""
HUBERT_OF_SIZES = {(25, 1024): HUBERT_LARGE, (13, 768): HUBERT_BASE}
"""(Hidden states, their width) -> the HuBERT that makes them."""
_ADVICE = f"To go on without them, choose --model {POCKET}"


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
    model = load_takin_ada(path)
    _require_live(model, path)
    ear = _hubert_ear(model, path) if model.parameters_used.listener is None else None
    return face_stream(model, emotion, TakinADAOptions.of({"seed": seed, "steps": LIVE_STEPS}), ear)


def _require_live(model: TakinADAModel, path: Path) -> None:
    """Raise ValueError, with what to do, for a model that live cannot draw or that cannot stream."""
    p = model.parameters_used
    if p.layout.space != BLENDSHAPES:
        raise ValueError(
            f"--model {path} makes implicit keypoints, but live draws with the mesh renderer, which takes blendshapes: "
            "train one with 'talking-portrait train takin-ada speech --made', or use this one in a workflow"
        )
    try:
        p.require_streamable()
    except ValueError as error:
        raise ValueError(
            f"--model {path} needs whole clips and cannot be live: train one with 'talking-portrait train takin-ada "
            "speech --streaming'; --made does so by itself"
        ) from error


def _hubert_ear(model: TakinADAModel, path: Path) -> HubertEar:
    """Return HuBERT as the ear of a model; the network stays in the cache as long as the ear lives."""
    from ..core_models.audio.hubert import window_encoder
    from ..core_models.audio.listening_windows import FeatureStream
    from ..core_models.keypoint_diffusion.takin_ada_motion_stream import HubertEar

    sizes = model.parameters_used.layers, model.parameters_used.speech_width
    if sizes not in HUBERT_OF_SIZES:
        raise ValueError(
            f"--model {path} hears {sizes[0]} hidden states of width {sizes[1]}, which no HuBERT known here makes: "
            f"{' and '.join(f'{name} makes {states} of {width}' for (states, width), name in HUBERT_OF_SIZES.items())}"
        )
    system = HUBERT_OF_SIZES[sizes]
    found_files(hubert_rows(system), system, None, _ADVICE)  # raises what to do here, not in a workflow
    with ExitStack() as stack:
        network = stack.enter_context(hubert_network(hubert_handle(system)))
        features = FeatureStream(window_encoder(network), HUBERT_WINDOWS)
        heard_ahead = HUBERT_WINDOWS.block_steps - 1 + HUBERT_WINDOWS.ahead_steps
        ear = HubertEar(features, heard_ahead, model.motion_mean)
        weakref.finalize(ear, stack.pop_all().close).atexit = False
    return ear


def motion_stream(
    name: str = POCKET, emotion: Emotion | None = None, seed: int = 0, look_ahead: int | None = None
) -> MotionStream:
    """Return a new stream of the model of that name, or of a Takin-ADA model over blendshapes in a .safetensors file.

    name: "pocket", or a path, in which ~ is the home folder. look_ahead: frames of sound it waits for
    after a block; None is the model's own choice. A Takin-ADA model without a listener of its own hears HuBERT in
    HUBERT_WINDOWS.
    Raises ValueError for an unknown name, a look-ahead the model cannot have, a model that cannot stream or makes other
    motion; OSError for missing weights, HuBERT's among them.
    """
    if name.endswith(".safetensors"):
        return _takin_ada(Path(name).expanduser(), emotion, seed, look_ahead)
    if name != POCKET:
        raise ValueError(
            f"there is no live model {name!r}; known: {POCKET}, or the .safetensors file of a Takin-ADA model"
        )
    return _pocket(emotion, seed, look_ahead)
