"""What ACTalker's nodes ask for, in one call each: identities, motion, a clip's latents and its frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core_models.video_types import ACTalkerModels, Identity, MaskedControl, MotionEmbedding
from .actalker_memory import planned_chunk, planned_clip, streams_at_once
from .actalker_models import (
    actalker_autoencoder,
    actalker_model,
    expression_and_pose_networks,
    face_recognition,
    identity_encoder,
    parameters_of,
)
from .host import host

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..core_models.face.landmarker import DetectedFace
    from ..core_models.types import FaceMotion, Portrait, PortraitVideo, ProgressCallback
    from ..core_models.video_diffusion.actalker.performance import ACTalkerOptions
    from ..core_models.video_diffusion.actalker.prepared_picture import PreparedPicture
    from .progress import PreviewedProgress


def single_portrait(portrait: Portrait | PortraitVideo, system: str = "ACTalker") -> Portrait:
    """Return the portrait. Raises ValueError for a film: the system moves one picture."""
    from ..core_models.types import PortraitVideo

    if isinstance(portrait, PortraitVideo):
        raise ValueError(
            f"{system} moves a single picture, but the portrait is a film of {len(portrait.portraits)} frames: make it "
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


@dataclass(frozen=True)
class ClipChoices:
    """What a user chooses of a clip.

    framing: one of FRAMINGS. image_size: pixels of the shorter side, 0 the model's own. streams: one of
    STREAM_CHOICES. settings: for `chosen_options`.
    """

    framing: str
    image_size: int
    streams: str
    settings: Mapping[str, Any]


def sampled_clip(
    models: ACTalkerModels,
    portrait: Portrait | PortraitVideo,
    identity: Identity,
    control: MaskedControl,
    choices: ClipChoices,
    progress: PreviewedProgress,
) -> tuple[Tensor, float]:
    """Return a clip's latents (N, C, h, w) float32 on the CPU, unscaled as the graph has them, and frames per second.

    progress shows windows and steps, and colours estimated from latents; what it raises ends the work, and cancelling
    ends it between two blocks of the network. How the clip will fit into memory is logged before any network works.
    Raises ValueError for inputs that do not fit the model or a clip that does not fit the device, FloatingPointError
    when half precision overflowed.
    """
    from ..core_models.video_diffusion.actalker.choices import chosen_options
    from ..core_models.video_diffusion.actalker.portrait_identity import require_fitting_identity

    parameters = parameters_of(models)
    require_fitting_identity(parameters, identity, identity_encoder(models))
    streams = streams_at_once(choices.streams)
    options = chosen_options(parameters, **choices.settings)
    picture = _picture(models, single_portrait(portrait), control, choices)
    models, together = planned_clip(models, picture, control, options, streams)
    options = replace(options, streams_at_once=together)
    return _sampled(models, picture, identity, control, options, progress), parameters.defaults.fps


def _picture(
    models: ACTalkerModels, portrait: Portrait, control: MaskedControl, choices: ClipChoices
) -> PreparedPicture:
    from ..core_models.video_diffusion.actalker.choices import picture_multiple
    from ..core_models.video_diffusion.actalker.prepared_picture import (
        AROUND_FACE,
        FRAMINGS,
        prepared_picture,
    )
    from ..core_models.video_diffusion.autoencoder import autoencoder_parameters

    if choices.framing not in FRAMINGS:
        raise ValueError(f"framing is {choices.framing!r}; choose one of {', '.join(FRAMINGS)}")
    parameters = parameters_of(models)
    return prepared_picture(
        portrait.frame,
        (control.face, control.mouth, control.motion_mask),
        choices.image_size or parameters.defaults.image_size,
        picture_multiple(parameters, autoencoder_parameters(models.autoencoder.path).reduction),
        portrait.landmarks if choices.framing == AROUND_FACE else None,
    )


def _sampled(
    models: ACTalkerModels,
    picture: PreparedPicture,
    identity: Identity,
    control: MaskedControl,
    options: ACTalkerOptions,
    progress: PreviewedProgress,
) -> Tensor:
    """Return the clip's latents on the CPU, unscaled."""
    from ..core_models.video_diffusion.actalker.performance import acting_portrait
    from ..core_models.video_diffusion.latent_preview import LatentColours

    start, scaling_factor = _encoded(models, picture)
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
    return latents.cpu() / scaling_factor


def _encoded(models: ACTalkerModels, picture: PreparedPicture) -> tuple[Tensor, float]:
    """Return the picture's unscaled latents on the CPU, and the autoencoder's scaling factor."""
    from ..core_models.video_diffusion.frame_coding import encoded_picture

    with actalker_autoencoder(models) as autoencoder:
        start = encoded_picture(autoencoder, picture.picture).cpu()
        return start, float(autoencoder.config.scaling_factor)


def decoded_clip(
    models: ACTalkerModels,
    latents: Tensor,
    chunk: int = 0,
    overlap: int = 0,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return frames (N, H, W, 3) float32 in 0..1 of latents (N, C, h, w), unscaled as the graph has them.

    chunk: frames decoded together, 0 the release's or as many as fit. overlap: frames shared by chunks, at most one
    less than the chunk. Raises ValueError for latents of another kind, or an overlap below 0.
    """
    from ..core_models.video_diffusion.frame_coding import decoded_frames

    chunk = _checked_chunk(models, latents, chunk)
    with actalker_autoencoder(models) as autoencoder:
        scaled = latents.float() * float(autoencoder.config.scaling_factor)
        return decoded_frames(autoencoder, scaled, chunk, min(overlap, chunk - 1), progress)


def decoded_clip_parts(
    models: ACTalkerModels,
    latents: Tensor,
    chunk: int = 0,
    overlap: int = 0,
    progress: ProgressCallback | None = None,
) -> Iterator[Tensor]:
    """Yield what `decoded_clip` returns in parts (n, H, W, 3), one after the other, of which one is in memory.

    The autoencoder is held until the last part has come, or the iterator is closed. Raises as `decoded_clip`.
    """
    from ..core_models.video_diffusion.frame_coding import decoded_parts

    chunk = _checked_chunk(models, latents, chunk)
    with actalker_autoencoder(models) as autoencoder:
        scaled = latents.float() * float(autoencoder.config.scaling_factor)
        yield from decoded_parts(autoencoder, scaled, chunk, min(overlap, chunk - 1), progress)


def _checked_chunk(models: ACTalkerModels, latents: Tensor, chunk: int) -> int:
    """Return how many frames are decoded together. Raises ValueError for latents of another kind."""
    from ..core_models.video_diffusion.autoencoder import autoencoder_parameters

    parameters = autoencoder_parameters(models.autoencoder.path)
    if latents.ndim != 4 or latents.shape[1] != parameters.latent_channels or 0 in latents.shape:
        raise ValueError(
            f"the latents are {tuple(latents.shape)}, expected (frames, {parameters.latent_channels}, height, width): "
            "connect ACTalker Sampler"
        )
    return chunk or planned_chunk(models, latents)
