"""Wan's transformer from files: both forms of its keys, in one file or in shards, in 32, 16 or 8 bits. Strict."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from ...strict_loading import (
    KeyTable,
    map_keys,
    require_matching_keys,
    require_no_meta_tensors,
)
from .checkpoint_kinds import refuse_other_models
from .stored_weights import StoredWeights, assign_weights, read_shards, separated_scales
from .transformer import (
    WAN_I2V_14B,
    WanParameters,
    keep_float32_residual,
    kept_in_float32,
    new_wan_transformer,
)
from .weight_shards import WeightPaths, weight_files

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
"""What ComfyUI and others put before every key of a file."""

WAN_ORIGINAL: KeyTable = {
    "time_embedding.0.*": "condition_embedder.time_embedder.linear_1.*",
    "time_embedding.2.*": "condition_embedder.time_embedder.linear_2.*",
    "time_projection.1.*": "condition_embedder.time_proj.*",
    "text_embedding.0.*": "condition_embedder.text_embedder.linear_1.*",
    "text_embedding.2.*": "condition_embedder.text_embedder.linear_2.*",
    "img_emb.proj.0.*": "condition_embedder.image_embedder.norm1.*",
    "img_emb.proj.1.*": "condition_embedder.image_embedder.ff.net.0.proj.*",
    "img_emb.proj.3.*": "condition_embedder.image_embedder.ff.net.2.*",
    "img_emb.proj.4.*": "condition_embedder.image_embedder.norm2.*",
    "blocks.{}.modulation": "blocks.{}.scale_shift_table",
    "blocks.{}.norm3.*": "blocks.{}.norm2.*",
    "blocks.{}.cross_attn.processor.*": "blocks.{}.attn2.processor.*",
    **{
        f"blocks.{{}}.{attention}.{old}.*": f"blocks.{{}}.{new_attention}.{new}.*"
        for attention, new_attention in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for old, new in (
            ("q", "to_q"),
            ("k", "to_k"),
            ("v", "to_v"),
            ("o", "to_out.0"),
            ("k_img", "add_k_proj"),
            ("v_img", "add_v_proj"),
            ("norm_k_img", "norm_added_k"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        )
    },
    "blocks.{}.ffn.0.*": "blocks.{}.ffn.net.0.proj.*",
    "blocks.{}.ffn.2.*": "blocks.{}.ffn.net.2.*",
    "head.modulation": "scale_shift_table",
    "head.head.*": "proj_out.*",
}
"""The keys of the original release -> diffusers'."""
_ORIGINAL_ONLY = (".self_attn.", ".cross_attn.", "time_embedding.", "head.head.")


def load_wan_transformer(
    paths: WeightPaths,
    dtype: torch.dtype = torch.bfloat16,
    parameters: WanParameters = WAN_I2V_14B,
    keep_float8: bool = True,
) -> WanTransformer3DModel:
    """Return Wan's transformer from its files, frozen, on the CPU, in evaluation mode, its residual in float32.

    paths: as of `weight_files`: a file, a folder, an index, a shard or all of them, with the original keys or
    diffusers'. dtype: what it computes in, float32, bfloat16 or float16; what `kept_in_float32` names stays in float32.
    keep_float8: weights that lie in 8 bits stay so, and become `dtype` in each call; otherwise they become it at once.
    Raises FileNotFoundError naming missing shards; UnreadableWeightsError for a damaged file; WeightMismatchError for
    another model, with what to load instead, and for any key that is missing, unexpected or misshapen (all of them).
    """
    state = read_wan_state(paths, parameters)
    with torch.device("meta"):
        transformer = new_wan_transformer(parameters)
    require_matching_keys(transformer.state_dict(), state.tensors, state.source)
    assign_weights(
        transformer,
        state,
        lambda name: torch.float32 if kept_in_float32(name) else dtype,
        lambda name: keep_float8 and not kept_in_float32(name),
    )
    keep_float32_residual(transformer)
    return require_no_meta_tensors(transformer).eval().requires_grad_(False)


def read_wan_state(paths: WeightPaths, parameters: WanParameters = WAN_I2V_14B) -> StoredWeights:
    """Return the weights of a Wan transformer's files by diffusers' keys, without converting them.

    Raises what `load_wan_transformer` raises, but for keys that do not match.
    """
    files = weight_files(paths)
    source = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} shards)"
    state = separated_scales(in_diffusers_names(read_shards(files), source), source)
    refuse_other_models(state.tensors, parameters, source)
    return state


def in_diffusers_names(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return a Wan transformer's tensors by diffusers' keys, whichever of the two forms they came in."""
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    original = any(part in name for name in tensors for part in _ORIGINAL_ONLY)
    return map_keys(tensors, WAN_ORIGINAL, source) if original else dict(tensors)
