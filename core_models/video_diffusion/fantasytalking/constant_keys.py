"""Keys and values of what stays the same from step to step, computed once: exact, for memory.

Text, picture, sound and identity do not change while a clip is sampled, so neither do the keys and values that every
block makes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

TEXT, PICTURE, AUDIO, IDENTITY = "text", "picture", "audio", "identity"
"""What keys and values are made of."""

KeyValue = tuple[Tensor, Tensor]
BlockValues = dict[int, KeyValue]
"""Number of a block -> its keys and values of one condition."""


@dataclass
class _Entry:
    owner: object
    condition: Tensor
    of_blocks: BlockValues = field(default_factory=dict)

    def fits(self, owner: object, condition: Tensor) -> bool:
        mine = self.condition
        same_kind = mine.dtype == condition.dtype and mine.device == condition.device
        return self.owner is owner and same_kind and torch.equal(mine, condition)


class KeyValueCache:
    """Keys and values that `FantasyTalkingModel.forward` reuses when it gets the same conditions again.

    Conditions are compared by what they hold with copies made here, so that one changed in place, or another of the
    same shape, is never answered with what was made of the old one; equal ones may be made anew for each step. Weights
    are not compared: make a cache for one clip, and drop it when weights change (another LoRA, a training step).
    capacity: conditions of each kind that are kept, such as prompt and negative prompt; further ones are computed each
    time. At the published sizes a prompt takes 0.4 GB in bfloat16, a picture 0.2 GB, the sound of 81 frames 0.3 GB.
    Raises ValueError for a capacity below 1.
    """

    def __init__(self, capacity: int = 4) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, expected at least 1")
        self.capacity = capacity
        self._entries: dict[str, list[_Entry]] = {}

    def of_condition(self, owner: object, kind: str, condition: Tensor) -> BlockValues | None:
        """Return what is kept of a condition, to be filled by the blocks; None where there is no room for it.

        owner: the network whose keys and values they are. Raises RuntimeError where gradients are recorded.
        """
        if torch.is_grad_enabled():
            raise RuntimeError(
                "keys and values are kept only without gradients: use torch.no_grad(), or no cache"
            )
        entries = self._entries.setdefault(kind, [])
        for entry in entries:
            if entry.fits(owner, condition):
                return entry.of_blocks
        if len(entries) >= self.capacity:
            return None
        entries.append(_Entry(owner, condition.detach().clone()))
        return entries[-1].of_blocks

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


def kept_or_made(kept: BlockValues | None, block: int, make: Callable[[], KeyValue]) -> KeyValue:
    """Return a block's keys and values: the kept ones, or those that `make` returns, which are kept from then on."""
    if kept is None:
        return make()
    if block not in kept:
        kept[block] = make()
    return kept[block]
