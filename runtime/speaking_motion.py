"""Speech to motion by any keypoint diffusion model: one call, whatever the model's kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core_models.types import BLENDSHAPES, POCKET, TAKIN_ADA
from .keypoint_diffusion_models import keypoint_diffusion_network
from .renderer_models import motion_extractor, require_liveportrait

if TYPE_CHECKING:
    from ..core_models.keypoint_diffusion.kdtalker_performance import KDTalkerOptions
    from ..core_models.types import (
        AudioEmbedding,
        Emotion,
        FaceMotion,
        KeypointDiffusionModels,
        Portrait,
        PortraitVideo,
        RendererModels,
    )
    from .progress import PreviewedProgress


def speaking_motions(
    model: KeypointDiffusionModels,
    speech: AudioEmbedding,
    settings: Mapping[str, Any],
    progress: PreviewedProgress,
    *,
    emotion: Emotion | None = None,
    portrait: Portrait | PortraitVideo | None = None,
    renderer: RendererModels | None = None,
    pose: FaceMotion | None = None,
    options: KDTalkerOptions | None = None,
) -> list[FaceMotion]:
    """Return motions that fit speech, one per variation, in the model's own space.

    settings: fields of SamplingParameters by name, and `guidance`, the weight of the emotion, which Takin-ADA alone
    knows; each kind of model takes those it has. emotion: pocket and Takin-ADA were trained for it, over KDTalker's
    motion it is laid as an offset. portrait, renderer: who speaks and LivePortrait's networks, which models over
    implicit keypoints need. pose: a motion whose head pose is taken as it is. options: KDTalker's, under the settings.
    progress shows steps, and pictures of the motion; what it raises ends the work.
    Raises ValueError for a model that lacks what it needs, and as the samplers do.
    """
    if model.kind == POCKET:
        return _pocket_motions(model, speech, emotion, pose, settings, progress)
    if model.kind == TAKIN_ADA:
        return _takin_ada_motions(model, speech, emotion, portrait, renderer, pose, settings, progress)
    motions = _kdtalker_motions(model, speech, portrait, renderer, pose, options, settings, progress)
    if emotion is None:
        return motions
    from ..core_models.motion.emotion_expression import with_emotion

    return [with_emotion(motion, emotion) for motion in motions]


def _pocket_motions(
    model: KeypointDiffusionModels,
    speech: AudioEmbedding,
    emotion: Emotion | None,
    pose: FaceMotion | None,
    settings: Mapping[str, Any],
    progress: PreviewedProgress,
) -> list[FaceMotion]:
    from ..core_models.keypoint_diffusion.sampler import SamplingParameters, sample_variations

    own = {name: value for name, value in settings.items() if name != "guidance"}
    parameters = SamplingParameters(**own)
    with keypoint_diffusion_network(model) as network:
        return sample_variations(network, speech, emotion, parameters, pose, progress.update, progress.show)


def _takin_ada_motions(
    model: KeypointDiffusionModels,
    speech: AudioEmbedding,
    emotion: Emotion | None,
    portrait: Portrait | PortraitVideo | None,
    renderer: RendererModels | None,
    pose: FaceMotion | None,
    settings: Mapping[str, Any],
    progress: PreviewedProgress,
) -> list[FaceMotion]:
    from ..core_models.keypoint_diffusion.takin_ada_performance import (
        TakinADAOptions,
        speaking_face,
        speaking_portrait,
    )

    given = (speech, emotion, TakinADAOptions.of(dict(settings)), pose, progress.update, progress.show)
    if model.space == BLENDSHAPES:
        with keypoint_diffusion_network(model) as network:
            return speaking_face(network, *given)
    renderer = require_liveportrait(renderer, "this Takin-ADA model")
    if portrait is None:
        raise ValueError("this Takin-ADA model animates one portrait: connect a Portrait node to the sampler")
    with motion_extractor(renderer) as extractor, keypoint_diffusion_network(model) as network:
        return speaking_portrait(network, portrait, extractor, *given)


def _kdtalker_motions(
    model: KeypointDiffusionModels,
    speech: AudioEmbedding,
    portrait: Portrait | PortraitVideo | None,
    renderer: RendererModels | None,
    pose: FaceMotion | None,
    options: KDTalkerOptions | None,
    settings: Mapping[str, Any],
    progress: PreviewedProgress,
) -> list[FaceMotion]:
    from ..core_models.keypoint_diffusion.kdtalker_performance import KDTalkerOptions, speaking_portrait

    renderer = require_liveportrait(renderer, "KDTalker")
    if portrait is None:
        raise ValueError("KDTalker animates one portrait: connect a Portrait node to the sampler")
    options = (options or KDTalkerOptions()).with_settings(dict(settings))
    with motion_extractor(renderer) as extractor, keypoint_diffusion_network(model) as network:
        return speaking_portrait(
            network,
            portrait,
            extractor,
            speech,
            options,
            pose,
            progress.update,
            model.compiled,
            progress.show,
        )
