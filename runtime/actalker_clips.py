"""What ACTalker's nodes ask for, in one call each: identities, motion, a clip's latents and its frames."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core_models.video_types import ACTalkerModels, Identity, MaskedControl, MotionEmbedding
from .actalker_models import (
    actalker_autoencoder,
    actalker_model,
    expression_and_pose_networks,
    face_recognition,
    identity_encoder,
    parameters_of,
)
from .device_memory import bytes_for, make_room
from .host import host

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..core_models.face.landmarker import DetectedFace
    from ..core_models.types import FaceMotion, Portrait, PortraitVideo, ProgressCallback
    from ..core_models.video_diffusion.actalker.performance import ACTalkerOptions
    from ..core_models.video_diffusion.actalker.prepared_picture import PreparedPicture
    from .progress import PreviewedProgress

logger = logging.getLogger(__name__)

AUTOMATIC = "automatic"
STREAM_CHOICES = (AUTOMATIC, "1", "2", "3", "4")


def single_portrait(portrait: Portrait | PortraitVideo) -> Portrait:
    """Return the portrait. Raises ValueError for a film: ACTalker moves one picture."""
    from ..core_models.types import PortraitVideo

    if isinstance(portrait, PortraitVideo):
        raise ValueError(
            f"ACTalker moves a single picture, but the portrait is a film of {len(portrait.portraits)} frames: make it "
            "with Portrait instead of Portrait Video"
        )
    return portrait


def identity_of(models: ACTalkerModels, portrait: Portrait | PortraitVideo) -> Identity:
    """Return who a portrait shows, as a model knows people. Raises ValueError for a film, or no face to recognise."""
    from ..core_models.video_diffusion.actalker.portrait_identity import own_identity, recognised_identity

    one = single_portrait(portrait)
    if models.recognition is not None:
        with face_recognition(models) as network:
            return recognised_identity(network, one.frame, one.landmarks)
    with actalker_model(models) as model:
        return own_identity(model, one.frame, one.landmarks, identity_encoder(models))


def motion_embedding_of(models: ACTalkerModels, motion: FaceMotion) -> MotionEmbedding:
    """Return a motion track as a model takes it. Raises ValueError for a model that reads driving films instead."""
    from ..core_models.video_diffusion.actalker.blendshape_motion import blendshape_embedding

    if models.expression is not None:
        raise ValueError(
            "this ACTalker reads its motion from pictures, not from a motion track: connect the frames of a driving "
            "video (Load Driving Video) and a Load Face Detector instead, or, to make pictures of the track, the "
            "frames of a Warping Renderer"
        )
    return blendshape_embedding(motion)


def driving_embedding_of(
    models: ACTalkerModels,
    frames: Sequence[np.ndarray],
    faces: AbstractContextManager[Iterable[DetectedFace | None]],
    fps: float,
    on_missing_face: str,
    progress: ProgressCallback | None = None,
) -> MotionEmbedding:
    """Return the motion in a driving film as a model takes it: see `driving_embedding`.

    faces: gives the face in each frame while it is open. Raises ValueError for a model that takes motion tracks.
    """
    from ..core_models.motion.driving_embedding import driving_embedding

    with expression_and_pose_networks(models) as networks, faces as found:
        return driving_embedding(networks, frames, found, fps, on_missing_face, progress)


def sampled_clip(
    models: ACTalkerModels,
    portrait: Portrait | PortraitVideo,
    identity: Identity,
    control: MaskedControl,
    framing: str,
    image_size: int,
    streams: str,
    settings: dict[str, Any],
    progress: PreviewedProgress,
) -> tuple[Tensor, float]:
    """Return a clip's latents (N, C, h, w) float32 on the CPU, unscaled as the graph has them, and frames per second.

    framing: one of FRAMINGS. image_size: pixels of the shorter side, 0 the model's own. streams: one of
    STREAM_CHOICES. settings: for `chosen_options`. progress shows windows and steps, and colours estimated from
    latents; what it raises ends the work, and cancelling ends it between two blocks of the network. How the clip will
    fit into memory is logged first.
    Raises ValueError for inputs that do not fit the model or a clip that does not fit the device, FloatingPointError
    when half precision overflowed.
    """
    from ..core_models.video_diffusion.actalker.choices import chosen_options
    from ..core_models.video_diffusion.actalker.performance import acting_portrait
    from ..core_models.video_diffusion.actalker.portrait_identity import require_fitting_identity
    from ..core_models.video_diffusion.latent_preview import LatentColours

    parameters = parameters_of(models)
    require_fitting_identity(parameters, identity, identity_encoder(models))
    streams = streams_at_once(streams)
    options = chosen_options(parameters, **settings)
    picture, start, scaling_factor = _start(models, single_portrait(portrait), control, framing, image_size)
    models, planned = planned_clip(models, picture, control, options)
    options = replace(options, streams_at_once=streams or planned)
    colours = LatentColours.of_picture(start * scaling_factor, picture.picture)
    with actalker_model(models) as model:
        latents = acting_portrait(
            model,
            start,
            scaling_factor,
            picture,
            identity,
            control,
            options,
            progress.update,
            lambda estimate: progress.show(colours.strip(estimate)),
            host().check_cancelled,
        )
    return latents.cpu() / scaling_factor, parameters.defaults.fps


def _start(
    models: ACTalkerModels, portrait: Portrait, control: MaskedControl, framing: str, image_size: int
) -> tuple[PreparedPicture, Tensor, float]:
    """Return the prepared picture, its unscaled latents on the CPU, and the autoencoder's scaling factor."""
    from ..core_models.video_diffusion.actalker.choices import picture_multiple
    from ..core_models.video_diffusion.actalker.prepared_picture import (
        AROUND_FACE,
        FRAMINGS,
        prepared_picture,
    )
    from ..core_models.video_diffusion.frame_coding import encoded_picture

    if framing not in FRAMINGS:
        raise ValueError(f"framing is {framing!r}; choose one of {', '.join(FRAMINGS)}")
    parameters = parameters_of(models)
    with actalker_autoencoder(models) as autoencoder:
        reduction = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        picture = prepared_picture(
            portrait.frame,
            (control.face, control.mouth, control.motion_mask),
            image_size or parameters.defaults.image_size,
            picture_multiple(parameters, reduction),
            portrait.landmarks if framing == AROUND_FACE else None,
        )
        start = encoded_picture(autoencoder, picture.picture).cpu()
        return picture, start, float(autoencoder.config.scaling_factor)


