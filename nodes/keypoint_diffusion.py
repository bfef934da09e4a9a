"""Speech to motion by keypoint diffusion: the models and their sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .liveportrait import OPTIONAL_RENDERER_INPUT

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

CATEGORY = "TalkingPortrait/Keypoint Diffusion"


class LoadKeypointDiffusion:
    """A keypoint diffusion model, as a handle."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Chooses the model that turns speech into motion. The pocket model ships with this pack; KDTalker needs its "
        "published weights (non-commercial) and LivePortrait; of Takin-ADA no weights are published. Connect it to "
        "Audio Embedding too, which then listens as the model needs. Nothing is fetched unless you switch it on."
    )
    RETURN_TYPES = ("KEYPOINT_DIFFUSION",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("For the Keypoint Diffusion Sampler and Audio Embedding.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..runtime.keypoint_diffusion_models import model_choices
        from ..runtime.renderer_models import PRECISIONS

        names = model_choices()
        return {
            "required": {
                "model": (
                    names,
                    {
                        "default": names[0],
                        "tooltip": "pocket: small, quick on any computer, no download. KDTalker: the published model. "
                        "Models trained here, KDTalker's or Takin-ADA's, are listed by their files.",
                    },
                )
            },
            "optional": {
                "precision": (
                    list(PRECISIONS),
                    {
                        "default": "auto",
                        "tooltip": "How KDTalker's denoiser is computed. auto: float32. The others are quicker where "
                        "the hardware is made for them, and a little less exact.",
                    },
                ),
                "compile": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "KDTalker: let torch.compile work on the denoiser first, which takes a minute; for "
                        "long speech.",
                    },
                ),
                "download_if_missing": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Fetch KDTalker's files when no models folder holds them.",
                    },
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, model: str | None = None, **_: Any) -> str:
        from ..runtime.keypoint_diffusion_models import trained_file_stamp

        return "" if model is None else trained_file_stamp(model)

    def load(
        self, model: str, precision: str = "auto", compile: bool = False, download_if_missing: bool = False
    ) -> tuple[KeypointDiffusionModels]:
        from ..runtime.host import host
        from ..runtime.keypoint_diffusion_models import keypoint_diffusion_models

        progress = host().progress(1).update
        return (keypoint_diffusion_models(model, precision, compile, download_if_missing, progress),)


def _gain(tooltip: str) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.05, "tooltip": tooltip}


