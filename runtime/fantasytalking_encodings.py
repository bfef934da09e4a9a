"""What FantasyTalking's clips begin with: encoded prompts, what CLIP sees of a picture, and the picture's latents.

All are remembered. The networks that make prompts and CLIP's tokens leave memory again, however the work ends: the
transformer needs their room.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..core_models.types import ModelHandle
from ..core_models.wan_types import PromptEmbeddings, WanModels
from .device_memory import forget_idle, in_any_form
from .encoding_memory import content_key, encoding_memory
from .fantasytalking_memory import make_main_memory_room
from .fantasytalking_models import clip_vision, prompt_encoder, wan_autoencoder
from .host import host

if TYPE_CHECKING:
    from torch import Tensor


def encoded_prompts(wan: WanModels, prompt: str, negative: str | None = None) -> PromptEmbeddings:
    """Return a prompt and a negative prompt as a model's text encoder gives them, from memory where they are known.

    The text encoder is loaded for those that are not, and let go of afterwards. negative: None where it is not used.
    """
    texts = [prompt] if negative is None else [prompt, negative]
    known = encoding_memory().known
    unknown = [text for text in dict.fromkeys(texts) if not known((_in_any_form(wan.text_encoder), text))]
    encoded = _encoded(wan, unknown) if unknown else {}
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
    try:
        with prompt_encoder(wan) as encode:
            for text in texts:
                host().check_cancelled()
                encoded[text] = encoding_memory().remembered(
                    (_in_any_form(wan.text_encoder), text),
                    lambda text=text: encode(text, host().check_cancelled),
                )
    finally:
        _let_go_of(wan.text_encoder)
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

    The network is let go of afterwards. None for a model that does not look at pictures through it.
    """
    if wan.clip_vision is None:
        return None
    from ..core_models.video_diffusion.wan.clip_vision import picture_tokens
    from ..core_models.video_diffusion.wan.image_conditions import clip_vision_pixels

    def see() -> Tensor:
        try:
            with clip_vision(wan) as network:
                return picture_tokens(network, clip_vision_pixels(image), host().check_cancelled)
        finally:
            _let_go_of(wan.clip_vision)

    return encoding_memory().remembered((_in_any_form(wan.clip_vision), content_key(image)), see)


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
