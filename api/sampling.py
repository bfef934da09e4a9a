"""What every model hears, and what it makes of it: one verb each, whatever the system."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..core_models.audio.decode import Sound
from ..core_models.keypoint_diffusion.kdtalker_performance import KDTalkerOptions
from ..core_models.keypoint_diffusion.sampler import SamplingParameters
from ..core_models.types import (
    IMPLICIT_KEYPOINTS,
    AudioEmbedding,
    Emotion,
    FaceMotion,
    KeypointDiffusionModels,
    Portrait,
    PortraitVideo,
    ProgressCallback,
    RendererModels,
)
from ..core_models.video_types import ACTalkerModels
from ..core_models.wan_types import FantasyTalkingModels
from ..runtime.progress import PreviewedProgress
from ..runtime.speaking_motion import speaking_motions
from ..runtime.speech_encoders import embedded_speech, wanted_encoder
from .motions import emotion as described_emotion
from .video_sampling import SampledVideo, sample_actalker, sample_fantasytalking
from .work import cancellable, progress_of

Models = KeypointDiffusionModels | ACTalkerModels | FantasyTalkingModels


@cancellable()
def embed(
    sound: Sound,
    model: Models | None = None,
    *,
    encoder: str | None = None,
    progress: ProgressCallback | None = None,
) -> AudioEmbedding:
    """Return a sound as a model hears it.

    model: who is to hear it; None is the pocket model over motion. encoder: another one of
    `audio.embedding.ENCODER_NAMES`, such as "hubert".
    Raises WeightNotFoundError (an OSError) when the encoder is a network that is not here, ValueError for another name.
    """
    keypoint_model = model if isinstance(model, KeypointDiffusionModels) else None
    encoder = encoder or _encoder_of(model)
    return embedded_speech(sound, encoder, keypoint_model, progress_of(progress).update)


def _encoder_of(model: Models | None) -> str:
    if model is None or isinstance(model, KeypointDiffusionModels):
        return wanted_encoder(model)
    if isinstance(model, ACTalkerModels):
        return wanted_encoder(actalker=model)
    return wanted_encoder(fantasytalking=_known(model, FantasyTalkingModels))


def _known(model: Any, kind: type) -> Any:
    if not isinstance(model, kind):
        raise ValueError(
            f"{type(model).__name__} is not a model that samples: give what load_keypoint_diffusion, load_actalker or "
            "load_fantasytalking returned"
        )
    return model


@cancellable()
def sample(
    model: Models,
    speech: AudioEmbedding | None = None,
    portrait: Portrait | PortraitVideo | None = None,
    *,
    progress: ProgressCallback | None = None,
    **settings: Any,
) -> FaceMotion | SampledVideo:
    """Return what a model makes of speech: motion, or the latents of a video, for `render`.

    settings: what the model is told beside these. All of them know `seed`: the same seed gives the same result.
    Of load_keypoint_diffusion's models, see `sample_motion` here: emotion, renderer, pose, steps, fps, mouth,
    head_motion, brows, pitch, yaw, roll, temperature, blinks_per_minute, gaze, closure_threshold, options,
    emotion_guidance. Of ACTalker, see `sample_actalker` in api/video_sampling.py: motion, audio_gate, motion_gate,
    audio_guidance, motion_guidance, framing, image_size, steps, frames, control, identity and others. Of
    FantasyTalking, see `sample_fantasytalking` there: prompt, negative_prompt, intensity, framing, image_size, steps,
    frames, prompt_guidance, audio_guidance, identity and others.
    Raises as these do, and TypeError for a setting that the model does not know.
    """
    shown = PreviewedProgress(progress_of(progress))
    if isinstance(model, KeypointDiffusionModels):
        return sample_motion(model, speech, portrait, shown, **settings)
    if isinstance(model, ACTalkerModels):
        return sample_actalker(model, speech, portrait, shown, **settings)
    return sample_fantasytalking(_known(model, FantasyTalkingModels), speech, portrait, shown, **settings)


def sample_motion(
    model: KeypointDiffusionModels,
    speech: AudioEmbedding | None,
    portrait: Portrait | PortraitVideo | None,
    progress: PreviewedProgress,
    *,
    emotion: Emotion | str | None = None,
    renderer: RendererModels | None = None,
    pose: FaceMotion | None = None,
    options: KDTalkerOptions | None = None,
    emotion_guidance: float = 1.0,
    **settings: Any,
) -> FaceMotion:
    """Return motion that fits speech, long enough to cover it.

    emotion: an Emotion, or a text as of `emotion`; None is neutral, or for Takin-ADA what is heard in the speech.
    portrait, renderer: who speaks and LivePortrait, which KDTalker and Takin-ADA over implicit keypoints need. pose: a
    motion whose head pose is taken as it is. options: KDTalker's. emotion_guidance: Takin-ADA's weight of the emotion.
    settings: fields of `SamplingParameters` but `variations`: seed, steps, fps, mouth, head_motion, brows, pitch, yaw,
    roll, temperature, blinks_per_minute, gaze, closure_threshold.
    Raises ValueError for no speech, what the model lacks, or a value out of range; TypeError for another setting.
    """
    _require_known(settings)
    if speech is None:
        raise ValueError("motion is sampled from speech: give what embed(sound, model) returned")
    if model.space == IMPLICIT_KEYPOINTS and (portrait is None or renderer is None):
        raise ValueError(
            f"{model.kind} moves one portrait through LivePortrait's networks: give portrait= and "
            "renderer=load_liveportrait()"
        )
    (motion,) = speaking_motions(
        model,
        speech,
        {**settings, "guidance": emotion_guidance},
        progress,
        emotion=described_emotion(emotion) if isinstance(emotion, str) else emotion,
        portrait=portrait,
        renderer=renderer,
        pose=pose,
        options=options,
    )
    return motion


def _require_known(settings: dict[str, Any]) -> None:
    """Raise TypeError, naming those that exist, for settings that no model over motion has."""
    known = {one.name for one in fields(SamplingParameters)} - {"variations"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise TypeError(
            f"there is no setting {', '.join(unknown)}; those of motion are emotion, renderer, pose, options, "
            f"emotion_guidance, {', '.join(sorted(known))}"
        )