def streams_at_once(choice: str) -> int | None:
    """Return how many guidance streams are evaluated together, None for as many as fit.

    Raises ValueError for another choice.
    """
    if choice not in STREAM_CHOICES:
        raise ValueError(f"streams_at_once is {choice!r}; choose one of {', '.join(STREAM_CHOICES)}")
    return None if choice == AUTOMATIC else int(choice)


def planned_clip(
    models: ACTalkerModels, picture: PreparedPicture, control: MaskedControl, options: ACTalkerOptions
) -> tuple[ACTalkerModels, int]:
    """Return the models, offloaded by block if they must be, and how many guidance streams fit at once.

    The plan and what it needs are logged first. Raises ValueError, with what to lower, for a clip that cannot fit.
    """
    from ..core_models.video_diffusion.actalker.guidance import STREAMS
    from ..core_models.video_diffusion.actalker.memory_plan import plan_for
    from ..core_models.video_diffusion.actalker.performance import clip_frames
    from ..core_models.video_diffusion.autoencoder import autoencoder_parameters

    device = str(host().device(models.model.device))
    free = bytes_for((models.model, models.autoencoder))
    if free is None:
        return models, STREAMS
    parameters = parameters_of(models)
    plan = plan_for(
        parameters,
        autoencoder_parameters(models.autoencoder.path),
        picture.picture.shape[:2],
        clip_frames(control, parameters.defaults.fps, options.frames),
        models.model.dtype,
        free,
        window=options.window,
        can_offload=device != "cpu",
    )
    logger.info("%s", plan.describe())
    make_room(device, plan.needed_bytes)
    if plan.by_block and not models.model.cpu_offload:
        models = replace(models, model=replace(models.model, cpu_offload=True))
    return models, plan.streams_at_once


def decoded_clip(
    models: ACTalkerModels,
    latents: Tensor,
    chunk: int = 0,
    overlap: int = 0,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return frames (N, H, W, 3) float32 in 0..1 of latents (N, C, h, w), unscaled as the graph has them.

    chunk: frames decoded together, 0 the release's. overlap: frames shared by chunks.
    Raises ValueError for latents of another kind, or an overlap that is not below the chunk.
    """
    from ..core_models.video_diffusion.frame_coding import PUBLISHED_CHUNK, decoded_frames

    with actalker_autoencoder(models) as autoencoder:
        channels = autoencoder.config.latent_channels
        if latents.ndim != 4 or latents.shape[1] != channels or 0 in latents.shape:
            raise ValueError(
                f"the latents are {tuple(latents.shape)}, expected (frames, {channels}, height, width): connect "
                "ACTalker Sampler"
            )
        scaled = latents.float() * float(autoencoder.config.scaling_factor)
        return decoded_frames(autoencoder, scaled, chunk or PUBLISHED_CHUNK, overlap, progress)
