"""What FantasyTalking's nodes ask for, in one call each: identities, prompts, a clip's latents and its frames."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core_models.types import ModelHandle
from ..core_models.video_types import ARCFACE, Identity
from ..core_models.wan_types import (
    PROMPT_WORDING,
    FantasyTalkingModels,
    MotionIntensity,
    PromptEmbeddings,
    WanModels,
)
from .actalker_clips import single_portrait
from .device_memory import forget_idle, in_any_form
from .encoding_memory import content_key, encoding_memory
from .fantasytalking_memory import (
    AUTOMATIC,
    make_main_memory_room,
    planned_scene,
    planned_tiles,
    streams_at_once,
)
from .fantasytalking_memory import STREAM_CHOICES as STREAM_CHOICES
from .fantasytalking_memory import TILINGS as TILINGS
from .fantasytalking_models import (
    clip_vision,
    face_recognition,
    fantasytalking_model,
    identity_encoder,
    parameters_of,
    prompt_encoder,
    recognition_handle,
    wan_autoencoder,
)
from .host import host

if TYPE_CHECKING:
    from torch import Tensor

    from ..core_models.types import AudioEmbedding, Portrait, PortraitVideo, ProgressCallback
    from ..core_models.video_diffusion.fantasytalking.parameters import FantasyTalkingParameters
    from ..core_models.video_diffusion.fantasytalking.performance import TalkingScene
    from ..core_models.video_diffusion.fantasytalking.scene_options import FantasyTalkingOptions, SceneLength
    from ..core_models.video_diffusion.wan.colour import ColourStatistics
    from .progress import PreviewedProgress

logger = logging.getLogger(__name__)

SYSTEM_NAME = "FantasyTalking"
TIMINGS, HEARINGS = ("exact", "release"), ("frames", "clip")
"""Those of `scene_options`, which is too heavy to be asked when nodes are listed."""
FRAME_COUNT, REFERENCE_COLOUR = "frame_count", "reference_colour"
"""What our LATENT holds beside core's samples: frames of the clip, and the colours of the picture it begins with."""


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


@dataclass(frozen=True)
class SampledClip:
    """A clip as the graph has it.

    latents: (1, C, F, h, w) float32 on the CPU, as core's VAE Decode takes them. frame_count: how many of the video
    frames they hold are the clip's, from the first. fps: of these. colour: of the picture it begins with.
    """

    latents: Tensor
    frame_count: int
    fps: float
    colour: ColourStatistics

    def as_latent(self) -> dict[str, Any]:
        """Return what travels on a LATENT wire; core's nodes look at the samples alone."""
        return {
            "samples": self.latents,
            FRAME_COUNT: self.frame_count,
            REFERENCE_COLOUR: self.colour,
        }


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


def encoded_prompts(wan: WanModels, prompt: str, negative: str | None = None) -> PromptEmbeddings:
    """Return a prompt and a negative prompt as a model's text encoder gives them, from memory where they are known.

    The text encoder is loaded for those that are not, and leaves memory again: the transformer needs the room.
    negative: None where it is not used.
    """
    texts = [prompt] if negative is None else [prompt, negative]
    known = encoding_memory().known
    unknown = [text for text in dict.fromkeys(texts) if not known((_in_any_form(wan.text_encoder), text))]
    encoded = _encoded(wan, unknown) if unknown else {}
    if unknown:
        _let_go_of(wan.text_encoder)
    # What was known may have fallen out of memory meanwhile.
    again = [text for text in texts if text not in encoded]
    encoded |= {text: _remembered_prompt(wan, text) for text in again}
    return PromptEmbeddings(*(encoded[text] for text in texts))


def _in_any_form(handle: ModelHandle) -> ModelHandle:
    """Return what names a network in what is remembered: where its blocks wait does not change what it gives."""
    return replace(handle, cpu_offload=False)


def _encoded(wan: WanModels, texts: list[str]) -> dict[str, Tensor]:
    encoded = {}
    make_main_memory_room(wan.text_encoder)
    with prompt_encoder(wan) as encode:
        for text in texts:
            host().check_cancelled()
            encoded[text] = encoding_memory().remembered(
                (_in_any_form(wan.text_encoder), text), lambda text=text: encode(text)
            )
    return encoded


def _remembered_prompt(wan: WanModels, text: str) -> Tensor:
    key = (_in_any_form(wan.text_encoder), text)
    return encoding_memory().remembered(key, lambda: _encoded(wan, [text])[text])


def _let_go_of(handle: ModelHandle) -> None:
    """Drop a model from memory, unless somebody else uses it."""
    device = str(host().device(handle.device))
    forget_idle(device, in_any_form(device, (_in_any_form(handle),)))


def seen_by_clip(wan: WanModels, image: Tensor) -> Tensor | None:
    """Return CLIP's tokens of an image (3, H, W) in -1..1, (257, 1280) on the CPU, from memory where they are known.

    None for a model that does not look at pictures through it.
    """
    if wan.clip_vision is None:
        return None
    from ..core_models.video_diffusion.wan.clip_vision import picture_tokens
    from ..core_models.video_diffusion.wan.image_conditions import clip_vision_pixels

    def see() -> Tensor:
        with clip_vision(wan) as network:
            return picture_tokens(network, clip_vision_pixels(image))

    key = (_in_any_form(wan.clip_vision), content_key(image))
    known = encoding_memory().known(key)
    tokens = encoding_memory().remembered(key, see)
    if not known:
        _let_go_of(wan.clip_vision)
    return tokens


