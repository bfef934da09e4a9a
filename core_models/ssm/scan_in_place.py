"""The selective scan step by step on few buffers: for a CPU.

Time comes first and the inner side is the contiguous one, so every operation runs over long rows. Time is cut into
segments of about sqrt(L) steps; within one, decays and inputs of all steps are made at once and the recurrence is one
in-place operation a step. Training keeps the state at the start of each segment and computes the rest of it again on
the way back. Beside inputs and outputs that takes a few times sqrt(L) states, never L.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2_E = math.log2(math.e)
"""exp(x) = 2 ** (x * LOG2_E); PyTorch's exp2 takes a third of exp's time on a CPU and errs as little."""

BUFFER_ELEMENTS = 1 << 19
"""Largest wanted size of a segment's buffer: two of them in float32 stay near a core's cache."""


def scan_in_place(
    delta: Tensor, weighted_input: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Return outputs (L, batch, groups, H) and the last state (batch, groups, N, H) of the recurrence

        state_t = exp(delta_t A) state_{t-1} + B_t weighted_input_t,    output_t = C_t . state_t.

    delta, weighted_input (delta times input): (L, batch, groups, H). A: (groups, N, H). B, C: (L, batch, groups, N).
    All are of one dtype, float32 or float64, and contiguous. Differentiable once, in all five; where no gradient is
    wanted nothing is kept.
    """
    tensors = (delta, weighted_input, A, B, C)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _ScanInPlace.apply(*tensors)
    length = len(delta)
    fitting = max(1, BUFFER_ELEMENTS // (delta[0].numel() * A.shape[1]))
    outputs, last, _ = _forward(*tensors, min(fitting, _segment_length(length)), keep=False)
    return outputs, last


class _ScanInPlace(torch.autograd.Function):
    """The scan with its gradients worked out: the adjoint recurrence runs backwards, segment by segment."""

    @staticmethod
    def forward(ctx, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        outputs, last, starts = _forward(*tensors, _segment_length(len(tensors[0])), keep=True)
        ctx.save_for_backward(*tensors, starts)
        return outputs, last

    @staticmethod
    @once_differentiable
    def backward(ctx, output_gradients: Tensor, last_gradient: Tensor) -> tuple[Tensor, ...]:
        return _backward(*ctx.saved_tensors, _contiguous(output_gradients), last_gradient)


def _contiguous(gradients: Tensor) -> Tensor:
    """As `contiguous`, but as a matrix where it can be one: PyTorch turns those far sooner than blocks."""
    return gradients.flatten(1).contiguous().view(gradients.shape)


def _segment_length(length: int) -> int:
    return math.isqrt(length - 1) + 1


def _forward(
    delta: Tensor, weighted_input: Tensor, A: Tensor, B: Tensor, C: Tensor, steps: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return outputs, the last state and, if kept, that before each segment (segments, batch, groups, N, H)."""
    length = len(delta)
    rates = A * LOG2_E
    state = A.new_zeros(delta.shape[1], *A.shape)
    starts = A.new_empty(-(-length // steps), *state.shape) if keep else None
    decays, states = A.new_empty(steps, *state.shape), A.new_empty(steps, *state.shape)
    outputs = torch.empty_like(delta)
    for index, begin in enumerate(range(0, length, steps)):
        part = slice(begin, min(begin + steps, length))
        size = part.stop - begin
        if keep:
            starts[index] = state
        last = _advance(
            state, delta[part], weighted_input[part], rates, B[part], decays[:size], states[:size]
        )
        state.copy_(last)
        _product(C[part], states[:size], outputs[part])
    return outputs, state, starts


def _advance(state: Tensor, delta, weighted_input, rates, B, decays: Tensor, states: Tensor) -> Tensor:
    """Fill `decays` and `states` (steps, batch, groups, N, H), from the state before; return the last state."""
    torch.mul(delta.unsqueeze(-2), rates, out=decays).exp2_()
    torch.mul(B.unsqueeze(-1), weighted_input.unsqueeze(-2), out=states)
    for decay, following in zip(decays.unbind(), states.unbind(), strict=True):
        state = following.addcmul_(decay, state)
    return state


def _product(rows: Tensor, matrices: Tensor, result: Tensor) -> None:
    """Write the products of rows (..., K) with matrices (..., K, M) into `result` (..., M)."""
    torch.bmm(
        rows.reshape(-1, 1, rows.shape[-1]),
        matrices.flatten(0, -3),
        out=result.view(-1, 1, result.shape[-1]),
    )


def _backward(
    delta: Tensor,
    weighted_input: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
    output_gradients: Tensor,
    last_gradient: Tensor,
) -> tuple[Tensor, ...]:
    """Return the gradients of delta, weighted_input, A, B and C."""
    length, segments = len(delta), len(starts)
    steps = _segment_length(length)
    rates = A * LOG2_E
    gradients = tuple(torch.empty_like(tensor) for tensor in (delta, weighted_input, B, C))
    rate_gradient = torch.zeros_like(A)
    carried = last_gradient.clone()
    decays, adjoints = (A.new_empty(steps, *carried.shape) for _ in range(2))
    states = A.new_empty(steps + 1, *carried.shape)
    for index in reversed(range(segments)):
        part = slice(index * steps, min((index + 1) * steps, length))
        size = part.stop - part.start
        states[0] = starts[index]
        buffers = decays[:size], states[: size + 1], adjoints[:size]
        segment = tuple(tensor[part] for tensor in (delta, weighted_input, B, C, output_gradients))
        _segment_backward(
            segment, A, rates, buffers, carried, tuple(g[part] for g in gradients), rate_gradient
        )
    delta_gradient, input_gradient, B_gradient, C_gradient = gradients
    return delta_gradient, input_gradient, rate_gradient, B_gradient, C_gradient


def _segment_backward(segment, A, rates, buffers, carried: Tensor, gradients, rate_gradient: Tensor) -> None:
    """Write a segment's gradients, add to A's, and leave in `carried` the gradient of the state before it.

    buffers: decays (steps, ...), states (steps + 1, ...) of which the first is the state before, adjoints (steps, ...).
    """
    delta, weighted_input, B, C, output_gradients = segment
    decays, states, adjoints = buffers
    delta_gradient, input_gradient, B_gradient, C_gradient = gradients
    _advance(states[0], delta, weighted_input, rates, B, decays, states[1:])
    _product(output_gradients, states[1:].transpose(-1, -2), C_gradient)
    torch.mul(C.unsqueeze(-1), output_gradients.unsqueeze(-2), out=adjoints)
    later = carried
    for decay, adjoint in zip(reversed(decays.unbind()), reversed(adjoints.unbind()), strict=True):
        adjoint.add_(later)
        later = decay.mul_(adjoint)
    carried.copy_(later)
    _product(B, adjoints, input_gradient)
    _product(weighted_input, adjoints.transpose(-1, -2), B_gradient)
    exponent_gradients = decays.mul_(states[:-1])
    torch.sum(torch.mul(exponent_gradients, A, out=adjoints), -2, out=delta_gradient)
    weighted = exponent_gradients.mul_(delta.unsqueeze(-2)).view(-1, rate_gradient.numel())
    rate_gradient.view(1, -1).addmm_(weighted.new_ones(1, len(weighted)), weighted)
