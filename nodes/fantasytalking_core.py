"""FantasyTalking on ComfyUI's own Wan: its audio weights, a model that hears, its guidance and its noise levels.

These compose with ComfyUI's loaders, LoRA, samplers and VAE, and so run in ComfyUI only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fantasytalking_widgets import (
    AUDIO_SCALE_INPUT,
    CATEGORY,
    DOWNLOAD_ADAPTER_INPUT,
    GUIDED_BY_SOUND_INPUT,
    MASKED_AUDIO_INPUT,
    adapter_input,
    choice,
    guidance_input,
    interval_inputs,
    number,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..core_models.types import AudioEmbedding
    from ..runtime.fantasytalking_core_weights import CoreAdapter


class LoadFantasyTalkingAdapter:
    """FantasyTalking's audio weights, for a Wan that ComfyUI loads."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads what FantasyTalking adds to Wan 2.1, the attention to sound of all its blocks (1.7 GB), for a Wan that "
        "ComfyUI's own nodes load. ComfyUI moves it to the graphics card and back, as it does its own models. Nothing "
        "is fetched unless you switch it on."
    )
    RETURN_TYPES = ("FANTASYTALKING_ADAPTER",)
    RETURN_NAMES = ("adapter",)
    OUTPUT_TOOLTIPS = ("For FantasyTalking for Wan.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"weights": adapter_input("one that is here")},
            "optional": {"download_if_missing": DOWNLOAD_ADAPTER_INPUT},
        }

    @classmethod
    def IS_CHANGED(cls, weights: str | None = None, **_: Any) -> str:
        from ..runtime.fantasytalking_adapter_files import adapter_stamp

        return "" if weights is None else adapter_stamp(weights)

    def load(self, weights: str, download_if_missing: bool = False) -> tuple[CoreAdapter]:
        from ..runtime.fantasytalking_core_weights import (
            LOADING_NODE,
            adapter_path,
            load_core_adapter,
            require_comfyui,
        )
        from ..runtime.host import host

        require_comfyui(LOADING_NODE)
        path = adapter_path(weights, download_if_missing, host().progress(1).update)
        return (load_core_adapter(str(path)),)


class FantasyTalkingForWan:
    """A Wan of ComfyUI that hears a sound."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Gives ComfyUI's own Wan 2.1 image-to-video model ears: every latent frame listens to the sound around it. "
        "Load the model, and LoRAs on it, with ComfyUI's nodes, connect it here, and sample it with FantasyTalking "
        "Guider. The model you connect stays as it is."
    )
    RETURN_TYPES = ("MODEL", "INT", "FLOAT")
    RETURN_NAMES = ("model", "frame_count", "fps")
    OUTPUT_TOOLTIPS = (
        "For FantasyTalking Guider; with other guiders every pass hears the sound.",
        "Frames of the video, for the length of WanImageToVideo.",
        "Frames per second, for Create Video.",
    )
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..runtime.fantasytalking_clips import TIMINGS

        return {
            "required": {
                "model": ("MODEL", {"tooltip": "Wan 2.1 image to video, 14B, from Load Diffusion Model."}),
                "adapter": (
                    "FANTASYTALKING_ADAPTER",
                    {"tooltip": "From Load FantasyTalking Adapter."},
                ),
                "audio_embeds": (
                    "AUDIO_EMBEDS",
                    {"tooltip": "What is said, from Audio Embedding with the encoder wav2vec2."},
                ),
                "audio_scale": AUDIO_SCALE_INPUT,
                "fps": number("Frames per second; the model was trained at 23.", 23.0, 120.0, 1.0, 0.01),
                "frames": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 20000,
                        "tooltip": "Frames of the video, rounded up to 5, 9, 13 and so on. 0 lasts as long as the "
                        "sound. With the release's timing it is the most there may be.",
                    },
                ),
            },
            "optional": {
                "timing": choice(
                    TIMINGS,
                    "exact: the sound at its own pace, nothing stretched or cut. release: stretched over the 1 to 5 "
                    "frames more that the release makes, 81 frames at most.",
                ),
                "masked_audio": MASKED_AUDIO_INPUT,
            },
        }

    def patch(
        self,
        model: Any,
        adapter: CoreAdapter,
        audio_embeds: AudioEmbedding,
        audio_scale: float,
        fps: float,
        frames: int,
        timing: str = "exact",
        masked_audio: bool = True,
    ) -> tuple[Any, int, float]:
        from ..runtime.fantasytalking_core import SoundOptions, patched_model

        options = SoundOptions(frames or None, fps, audio_scale, timing, masked_audio)
        return *patched_model(model, adapter, audio_embeds, options), fps


class FantasyTalkingGuider:
    """Guidance by prompt and by sound for SamplerCustomAdvanced."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Guides a model from FantasyTalking for Wan as the release does: away from the negative prompt, and towards "
        "the sound. Passes that change nothing are left out. For SamplerCustomAdvanced, with the sampler euler and Wan "
        "Sigmas."
    )
    RETURN_TYPES = ("GUIDER",)
    RETURN_NAMES = ("guider",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced.",)
    FUNCTION = "guide"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "From FantasyTalking for Wan."}),
                "positive": (
                    "CONDITIONING",
                    {"tooltip": "The prompt with the picture, from WanImageToVideo."},
                ),
                "negative": (
                    "CONDITIONING",
                    {
                        "tooltip": "The negative prompt with the picture, from WanImageToVideo. Not used when "
                        "prompt_guidance is 1."
                    },
                ),
                "prompt_guidance": guidance_input("prompt_guidance", own=False),
                "audio_guidance": guidance_input("audio_guidance", own=False),
            },
            "optional": {
                **interval_inputs("prompt"),
                **interval_inputs("audio"),
                "guided_by_sound": GUIDED_BY_SOUND_INPUT,
            },
        }

    def guide(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        prompt_guidance: float,
        audio_guidance: float,
        prompt_start: float = 0.0,
        prompt_end: float = 1.0,
        audio_start: float = 0.0,
        audio_end: float = 1.0,
        guided_by_sound: bool = True,
    ) -> tuple[Any]:
        from ..core_models.video_diffusion.fantasytalking.guidance import (
            GuidanceScales,
            GuidanceSchedule,
            Interval,
        )
        from ..runtime.fantasytalking_core_guider import new_guider

        schedule = GuidanceSchedule(
            GuidanceScales(prompt_guidance, audio_guidance if guided_by_sound else None),
            Interval(prompt_start, prompt_end),
            Interval(audio_start, audio_end),
        )
        return (new_guider(model, positive, negative, schedule),)


class WanSigmas:
    """The noise levels that Wan is sampled at."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Gives the noise levels of FantasyTalking's release: evenly spaced steps, shifted towards high noise. "
        "ComfyUI's own schedulers take another shift for Wan (8) and only approximate these."
    )
    RETURN_TYPES = ("SIGMAS",)
    RETURN_NAMES = ("sigmas",)
    OUTPUT_TOOLTIPS = ("From 1 down to 0, for SamplerCustomAdvanced with the sampler euler.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "steps": (
                    "INT",
                    {
                        "default": 30,
                        "min": 1,
                        "max": 1000,
                        "tooltip": "Denoising steps; the release's are 30.",
                    },
                ),
                "shift": number(
                    "Above 1 more steps are spent at high noise; the release's is 5.", 5.0, 30.0, 0.1, 0.1
                ),
            }
        }

    def make(self, steps: int, shift: float) -> tuple[Tensor]:
        from ..core_models.video_diffusion.wan.flow_matching import shifted_sigmas

        return (shifted_sigmas(steps, shift),)
