"""FantasyTalking: a clip's latents, and its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fantasytalking_loaders import FANTASYTALKING_INPUT
from .fantasytalking_widgets import (
    AUDIO_SCALE_INPUT,
    CATEGORY,
    GUIDED_BY_SOUND_INPUT,
    MASKED_AUDIO_INPUT,
    choice,
    guidance_input,
    interval_inputs,
    number,
    switch,
)

if TYPE_CHECKING:
    from ..core_models.types import AudioEmbedding, Portrait, PortraitVideo
    from ..core_models.video_types import Identity
    from ..core_models.wan_types import FantasyTalkingModels, MotionIntensity


def _count(tooltip: str, largest: int, default: int = 0, smallest: int = 0, step: int = 1):
    options = {"default": default, "min": smallest, "max": largest, "step": step, "tooltip": tooltip}
    return "INT", options


def _text(default: str, tooltip: str) -> tuple[str, dict[str, Any]]:
    return "STRING", {"default": default, "multiline": True, "tooltip": tooltip}


class FantasyTalkingSampler:
    """A portrait that talks, as latents."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Makes the clip: a portrait that speaks as the sound says and moves as prompt and intensity say, sampled in "
        "windows that overlap, so that it may be as long as you like. Shows the frames as they clear up; Cancel ends "
        "it within a step."
    )
    RETURN_TYPES = ("LATENT", "FLOAT", "INT")
    RETURN_NAMES = ("latent", "fps", "frame_count")
    OUTPUT_TOOLTIPS = (
        "The clip's frames for FantasyTalking Decode, or for VAE Decode with the VAE of Wan 2.1.",
        "Frames per second, the model's.",
        "How many frames the clip has; the latents may hold up to four more.",
    )
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": _required_inputs(), "optional": _optional_inputs()}

    def sample(
        self,
        fantasytalking: FantasyTalkingModels,
        portrait: Portrait | PortraitVideo,
        prompt: str,
        negative_prompt: str,
        framing: str,
        image_size: int,
        audio_embeds: AudioEmbedding | None = None,
        identity: Identity | None = None,
        motion_intensity: MotionIntensity | None = None,
        identity_scale: float = 0.5,
        window: int = 0,
        overlap: int = -1,
        timing: str = "exact",
        hearing: str = "frames",
        masked_audio: bool = True,
        guided_by_sound: bool = True,
        streams_at_once: str = "automatic",
        keys_kept: bool = False,
        first_block_cache: float = 0.0,
        **settings: Any,
    ) -> tuple[dict[str, Any], float, int]:
        from ..runtime.fantasytalking_clips import SceneChoices, sampled_clip
        from ..runtime.host import host
        from ..runtime.progress import PreviewedProgress

        settings |= {"identity_scale": identity_scale, "window": window, "overlap": overlap, "timing": timing}
        settings |= {"hearing": hearing, "masked_audio": masked_audio, "guided_by_sound": guided_by_sound}
        settings |= {"keys_kept": keys_kept, "first_block_cache": first_block_cache}
        choices = SceneChoices(prompt, negative_prompt, framing, image_size, streams_at_once, settings)
        progress = PreviewedProgress(host().progress(1))
        clip = sampled_clip(
            fantasytalking, portrait, choices, progress, audio_embeds, identity, motion_intensity
        )
        return clip.as_latent(), clip.fps, clip.frame_count


def _required_inputs() -> dict[str, Any]:
    from ..core_models.video_diffusion.actalker.prepared_picture import FRAMINGS
    from ..core_models.video_diffusion.wan.default_prompts import DEFAULT_NEGATIVE_PROMPT, DEFAULT_PROMPT

    return {
        "fantasytalking": FANTASYTALKING_INPUT,
        "portrait": ("PORTRAIT", {"tooltip": "Who talks: a picture, from Portrait."}),
        "prompt": _text(
            DEFAULT_PROMPT,
            "What happens, in words. Small models do not read it. At most 512 tokens, about 400 words, are read.",
        ),
        "negative_prompt": _text(
            DEFAULT_NEGATIVE_PROMPT,
            "What is steered away from; the default is the release's. Not used when prompt_guidance is 1.",
        ),
        "prompt_guidance": guidance_input("prompt_guidance", own=True),
        **interval_inputs("prompt"),
        "audio_guidance": guidance_input("audio_guidance", own=True),
        **interval_inputs("audio"),
        "audio_scale": AUDIO_SCALE_INPUT,
        "steps": _count("Denoising steps. 0 is the model's own; the release's are 30.", 200),
        "shift": number(
            "Above 1 more steps are spent at high noise. 0 is the model's own; the release's is 5.",
            0.0,
            30.0,
            0.0,
            0.1,
        ),
        "seed": (
            "INT",
            {
                "default": 1111,
                "min": 0,
                "max": 0xFFFFFFFFFFFFFFFF,
                "control_after_generate": True,
                "tooltip": "The same seed gives the same clip; 1111 is the release's.",
            },
        ),
        "framing": choice(
            FRAMINGS,
            "What the model sees and the clip shows: the whole picture, as in the release, or a square around the "
            "face, which the pocket model was trained on.",
        ),
        "image_size": _count(
            "Pixels of the longer side; both sides are rounded up to what the model can take (16 pixels, pocket 8). 0 "
            "is the model's own: 512, pocket 64.",
            2048,
            step=8,
        ),
        "frames": _count(
            "Frames of the clip. 0 lasts as long as the sound. With the release's timing it is the most there may be.",
            20000,
        ),
    }


