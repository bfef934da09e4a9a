"""Linear layers whose weights are laid out once for many products with few rows.

On processors oneDNN multiplies a laid-out weight sooner than a plain one when there are few rows (KDTalker's windows
have 66), and the activation comes with the product. The operators are those that torch.compile uses for frozen
weights; where a PyTorch does not have them, and on other devices, the plain product serves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

LinearFunction = Callable[[Tensor], Tensor]
"""(..., in) -> (..., out)."""


def packed_linear(
    weight: Tensor, bias: Tensor | None, rows: int, silu: bool = False, layout: bool = True
) -> LinearFunction:
    """Return x -> x W^T + b, or SiLU of it, for a weight (out, in) that does not change any more.

    rows: how many rows x will have, at a guess. layout: False leaves the weight as it is, which torch.compile needs.
    The result holds a copy of the weight, or the weight itself.
    """
    packed = _laid_out(weight, rows) if layout else None
    if packed is None:
        return lambda x: F.silu(F.linear(x, weight, bias)) if silu else F.linear(x, weight, bias)
    activation = "swish" if silu else "none"
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, activation, [], "")


def _laid_out(weight: Tensor, rows: int) -> Tensor | None:
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)
    except (AttributeError, RuntimeError):  # a PyTorch, or a processor, without them
        return None
