"""The selective scan in chunks that advance side by side: for a GPU, where few large launches count.

The end of each chunk from a zero state comes first, then the true state at each chunk's start (a short loop over
chunks), then all chunks once more from there: 2 T + L / T steps in place of L. Only exponents of zero or less occur,
so large delta is as safe as in the plain recurrence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def scan_in_chunks(
    delta: Tensor, weighted_input: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Return outputs (L, batch, groups, H) and the last state (batch, groups, N, H) of the recurrence

        state_t = exp(delta_t A) state_{t-1} + B_t weighted_input_t,    output_t = C_t . state_t.

    delta, weighted_input (delta times input): (L, batch, groups, H). A: (groups, N, H). B, C: (L, batch, groups, N).
    All are of one dtype, float32 or float64. Differentiable any number of times, and then autograd keeps every state;
    otherwise L / T states are held.
    """
    length = len(delta)
    steps = _chunk_length(length)
    moments = tuple(_in_chunks(tensor, steps) for tensor in (delta, weighted_input, B, C))
    starts, last = _starts(moments, A)
    outputs = torch.stack(_outputs(moments, A, starts))
    return outputs.transpose(0, 1).flatten(0, 1)[:length], last


def _chunk_length(length: int) -> int:
    """Return the T that makes 2 T + L / T least."""
    return max(1, round(math.sqrt(length / 2)))


def _in_chunks(sequence: Tensor, steps: int) -> Tensor:
    """Return (steps, chunks, ...) of (L, ...); zeros fill up, and with delta 0 a step leaves the state as it is."""
    missing = -len(sequence) % steps
    padded = F.pad(sequence, (0, 0) * (sequence.ndim - 1) + (0, missing))
    return padded.unflatten(0, (-1, steps)).transpose(0, 1)


def _advanced(state: Tensor, delta: Tensor, weighted_input: Tensor, A: Tensor, B: Tensor) -> Tensor:
    decay = torch.exp(delta.unsqueeze(-2) * A)
    return torch.addcmul(B.unsqueeze(-1) * weighted_input.unsqueeze(-2), decay, state)


def _starts(moments: tuple[Tensor, ...], A: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before every chunk (chunks, batch, groups, N, H) and the one after the last."""
    delta, weighted_input, B, _ = moments
    ends = A.new_zeros(*delta.shape[1:3], *A.shape)
    for step in range(len(delta)):
        ends = _advanced(ends, delta[step], weighted_input[step], A, B[step])
    decays = torch.exp(delta.sum(0).unsqueeze(-2) * A)
    states = [torch.zeros_like(ends[0])]
    for decay, end in zip(decays, ends, strict=True):
        states.append(torch.addcmul(end, decay, states[-1]))
    return torch.stack(states[:-1]), states[-1]


def _outputs(moments: tuple[Tensor, ...], A: Tensor, states: Tensor) -> list[Tensor]:
    """Return each step's outputs (chunks, batch, groups, H)."""
    outputs = []
    for delta, weighted_input, B, C in zip(*moments, strict=True):
        states = _advanced(states, delta, weighted_input, A, B)
        outputs.append((C.unsqueeze(-2) @ states).squeeze(-2))
    return outputs
