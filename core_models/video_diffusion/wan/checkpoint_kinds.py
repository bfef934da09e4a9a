"""Which other model a file holds, where it is not the Wan that was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...strict_loading import WeightMismatchError
from .transformer import WanParameters

WHAT_TO_LOAD = (
    "FantasyTalking needs Wan2.1 I2V 14B: load wan2.1_i2v_480p_14B or wan2.1_i2v_720p_14B "
    "(bf16, fp16 or fp8), the shards of Wan-AI/Wan2.1-I2V-14B-720P, or its Diffusers form"
)

_MARKS: Mapping[str, str] = {
    "lora_": "a LoRA for Wan, which changes a Wan model but is none (the node Wan LoRA takes it)",
    "vace_": "Wan VACE (video editing)",
    "face_adapter.": "Wan2.2 Animate",
    "casual_audio_encoder.": "Wan2.2 S2V (speech to video)",
    "audio_cross_attn.": "Wan with the audio attention of MultiTalk or InfiniteTalk",
    "control_adapter.": "Wan Fun Control Camera",
    "ref_conv.": "Wan Fun Control",
    "image_embedder.pos_embed": "Wan2.1 FLF2V (first and last frame to video)",
    "img_emb.emb_pos": "Wan2.1 FLF2V (first and last frame to video)",
    "processor.k_proj.": "FantasyTalking's audio attention, which is loaded beside Wan",
}
"""Part of a key that only one kind of file has -> that kind, from its published files."""

WIDTHS = {1536: "Wan 1.3B", 3072: "Wan2.2 TI2V 5B"}
"""Numbers of a token -> the other Wan that has so many."""
_PATCHES = "patch_embedding.weight"


def refuse_other_models(state: Mapping[str, Tensor], parameters: WanParameters, source: str) -> None:
    """Raise WeightMismatchError when a state, in diffusers' names, is known to be another model's; say what to load.

    A state that is not known passes: whoever loads it compares all its keys.
    """
    kind = _marked(state) or _of_other_sizes(state, parameters)
    if kind is not None:
        raise WeightMismatchError(f"{source} holds {kind}. {WHAT_TO_LOAD}")


def _marked(state: Mapping[str, Tensor]) -> str | None:
    for mark, kind in _MARKS.items():
        if any(mark in name for name in state):
            return kind
    return None


def _of_other_sizes(state: Mapping[str, Tensor], parameters: WanParameters) -> str | None:
    patches = state.get(_PATCHES)
    if patches is None or patches.ndim != 5:
        return None
    width, channels = patches.shape[:2]
    pictures = any(".image_embedder." in name for name in state)
    size = WIDTHS.get(width) if width != parameters.width else None
    if channels == parameters.out_channels:
        return f"{size or 'Wan'} T2V (text to video; its input has {channels} channels, none for a picture)"
    if size is not None:
        return size
    if channels != parameters.in_channels:
        return f"a Wan whose input has {channels} channels, not {parameters.in_channels}"
    if parameters.image_dim is not None and not pictures:
        return "Wan2.2 I2V, which does not look at the picture through CLIP"
    return None
