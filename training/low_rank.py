"""Additions of low rank to linear layers that stay as they are (LoRA, arXiv 2106.09685): W x + b + up(down(x)).

The layers keep their names and keys; merged, a network is what it was before, with other weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ADDED_KEYS = (".low_rank_down", ".low_rank_up")
"""Endings of the keys of what is added."""


class LowRankLinear(nn.Linear):
    """A linear layer and an addition of low rank, which changes nothing before it is trained: `up` begins at 0.

    layer: whose parameters become this one's, themselves. rank: numbers in between.
    Raises ValueError for a rank outside 1..the smaller side of the layer.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        largest = min(layer.in_features, layer.out_features)
        if not 1 <= rank <= largest:
            raise ValueError(f"rank is {rank}, expected 1 to {largest} for a layer of {_sides(layer)}")
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias
        device = layer.weight.device
        self.low_rank_down = nn.Parameter(torch.empty(rank, layer.in_features, device=device))
        self.low_rank_up = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.low_rank_down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of x (..., in)."""
        return super().forward(x) + F.linear(F.linear(x, self.low_rank_down), self.low_rank_up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return an ordinary layer that computes the same."""
        with torch.device("meta"):
            layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        added = self.low_rank_up @ self.low_rank_down
        layer.weight = nn.Parameter(self.weight + added.to(self.weight.dtype))
        layer.bias = self.bias
        return layer.train(self.training)


def _sides(layer: nn.Linear) -> str:
    return f"{layer.in_features} to {layer.out_features}"


def add_low_rank(network: nn.Module, chosen: Callable[[str], bool], rank: int) -> nn.Module:
    """Put additions beside the linear layers whose names are chosen, within the network, and return it.

    Their weights are drawn from torch's global generator. Raises ValueError when none is chosen, for one that is no
    ordinary linear layer (weights in 8 bits), or a rank that does not fit.
    """
    names = [name for name, _ in network.named_modules() if chosen(name)]
    if not names:
        raise ValueError("no layer is chosen for an addition of low rank")
    for name in names:
        layer = network.get_submodule(name)
        if type(layer) is not nn.Linear:
            raise ValueError(
                f"{name} is a {type(layer).__name__}, but additions of low rank stand beside ordinary linear layers"
            )
        _replace(network, name, LowRankLinear(layer, rank))
    return network


def merge_low_rank(network: nn.Module) -> nn.Module:
    """Replace all layers with additions by ordinary ones that compute the same, and return the network."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, LowRankLinear):
            _replace(network, name, layer.merged())
    return network


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    # Layers in an nn.ModuleList or nn.Sequential are attributes by their numbers too.
    setattr(network.get_submodule(parent), child, layer)
