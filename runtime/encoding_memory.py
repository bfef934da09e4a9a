"""What was encoded last: prompts and pictures that come again need no network. Results are kept in main memory."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_MEMORY = 256 << 20
"""Bytes of results that are kept: about thirty prompts, or pictures for clips of 81 frames at 512 pixels."""


@functools.cache
def encoding_memory() -> EncodingMemory:
    """Return the memory that all nodes of this process share."""
    return EncodingMemory()


class EncodingMemory:
    """Results by what they were made from; the least recently used go first. Safe to use from several threads."""

    def __init__(self, largest: int = LARGEST_MEMORY) -> None:
        """largest: bytes of results that are kept."""
        self._largest = largest
        self._results: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, key: Hashable) -> bool:
        """Whether a result is kept."""
        with self._lock:
            return key in self._results

    def remembered(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return the result kept under a key, or what `make` returns, which is kept then. Nobody may change it.

        key: says all that the result depends on, the network's handle among it.
        """
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        made = make()
        with self._lock:
            self._results[key] = made
            self._results.move_to_end(key)
            while len(self._results) > 1 and self._bytes() > self._largest:
                self._results.popitem(last=False)
        return made

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._results.clear()

    def _bytes(self) -> int:
        return sum(value.numel() * value.element_size() for value in self._results.values())


def content_key(values: Tensor) -> str:
    """Return a text that is the same for tensors of the same numbers and shape."""
    content = values.detach().cpu().contiguous().numpy()
    return f"{content.shape} {hashlib.sha256(content.tobytes()).hexdigest()}"
