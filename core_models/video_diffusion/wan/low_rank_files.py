"""LoRA files for Wan's transformer: which weight each of their keys changes, and by what. Strict.

A weight becomes W + strength (alpha / rank) up down (arXiv 2106.09685), or W + strength difference. Programs that write
such files name layers as the release does or as diffusers does, whole or with their dots made underscores.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...strict_loading import (
    SAFETENSORS_SUFFIXES,
    KeyTable,
    UnreadableWeightsError,
    WeightMismatchError,
    map_keys,
    read_metadata,
    read_weights,
)
from .checkpoint_headers import tensors_without_memory
from .checkpoint_kinds import WIDTHS
from .loading import WAN_ORIGINAL
from .transformer import WanParameters, new_wan_transformer

FILE_PREFIXES = (
    *("model.diffusion_model.", "diffusion_model.", "base_model.model.", "transformer.", "pipe.dit."),
    *("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_"),
)
"""What programs put before the names of layers, also several of them; names behind the last four have underscores for
dots."""

DOWN, UP, ALPHA, DIFFERENCE = "down", "up", "alpha", "difference"
"""What a key holds of the change of a weight."""

_ENDINGS: Mapping[str, tuple[str, str]] = {
    ".lora_A.weight": ("", DOWN),
    ".lora_A.default.weight": ("", DOWN),
    ".lora_down.weight": ("", DOWN),
    ".lora_B.weight": ("", UP),
    ".lora_B.default.weight": ("", UP),
    ".lora_up.weight": ("", UP),
    ".alpha": ("", ALPHA),
    ".diff": ("", DIFFERENCE),
    ".diff_b": (".bias", DIFFERENCE),
    ".diff_m": (".modulation", DIFFERENCE),
}
"""End of a key -> what of the layer before it is changed, its weight where nothing is said, and what the key holds."""

_OTHER_KINDS: Mapping[str, str] = {
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "oft_": "OFT",
    "dora_scale": "DoRA",
    "lora_mid": "Tucker decomposition",
}
"""Part of a key that only another kind of addition has -> that kind."""

_ADAPTER_ENTRY, _ADAPTER_PREFIX = "lora_adapter_metadata", "transformer."
"""Entry of a file's metadata in which diffusers states how pairs are scaled, and what begins its names there."""
_UNREAD_SCALINGS = ("alpha_pattern", "use_rslora", "use_dora")

_TO_ORIGINAL: KeyTable = {new: old for old, new in WAN_ORIGINAL.items() if new is not None}


@dataclass(frozen=True)
class WeightChange:
    """What a file adds to a weight: factor x up down, or factor x up where there is no `down`.

    up: (out, rank), or of the weight's shape. down: (rank, in), None for a plain difference. Of convolutions both have
    the sides of the kernel behind these. Any precision.
    """

    up: Tensor
    down: Tensor | None
    factor: float

    def added(self, shape: torch.Size) -> Tensor:
        """Return what is added to a weight of a shape, float32."""
        if self.down is None:
            return self.factor * self.up.float()
        return self.factor * (self.up.flatten(1).float() @ self.down.flatten(1).float()).reshape(shape)


WeightChanges = Mapping[str, tuple[WeightChange, ...]]
"""Weight of a transformer, by diffusers' key -> what is added to it."""


def read_low_rank_file(
    path: str | os.PathLike[str], weights: Mapping[str, Tensor], strength: float = 1.0
) -> WeightChanges:
    """Return what a LoRA file changes.

    path: a safetensors file. weights: those that may be changed, by diffusers' keys, as of `changeable_weights`; only
    their shapes count. Without an alpha in the file a pair is not scaled, but for what diffusers states in the file's
    metadata.
    Raises FileNotFoundError; UnreadableWeightsError for another kind of file or a damaged one; and WeightMismatchError
    (both are ValueErrors) for a file without changes, and for one of which a key has no place here, a pair has no other
    half, or a shape does not fit: all of these are named.
    """
    alpha = _stated_alpha(path)
    return _changes(read_weights(path).tensors, weights, str(path), strength, alpha)


