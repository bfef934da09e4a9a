"""The selective scan by mamba-ssm's CUDA kernel, where that package is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

LARGEST_STATE = 256
"""Largest N that the kernel takes."""


@functools.cache
def kernel_function() -> Callable | None:
    """Return mamba-ssm's `selective_scan_fn`, or None where it is missing or was built for another PyTorch."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return None
    try:
        return importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        logger.warning(
            "mamba-ssm is installed but does not load (%s); the chunked scan serves instead", error
        )
        return None


def kernel_obstacle(u: Tensor, A: Tensor) -> str | None:
    """Return why the kernel cannot scan these tensors, as a clause for an error, or None if it can."""
    if u.device.type != "cuda":
        return f"the tensors are on {u.device}, not on a CUDA device"
    if u.dtype not in KERNEL_DTYPES:
        return f"it does not take {u.dtype}"
    if A.shape[1] > LARGEST_STATE:
        return f"it takes at most {LARGEST_STATE} states, got {A.shape[1]}"
    if kernel_function() is None:
        return "mamba-ssm is not installed or does not load"
    return None


def scan_by_kernel(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Return what `selective_scan` returns, by the kernel; the last state carries no gradient.

    Where u, delta, B and C differ in dtype they are all taken as float32.
    """
    sequences = (u, delta, B, C)
    if len({tensor.dtype for tensor in sequences}) > 1:
        sequences = tuple(tensor.float() for tensor in sequences)
    inputs, steps, B_taken, C_taken = sequences
    skip, bias = (None if tensor is None else tensor.float() for tensor in (D, delta_bias))
    out, last_state = kernel_function()(
        inputs,
        steps,
        A.float(),
        B_taken,
        C_taken,
        skip,
        z=None,
        delta_bias=bias,
        delta_softplus=delta_softplus,
        return_last_state=True,
    )
    return out.to(u.dtype), last_state.float()
