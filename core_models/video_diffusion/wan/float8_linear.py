"""Linear layers whose weights lie in 8 bits and become numbers of the computing precision in each call.

Half the memory of 16 bits. Only the weights are rounded: products are those of the computing precision, unlike
products in float8, which few devices have.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOAT8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
"""Kinds of 8 bits that published files come in; the first is what we store."""

EXPONENT_BITS = 0x7F800000
"""Of a float32."""


class Float8Linear(nn.Linear):
    """A linear layer with a weight in 8 bits: y = x (weight x scale)^T + bias. It is not trained.

    weight: (out, in), one of FLOAT8_DTYPES. scale: a number, or (out, 1) for each row, float32; None is 1.
    compute_dtype: what the weight becomes before the product, float32, bfloat16 or float16.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, scale: Tensor | None, compute_dtype: torch.dtype
    ) -> None:
        with torch.device("meta"):
            super().__init__(weight.shape[1], weight.shape[0], bias is not None)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_buffer("weight_scale", scale)
        self.compute_dtype = compute_dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of x (..., in)."""
        weight = unpacked_weight(self.weight, self.weight_scale, self.compute_dtype)
        return F.linear(x.to(weight.dtype), weight, None if self.bias is None else self.bias.to(weight.dtype))


def unpacked_weight(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return weight x scale in `dtype`; the product is made in float32."""
    if scale is None:
        return weight.to(dtype)
    return (weight.float() * scale).to(dtype)


def packed_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight (out, in) in float8_e4m3fn and its scales (out, 1) float32, the largest of each row at the end
    of what 8 bits reach."""
    weight = weight.detach().float()
    largest = weight.abs().amax(dim=1, keepdim=True)
    reach = torch.finfo(FLOAT8_DTYPES[0]).max
    scale = torch.where(largest > 0, largest / reach, torch.ones_like(largest))
    return (weight / scale).clamp(-reach, reach).to(FLOAT8_DTYPES[0]), scale


def repacked_weight(
    weight: Tensor, scale: Tensor | None, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Return a weight (out, in) float32 in 8 bits again after a change, and its scale, in the form these had before.

    scale: None, () or (out, 1); it stays as it is where the weight still fits, and else grows. dtype: one of
    FLOAT8_DTYPES. Rounding is by chance, so that the expected value is the weight: rounded to the nearest, changes of
    less than half a step, which are most of those that are worth keeping, would all be lost. Numbers that 8 bits hold
    are kept. What does not fit without a scale is the caller's to refuse.
    """
    reach = torch.finfo(dtype).max
    if scale is not None:
        sides = tuple(range(weight.ndim)) if scale.ndim == 0 else (1,)
        scale = torch.maximum(scale, weight.abs().amax(dim=sides, keepdim=scale.ndim > 0) / reach)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # of a row of zeros it may be 0
        weight = (weight / scale).clamp(-reach, reach)
    numbers = torch.finfo(dtype)
    # Its exponent alone is the power of two below a number; the smallest numbers have a step in common.
    powers = (weight.view(torch.int32) & EXPONENT_BITS).view(torch.float32)
    step = powers.clamp(min=numbers.smallest_normal) * numbers.eps
    exact = weight / step
    steps = exact.floor()
    raised = torch.rand(weight.shape, generator=generator) < exact - steps
    return ((steps + raised) * step).to(dtype), scale


def store_in_float8(module: nn.Module, compute_dtype: torch.dtype) -> nn.Module:
    """Put weights of a module's linear layers into 8 bits, in place, and return it. For networks that only compute.

    Layers of subclasses of nn.Linear, which compute in a way of their own, stay as they are. Results differ from the
    module's own by the rounding of weights to 4 bits after a row's scale.
    """

    def pack(layer: nn.Linear) -> Float8Linear:
        weight, scale = packed_weight(layer.weight)
        return Float8Linear(weight, layer.bias, scale, compute_dtype)

    return replace_linear(module, pack)


def replace_linear(module: nn.Module, make: Callable[[nn.Linear], nn.Linear | None]) -> nn.Module:
    """Put what `make` returns in the place of each plain nn.Linear within a module, where that is not None."""
    for owner in list(module.modules()):
        for name, child in list(owner.named_children()):
            replacement = make(child) if type(child) is nn.Linear else None
            if replacement is not None:
                setattr(owner, name, replacement.train(child.training))
    return module


def layer_computing_dtype(layer: nn.Linear) -> torch.dtype:
    """Return the precision that a linear layer computes in, whatever its weight is stored in."""
    layer = getattr(layer, "base_layer", layer)  # of a LoRA around it
    return layer.compute_dtype if isinstance(layer, Float8Linear) else layer.weight.dtype
