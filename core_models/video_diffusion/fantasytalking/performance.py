"""A scene that talks: from a picture's latents, a sound and wishes to the latents of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...types import AudioEmbedding, ProgressCallback
from ...video_types import Identity
from ...wan_types import MotionIntensity, PromptEmbeddings
from ..block_checks import CheckCallback
from ..wan.frame_rules import FRAMES_PER_LATENT, video_frames
from ..wan.transformer import WanParameters
from .audio_windows import audio_timeline
from .clip_conditions import ClipAudio, ClipConditions, FrameAudio, WholeAudio
from .intensity_stand_ins import audio_guidance_factor
from .model import FantasyTalkingModel
from .parameters import FantasyTalkingParameters
from .sampler import PreviewCallback, sample_latents
from .scene_options import (
    NOTHING_CHOSEN,
    PER_CLIP,
    PER_FRAME,
    RELEASE,
    FantasyTalkingOptions,
    SceneLength,
    sampling_options,
    scene_length,
)

LISTENING_MARGIN = 0.25
"""Steps that wav2vec2 makes less of a sound than its rate says: a step needs 400 samples, the next comes 320 later."""

PROJECTED_AT_ONCE = 1000
"""Steps of a sound that become audio tokens together on the device: 20 s. All of ten minutes would be 0.6 GB there."""


def intensity_of_latents(intensity: MotionIntensity, latents: int, fps: float) -> Tensor:
    """Return (latents, 2) float32: face and body in the mean over each latent frame's video frames."""
    values = intensity.on_frames(video_frames(latents), fps)
    later = values[1:].reshape(-1, FRAMES_PER_LATENT, 2).mean(axis=1)
    return torch.from_numpy(np.concatenate([values[:1], later]))


def clip_audio(
    model: FantasyTalkingModel, audio: AudioEmbedding, options: FantasyTalkingOptions, frames: int
) -> ClipAudio:
    """Return the sound of a clip of `frames` video frames as its latent frames hear it, on the CPU.

    With the release's timing, steps past the frames' end are left out. Its program cuts the waveform itself, before it
    is normalised and encoded: where sound is longer than the clip, that alone gives the release's numbers.
    Raises what `require_fitting_audio` raises.
    """
    parameters = model.parameters_used
    require_fitting_audio(parameters, audio, options)
    fps, features, rate = parameters.defaults.fps, audio.features, audio.rate / parameters.defaults.fps
    if options.timing == RELEASE:
        steps = math.floor(min(audio.duration, frames / fps) * audio.rate - LISTENING_MARGIN)
        features = features[: max(1, steps)]
        rate = len(features) / frames
    tokens = _projected(model, features)
    if options.hearing == PER_CLIP:
        return WholeAudio(tokens, rate)
    return FrameAudio(audio_timeline(tokens, frames, rate), options.masked_audio)


def _projected(model: FantasyTalkingModel, features: Tensor) -> Tensor:
    """Return the audio tokens (L, width) of a whole sound on the CPU: its windows go to the device one at a time."""
    device = next(model.audio_projection.parameters()).device
    parts = features.split(PROJECTED_AT_ONCE)
    return torch.cat([model.audio_tokens(part.float().to(device)).cpu() for part in parts])


def require_fitting_audio(
    parameters: FantasyTalkingParameters,
    audio: AudioEmbedding,
    options: FantasyTalkingOptions = NOTHING_CHOSEN,
) -> None:
    """Raise ValueError for features of another encoder than the model's, or for places without sound that are to take
    part where the model tells tokens their places, which it would tell those too."""
    sizes = (parameters.audio.layers, parameters.audio.channels)
    if audio.encoder != parameters.listening or tuple(audio.features.shape[1:]) != sizes:
        raise ValueError(
            f"the model listens to {parameters.listening} ({sizes[0]} layers of {sizes[1]}), but the audio embedding "
            f"is {audio.encoder} {tuple(audio.features.shape[1:])}: choose {parameters.listening} in Audio Embedding, "
            "or connect the model there and choose automatic"
        )
    if parameters.audio.places and options.hearing == PER_FRAME and not options.masked_audio:
        raise ValueError(
            "masked_audio is off, but this model tells the places of a window apart, and those without sound would "
            "count as heard: switch masked_audio on"
        )


def prompt_tokens(
    parameters: FantasyTalkingParameters, prompts: PromptEmbeddings | None
) -> tuple[Tensor, Tensor | None]:
    """Return the prompt's tokens and the negative prompt's, as long as the network sees them.

    A model that reads no prompt gets one token of zeros. Raises ValueError for a missing prompt, or one that is too
    long or of another text encoder.
    """
    sizes = parameters.wan
    if prompts is None and sizes.image_dim is None:
        return torch.zeros(1, sizes.text_dim), None
    if prompts is None:
        raise ValueError("this model reads prompts: encode one, which may be empty")
    pair = (prompts.prompt, prompts.negative)
    return tuple(None if tokens is None else _padded(tokens, sizes) for tokens in pair)


