"""A network larger than the device: its blocks stay in main memory, and each visits the device while it computes.

Unlike accelerate's hooks, whole blocks move, what lies between them stays on the device, and every weight can be read
where it is: code that asks a network for its device gets the one it computes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Home:
    """A parameter or buffer and the table of its module that holds it."""

    table: dict[str, Any]
    name: str
    tensor: Any

    def return_(self) -> None:
        """Put the tensor back into the table."""
        self.table[self.name] = self.tensor


def offload_by_block(network: Any, blocks: Iterable[Any], device: str) -> None:
    """Move a frozen network to the device but for some of its modules, which come there for each of their calls.

    blocks: modules of the network, none within another. After a call, or an error in it, a block's weights are again
    the tensors in main memory that they were; nothing is copied back. Results are those of the network on the device.
    Raises ValueError for blocks that lie within each other, and RuntimeError for weights that want gradients.
    """
    blocks = list(blocks)
    check_offloadable(network, blocks)
    move_the_rest(network, blocks, device)
    for block in blocks:
        _hook(block, device)


def move_the_rest(network: Any, blocks: list[Any], device: str) -> None:
    """Move all of a network but some of its modules to a device."""
    within = {id(module) for block in blocks for module in block.modules()}
    for home in _homes(module for module in network.modules() if id(module) not in within):
        home.table[home.name] = _moved(home.tensor, device)


def check_offloadable(network: Any, blocks: list[Any]) -> None:
    """Raise ValueError for blocks that lie within each other, and RuntimeError for weights that want gradients."""
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


def block_homes(block: Any) -> list[Home]:
    """Return where all parameters and buffers of a module are."""
    return list(_homes(block.modules()))


def _homes(modules: Iterable[Any]) -> Iterator[Home]:
    for module in modules:
        for table in (module._parameters, module._buffers):
            yield from [Home(table, name, tensor) for name, tensor in table.items() if tensor is not None]


def _moved(tensor: Any, device: str) -> Any:
    """Return a parameter or buffer on the device; itself where it is there already."""
    import torch

    moved = tensor.to(device)
    return torch.nn.Parameter(moved, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else moved


def _hook(block: Any, device: str) -> None:
    homes = block_homes(block)

    def bring(*_: Any) -> None:
        for home in homes:
            home.table[home.name] = _moved(home.tensor, device)

    def send_home(*_: Any) -> None:
        for home in homes:
            home.return_()

    block.register_forward_pre_hook(bring)
    # After an error too, such as memory that ran out.
    block.register_forward_hook(send_home, always_call=True)