def _optional_inputs() -> dict[str, Any]:
    from ..runtime.fantasytalking_clips import HEARINGS, STREAM_CHOICES, TIMINGS

    return {
        "audio_embeds": (
            "AUDIO_EMBEDS",
            {
                "tooltip": "What is said, from Audio Embedding with the model connected. Without it choose the frames."
            },
        ),
        "identity": (
            "IDENTITY",
            {"tooltip": "Who it is, from Identity Embedding, for models that have an identity branch."},
        ),
        "motion_intensity": (
            "MOTION_INTENSITY",
            {"tooltip": "How much face and body move, from Motion Intensity."},
        ),
        "identity_scale": number(
            "How strongly the identity acts in the network; the paper's is 0.5.", 0.5, 10.0
        ),
        "window": _count(
            "Frames sampled together: 5, 9, 13 and so on. 0 is the model's own; the release's are 81.", 401
        ),
        "overlap": _count(
            "Latent frames, of 4 frames each, that neighbouring windows share at least. -1 is 5, or a third of a small "
            "window.",
            100,
            -1,
            -1,
        ),
        "timing": choice(
            TIMINGS,
            "exact: the sound at its own pace, nothing stretched or cut. release: stretched over the 1 to 5 frames "
            "more that the release makes, one window at most.",
        ),
        "hearing": choice(
            HEARINGS,
            "frames: each frame hears the sound around it, as the release does. clip: all hear all, as in the first "
            "stage of training.",
        ),
        "masked_audio": MASKED_AUDIO_INPUT,
        "guided_by_sound": GUIDED_BY_SOUND_INPUT,
        "streams_at_once": choice(
            STREAM_CHOICES,
            "Guidance streams evaluated together: fewer need less memory; the clip is the same but for rounding. "
            "automatic: what is fastest of what fits.",
        ),
        "keys_kept": switch(
            "Exact: keep the keys and values of prompts, picture and sound from step to step; a little faster, for 1 "
            "to 3 GB with the published model.",
            False,
        ),
        "first_block_cache": number(
            "Approximate: leave out blocks in steps where the first block's output has changed by less than this "
            "share. 0 computes all; 0.05 to 0.1 is usual. For clips of one window.",
            0.0,
            0.99,
            0.0,
            0.01,
        ),
    }


class FantasyTalkingDecode:
    """Latents of a clip to frames."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Turns the clip's latents into frames with the model's video autoencoder, one latent frame after the other, so "
        "that memory does not grow with the clip beyond its frames."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("frames",)
    OUTPUT_TOOLTIPS = ("One picture per frame, as many as frame_count says, for Create Video.",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..runtime.fantasytalking_memory import TILINGS

        return {
            "required": {
                "fantasytalking": FANTASYTALKING_INPUT,
                "latent": ("LATENT", {"tooltip": "From FantasyTalking Sampler with the same model."}),
                "colour_keeping": number(
                    "How much of a slow drift of the colours is taken away: 1 brings them back to the portrait's, 0 "
                    "leaves them as they come.",
                    0.0,
                    1.0,
                ),
                "tiling": choice(
                    TILINGS,
                    "automatic: whole frames where they fit, else tiles. off: whole frames. release: the tiles of the "
                    "release, which need less memory and more time and differ slightly.",
                ),
            }
        }

    def decode(
        self, fantasytalking: FantasyTalkingModels, latent: dict[str, Any], colour_keeping: float, tiling: str
    ) -> tuple[Any]:
        from ..runtime.fantasytalking_latents import decoded_clip
        from ..runtime.host import host

        return (decoded_clip(fantasytalking, latent, colour_keeping, tiling, host().progress(1).update),)
