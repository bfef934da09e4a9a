"""A network larger than the device: its blocks stay in main memory, and each visits the device while it computes.

Unlike accelerate's hooks, whole blocks move, what lies between them stays on the device, and every weight can be read
where it is: code that asks a network for its device gets the one it computes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Home:
    """A parameter or buffer and the table of its module that holds it."""

    table: dict[str, Any]
    name: str
    tensor: Any


def offload_by_block(network: Any, blocks: Iterable[Any], device: str) -> None:
    """Move a frozen network to the device but for some of its modules, which come there for each of their calls.

    blocks: modules of the network, none within another. After a call, or an error in it, a block's weights are again
    the tensors in main memory that they were; nothing is copied back. Results are those of the network on the device.
    Raises ValueError for blocks that lie within each other, and RuntimeError for weights that want gradients.
    """
    blocks = list(blocks)
    _check(network, blocks)
    within = {id(module) for block in blocks for module in block.modules()}
    for home in _homes(module for module in network.modules() if id(module) not in within):
        home.table[home.name] = _moved(home.tensor, device)
    for block in blocks:
        _hook(block, device)


def _check(network: Any, blocks: list[Any]) -> None:
    names = {id(module): name for name, module in network.named_modules()}
    seen: set[int] = set()
    for block in blocks:
        inner = {id(module) for module in block.modules()}
        if id(block) not in names or inner & seen:
            name = names.get(id(block), type(block).__name__)
            raise ValueError(
                f"the block {name} is not a part of the network, or shares modules with another block"
            )
        seen |= inner
    wanting = [name for name, value in network.named_parameters() if value.requires_grad]
    if wanting:
        raise RuntimeError(
            f"{wanting[0]} wants gradients: offload is for frozen networks, call requires_grad_(False)"
        )


def _homes(modules: Iterable[Any]) -> Iterator[_Home]:
    for module in modules:
        for table in (module._parameters, module._buffers):
            yield from [_Home(table, name, tensor) for name, tensor in table.items() if tensor is not None]


def _moved(tensor: Any, device: str) -> Any:
    """Return a parameter or buffer on the device; itself where it is there already."""
    import torch

    moved = tensor.to(device)
    return torch.nn.Parameter(moved, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else moved


def _hook(block: Any, device: str) -> None:
    homes = list(_homes(block.modules()))

    def bring(*_: Any) -> None:
        for home in homes:
            home.table[home.name] = _moved(home.tensor, device)

    def send_home(*_: Any) -> None:
        for home in homes:
            home.table[home.name] = home.tensor

    block.register_forward_pre_hook(bring)
    # After an error too, such as memory that ran out.
    block.register_forward_hook(send_home, always_call=True)