class KDTalkerOptionsNode:
    """What only KDTalker can be told."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Settings of KDTalker beyond those of the sampler. The defaults are ours; overlap 0 and audio_padding repeat "
        "here, with 50 steps and no blinks added in the sampler, give the motion that the release gives."
    )
    RETURN_TYPES = ("KDTALKER_OPTIONS",)
    RETURN_NAMES = ("options",)
    OUTPUT_TOOLTIPS = ("For the Keypoint Diffusion Sampler.",)
    FUNCTION = "collect"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.keypoint_diffusion.choices import AUDIO_PADDINGS, MODES, SCALES, SPACINGS

        def choice(options: tuple[str, ...], tooltip: str) -> tuple[list[str], dict[str, Any]]:
            return list(options), {"default": options[0], "tooltip": tooltip}

        return {
            "required": {
                "mode": choice(
                    MODES,
                    "absolute: head and expression as the model makes them. relative: counted from their first frame "
                    "and added to the portrait, which keeps its own expression.",
                ),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 3.0,
                        "step": 0.05,
                        "tooltip": "Factor for all movement away from the portrait.",
                    },
                ),
                "spacing": choice(
                    SPACINGS,
                    "Which moments of the noise schedule the steps visit: leading as in the release, trailing begins "
                    "at full noise, which very few steps need; one step with leading returns the noise itself.",
                ),
                "overlap": (
                    "INT",
                    {
                        "default": 8,
                        "min": 0,
                        "max": 32,
                        "tooltip": "Frames in which one window fades into the next (KDTalker's have 64); 0 sets them "
                        "side by side, as the release does.",
                    },
                ),
                "audio_padding": choice(
                    AUDIO_PADDINGS,
                    "What the last window hears after the speech: silence, or its beginning again, as in the release.",
                ),
                "scale": choice(
                    SCALES, "The head's size: the portrait's own, as in the release, or what the model makes."
                ),
                "smoothing": (
                    "FLOAT",
                    {
                        "default": 0.001,
                        "min": 0.0,
                        "max": 10.0,
                        "step": 0.001,
                        "tooltip": "How much the motion is smoothed over time (Kalman observation variance): the "
                        "release's 0.001 does next to nothing, 0.5 is clearly calmer, 0 is off.",
                    },
                ),
                "longest_stare": (
                    "FLOAT",
                    {
                        "default": 6.0,
                        "min": 0.5,
                        "max": 600.0,
                        "step": 0.5,
                        "tooltip": "Seconds without a blink after which blinks are added, as often as the sampler's "
                        "blinks_per_minute says.",
                    },
                ),
            }
        }

    def collect(self, strength: float, longest_stare: float, **sampling: Any) -> tuple[KDTalkerOptions]:
        from ..core_models.keypoint_diffusion.kdtalker_performance import KDTalkerOptions

        return (KDTalkerOptions.of(sampling, {"strength": strength, "longest_stare": longest_stare}),)


class KeypointDiffusionSampler:
    """Motion that fits speech, sampled window by window."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Makes a face move to speech: lips and jaw follow the sound, head, brows and blinks are sampled, so "
        "that another seed gives another performance of the same words."
    )
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = (
        "The motion, long enough to cover the speech; one after the other for several variations.",
    )
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("KEYPOINT_DIFFUSION", {"tooltip": "From Load Keypoint Diffusion."}),
                "audio_embeds": ("AUDIO_EMBEDS", {"tooltip": "The speech, from Audio Embedding."}),
                **_SAMPLING_INPUTS,
            },
            "optional": {
                "emotion": (
                    "EMOTION",
                    {
                        "tooltip": "From Emotion Condition; when not connected, neutral, or for Takin-ADA what is "
                        "heard in the speech. Pocket and Takin-ADA were trained for it; over KDTalker's motion it is "
                        "laid as an offset (Emotion Offset)."
                    },
                ),
                "portrait": (
                    "PORTRAIT",
                    {
                        "tooltip": "KDTalker, and Takin-ADA over implicit keypoints: who speaks. Let the Portrait node "
                        "make its crop the way KDTalker does."
                    },
                ),
                "renderer": OPTIONAL_RENDERER_INPUT,
                "pose": (
                    "FACE_MOTION",
                    {
                        "tooltip": "A motion whose head pose is taken as it is, instead of a sampled one. A shorter "
                        "one goes back and forth."
                    },
                ),
                "options": ("KDTALKER_OPTIONS", {"tooltip": "KDTalker: from KDTalker Options."}),
                "variations": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 64,
                        "tooltip": "Performances made at once, with the seeds that follow; what is connected runs once "
                        "for each.",
                    },
                ),
                "pitch": _gain("Factor for nodding, on top of head_motion."),
                "yaw": _gain("Factor for turning to the sides, on top of head_motion."),
                "roll": _gain("Factor for tilting, on top of head_motion."),
                "emotion_guidance": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 5.0,
                        "step": 0.05,
                        "tooltip": "Takin-ADA: weight of the emotion over none. 1 is as learned; other values take "
                        "twice the time.",
                    },
                ),
            },
        }

    def sample(
        self,
        model: KeypointDiffusionModels,
        audio_embeds: AudioEmbedding,
        steps: int,
        emotion: Emotion | None = None,
        portrait: Portrait | PortraitVideo | None = None,
        renderer: RendererModels | None = None,
        pose: FaceMotion | None = None,
        options: KDTalkerOptions | None = None,
        variations: int = 1,
        pitch: float = 1.0,
        yaw: float = 1.0,
        roll: float = 1.0,
        emotion_guidance: float = 1.0,
        **settings: Any,
    ) -> tuple[list[FaceMotion]]:
        from ..runtime.host import host
        from ..runtime.progress import PreviewedProgress
        from ..runtime.speaking_motion import speaking_motions

        settings |= {"variations": variations, "pitch": pitch, "yaw": yaw, "roll": roll}
        settings |= {"guidance": emotion_guidance, **({"steps": steps} if steps else {})}
        motions = speaking_motions(
            model,
            audio_embeds,
            settings,
            PreviewedProgress(host().progress(1)),
            emotion=emotion,
            portrait=portrait,
            renderer=renderer,
            pose=pose,
            options=options,
        )
        return (motions,)


_SAMPLING_INPUTS: dict[str, Any] = {
    "seed": (
        "INT",
        {
            "default": 0,
            "min": 0,
            "max": 0xFFFFFFFFFFFFFFFF,
            "control_after_generate": True,
            "tooltip": "The same seed gives the same motion.",
        },
    ),
    "steps": (
        "INT",
        {
            "default": 0,
            "min": 0,
            "max": 200,
            "tooltip": "Denoising steps per window. 0 takes what suits the model: 8 for pocket, 20 for Takin-ADA, 10 "
            "for KDTalker, whose release takes 50.",
        },
    ),
    "fps": (
        "FLOAT",
        {
            "default": 25.0,
            "min": 1.0,
            "max": 120.0,
            "step": 0.01,
            "tooltip": "Frames per second of the motion, and so of the video.",
        },
    ),
    "mouth": _gain("How strongly lips and jaw move: 1 is natural, 0 keeps them still."),
    "head_motion": _gain("How much the head moves: 1 is natural, 0 holds it still."),
    "brows": _gain("How much brows and lids move with the speech: 1 is natural."),
    "temperature": _gain(
        "How far what is sampled may stray from the average performance: 1 is what was learned."
    ),
    "blinks_per_minute": (
        "FLOAT",
        {
            "default": 14.0,
            "min": 0.0,
            "max": 30.0,
            "step": 1.0,
            "tooltip": "How often the eyes blink; people do 8 to 20 times a minute when talking. KDTalker blinks by "
            "itself: there blinks are added only where it does not for 6 seconds.",
        },
    ),
    "gaze": (
        "BOOLEAN",
        {
            "default": True,
            "tooltip": "Pocket: let the eyes wander a little. Off: they look straight ahead.",
        },
    ),
    "closure_threshold": (
        "FLOAT",
        {
            "default": 0.4,
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "tooltip": "Pocket: how sure the model must be that the lips touch (p, b, m) to close them: "
            "lower closes them more often.",
        },
    ),
}
