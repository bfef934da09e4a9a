"""LoRA files merged into the weights of a Wan's transformer, which then computes as before, with other weights."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from ...low_rank_file import LowRankFile
from .float8_linear import Float8Linear, repacked_weight, unpacked_weight
from .low_rank_files import WeightChange, changeable_weights, read_low_rank_file


@torch.no_grad()
def merge_low_rank_files(
    transformer: nn.Module,
    files: Sequence[LowRankFile],
    finish: Callable[[nn.Module], object] = lambda block: None,
) -> None:
    """Merge LoRA files into a frozen transformer of Wan, in the place of its weights; their tensors are not written.

    All changes of a weight are added up in float32 and rounded once to what it is stored in. Of weights in 8 bits,
    plain or scaled, that rounding is by chance, with the expected value kept and a chance that depends on the weight's
    name alone: to the nearest of so few numbers most changes would be lost. Their scales grow where the sum would not
    fit. Files of strength 0 change no bit, and are not read.
    finish: called with each block once it is merged, to store it in another form before the next needs memory.
    Raises what `read_low_rank_file` raises, before anything is changed, and ValueError for a sum that is too large for
    what the weight is stored in.
    """
    weights = changeable_weights(transformer)
    read = [read_low_rank_file(one.path, weights, one.strength) for one in files if one.strength]
    changes: dict[str, list[WeightChange]] = {}
    for found in read:
        for name, added in found.items():
            changes.setdefault(name, []).extend(added)
    for number, block in enumerate(transformer.blocks):
        for name in [name for name in changes if name.startswith(f"blocks.{number}.")]:
            _merge(transformer, name, changes.pop(name))
        finish(block)
    for name, added in changes.items():
        _merge(transformer, name, added)


def _merge(transformer: nn.Module, name: str, changes: Iterable[WeightChange]) -> None:
    owner_name, _, own_name = name.rpartition(".")
    owner = transformer.get_submodule(owner_name)
    weight = getattr(owner, own_name)
    packed = isinstance(owner, Float8Linear) and own_name == "weight"
    scale = owner.weight_scale if packed else None
    merged = unpacked_weight(weight, scale, torch.float32)
    for change in changes:
        merged = merged + change.added(merged.shape)
    _require_in_reach(merged, name, torch.float32 if scale is not None else weight.dtype)
    if packed:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        stored, owner.weight_scale = repacked_weight(merged, scale, weight.dtype, generator)
    else:
        stored = merged.to(weight.dtype)
    setattr(owner, own_name, nn.Parameter(stored, requires_grad=False))


def _require_in_reach(merged: Tensor, name: str, dtype: torch.dtype) -> None:
    lowest, highest = torch.aminmax(merged)
    largest = torch.maximum(-lowest, highest)  # not a number where one of them is none
    if not largest <= torch.finfo(dtype).max:
        raise ValueError(
            f"{name}, merged with its LoRAs, is too large for {str(dtype).removeprefix('torch.')}, or not a number: "
            f"{float(largest):g}. Lower their strength, choose bfloat16 or float32 in Load Wan, or another file"
        )
