"""A network larger than the device that need not wait for its weights: blocks are copied while others compute.

As in `block_offload`, whole blocks visit the device. Here their weights lie in page-locked memory, one run of bytes a
block, and go over a stream of their own into one of two places on the device that take turns. So the device holds two
blocks, and a step takes as long as the longer of computing and copying.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from .block_offload import Home, block_homes, check_offloadable, move_the_rest, offload_by_block

logger = logging.getLogger(__name__)

ALIGNMENT = 256
"""Bytes at whose multiples a weight begins, as device allocators have it."""


class Transport(Protocol):
    """How bytes get to the device, in order and beside what is computed there."""

    def place(self, size: int) -> Any:
        """Return `size` bytes on the device, uint8."""

    def copy(self, target: Any, source: Any, after: Any | None) -> Any:
        """Copy bytes once `after` has come, and return a mark that comes when they are there."""

    def let_compute_wait(self, mark: Any) -> None:
        """Have what is computed from now on wait for a mark."""

    def computed(self) -> Any:
        """Return a mark that comes when all that was asked to be computed so far is."""


class CudaTransport:
    """Copies over a stream of their own."""

    def __init__(self, device: str) -> None:
        import torch

        self.device = torch.device(device)
        self.stream = torch.cuda.Stream(self.device)

    def place(self, size: int) -> Any:
        """Return `size` bytes on the device, uint8."""
        import torch

        run = torch.empty(size, dtype=torch.uint8, device=self.device)
        # What lay there may still be computed with; and whoever gets it next must not meet a copy under way.
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        run.record_stream(self.stream)
        return run

    def copy(self, target: Any, source: Any, after: Any | None) -> Any:
        """Copy bytes once `after` has come, and return a mark that comes when they are there."""
        import torch

        if after is not None:
            self.stream.wait_event(after)
        with torch.cuda.stream(self.stream):
            target[: len(source)].copy_(source, non_blocking=True)
            return self.stream.record_event()

    def let_compute_wait(self, mark: Any) -> None:
        """Have what is computed from now on wait for a mark."""
        import torch

        torch.cuda.current_stream(self.device).wait_event(mark)

    def computed(self) -> Any:
        """Return a mark that comes when all that was asked to be computed so far is."""
        import torch

        return torch.cuda.current_stream(self.device).record_event()


def keep_blocks_in_main_memory(network: Any, blocks: Iterable[Any], device: str) -> int:
    """Move a frozen network to a device but for some of its modules, by the fastest way there is to bring these.

    That is `stream_by_block` for CUDA, and `offload_by_block` for other devices and where no main memory can be
    page-locked. Returns the bytes that lie on the device beside the network's own. Raises what these raise.
    """
    blocks = list(blocks)
    if not device.startswith("cuda"):
        offload_by_block(network, blocks, device)
        return 0
    largest = max((_laid_out(block_homes(block))[-1] for block in blocks), default=0)
    if largest and not _can_lock_pages(largest):
        logger.warning(
            "%.2f GB of main memory cannot be page-locked: blocks are copied while nothing computes, which is slow; "
            "close other programs, or raise the limit of locked memory",
            largest / 1e9,
        )
        offload_by_block(network, blocks, device)
        return 0
    return stream_by_block(network, blocks, device)


def stream_by_block(
    network: Any, blocks: Iterable[Any], device: str, transport: Transport | None = None
) -> int:
    """Move a frozen network to a CUDA device but for some of its modules, which come there ahead of their calls.

    blocks: modules of the network, none within another, in the order in which they are called; of another order the
    first pass is slower, after which the order of the calls is known. Their weights in main memory are replaced by
    page-locked ones of the same values, so that main memory is needed for one block twice at most. transport: None is
    CUDA's. Results are those of the network on the device. Returns the bytes of the places on the device to which
    blocks come.
    Raises ValueError for blocks that lie within each other, and RuntimeError for weights that want gradients.
    """
    blocks = list(blocks)
    check_offloadable(network, blocks)
    move_the_rest(network, blocks, device)
    if not blocks:
        return 0
    shelves = [_Shelf(block) for block in blocks]
    _warn_of_unlocked(shelves)
    streamer = _Streamer(shelves, transport or CudaTransport(device))
    streamer.hook(blocks)
    return sum(map(len, streamer.places))


def _warn_of_unlocked(shelves: Sequence[_Shelf]) -> None:
    import torch

    unlocked = sum(shelf.size for shelf in shelves if not shelf.locked)
    if unlocked and torch.cuda.is_available():
        logger.warning(
            "%.2f of %.2f GB of main memory could not be page-locked: copies of these will be slow",
            *(unlocked / 1e9, sum(shelf.size for shelf in shelves) / 1e9),
        )


def _laid_out(homes: Sequence[Home]) -> list[int]:
    """Return where each weight begins in a run of bytes, and where the run ends."""
    ends = [0]
    for home in homes:
        size = home.tensor.numel() * home.tensor.element_size()
        ends.append(ends[-1] + math.ceil(size / ALIGNMENT) * ALIGNMENT)
    return ends


def _can_lock_pages(size: int) -> bool:
    """Return whether so many bytes of main memory can be page-locked now."""
    import torch

    run = torch.empty(size, dtype=torch.uint8)
    if not _locked(run):
        return False
    torch.cuda.cudart().cudaHostUnregister(run.data_ptr())
    return True


def _locked(run: Any) -> bool:
    """Keep bytes where they are in memory and return whether that could be had."""
    import torch

    if not torch.cuda.is_available() or not len(run):
        return False
    return int(torch.cuda.cudart().cudaHostRegister(run.data_ptr(), len(run), 0)) == 0


class _Shelf:
    """The weights of a block as one run of bytes in main memory, page-locked where CUDA is there."""

    def __init__(self, block: Any) -> None:
        import torch

        self.homes: list[Home] = block_homes(block)
        *self.starts, self.size = _laid_out(self.homes)
        self.bytes = torch.empty(self.size, dtype=torch.uint8)
        self.locked = self._lock_pages()
        for home, view in zip(self.homes, self.views(self.bytes), strict=True):
            view.copy_(home.tensor)
            home.tensor = _like(view, home.tensor)
            home.return_()

    def views(self, run: Any) -> list[Any]:
        """Return the weights as they lie in a run of bytes."""
        found = []
        for start, home in zip(self.starts, self.homes, strict=True):
            size = home.tensor.numel() * home.tensor.element_size()
            found.append(run[start : start + size].view(home.tensor.dtype).view(home.tensor.shape))
        return found

    def _lock_pages(self) -> bool:
        """Keep the bytes where they are in memory as long as this lives; else copies wait for the processor."""
        import torch

        if not _locked(self.bytes):
            return False
        weakref.finalize(self, torch.cuda.cudart().cudaHostUnregister, self.bytes.data_ptr())
        return True


def _like(view: Any, tensor: Any) -> Any:
    import torch

    return torch.nn.Parameter(view, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else view


class _Streamer:
    """Two places on the device, and which block lies in which of them or is under way there."""

    def __init__(self, shelves: Sequence[_Shelf], transport: Transport) -> None:
        self.shelves, self.transport = shelves, transport
        size = max(shelf.size for shelf in shelves)
        self.places = [transport.place(size) for _ in range(2)]
        self.left: list[Any | None] = [None, None]
        self.next_place = self.held = 0
        self.under_way: dict[int, tuple[int, Any]] = {}
        self.latest: int | None = None
        self.next_of = {number: (number + 1) % len(shelves) for number in range(len(shelves))}

    def hook(self, blocks: Sequence[Any]) -> None:
        """Have the blocks brought and sent home around their calls, after an error in one too."""
        for number, block in enumerate(blocks):
            block.register_forward_pre_hook(lambda *_, number=number: self.bring(number))
            block.register_forward_hook(lambda *_, number=number: self.send_home(number), always_call=True)

    def fetch(self, number: int) -> None:
        """Begin to copy a block into the place whose turn it is."""
        place, self.next_place = self.next_place, 1 - self.next_place
        shelf = self.shelves[number]
        mark = self.transport.copy(self.places[place], shelf.bytes, self.left[place])
        self.under_way[number] = (place, mark)

    def bring(self, number: int) -> None:
        """Have a block's weights on the device for its call, and the next block's under way."""
        if number not in self.under_way:
            self.under_way.clear()
            self.fetch(number)
        place, mark = self.under_way.pop(number)
        self.transport.let_compute_wait(mark)
        shelf = self.shelves[number]
        for home, view in zip(shelf.homes, shelf.views(self.places[place]), strict=True):
            home.table[home.name] = _like(view, home.tensor)
        self.held = place
        if self.latest is not None:
            self.next_of[self.latest] = number
        self.latest = number
        if self.next_of[number] != number:
            self.fetch(self.next_of[number])

    def send_home(self, number: int) -> None:
        """Put a block's weights in main memory back in their places."""
        self.left[self.held] = self.transport.computed()
        for home in self.shelves[number].homes:
            home.return_()
