"""A causal conformer a few frames at a time: what it needs of the past is kept, so nothing is computed twice.

The outputs are those of the whole clip at once, but for rounding, however the frames are divided: each block keeps the
keys and values of the frames that may still be attended to, and what its convolution saw last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .conformer import Conformer, ConformerBlock, ConformerParameters, attention_window


@dataclass(frozen=True)
class BlockMemory:
    """What one block keeps. keys, values: (B, heads, M, head size); gated: (B, kernel - 1, width)."""

    keys: Tensor
    values: Tensor
    gated: Tensor


ConformerMemory = Sequence[BlockMemory]
"""One for each block, in order."""


def require_causal(parameters: ConformerParameters, what: str) -> None:
    """Raise ValueError unless frames depend on a bounded number of frames before them and on none after.

    what: the conformer, as the error names it.
    """
    p = parameters
    if p.look_ahead == 0 and p.causal_convolution and p.look_back is not None:
        return
    raise ValueError(
        f"the {what} looks {'at all frames' if p.look_ahead is None else f'{p.look_ahead} frames'} ahead and "
        f"{'at all' if p.look_back is None else p.look_back} back with "
        f"{'a causal' if p.causal_convolution else 'a centred'} convolution: a stream needs look_ahead 0, a look_back "
        "and causal_convolution; train it so (the weights fit either way, what they learnt does not)"
    )


def no_memory(conformer: Conformer, batch: int) -> list[BlockMemory]:
    """Return the memory of a conformer before the first frame of `batch` clips."""
    p = conformer.parameters_used
    weight = conformer.blocks[0].attention.key.weight
    empty = weight.new_zeros(batch, p.heads, 0, p.width // p.heads)
    return [
        BlockMemory(empty, empty, weight.new_zeros(batch, p.kernel - 1, p.width)) for _ in range(p.blocks)
    ]


def advance(conformer: Conformer, x: Tensor, memory: ConformerMemory) -> tuple[Tensor, list[BlockMemory]]:
    """Return the outputs of the next frames, (B, Q, width), and the memory after them.

    x: (B, Q >= 1, width), the frames that follow those `memory` is of; it is left as it is. For inference: there is no
    dropout. Raises ValueError unless the conformer is causal (`require_causal`).
    """
    p = conformer.parameters_used
    require_causal(p, "conformer")
    queries, kept = x.shape[1], memory[0].keys.shape[2]
    positions = conformer.positions(kept + queries, x.device, queries).to(x.dtype)
    window = attention_window(kept + queries, p.look_ahead, p.look_back, x.device)
    allowed = window[None, None, kept:]
    x = x * p.width**0.5
    after = []
    for block, remembered in zip(conformer.blocks, memory, strict=True):
        x, block_memory = _advance_block(block, x, remembered, positions, allowed, p)
        after.append(block_memory)
    return x, after


def _advance_block(
    block: ConformerBlock,
    x: Tensor,
    memory: BlockMemory,
    positions: Tensor,
    allowed: Tensor,
    parameters: ConformerParameters,
) -> tuple[Tensor, BlockMemory]:
    x = block.before_attention(x)
    new_keys, new_values = block.attention.keys_and_values(x)
    keys, values = torch.cat([memory.keys, new_keys], 2), torch.cat([memory.values, new_values], 2)
    x = block.attention_norm(x + block.attention.attend(x, keys, values, positions, allowed))
    gated = torch.cat([memory.gated, block.convolution.gated(x)], 1)
    x = block.convolution_norm(x + block.convolution.convolved(gated))
    first = max(0, keys.shape[2] - parameters.look_back)
    reach = gated.shape[1] - (parameters.kernel - 1)
    kept = BlockMemory(keys[:, :, first:].clone(), values[:, :, first:].clone(), gated[:, reach:].clone())
    return block.after_convolution(x), kept