def first_frame_condition(wan: WanModels, image: Tensor, frames: int) -> Tensor:
    """Return mask and latents (4 + C, F, h, w) float32 of a video that begins with an image, on the CPU.

    image: (3, H, W) in -1..1. frames: N = 4 k + 1 of the video. From memory where they are known.
    """
    from ..core_models.video_diffusion.wan.autoencoder import encoded_condition
    from ..core_models.video_diffusion.wan.image_conditions import (
        condition_video,
        first_frame_mask,
        image_conditions,
    )

    def encode() -> Tensor:
        with wan_autoencoder(wan) as autoencoder:
            video = condition_video(image, frames)
            return encoded_condition(autoencoder, video, host().check_cancelled).cpu()

    latents = encoding_memory().remembered((wan.autoencoder, content_key(image), frames), encode)
    return image_conditions(first_frame_mask(*latents.shape[1:]), latents)


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
    Raises ValueError for inputs that do not fit the model, FloatingPointError when half precision overflowed.
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
    models, options = _planned(models, parameters, choices, options, image, length, audio)
    prompts = _prompts(models, parameters, choices, options, intensity, length)
    picture = seen_by_clip(models.wan, image)
    condition = first_frame_condition(models.wan, image, length.window_frames)
    given = {"picture": picture, "prompts": prompts, "audio": audio, "identity": identity}
    scene = _sampled(models, image, condition, {**given, "intensity": intensity}, options, progress)
    latents = core_latents(scene.latents, wan_autoencoder_parameters(models.wan.autoencoder.path))
    return SampledClip(latents, scene.length.kept, own.fps, ColourStatistics.of_picture(image))


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
) -> tuple[FantasyTalkingModels, FantasyTalkingOptions]:
    """Return models and options so that the clip fits into memory; the plan is logged."""
    from ..core_models.video_diffusion.fantasytalking.memory_plan import SceneSize

    size = SceneSize(*image.shape[1:], length.latents, length.book.windows[0].count)
    evaluated = _evaluated_streams(models, parameters, options, audio)
    chosen = streams_at_once(choices.streams)
    models, streams = planned_scene(models, parameters, size, chosen, evaluated, options.keys_kept)
    return models, replace(options, streams_at_once=streams)


def _evaluated_streams(
    models: FantasyTalkingModels,
    parameters: FantasyTalkingParameters,
    options: FantasyTalkingOptions,
    audio: AudioEmbedding | None,
) -> int:
    """Return how many guidance streams a step has at most: those that differ and whose weight is not 0."""
    from ..core_models.video_diffusion.fantasytalking.guidance import stream_weights
    from ..core_models.video_diffusion.fantasytalking.scene_options import sampling_options

    sampling, hears = sampling_options(parameters, options), audio is not None and options.audio_scale != 0
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
    from ..core_models.video_diffusion.fantasytalking.intensity_stand_ins import audio_guidance_factor
    from ..core_models.video_diffusion.fantasytalking.scene_options import sampling_options, scene_length

    if identity is not None:
        require_fitting_identity(parameters, identity, identity_encoder(models))
    duration = scene_length(parameters, audio, options).kept / parameters.defaults.fps
    factor = audio_guidance_factor(parameters, intensity, audio, options, duration)
    sampling_options(parameters, options, factor)
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


def decoded_clip(
    models: FantasyTalkingModels,
    latent: Mapping[str, Any],
    colour_keeping: float = 0.0,
    tiling: str = AUTOMATIC,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return frames (N, H, W, 3) float32 in 0..1 of a LATENT, on the CPU.

    latent: of FantasyTalking Sampler; of others all frames are kept, and the first one's colours. colour_keeping: 0..1,
    how much of the colours' drift is taken away. tiling: one of TILINGS.
    Raises ValueError for latents of another kind or another tiling, FloatingPointError when half precision overflowed.
    """
    from ..core_models.video_diffusion.wan.autoencoder import wan_autoencoder_parameters
    from ..core_models.video_diffusion.wan.clip_frames import decoded_frames
    from ..core_models.video_diffusion.wan.core_latents import normalised_core_latents
    from ..core_models.video_diffusion.wan.tiled_decoding import RELEASED_TILES

    sizes = wan_autoencoder_parameters(models.wan.autoencoder.path)
    latents = normalised_core_latents(latent.get("samples"), sizes)
    in_tiles = planned_tiles(models, latents, tiling)
    with wan_autoencoder(models.wan) as autoencoder:
        return decoded_frames(
            autoencoder,
            latents,
            latent.get(FRAME_COUNT),
            colour_keeping,
            latent.get(REFERENCE_COLOUR),
            RELEASED_TILES if in_tiles else None,
            progress,
            host().check_cancelled,
        )
