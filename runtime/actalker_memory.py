"""How ACTalker's clips fit into memory: what is on the device, how many streams and frames at once."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core_models.video_types import ACTalkerModels, MaskedControl
from .actalker_models import parameters_of
from .device_memory import bytes_for, forget_idle, in_any_form, in_form, is_other_form, make_room
from .host import host

if TYPE_CHECKING:
    from torch import Tensor

    from ..core_models.video_diffusion.actalker.memory_plan import ClipSize, MemoryPlan
    from ..core_models.video_diffusion.actalker.model import ACTalkerParameters
    from ..core_models.video_diffusion.actalker.performance import ACTalkerOptions
    from ..core_models.video_diffusion.actalker.prepared_picture import PreparedPicture

logger = logging.getLogger(__name__)

AUTOMATIC = "automatic"
STREAM_CHOICES = (AUTOMATIC, "1", "2", "3", "4")


def streams_at_once(choice: str) -> int | None:
    """Return how many guidance streams are evaluated together, None for as many as fit.

    Raises ValueError for another choice.
    """
    if choice not in STREAM_CHOICES:
        raise ValueError(f"streams_at_once is {choice!r}; choose one of {', '.join(STREAM_CHOICES)}")
    return None if choice == AUTOMATIC else int(choice)


def planned_clip(
    models: ACTalkerModels,
    picture: PreparedPicture,
    control: MaskedControl,
    options: ACTalkerOptions,
    streams: int | None = None,
) -> tuple[ACTalkerModels, int]:
    """Return the models, offloaded by block if they must be, and how many guidance streams are evaluated at once.

    streams: so many, and no other number; None for as many as fit. The plan and what it needs are logged first; then
    what the clip does not need leaves the device. Raises ValueError, with what to lower, for a clip that cannot fit.
    """
    from ..core_models.video_diffusion.actalker.guidance import STREAMS

    device = str(host().device(models.model.device))
    free = bytes_for((models.model, models.autoencoder))
    if free is None:
        return models, streams or STREAMS
    plan = _plan(models, picture, control, options, streams, free, device != "cpu")
    logger.info("%s", plan.describe())
    models = replace(models, model=in_form(models.model, plan.by_block))
    forget_idle(device, lambda handle: is_other_form(handle, models.model))
    make_room(device, plan.needed_bytes, (models.model, models.autoencoder))
    return models, plan.streams_at_once


def _plan(
    models: ACTalkerModels,
    picture: PreparedPicture,
    control: MaskedControl,
    options: ACTalkerOptions,
    streams: int | None,
    free: int,
    can_offload: bool,
) -> MemoryPlan:
    from ..core_models.video_diffusion.actalker.memory_plan import plan_for
    from ..core_models.video_diffusion.actalker.performance import clip_frames
    from ..core_models.video_diffusion.autoencoder import autoencoder_parameters

    parameters = parameters_of(models)
    if streams is not None:
        streams = min(streams, evaluated_streams(parameters, control, options))
    return plan_for(
        parameters,
        autoencoder_parameters(models.autoencoder.path),
        picture.picture.shape[:2],
        clip_frames(control, parameters.defaults.fps, options.frames),
        models.model.dtype,
        free,
        window=options.window,
        can_offload=can_offload,
        streams=streams,
    )


def evaluated_streams(
    parameters: ACTalkerParameters, control: MaskedControl, options: ACTalkerOptions
) -> int:
    """Return how many guidance streams a step has at most: those that differ and whose weight is not 0.

    Raises ValueError for options that do not fit each other.
    """
    from ..core_models.video_diffusion.actalker.guidance import stream_weights
    from ..core_models.video_diffusion.actalker.performance import sampling_options

    hears = control.audio is not None and not control.audio_gate.is_closed
    moves = control.motion is not None and not control.motion_gate.is_closed
    return len(stream_weights(sampling_options(parameters, options, control).guidance, hears, moves))


def planned_chunk(models: ACTalkerModels, latents: Tensor) -> int:
    """Return how many of a clip's latents (N, C, h, w) are decoded together: the release's number, or what fits.

    Where the release's does not fit, the model leaves memory first if it is not in use. What is chosen is logged.
    """
    from ..core_models.video_diffusion.actalker.memory_plan import chunk_bytes, fitting_chunk, gigabytes
    from ..core_models.video_diffusion.autoencoder import autoencoder_parameters
    from ..core_models.video_diffusion.frame_coding import PUBLISHED_CHUNK

    coder = models.autoencoder
    device, parameters = str(host().device(coder.device)), autoencoder_parameters(coder.path)
    clip = _decoded_size(latents, parameters.reduction, coder.dtype)
    free = bytes_for((coder,))
    if free is not None and chunk_bytes(parameters, clip, PUBLISHED_CHUNK) > free:
        forget_idle(device, in_any_form(device, (models.model,)))
        free = bytes_for((coder,))
    if free is None:
        return PUBLISHED_CHUNK
    chunk = fitting_chunk(parameters, clip, free)
    needed = chunk_bytes(parameters, clip, chunk)
    logger.info("decoding chunks of %d: %s of %s free", chunk, gigabytes(needed), gigabytes(free))
    make_room(device, needed, (coder,))
    return chunk


def _decoded_size(latents: Tensor, reduction: int, dtype: str) -> ClipSize:
    import torch

    from ..core_models.video_diffusion.actalker.memory_plan import ClipSize

    frames, _, rows, columns = latents.shape
    return ClipSize(rows * reduction, columns * reduction, frames, frames, getattr(torch, dtype).itemsize)
