"""Speech to motion by keypoint diffusion: the model and its sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core_models.types import AudioEmbedding, Emotion, FaceMotion, ModelHandle

CATEGORY = "TalkingPortrait/Keypoint Diffusion"

_MODELS = {"pocket (embedded)": "pocket"}
"""What the menu shows, and the row of the weights manifest it means."""


class LoadKeypointDiffusion:
    """A keypoint diffusion model, as a handle."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Chooses the model that turns speech into motion. The pocket model ships with this pack."
    RETURN_TYPES = ("KEYPOINT_DIFFUSION",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("For the Keypoint Diffusion Sampler.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = list(_MODELS)
        return {
            "required": {
                "model": (
                    names,
                    {"default": names[0], "tooltip": "pocket: small, quick on any computer, no download."},
                )
            }
        }

    def load(self, model: str) -> tuple[ModelHandle]:
        from ..core_models.types import ModelHandle
        from ..runtime.weights import find_weight

        return (ModelHandle(name=_MODELS[model], path=str(find_weight(_MODELS[model]))),)


def _gain(tooltip: str) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.05, "tooltip": tooltip}


class KeypointDiffusionSampler:
    """Motion that fits speech, sampled window by window."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Makes a face move to speech: lips and jaw follow the sound, head, brows and blinks are sampled, so "
        "that another seed gives another performance of the same words."
    )
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The motion, long enough to cover the speech.",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("KEYPOINT_DIFFUSION", {"tooltip": "From Load Keypoint Diffusion."}),
                "audio_embeds": ("AUDIO_EMBEDS", {"tooltip": "The speech, from Audio Embedding."}),
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
                        "default": 8,
                        "min": 1,
                        "max": 100,
                        "tooltip": "Denoising steps per window. The pocket model is trained for 8.",
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
                    "How far head and brows may stray from the average performance: 1 is what was learned."
                ),
                "blinks_per_minute": (
                    "FLOAT",
                    {
                        "default": 14.0,
                        "min": 0.0,
                        "max": 60.0,
                        "step": 1.0,
                        "tooltip": "How often the eyes blink; people do 8 to 20 times a minute when talking.",
                    },
                ),
                "gaze": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Let the eyes wander a little. Off: they look straight ahead.",
                    },
                ),
                "closure_threshold": (
                    "FLOAT",
                    {
                        "default": 0.4,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "How sure the model must be that the lips touch (p, b, m) to close them: "
                        "lower closes them more often.",
                    },
                ),
            },
            "optional": {
                "emotion": ("EMOTION", {"tooltip": "From Emotion Condition; neutral when not connected."}),
            },
        }

    def sample(
        self,
        model: ModelHandle,
        audio_embeds: AudioEmbedding,
        emotion: Emotion | None = None,
        **settings: Any,
    ) -> tuple[FaceMotion]:
        from ..core_models.keypoint_diffusion.loading import load_pocket
        from ..core_models.keypoint_diffusion.sampler import SamplingParameters, sample_motion
        from ..runtime.host import host
        from ..runtime.model_cache import model_cache

        parameters = SamplingParameters(**settings)
        progress = host().progress(1).update
        with model_cache().use(model, lambda handle: load_pocket(handle.path)) as network:
            return (sample_motion(network, audio_embeds, emotion, parameters, progress),)