def _padded(tokens: Tensor, sizes: WanParameters) -> Tensor:
    if tokens.shape[1] != sizes.text_dim:
        raise ValueError(
            f"the prompt has {tokens.shape[1]} channels and the model reads {sizes.text_dim}: encode it with the "
            "model's own text encoder"
        )
    if sizes.image_dim is None:
        return tokens
    if len(tokens) > sizes.text_length:
        raise ValueError(f"the prompt has {len(tokens)} tokens, at most {sizes.text_length} are read")
    return functional.pad(tokens, (0, 0, 0, sizes.text_length - len(tokens)))


@dataclass(frozen=True)
class TalkingScene:
    """A sampled clip. latents: (C, F, h, w) float32, normalised, on the CPU. length: of which the first
    `length.kept` video frames are the clip."""

    latents: Tensor
    length: SceneLength


@torch.no_grad()
def talking_scene(
    model: FantasyTalkingModel,
    image: Tensor,
    picture: Tensor | None = None,
    prompts: PromptEmbeddings | None = None,
    audio: AudioEmbedding | None = None,
    identity: Identity | None = None,
    intensity: MotionIntensity | None = None,
    options: FantasyTalkingOptions = NOTHING_CHOSEN,
    progress: ProgressCallback | None = None,
    preview: PreviewCallback | None = None,
    check: CheckCallback | None = None,
    device: torch.device | str | None = None,
) -> TalkingScene:
    """Return a clip's latents and how many of its frames to keep.

    image: (4 + C, W, h, w), mask and latents of the reference picture, encoded for `scene_length(...).window_frames`.
    picture: (257, image_dim) CLIP tokens of it, for models that look at it. prompts: None for models that read none.
    audio: None is no sound, and then `options.frames` says how long the clip is. identity: for models with an identity
    branch. intensity: None is neutral, in models that have a network for it. progress, preview, check, device: as for
    `sample_latents`. The noise is drawn on the CPU, so a seed is the same clip on any device, but for rounding.
    Raises ValueError for what does not fit the model, FloatingPointError when half precision overflowed.
    """
    parameters = model.parameters_used
    length = scene_length(parameters, audio, options)
    duration = length.kept / parameters.defaults.fps
    factor = audio_guidance_factor(parameters, intensity, audio, options, duration)
    text, negative = prompt_tokens(parameters, prompts)
    conditions = ClipConditions(
        image=image,
        text=text,
        negative_text=negative,
        picture=_picture(parameters, picture),
        audio=None if audio is None else clip_audio(model, audio, options, length.frames),
        audio_scale=options.audio_scale,
        identity=_identity(model, identity),
        identity_scale=options.identity_scale,
        intensity=_intensity(parameters, intensity, length),
    )
    shape = (1, parameters.wan.out_channels, length.latents, *image.shape[2:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed))
    sampling = sampling_options(parameters, options, factor)
    latents = sample_latents(model, conditions, noise, sampling, progress, preview, check, device)
    return TalkingScene(latents[0], length)


def _picture(parameters: FantasyTalkingParameters, picture: Tensor | None) -> Tensor | None:
    if (picture is None) != (parameters.wan.image_dim is None):
        raise ValueError(
            "this model looks at the picture through CLIP, but no tokens of it were given: connect CLIP vision"
            if picture is None
            else "this model has no use for CLIP tokens of the picture: leave them out"
        )
    return picture


def _identity(model: FantasyTalkingModel, identity: Identity | None) -> Tensor | None:
    """Return the identity's tokens (Q, width)."""
    if identity is None:
        return None
    if model.identity is None:
        raise ValueError("this model has no identity branch, as in the release: leave the identity out")
    weight = next(model.identity.parameters())
    features = torch.from_numpy(np.array(identity.embedding)).to(weight.device)
    expected = model.parameters_used.identity.features
    if len(features) != expected:
        raise ValueError(
            f"the identity has {len(features)} numbers ({identity.encoder}), the model takes {expected}: make it with "
            "Identity Embedding and this model"
        )
    return model.identity_tokens(features[None])[0]


def _intensity(
    parameters: FantasyTalkingParameters, intensity: MotionIntensity | None, length: SceneLength
) -> Tensor | None:
    if parameters.intensity is None:
        return None
    chosen = MotionIntensity() if intensity is None else intensity
    return intensity_of_latents(chosen, length.latents, parameters.defaults.fps)
