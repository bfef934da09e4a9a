"""CLIP's ViT-H/14 as Wan 2.1's image-to-video sees the reference picture: every patch, before the last block.

The published file is open-clip's XLM-RoBERTa model (Cherti et al. 2023, arXiv 2212.07143); only what sees is used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from ...strict_loading import (
    KeyTable,
    map_keys,
    read_weights,
    require_matching_keys,
    require_no_meta_tensors,
)
from ..block_checks import CheckCallback, checked_between

_LAYER = "encoder.layers.{}"
VISION_KEYS: KeyTable = {
    "visual.patch_embedding.weight": "embeddings.patch_embedding.weight",
    "visual.cls_embedding": "embeddings.class_embedding",
    "visual.pos_embedding": "embeddings.position_embedding.weight",
    "visual.pre_norm.*": "pre_layrnorm.*",
    "visual.transformer.{}.norm1.*": f"{_LAYER}.layer_norm1.*",
    "visual.transformer.{}.attn.to_qkv.*": f"{_LAYER}.self_attn.to_qkv.*",
    "visual.transformer.{}.attn.proj.*": f"{_LAYER}.self_attn.out_proj.*",
    "visual.transformer.{}.norm2.*": f"{_LAYER}.layer_norm2.*",
    "visual.transformer.{}.mlp.0.*": f"{_LAYER}.mlp.fc1.*",
    "visual.transformer.{}.mlp.2.*": f"{_LAYER}.mlp.fc2.*",
    "visual.post_norm.*": "post_layernorm.*",
    "visual.head": None,  # projects the picture's summary into the space shared with text
    "visual_projection.weight": None,
    "textual.*": None,  # what reads text
    "text_model.*": None,
    "text_projection.weight": None,
    "log_scale": None,
    "logit_scale": None,
    "vision_model.embeddings.position_ids": None,  # 0, 1, 2, ...
    "embeddings.position_ids": None,
    "vision_model.*": "*",
}
"""How the original file, and those of transformers, map to the names of a vision model's parts."""
_JOINED = ".to_qkv."
"""Queries, keys and values, which the original holds in one matrix, in this order."""


@dataclass(frozen=True)
class ClipVisionParameters:
    """Sizes of the network; the defaults are ViT-H/14's.

    width, layers, heads, feed_forward: of the transformer. image_size: pixels of a side. patch_size: of a patch.
    """

    width: int = 1280
    layers: int = 32
    heads: int = 16
    feed_forward: int = 5120
    image_size: int = 224
    patch_size: int = 14


def new_clip_vision(parameters: ClipVisionParameters | None = None) -> CLIPVisionModel:
    """Return a network without trained weights, in evaluation mode, gradients off. None: ViT-H/14's sizes."""
    sizes = parameters or ClipVisionParameters()
    config = CLIPVisionConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.feed_forward,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
    )
    return CLIPVisionModel(config).eval().requires_grad_(False)


def clip_vision_blocks(network: CLIPVisionModel) -> list[torch.nn.Module]:
    """Return the parts that work one after the other, and hold nearly all of the weights."""
    return list(getattr(network, "vision_model", network).encoder.layers)


def load_clip_vision(
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float16,
    parameters: ClipVisionParameters | None = None,
) -> CLIPVisionModel:
    """Return the network of a published file, on the CPU, in evaluation mode, gradients off.

    path: open-clip's XLM-RoBERTa ViT-H/14 in original names, or a vision model in transformers'; what reads text in it
    is left out. dtype: of the weights. parameters: None is ViT-H/14's sizes.
    Raises FileNotFoundError, and ValueError for a file of another kind or any key that is missing, unexpected or
    misshapen (all of them are named).
    """
    with torch.device("meta"):
        network = new_clip_vision(parameters)
    expected = network.state_dict()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in expected) else ""
    parts = _split(map_keys(read_weights(path, dtype).tensors, VISION_KEYS, str(path)))
    state = {f"{prefix}{name}": value for name, value in parts.items()}
    require_matching_keys(expected, state, str(path))
    network.load_state_dict(state, assign=True)
    return require_no_meta_tensors(_with_positions(network))


def _split(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Separate joined matrices, and drop axes of 1 that the original has."""
    parts: dict[str, Tensor] = {}
    for name, value in state.items():
        if _JOINED in name and len(value) % 3 == 0:
            parts |= {
                name.replace(_JOINED, f".{part}_proj."): third
                for part, third in zip("qkv", value.chunk(3), strict=True)
            }
        elif name == "embeddings.class_embedding":
            parts[name] = value.flatten()
        elif name == "embeddings.position_embedding.weight" and value.ndim == 3:
            parts[name] = value[0]
        else:
            parts[name] = value
    return parts


def _with_positions(network: CLIPVisionModel) -> CLIPVisionModel:
    """Give the network its numbers of positions, which no file has to hold."""
    for module in network.modules():
        positions = dict(module.named_buffers(recurse=False)).get("position_ids")
        if positions is not None:
            module.position_ids = torch.arange(positions.shape[-1]).expand(1, -1)
    return network


@torch.no_grad()
def picture_tokens(network: CLIPVisionModel, pixels: Tensor, check: CheckCallback | None = None) -> Tensor:
    """Return (tokens, width) float32 on the CPU: what enters the last block, 257 x 1280 for ViT-H/14.

    pixels: (3, S, S), of the network's size and brought to CLIP's mean and spread: what `clip_vision_pixels` gives.
    check: called before each block; what it raises ends the work.
    Raises ValueError for another shape.
    """
    side = network.config.image_size
    if pixels.shape not in ((3, side, side), (1, 3, side, side)):
        raise ValueError(
            f"pixels are {tuple(pixels.shape)}, expected (3, {side}, {side}): prepare the picture by clip_vision_pixels"
        )
    batch = pixels.reshape(1, 3, side, side).to(network.device, network.dtype)
    with checked_between(clip_vision_blocks(network), check):
        seen = network(pixel_values=batch, output_hidden_states=True)
    return seen.hidden_states[-2][0].float().cpu()