def refuse_other_low_rank_files(path: str | os.PathLike[str], parameters: WanParameters) -> None:
    """Raise what `read_low_rank_file` raises for a Wan of these sizes, by the file's header, without its weights."""
    _stated_alpha(path)
    _changes(tensors_without_memory(Path(path)), wan_weight_shapes(parameters), str(path))


def changeable_weights(transformer: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a Wan's transformer that its LoRAs may change; what was added to it is not among them."""
    return {name: value for name, value in transformer.named_parameters() if ".processor." not in name}


def wan_weight_shapes(parameters: WanParameters) -> dict[str, Tensor]:
    """Return `changeable_weights` of a transformer of these sizes, without memory, on the meta device."""
    with torch.device("meta"):  # of one block, since all are alike and there may be many
        weights = changeable_weights(new_wan_transformer(replace(parameters, num_layers=1)))
    first = "blocks.0."
    for name in [name for name in weights if name.startswith(first)]:
        value, ending = weights[name], name.removeprefix(first)
        weights |= {f"blocks.{number}.{ending}": value for number in range(parameters.num_layers)}
    return weights


def _stated_alpha(path: str | os.PathLike[str]) -> float | None:
    """Return the alpha of all pairs that diffusers states in a file's metadata, None where it states none."""
    if Path(path).suffix.lower() not in SAFETENSORS_SUFFIXES:
        raise UnreadableWeightsError(
            f"{path} is not a safetensors file, and LoRAs are read from these only: get it in that form"
        )
    text = read_metadata(path).get(_ADAPTER_ENTRY)
    if text is None:
        return None
    try:
        values = dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise UnreadableWeightsError(f"{path}: its {_ADAPTER_ENTRY} cannot be read ({error})") from error
    unread = [name for name in _UNREAD_SCALINGS if values.get(_ADAPTER_PREFIX + name)]
    if unread:
        raise WeightMismatchError(
            f"{path} says that its pairs are scaled by {', '.join(unread)}, which is not read here: save it again "
            "with one alpha for all"
        )
    alpha = values.get(_ADAPTER_PREFIX + "lora_alpha")
    return None if alpha is None else _finite(alpha, f"{path}: lora_alpha of its {_ADAPTER_ENTRY}")


def _finite(value: object, what: str) -> float:
    number = float(value) if isinstance(value, int | float) else math.nan
    if not math.isfinite(number):
        raise WeightMismatchError(f"{what} is {value!r}, expected a finite number")
    return number


_Parts = Mapping[str, str]
"""What a file's keys hold of one weight's change -> the key."""


def _changes(
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    source: str,
    strength: float = 1.0,
    alpha: float | None = None,
) -> WeightChanges:
    if not any(key.endswith(tuple(_ENDINGS)) for key in tensors):
        raise WeightMismatchError(
            f"{source} holds no LoRA: of its {len(tensors)} keys none is of a pair or of a difference."
            f"{_other_kind(tensors)} The file of a whole model is named in transformer_file of Load Wan instead"
        )
    placed, unknown = _placed(tensors, weights)
    lone = [key for parts in placed.values() for key in _lone(parts)]
    misshapen = [
        fault for name, parts in placed.items() for fault in _misshapen(parts, tensors, name, weights[name])
    ]
    if unknown or lone or misshapen:
        raise WeightMismatchError(
            f"{source} does not fit this Wan.{_other_kind(tensors)}{_other_model(placed, tensors, weights)} Keys that "
            f"have no place in it: {sorted(unknown) or 'none'}. Keys of pairs whose other half is missing: "
            f"{sorted(lone) or 'none'}. Misshapen: {misshapen or 'none'}. Load a LoRA that was made for this model; "
            "for the published one that is Wan 2.1 14B"
        )
    return {name: _changes_of(parts, tensors, source, strength, alpha) for name, parts in placed.items()}


def _placed(
    tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, _Parts], list[str]]:
    """Return the keys that belong to each weight, and those that belong to none, or to what another key is for."""
    names = _weights_by_name(weights)
    placed: dict[str, dict[str, str]] = {}
    unknown: list[str] = []
    for key in tensors:
        ending = next((one for one in _ENDINGS if key.endswith(one)), None)
        changed, part = ("", "") if ending is None else _ENDINGS[ending]
        name = names.get(_flattened(_without_prefix(key.removesuffix(ending or "")) + changed))
        if ending is None or name is None or part in placed.get(name, {}):
            unknown.append(key)
        else:
            placed.setdefault(name, {})[part] = key
    return placed, unknown


