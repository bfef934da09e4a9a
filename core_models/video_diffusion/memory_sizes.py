"""What every memory plan counts with: bytes in words, the reserve, and the numbers and blocks of a network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

RESERVE_SHARE = 0.1
"""Beside what is computed: workspaces of convolutions and what the allocator cannot hand out, as a share of it."""
FLOAT32_BYTES = 4
STREAMED_PLACES = 2
"""Places of the largest block on a device to which blocks are streamed: one computes while the next arrives."""


def gigabytes(count: int) -> str:
    """Return bytes in words."""
    return f"{count / 1e9:.1f} GB"


def number_count(module: nn.Module) -> int:
    """Return how many numbers a module holds, buffers too."""
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))


@dataclass(frozen=True)
class NetworkBytes:
    """Bytes of a network's weights. between: of what lies between its blocks. blocks: of each of them."""

    between: int
    blocks: tuple[int, ...]

    @property
    def whole(self) -> int:
        """On the device when all of it is there."""
        return self.between + sum(self.blocks)

    @property
    def by_block(self) -> int:
        """On the device when its blocks are streamed there."""
        return self.between + STREAMED_PLACES * max(self.blocks, default=0)

    @property
    def main_memory(self) -> int:
        """In main memory when its blocks are streamed from there; while they are locked there, one of them twice."""
        return sum(self.blocks) + max(self.blocks, default=0)

    def on_device(self, streamed: bool) -> int:
        """Return the bytes on the device in one of the two forms."""
        return self.by_block if streamed else self.whole


def network_bytes(module: nn.Module, blocks: Iterable[nn.Module], number_bytes: int) -> NetworkBytes:
    """Return the bytes of a network of which all numbers are as large. blocks: none within another."""
    counts = [number_count(block) * number_bytes for block in blocks]
    return NetworkBytes(number_count(module) * number_bytes - sum(counts), tuple(counts))
