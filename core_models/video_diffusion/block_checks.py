"""A way to end a network's work between two of its blocks, where one evaluation takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import nn

CheckCallback = Callable[[], None]
"""Called often during long work; raises what shall end it, as ComfyUI's Cancel does."""


@contextmanager
def checked_between(blocks: Iterable[nn.Module], check: CheckCallback | None) -> Iterator[None]:
    """Call `check`, unless None, before each block works, while the `with` lasts; what it raises ends the work."""
    handles = [
        block.register_forward_pre_hook(lambda _module, _inputs: check())
        for block in (blocks if check is not None else ())
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