def _weights_by_name(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return each weight's key by all names that files have for it, flattened."""
    original = map_keys(weights, _TO_ORIGINAL, "Wan")
    return {
        _flattened(form): name
        for forms in (weights, original)
        for form, name in zip(forms, weights, strict=True)
    }


def _flattened(name: str) -> str:
    return name.removesuffix(".weight").replace(".", "_")


def _without_prefix(name: str) -> str:
    prefix = next((one for one in FILE_PREFIXES if name.startswith(one)), None)
    return name if prefix is None else _without_prefix(name.removeprefix(prefix))


def _lone(parts: _Parts) -> list[str]:
    of_pair = [part for part in (DOWN, UP, ALPHA) if part in parts]
    return [] if not of_pair or (DOWN in parts and UP in parts) else [parts[part] for part in of_pair]


def _misshapen(parts: _Parts, tensors: Mapping[str, Tensor], name: str, weight: Tensor) -> list[str]:
    """Return what is wrong with the shapes of a weight's changes, with the names that the file has for them."""
    shapes = {part: tuple(tensors[key].shape) for part, key in parts.items()}
    faults = []
    if DOWN in parts and UP in parts and not _fits(tensors[parts[DOWN]], tensors[parts[UP]], weight):
        faults.append(
            f"{parts[DOWN]} is {shapes[DOWN]} and {parts[UP]} {shapes[UP]}, for {name} of {tuple(weight.shape)}"
        )
    if ALPHA in parts and tensors[parts[ALPHA]].numel() != 1:
        faults.append(f"{parts[ALPHA]} is {shapes[ALPHA]}, expected one number")
    if DIFFERENCE in parts and shapes[DIFFERENCE] != tuple(weight.shape):
        faults.append(f"{parts[DIFFERENCE]} is {shapes[DIFFERENCE]}, for {name} of {tuple(weight.shape)}")
    return faults


def _fits(down: Tensor, up: Tensor, weight: Tensor) -> bool:
    if min(down.ndim, up.ndim, weight.ndim) < 2 or 0 in down.shape:
        return False
    return down.shape[1:] == weight.shape[1:] and up.flatten(1).shape == (len(weight), len(down))


def _changes_of(
    parts: _Parts, tensors: Mapping[str, Tensor], source: str, strength: float, alpha: float | None
) -> tuple[WeightChange, ...]:
    changes = []
    if DOWN in parts:
        down = tensors[parts[DOWN]]
        if ALPHA in parts and not down.is_meta:
            alpha = _finite(tensors[parts[ALPHA]].item(), f"{source}: {parts[ALPHA]}")
        factor = strength if alpha is None else strength * alpha / len(down)
        changes.append(WeightChange(tensors[parts[UP]], down, factor))
    if DIFFERENCE in parts:
        changes.append(WeightChange(tensors[parts[DIFFERENCE]], None, strength))
    return tuple(changes)


def _other_kind(tensors: Mapping[str, Tensor]) -> str:
    kinds = [kind for mark, kind in _OTHER_KINDS.items() if any(mark in key for key in tensors)]
    return f" It holds {', '.join(kinds)}, which is not read: pairs and differences are." if kinds else ""


def _other_model(
    placed: Mapping[str, _Parts], tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> str:
    """Return a sentence that says which model a file was made for, where its widths or keys tell."""
    if not placed:
        return " No key of it is of a layer of Wan, or its names begin in a way that is not known here."
    for name, parts in placed.items():
        if name.endswith(".to_q.weight") and DOWN in parts and tensors[parts[DOWN]].ndim == 2:
            width, own = tensors[parts[DOWN]].shape[1], weights[name].shape[1]
            if width != own and width in WIDTHS:
                return (
                    f" It was made for {WIDTHS[width]}: its layers take {width} numbers, this model's {own}."
                )
    return ""
