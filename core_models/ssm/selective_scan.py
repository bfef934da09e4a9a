"""The selective scan: a linear recurrence whose step size, input and output weights change from token to token.

Mamba (arXiv 2312.00752), equations 2 and 4 with the simplified discretisation of its code; values and gradients are
those of mamba-ssm's `selective_scan_ref`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from .scan_in_chunks import scan_in_chunks
from .scan_in_place import scan_in_place
from .scan_kernel import kernel_obstacle, scan_by_kernel

BACK_ENDS = ("auto", "in_place", "chunked", "kernel")
"""Ways to compute the scan; `auto` takes `in_place` on a CPU, else `kernel` where it can, else `chunked`."""


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return outputs (batch, D, L) in u's dtype and the last state (batch, D, N) float32 (float64 if u is).

        step = delta + delta_bias, through softplus if wanted
        state_t = exp(step_t A) state_{t-1} + step_t B_t u_t, from zero
        out_t = C_t . state_t + D u_t.

    u, delta: (batch, D, L). A: (D, N), negative. B, C: (batch, groups, N, L), where each group serves D / groups
    neighbouring channels, or (batch, N, L) for one group. D, delta_bias: (D,) or None. All are floating point and on
    one device; they are computed in float32, or float64 if u is. backend: one of `BACK_ENDS`; all give the same but
    for rounding. The outputs need not be contiguous; inputs contiguous along L or along D serve soonest.
    Differentiable in every tensor, by `in_place` once; `kernel` gives no gradient through the last state.
    Raises ValueError for shapes that do not fit, sides of 0, dtypes that are not floating point, several devices, an
    unknown back end or one that cannot serve here.
    """
    _check(u, delta, A, B, C, D, delta_bias)
    chosen = _chosen(backend, u, A)
    with _without_autocast(u.device.type):
        if chosen == "kernel":
            return scan_by_kernel(u, delta, A, B, C, D, delta_bias, delta_softplus)
        scan = scan_in_place if chosen == "in_place" else scan_in_chunks
        return _scan_time_first(scan, u, delta, A, B, C, D, delta_bias, delta_softplus)


def _without_autocast(device_type: str) -> AbstractContextManager:
    if device_type == "meta":  # autocast does not know it
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def _scan_time_first(scan, u, delta, A, B, C, D, delta_bias, delta_softplus) -> tuple[Tensor, Tensor]:
    """Lay the tensors out time first for `scan` and its results back."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    groups = max(_groups(B), _groups(C))
    inputs, steps = (_time_first(tensor, groups, dtype) for tensor in (u, delta))
    if delta_bias is not None:
        steps = steps + delta_bias.to(dtype).view(groups, -1)
    if delta_softplus:
        steps = F.softplus(steps)
    rates = A.to(dtype).view(groups, -1, A.shape[1]).transpose(1, 2).contiguous()
    weights = (_weights_time_first(tensor, groups, dtype) for tensor in (B, C))
    outputs, last = scan(steps, steps * inputs, rates, *weights)
    if D is not None:
        outputs = torch.addcmul(outputs, inputs, D.to(dtype).view(groups, -1))
    return outputs.flatten(2).permute(1, 2, 0).to(u.dtype), last.transpose(-1, -2).flatten(1, 2)


def _groups(weights: Tensor) -> int:
    return weights.shape[1] if weights.ndim == 4 else 1


def _time_first(sequence: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """Return (L, batch, groups, D / groups) contiguous, of (batch, D, L)."""
    return _last_axis_first(sequence.to(dtype)).unflatten(2, (groups, -1))


def _weights_time_first(weights: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """Return (L, batch, groups, N) contiguous, of (batch, groups or 1, N, L) or (batch, N, L)."""
    moved = _last_axis_first(weights.to(dtype))
    grouped = moved if moved.ndim == 4 else moved.unsqueeze(2)
    return grouped.expand(-1, -1, groups, -1).contiguous()


def _last_axis_first(tensor: Tensor) -> Tensor:
    """Return (L, ...) contiguous, of (..., L)."""
    if tensor.stride(-1) != 1:
        return tensor.movedim(-1, 0).contiguous()
    rows = tensor.reshape(
        -1, tensor.shape[-1]
    )  # PyTorch turns a matrix far sooner than it moves an axis of a block
    return rows.t().contiguous().view(-1, *tensor.shape[:-1])


def _chosen(backend: str, u: Tensor, A: Tensor) -> str:
    if backend not in BACK_ENDS:
        raise ValueError(f"there is no scan back end {backend!r}: take one of {', '.join(BACK_ENDS)}")
    if backend == "auto" and u.device.type == "cpu":
        return "in_place"
    if backend not in ("auto", "kernel"):
        return backend
    obstacle = kernel_obstacle(u, A)
    if backend == "kernel" and obstacle:
        raise ValueError(f"the scan kernel cannot serve: {obstacle}; take backend='auto' or 'chunked'")
    return "chunked" if obstacle else "kernel"


def _check(u, delta, A, B, C, D, delta_bias) -> None:
    named = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias}
    given = {name: tensor for name, tensor in named.items() if tensor is not None}
    _check_kinds(given, u.device)
    _check_sides(u, A)
    batch, channels, length = u.shape
    _check_shape("delta", delta, u.shape)
    for name in ("B", "C"):
        _check_weights(name, given[name], batch, channels, A.shape[1], length)
    groups = {_groups(B), _groups(C)} - {1}
    if len(groups) > 1:
        raise ValueError(f"B has {_groups(B)} groups and C has {_groups(C)}: give as many, or one")
    for name in ("D", "delta_bias"):
        if name in given:
            _check_shape(name, given[name], (channels,))


def _check_kinds(given: dict[str, Tensor], device: torch.device) -> None:
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}, expected floating point: convert it with .float()")
        if tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device} and u on {device}: move all tensors to one device"
            )


def _check_sides(u: Tensor, A: Tensor) -> None:
    if u.ndim != 3:
        raise ValueError(f"u has shape {tuple(u.shape)}, expected (batch, D, L)")
    if A.ndim != 2 or A.shape[0] != u.shape[1]:
        raise ValueError(f"A has shape {tuple(A.shape)}, expected ({u.shape[1]}, N) to fit u's channels")
    if u.shape[2] == 0:
        raise ValueError("the sequence is empty (L is 0): there is nothing to scan, give at least one token")
    if u.numel() == 0 or A.numel() == 0:
        raise ValueError(
            f"u has shape {tuple(u.shape)} and A {tuple(A.shape)}: every side must be at least 1"
        )


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected)} to fit u")


def _check_weights(name: str, weights: Tensor, batch: int, channels: int, states: int, length: int) -> None:
    fits = weights.ndim in (3, 4) and weights.shape[0] == batch and weights.shape[-2:] == (states, length)
    if not fits:
        raise ValueError(
            f"{name} has shape {tuple(weights.shape)}, expected ({batch}, groups, {states}, {length}) or "
            f"({batch}, {states}, {length}) to fit u and A"
        )
    groups = _groups(weights)
    if groups == 0 or channels % groups:
        raise ValueError(f"{name} has {groups} groups, which do not divide u's {channels} channels evenly")
