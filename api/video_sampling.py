"""The two systems that make the video itself: a clip's latents, sampled from a portrait and what steers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core_models.face.box_masks import BoxParameters
from ..core_models.face.region_masks import region_masks
from ..core_models.types import AudioEmbedding, FaceMotion, Portrait
from ..core_models.video_diffusion.actalker.prepared_picture import AROUND_FACE, WHOLE_PICTURE
from ..core_models.video_diffusion.gate_keyframes import chosen_gate
from ..core_models.video_diffusion.wan.default_prompts import DEFAULT_NEGATIVE_PROMPT, DEFAULT_PROMPT
from ..core_models.video_types import (
    ACTALKER_POCKET,
    REGIONS,
    ACTalkerModels,
    Gate,
    Identity,
    MaskedControl,
    MotionEmbedding,
)
from ..core_models.wan_types import FANTASYTALKING_POCKET, FantasyTalkingModels, MotionIntensity
from ..runtime import actalker_clips, fantasytalking_clips
from ..runtime.fantasytalking_models import knows_people
from ..runtime.progress import PreviewedProgress

AUTOMATIC_STREAMS = "automatic"
"""As many guidance streams together as fit."""


@dataclass(frozen=True)
class SampledVideo:
    """A clip as a video model sampled it; `render` makes frames of it.

    model: which sampled it and decodes it. latent: what travels on a LATENT wire, {"samples": float32 tensor, ...}.
    fps: frames per second, the model's own. frame_count: of the clip.
    """

    model: ACTalkerModels | FantasyTalkingModels = field(repr=False)
    latent: Mapping[str, Any] = field(repr=False)
    fps: float
    frame_count: int


def sample_actalker(
    model: ACTalkerModels,
    speech: AudioEmbedding | None,
    portrait: Portrait | None,
    progress: PreviewedProgress,
    *,
    motion: FaceMotion | MotionEmbedding | None = None,
    identity: Identity | None = None,
    control: MaskedControl | None = None,
    audio_gate: float | str = 1.0,
    motion_gate: float | str = 1.0,
    audio_guidance: float | None = None,
    motion_guidance: float | None = None,
    regions: str = REGIONS,
    framing: str | None = None,
    image_size: int = 0,
    streams_at_once: str = AUTOMATIC_STREAMS,
    **settings: Any,
) -> SampledVideo:
    """Return a clip of a portrait that sound and motion steer, each in its own part of the face.

    motion: in blendshapes, for models trained here; the published one takes a MotionEmbedding, of
    `driving_embedding_of`. audio_gate, motion_gate: how far each is let through, 0..1, or over time as a text,
    "0: 1, 2.5: 0". audio_guidance, motion_guidance: how far the result is pushed towards them; None is the model's own.
    regions: "regions" or "full". control: all of these at once, with masks of your own, in place of boxes around face
    and mouth. identity: who it is; None reads it off the portrait. framing: "whole picture" or "around the face"; None
    is what the model was trained on. image_size: pixels of the shorter side, 0 the model's own. settings: of
    `actalker.choices.chosen_options`: seed, steps, frames, strength, identity_guidance, head_motion,
    expression_motion, window, overlap, shift.
    Raises ValueError for no portrait, nothing that steers, or what does not fit the model; TypeError for another
    setting.
    """
    portrait = _required(portrait)
    if control is None:
        face, mouth, motion_mask = _masks_of(portrait)
        control = MaskedControl(
            face=face,
            mouth=mouth,
            motion_mask=motion_mask,
            audio=speech,
            motion=actalker_clips.motion_embedding_of(model, motion)
            if isinstance(motion, FaceMotion)
            else motion,
            audio_gate=_gate(audio_gate),
            motion_gate=_gate(motion_gate),
            audio_guidance=audio_guidance,
            motion_guidance=motion_guidance,
            regions=regions,
        )
    framing = framing or (AROUND_FACE if model.kind == ACTALKER_POCKET else WHOLE_PICTURE)
    choices = actalker_clips.ClipChoices(framing, image_size, streams_at_once, settings)
    identity = identity or actalker_clips.identity_of(model, portrait)
    latents, fps = actalker_clips.sampled_clip(model, portrait, identity, control, choices, progress)
    return SampledVideo(model, {"samples": latents}, fps, len(latents))


def sample_fantasytalking(
    model: FantasyTalkingModels,
    speech: AudioEmbedding | None,
    portrait: Portrait | None,
    progress: PreviewedProgress,
    *,
    prompt: str = DEFAULT_PROMPT,
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT,
    intensity: MotionIntensity | float | None = None,
    identity: Identity | None = None,
    framing: str | None = None,
    image_size: int = 0,
    streams_at_once: str = AUTOMATIC_STREAMS,
    **settings: Any,
) -> SampledVideo:
    """Return a clip of a portrait that speaks as the sound says and moves as prompt and intensity say.

    prompt, negative_prompt: small models do not read them. intensity: how much face and body move, 0..1, for models
    that were trained for it. identity: who it is; None reads it off the portrait where the model has a branch for it.
    framing: "whole picture" or "around the face"; None is what the model was trained on. image_size: pixels of the
    longer side, 0 the model's own. settings: of `fantasytalking.choices.chosen_options`: seed, steps, frames, shift,
    prompt_guidance, audio_guidance, audio_scale, identity_scale, window, overlap, timing, and the others.
    Raises ValueError for no portrait, or what does not fit the model; TypeError for another setting.
    """
    portrait = _required(portrait)
    if identity is None and knows_people(model):
        identity = fantasytalking_clips.identity_of(model, portrait)
    if isinstance(intensity, (int, float)):
        intensity = MotionIntensity(intensity, intensity)
    framing = framing or (AROUND_FACE if model.kind == FANTASYTALKING_POCKET else WHOLE_PICTURE)
    choices = fantasytalking_clips.SceneChoices(
        prompt, negative_prompt, framing, image_size, streams_at_once, settings
    )
    clip = fantasytalking_clips.sampled_clip(model, portrait, choices, progress, speech, identity, intensity)
    return SampledVideo(model, clip.as_latent(), clip.fps, clip.frame_count)


def _required(portrait: Portrait | None) -> Portrait:
    if portrait is None:
        raise ValueError("a video model moves one portrait: give portrait=, from load_portrait")
    return portrait


def _masks_of(portrait: Portrait) -> tuple[Any, Any, Any]:
    """Return the (H, W) masks of face, mouth and motion, boxes around them as ACTalker defines them."""
    masks = region_masks([portrait.landmarks], portrait.size, boxes=BoxParameters())
    return masks[0][0], masks[1][0], masks[2][0]


def _gate(value: float | str) -> Gate:
    return chosen_gate(1.0, value) if isinstance(value, str) else chosen_gate(value)
