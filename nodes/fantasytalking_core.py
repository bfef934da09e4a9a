"""FantasyTalking on ComfyUI's own Wan: its audio weights, a model that hears, its guidance and its noise levels.

These compose with ComfyUI's loaders, LoRA, samplers and VAE, and so run in ComfyUI only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..core_models.types import AudioEmbedding
    from ..runtime.fantasytalking_core_weights import CoreAdapter

CATEGORY = "TalkingPortrait/FantasyTalking"


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
        from ..runtime.fantasytalking_models import adapter_choices

        names = adapter_choices()
        return {
            "required": {
                "weights": (
                    names,
                    {
                        "default": names[0],
                        "tooltip": "Which file of the published audio weights; automatic takes one that is here. They "
                        "hold the same.",
                    },
                )
            },
            "optional": {
                "download_if_missing": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Fetch the file when it is not here; 1.7 GB or more."},
                ),
            },
        }

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


def _number(
    tooltip: str, default: float, largest: float, smallest: float = 0.0, step: float = 0.05
) -> tuple[str, dict[str, Any]]:
    options = {"default": default, "min": smallest, "max": largest, "step": step, "tooltip": tooltip}
    return "FLOAT", options


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
                "audio_scale": _number(
                    "How strongly sound acts in the network; 0 is no sound, 1 as trained.", 1.0, 10.0
                ),
                "fps": _number("Frames per second; the model was trained at 23.", 23.0, 120.0, 1.0, 0.01),
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
                "timing": (
                    list(TIMINGS),
                    {
                        "default": TIMINGS[0],
                        "tooltip": "exact: the sound at its own pace, nothing stretched or cut. release: stretched "
                        "over the 1 to 5 frames more that the release makes, 81 frames at most.",
                    },
                ),
                "masked_audio": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Leave places without sound out of the attention. Off: as the release does without "
                        "flash attention.",
                    },
                ),
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
        interval = "Guidance {} of the steps, as a share of them. {}"
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
                "prompt_guidance": _number(
                    "How far the result is pushed from the negative prompt to the prompt; 1 is not at all and saves a "
                    "pass. The release's is 5.",
                    5.0,
                    30.0,
                    step=0.1,
                ),
                "audio_guidance": _number(
                    "How far the result is pushed towards the sound; 1 is not at all. The release's is 5, 3 to 7 is "
                    "recommended.",
                    5.0,
                    30.0,
                    step=0.1,
                ),
            },
            "optional": {
                "prompt_start": _number(
                    interval.format("by prompt begins after this part", "0 from the first."), 0.0, 1.0
                ),
                "prompt_end": _number(
                    interval.format(
                        "by prompt ends after this part", "Less than 1 is faster and approximate."
                    ),
                    1.0,
                    1.0,
                ),
                "audio_start": _number(
                    interval.format("by sound begins after this part", "0 from the first."), 0.0, 1.0
                ),
                "audio_end": _number(
                    interval.format(
                        "by sound ends after this part",
                        "Below 0.7 the lips no longer follow; less than 1 is approximate.",
                    ),
                    1.0,
                    1.0,
                ),
                "guided_by_sound": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Off: no guidance by sound, but sound in every pass; audio_guidance is not used.",
                    },
                ),
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
                "shift": _number(
                    "Above 1 more steps are spent at high noise; the release's is 5.", 5.0, 30.0, 0.1, 0.1
                ),
            }
        }

    def make(self, steps: int, shift: float) -> tuple[Tensor]:
        from ..core_models.video_diffusion.wan.flow_matching import shifted_sigmas

        return (shifted_sigmas(steps, shift),)
