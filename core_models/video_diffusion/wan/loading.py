"""Wan's transformer from files: both forms of its keys, in one file or in shards, in 32, 16 or 8 bits. Strict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from ...strict_loading import (
    KeyTable,
    UnreadableWeightsError,
    WeightMismatchError,
    map_keys,
    read_weights,
    require_matching_keys,
    require_no_meta_tensors,
)
from .checkpoint_kinds import refuse_other_models
from .float8_linear import FLOAT8_DTYPES, Float8Linear, replace_linear, unpacked_weight
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

_SCALE_ENDINGS = (".scale_weight", ".weight_scale")
_DROPPED_ENDINGS = (".scale_input", ".input_scale")
"""Scales of inputs, for products in float8, which are not made here."""
_QUANTISATION_ENDING = ".comfy_quant"
_SCALED_MARK = "scaled_fp8"
_KNOWN_QUANTISATIONS = ("float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True)
class WanState:
    """A transformer's weights by diffusers' keys, as a file has them.

    tensors: of any precision. scales: key of a weight -> what it is multiplied with, () or (out, 1), float32; weights
    without need none. source: the files, for messages.
    """

    tensors: dict[str, Tensor]
    scales: dict[str, Tensor] = field(default_factory=dict)
    source: str = ""


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
    float8 = _float8_layers(transformer, state) if keep_float8 else {}
    converted = {
        name: unpacked_weight(
            value, state.scales.get(name), torch.float32 if kept_in_float32(name) else dtype
        )
        for name, value in state.tensors.items()
        if name not in float8
    }
    transformer.load_state_dict(converted, assign=True, strict=False)
    layers = {id(layer): name for name, layer in float8.items()}

    def packed(layer: nn.Linear) -> Float8Linear | None:
        name = layers.get(id(layer))
        if name is None:
            return None
        return Float8Linear(state.tensors[name], layer.bias, state.scales.get(name), dtype)

    replace_linear(transformer, packed)
    keep_float32_residual(transformer)
    return require_no_meta_tensors(transformer).eval().requires_grad_(False)


def _float8_layers(transformer: nn.Module, state: WanState) -> dict[str, nn.Linear]:
    """Return the layers whose weights can stay in 8 bits, by the weights' keys."""
    return {
        f"{name}.weight": layer
        for name, layer in transformer.named_modules()
        if type(layer) is nn.Linear
        and state.tensors[f"{name}.weight"].dtype in FLOAT8_DTYPES
        and not kept_in_float32(f"{name}.weight")
    }


def read_wan_state(paths: WeightPaths, parameters: WanParameters = WAN_I2V_14B) -> WanState:
    """Return the weights of a Wan transformer's files by diffusers' keys, without converting them.

    Raises what `load_wan_transformer` raises, but for keys that do not match.
    """
    files = weight_files(paths)
    source = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} shards)"
    tensors: dict[str, Tensor] = {}
    for path in files:
        found = read_weights(path).tensors
        twice = sorted(set(found) & set(tensors))
        if twice:
            raise WeightMismatchError(f"{path} holds {twice[0]!r}, which another shard holds too")
        tensors |= found
    tensors = in_diffusers_names(tensors, source)
    weights, scales = separated_scales(tensors, source)
    refuse_other_models(weights, parameters, source)
    return WanState(weights, scales, source)


def in_diffusers_names(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return a Wan transformer's tensors by diffusers' keys, whichever of the two forms they came in."""
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    original = any(part in name for name in tensors for part in _ORIGINAL_ONLY)
    return map_keys(tensors, WAN_ORIGINAL, source) if original else dict(tensors)


def separated_scales(
    tensors: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights, and the scales of those that lie scaled in 8 bits by the weights' keys.

    Raises WeightMismatchError for a scale without a weight or of an unknown shape, a weight in 8 bits without the scale
    that its file says it has, or a storage other than plain float8.
    """
    weights: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    for name, value in tensors.items():
        ending = next((one for one in _SCALE_ENDINGS if name.endswith(one)), None)
        if ending is not None:
            scales[name.removesuffix(ending) + ".weight"] = value
        elif name.endswith(_QUANTISATION_ENDING):
            _refuse_other_quantisations(name, value, source)
        elif name != _SCALED_MARK and not name.endswith(_DROPPED_ENDINGS):
            weights[name] = value
    scaled = _SCALED_MARK in tensors or bool(scales)
    _refuse_missing_scales(weights, scales if scaled else None, source)
    return weights, {name: _shaped_scale(name, scale, weights, source) for name, scale in scales.items()}


def _refuse_other_quantisations(name: str, value: Tensor, source: str) -> None:
    try:
        kind = json.loads(bytes(value.to(torch.uint8).flatten().tolist()))["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableWeightsError(f"{source}: {name} does not say how it is stored ({error!r})") from error
    if kind not in _KNOWN_QUANTISATIONS:
        raise WeightMismatchError(
            f"{source}: {name} says {kind!r}, a storage that is not read here; read are "
            f"{', '.join(_KNOWN_QUANTISATIONS)}: load an fp8, fp16 or bf16 file"
        )


def _refuse_missing_scales(
    weights: Mapping[str, Tensor], scales: Mapping[str, Tensor] | None, source: str
) -> None:
    """scales: None where the file does not scale, so that weights in 8 bits are what they say."""
    if scales is None:
        return
    lone = sorted(set(scales) - set(weights))
    bare = sorted(
        name
        for name, value in weights.items()
        if value.dtype in FLOAT8_DTYPES and value.ndim == 2 and name not in scales
    )
    if lone or bare:
        raise WeightMismatchError(
            f"{source} holds scaled 8-bit weights, but not all of what belongs together. Scales without a weight: "
            f"{lone or 'none'}. Weights without a scale: {bare or 'none'}."
        )


def _shaped_scale(name: str, scale: Tensor, weights: Mapping[str, Tensor], source: str) -> Tensor:
    rows = len(weights[name])
    if scale.numel() == 1:
        return scale.float().reshape(())
    if tuple(scale.shape) in ((rows,), (rows, 1)):
        return scale.float().reshape(rows, 1)
    raise WeightMismatchError(
        f"{source}: the scale of {name} has shape {tuple(scale.shape)}, expected one number, or one for each of its "
        f"{rows} rows: load an fp8 file with such scales, or an fp16 or bf16 file"
    )
