"""Weights as files hold them, in 32, 16 or 8 bits: read from all shards, told apart from their scales, and given to a
network. Strict.

In 8 bits there are plain files, whose numbers are what they say, and scaled ones, of ComfyUI and others: there each
linear layer's weight is to be multiplied with a number, or with one for each row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ...strict_loading import UnreadableWeightsError, WeightMismatchError, read_weights
from .float8_linear import FLOAT8_DTYPES, Float8Linear, replace_linear, unpacked_weight

_SCALE_ENDINGS = (".scale_weight", ".weight_scale")
_DROPPED_ENDINGS = (".scale_input", ".input_scale")
"""Scales of inputs, for products in float8, which are not made here."""
_QUANTISATION_ENDING = ".comfy_quant"
_SCALED_MARK = "scaled_fp8"
_KNOWN_QUANTISATIONS = ("float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True)
class StoredWeights:
    """A network's weights by its keys, as a file has them.

    tensors: of any precision. scales: key of a weight -> what it is multiplied with, () or (out, 1), float32; weights
    without need none. source: the files, for messages.
    """

    tensors: dict[str, Tensor]
    scales: dict[str, Tensor] = field(default_factory=dict)
    source: str = ""


def read_shards(files: Sequence[Path], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the tensors of all files of one model by their keys there.

    dtype: what floating point tensors become; files that hold weights in 8 bits keep all as it is, as does None.
    Raises what `read_weights` raises, and WeightMismatchError for a key that is in two files.
    """
    tensors: dict[str, Tensor] = {}
    for path in files:
        found = read_weights(path).tensors
        if dtype is not None and not any(value.dtype in FLOAT8_DTYPES for value in found.values()):
            found = read_weights(path, dtype).tensors
        twice = sorted(set(found) & set(tensors))
        if twice:
            raise WeightMismatchError(f"{path} holds {twice[0]!r}, which another shard holds too")
        tensors |= found
    return tensors


def separated_scales(
    tensors: Mapping[str, Tensor], source: str, never_scaled: tuple[str, ...] = ()
) -> StoredWeights:
    """Return weights, and the scales of those that lie scaled in 8 bits by the weights' keys.

    never_scaled: endings of keys of matrices that are no linear layers, as embeddings: they need no scale.
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
    if _SCALED_MARK in tensors or scales:
        _refuse_missing_scales(weights, scales, source, never_scaled)
    shaped = {name: _shaped_scale(name, scale, weights, source) for name, scale in scales.items()}
    return StoredWeights(weights, shaped, source)


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
    weights: Mapping[str, Tensor], scales: Mapping[str, Tensor], source: str, never_scaled: tuple[str, ...]
) -> None:
    lone = sorted(set(scales) - set(weights))
    bare = sorted(
        name
        for name, value in weights.items()
        if value.dtype in FLOAT8_DTYPES
        and value.ndim == 2
        and name not in scales
        and not name.endswith(never_scaled)
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


def assign_weights(
    network: nn.Module,
    stored: StoredWeights,
    dtype_of: Callable[[str], torch.dtype],
    stays_packed: Callable[[str], bool],
) -> None:
    """Give a network its weights, in place; their keys must match.

    dtype_of: what a weight becomes, or is computed in, by its key. stays_packed: whether the weight of a linear layer
    that lies in 8 bits stays so, by its key; the others are multiplied with their scales.
    """
    layers = {
        layer: f"{name}.weight"
        for name, layer in network.named_modules()
        if type(layer) is nn.Linear
        and stored.tensors[f"{name}.weight"].dtype in FLOAT8_DTYPES
        and stays_packed(f"{name}.weight")
    }
    packed = set(layers.values())
    unpacked = {
        name: unpacked_weight(value, stored.scales.get(name), dtype_of(name))
        for name, value in stored.tensors.items()
        if name not in packed
    }
    network.load_state_dict(unpacked, assign=True, strict=False)

    def of_layer(layer: nn.Linear) -> Float8Linear | None:
        name = layers.get(layer)
        if name is None:
            return None
        return Float8Linear(stored.tensors[name], layer.bias, stored.scales.get(name), dtype_of(name))

    replace_linear(network, of_layer)
