"""What FantasyTalking's nodes ask for, in one call each: identities, what an intensity does, and a clip's latents."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core_models.video_types import ARCFACE, Identity
from ..core_models.wan_types import (
    PROMPT_WORDING,
    FantasyTalkingModels,
    MotionIntensity,
    PromptEmbeddings,
)
from .actalker_clips import single_portrait
from .fantasytalking_encodings import encoded_prompts, first_frame_condition, seen_by_clip
from .fantasytalking_latents import SampledClip, autoencoder_name
from .fantasytalking_memory import STREAM_CHOICES as STREAM_CHOICES
from .fantasytalking_memory import TILINGS as TILINGS
from .fantasytalking_memory import planned_scene, require_room_for_frames, streams_at_once
from .fantasytalking_models import (
    face_recognition,
    fantasytalking_model,
    identity_encoder,
    parameters_of,
    recognition_handle,
)
from .host import host

if TYPE_CHECKING:
    from torch import Tensor

    from ..core_models.types import AudioEmbedding, Portrait, PortraitVideo
    from ..core_models.video_diffusion.fantasytalking.parameters import FantasyTalkingParameters
    from ..core_models.video_diffusion.fantasytalking.performance import TalkingScene
    from ..core_models.video_diffusion.fantasytalking.sampler import SamplingOptions
    from ..core_models.video_diffusion.fantasytalking.scene_options import FantasyTalkingOptions, SceneLength
    from .progress import PreviewedProgress

logger = logging.getLogger(__name__)

SYSTEM_NAME = "FantasyTalking"
TIMINGS, HEARINGS = ("exact", "release"), ("frames", "clip")
"""Those of `scene_options`, which is too heavy to be asked when nodes are listed."""


@dataclass(frozen=True)
class SceneChoices:
    """What a user chooses of a clip.

    prompt, negative_prompt: read by models that have a text encoder. framing: one of FRAMINGS. image_size: pixels of
    the longer side, 0 the model's own. streams: one of STREAM_CHOICES. settings: for `chosen_options`.
    """

    prompt: str
    negative_prompt: str
    framing: str
    image_size: int
    streams: str
    settings: Mapping[str, Any]


def identity_of(models: FantasyTalkingModels, portrait: Portrait | PortraitVideo) -> Identity:
    """Return who a portrait shows, as a model knows people.

    Raises ValueError for a film, no face to recognise, or a model without an identity branch, as the published one is.
    """
    from ..core_models.video_diffusion.actalker.portrait_identity import own_identity, recognised_identity

    encoder, one = identity_encoder(models), single_portrait(portrait, SYSTEM_NAME)
    if encoder == ARCFACE:
        with face_recognition(recognition_handle()) as network:
            return recognised_identity(network, one.frame, one.landmarks)
    with fantasytalking_model(models) as model:
        return own_identity(model, one.frame, one.landmarks, encoder)


def intensity_use(models: FantasyTalkingModels | None, intensity: MotionIntensity) -> str:
    """Return what a model does with an intensity, in words."""
    from ..core_models.video_diffusion.fantasytalking.intensity_report import described_intensity

    if models is None:
        return described_intensity(intensity)
    return described_intensity(intensity, parameters_of(models), models.wan.reads_prompts)


def sampled_clip(
    models: FantasyTalkingModels,
    portrait: Portrait | PortraitVideo,
    choices: SceneChoices,
    progress: PreviewedProgress,
    audio: AudioEmbedding | None = None,
    identity: Identity | None = None,
    intensity: MotionIntensity | None = None,
) -> SampledClip:
    """Return a clip of a portrait: it speaks as the sound says, and moves as prompt and intensity say.

    progress shows streams and steps, and colours estimated from latents; what it raises ends the work, and cancelling
    ends it between two blocks of the network. What does not fit the model is said before any network works.
    Raises ValueError for inputs that do not fit the model or frames that main memory cannot hold, FloatingPointError
    when half precision overflowed.
    """
    from ..core_models.video_diffusion.fantasytalking.framing import framed_image
    from ..core_models.video_diffusion.fantasytalking.scene_options import scene_length
    from ..core_models.video_diffusion.wan.autoencoder import wan_autoencoder_parameters
    from ..core_models.video_diffusion.wan.colour import ColourStatistics
    from ..core_models.video_diffusion.wan.core_latents import core_latents

    parameters, one = parameters_of(models), single_portrait(portrait, SYSTEM_NAME)
    options = _chosen_options(choices)
    _require_fitting(models, parameters, options, audio, identity, intensity)
    length = scene_length(parameters, audio, options)
    own = parameters.defaults
    size = choices.image_size or own.image_size
    image = framed_image(one.frame, one.landmarks, choices.framing, size, own.size_multiple)
    require_room_for_frames(length.kept, *image.shape[1:])
    models, options = _planned(models, parameters, choices, options, image, length, audio, intensity)
    prompts = _prompts(models, parameters, choices, options, intensity, length)
    picture = seen_by_clip(models.wan, image)
    condition = first_frame_condition(models.wan, image, length.window_frames)
    given = {"picture": picture, "prompts": prompts, "audio": audio, "identity": identity}
    scene = _sampled(models, image, condition, {**given, "intensity": intensity}, options, progress)
    latents = core_latents(scene.latents, wan_autoencoder_parameters(models.wan.autoencoder.path))
    colour = ColourStatistics.of_picture(image)
    windows = tuple(scene.length.window_ranges())
    return SampledClip(latents, scene.length.kept, own.fps, colour, autoencoder_name(models.wan), windows)


def _chosen_options(choices: SceneChoices) -> FantasyTalkingOptions:
    from ..core_models.video_diffusion.fantasytalking.choices import chosen_options

    return chosen_options(**choices.settings)


def _planned(
    models: FantasyTalkingModels,
    parameters: FantasyTalkingParameters,
    choices: SceneChoices,
    options: FantasyTalkingOptions,
    image: Tensor,
    length: SceneLength,
    audio: AudioEmbedding | None,
    intensity: MotionIntensity | None,
) -> tuple[FantasyTalkingModels, FantasyTalkingOptions]:
    """Return models and options so that the clip fits into memory; the plan is logged."""
    from ..core_models.video_diffusion.fantasytalking.memory_plan import SceneSize

    size = SceneSize(*image.shape[1:], length.latents, length.book.windows[0].count)
    sampling = _sampling_options(parameters, options, audio, intensity, length)
    evaluated = _evaluated_streams(models, sampling, audio is not None and options.audio_scale != 0)
    chosen = streams_at_once(choices.streams)
    models, streams = planned_scene(models, parameters, size, chosen, evaluated, options.keys_kept)
    return models, replace(options, streams_at_once=streams)


def _sampling_options(
    parameters: FantasyTalkingParameters,
    options: FantasyTalkingOptions,
    audio: AudioEmbedding | None,
    intensity: MotionIntensity | None,
    length: SceneLength,
) -> SamplingOptions:
    """Return what the sampler will do. Raises ValueError for an intensity that nothing in the model can do."""
    from ..core_models.video_diffusion.fantasytalking.intensity_stand_ins import audio_guidance_factor
    from ..core_models.video_diffusion.fantasytalking.scene_options import sampling_options

    duration = length.kept / parameters.defaults.fps
    return sampling_options(
        parameters, options, audio_guidance_factor(parameters, intensity, audio, options, duration)
    )


def _evaluated_streams(models: FantasyTalkingModels, sampling: SamplingOptions, hears: bool) -> int:
    """Return how many guidance streams a step has at most: those that differ and whose weight is not 0."""
    from ..core_models.video_diffusion.fantasytalking.guidance import stream_weights

    scales = (sampling.guidance.at(step, sampling.steps) for step in range(sampling.steps))
    return max(len(stream_weights(one, models.wan.reads_prompts, hears)) for one in scales)


def _require_fitting(
    models: FantasyTalkingModels,
    parameters: FantasyTalkingParameters,
    options: FantasyTalkingOptions,
    audio: AudioEmbedding | None,
    identity: Identity | None,
    intensity: MotionIntensity | None,
) -> None:
    """Raise ValueError, before any network works, for choices and inputs that do not fit each other or the model."""
    from ..core_models.video_diffusion.actalker.portrait_identity import require_fitting_identity
    from ..core_models.video_diffusion.fantasytalking.performance import require_fitting_audio
    from ..core_models.video_diffusion.fantasytalking.sampler import require_fitting_cache
    from ..core_models.video_diffusion.fantasytalking.scene_options import scene_length
    from ..core_models.video_diffusion.wan.attention_choice import chosen_attention

    if identity is not None:
        require_fitting_identity(parameters, identity, identity_encoder(models))
    if audio is not None:
        require_fitting_audio(parameters, audio, options)
    length = scene_length(parameters, audio, options)
    require_fitting_cache(length.book, _sampling_options(parameters, options, audio, intensity, length))
    with chosen_attention(models.wan.attention):
        pass  # raises where its package is not here
    if _is_worded(parameters, intensity) and not models.wan.reads_prompts:
        raise ValueError(
            "words in the prompt are to stand in for motion intensity, but this model reads no prompts: choose "
            "'audio_guidance', or leave the intensity out"
        )


def _is_worded(parameters: FantasyTalkingParameters, intensity: MotionIntensity | None) -> bool:
    return parameters.intensity is None and intensity is not None and intensity.stand_in == PROMPT_WORDING


def _prompts(
    models: FantasyTalkingModels,
    parameters: FantasyTalkingParameters,
    choices: SceneChoices,
    options: FantasyTalkingOptions,
    intensity: MotionIntensity | None,
    length: SceneLength,
) -> PromptEmbeddings | None:
    """Return the encoded prompts, None for a model that reads none. Without guidance by it none is negative."""
    from ..core_models.video_diffusion.fantasytalking.intensity_stand_ins import worded_prompt

    if not models.wan.reads_prompts:
        return None
    own, prompt = parameters.defaults, choices.prompt
    if _is_worded(parameters, intensity):
        prompt = worded_prompt(prompt, intensity, length.kept / own.fps)
        logger.info("motion intensity becomes words: %s", prompt)
    guidance = own.prompt_guidance if options.prompt_guidance is None else options.prompt_guidance
    return encoded_prompts(models.wan, prompt, None if guidance == 1 else choices.negative_prompt)


def _sampled(
    models: FantasyTalkingModels,
    image: Tensor,
    condition: Tensor,
    given: Mapping[str, Any],
    options: FantasyTalkingOptions,
    progress: PreviewedProgress,
) -> TalkingScene:
    from ..core_models.video_diffusion.fantasytalking.performance import talking_scene
    from ..core_models.video_diffusion.latent_preview import LatentColours
    from ..core_models.video_diffusion.wan.attention_choice import chosen_attention
    from ..core_models.video_diffusion.wan.image_conditions import MASK_CHANNELS

    shown = ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    colours = LatentColours.of_picture(condition[MASK_CHANNELS:, 0], shown)
    with chosen_attention(models.wan.attention), fantasytalking_model(models) as model:
        return talking_scene(
            model,
            condition,
            **given,
            options=options,
            progress=progress.update,
            preview=lambda estimate: progress.show(colours.strip(estimate)),
            check=host().check_cancelled,
        )
