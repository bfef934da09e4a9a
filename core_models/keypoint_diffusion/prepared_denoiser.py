"""A denoiser made ready for many steps over windows: what does not change from step to step is computed once.

The numbers are those of `Denoiser.forward` up to rounding. A third of its products go into the conditioning layers;
they are linear in (time, context), so the time's share is one row per step, for every window of a clip, and the
context's share is worked out once per window. The clean tokens' projections and the relative bias stay too, and on a
processor the weights are laid out for products of so few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..packed_linear import LinearFunction, packed_linear
from .denoiser import Attention, Denoiser, FilmResidualBlock, sinusoidal_embedding

Turns = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PreparedWindow:
    """What a window's steps share.

    prefix: (B, P, width), projected clean tokens. films: per residual block (B, P + N, 2 width), the context's share
    of scale and shift, zero for the prefix.
    """

    prefix: Tensor
    films: tuple[Tensor, ...]


class PreparedDenoiser:
    """A denoiser for the given timesteps. `window` prepares a window, `predict` is one step on it.

    Computes in the type of the denoiser's weights; takes and gives float32. compiled: let torch.compile work on the
    step first, which is worth it for long clips on a graphics card.
    """

    def __init__(self, denoiser: Denoiser, timesteps: Sequence[int], compiled: bool = False) -> None:
        p = denoiser.parameters_used
        weight = denoiser.input_projection.weight
        self.device, self.dtype = weight.device, weight.dtype
        self._layout = not compiled
        self._prefix_tokens, self._length = p.prefix_tokens, p.prefix_tokens + p.window
        self._input = self._packed(denoiser.input_projection)
        blocks = [block for layer in denoiser.layers for block in layer[:2]]
        self._context_films = [
            packed_linear(block.mlp[1].weight[:, p.time_size :], None, p.window, layout=self._layout)
            for block in blocks
        ]
        self._time_films = time_films(denoiser, blocks, timesteps)
        layers = [
            ([self._block(block) for block in layer[:2]], [self._attention(part.fn) for part in layer[2:]])
            for layer in denoiser.layers
        ]
        step = _step_function(self._input, layers, self._packed(denoiser.output_projection))
        self._step = torch.compile(step) if compiled else step
        self._relative_bias = denoiser.time_rel_pos_bias(self._length, self.device)
        self._turns = denoiser.turns(self._length, self.dtype) or ()

    def _packed(self, linear: nn.Linear, silu: bool = False) -> LinearFunction:
        return packed_linear(linear.weight, linear.bias, self._length, silu, self._layout)

    def _block(self, block: FilmResidualBlock) -> Callable[..., Tensor]:
        first, second = self._packed(block.block1.proj), self._packed(block.block2.proj, silu=True)
        norm = block.block1.norm

        def run(x: Tensor, film: Tensor) -> Tensor:
            scale, shift = film.chunk(2, dim=-1)
            return second(F.silu(torch.addcmul(shift, norm(first(x)), scale))) + x

        return run

    def _attention(self, part: nn.Module) -> Callable[..., Tensor]:
        attention: Attention = part.fn
        norm, to_qkv, proj = part.norm, self._packed(attention.to_qkv), self._packed(attention.proj)

        def run(x: Tensor, bias: Tensor, turns: Turns) -> Tensor:
            return x + proj(attention.attend(to_qkv(norm(x)), bias, turns))

        return run

    def window(self, prefix: Tensor, context: Tensor) -> PreparedWindow:
        """Return the window of clean tokens (B, P, motion_size) and context (B, N, context_size).

        N is at most the window the denoiser was made for.
        """
        listened = F.silu(context.to(self.device, self.dtype))
        films = tuple(F.pad(film(listened), (0, 0, self._prefix_tokens, 0)) for film in self._context_films)
        return PreparedWindow(self._input(prefix.to(self.device, self.dtype)), films)

    def predict(self, window: PreparedWindow, x: Tensor, step: int) -> Tensor:
        """Return the prediction (B, N, motion_size) float32 for noisy motion x of the same shape.

        step: which of the timesteps, by its place among them.
        """
        length = window.prefix.shape[1] + x.shape[1]
        bias = self._relative_bias[..., :length, :length]
        turns = tuple(part[:length] for part in self._turns)
        return self._step(x.to(self.dtype), window, self._time_films[step], bias, turns).float()


def time_films(denoiser: Denoiser, blocks: Sequence[FilmResidualBlock], timesteps: Sequence[int]) -> Tensor:
    """Return (steps, blocks, 2 width): the time's share of scale and shift, their biases and the scale's 1 included."""
    p = denoiser.parameters_used
    weight = denoiser.input_projection.weight
    times = torch.tensor(list(timesteps), device=weight.device)
    embedded = F.silu(denoiser.time_mlp(sinusoidal_embedding(times, p.width).to(weight.dtype)))
    one = torch.cat([torch.ones(p.width), torch.zeros(p.width)]).to(embedded)
    linears = [block.mlp[1] for block in blocks]
    rows = [F.linear(embedded, linear.weight[:, : p.time_size], linear.bias) + one for linear in linears]
    return torch.stack(rows, dim=1)


Layer = tuple[list[Callable[[Tensor, Tensor], Tensor]], list[Callable[[Tensor, Tensor, Turns], Tensor]]]
"""A layer's residual blocks, and its attention, if it has one."""


def _step_function(
    project: LinearFunction, layers: Sequence[Layer], output: LinearFunction
) -> Callable[..., Tensor]:
    """Return the function of (x, window, time films, bias, turns) that a step is."""

    def step(x: Tensor, window: PreparedWindow, times: Tensor, bias: Tensor, turns: Turns) -> Tensor:
        tokens = torch.cat([window.prefix, project(x)], dim=1)
        index = 0
        for blocks, attentions in layers:
            for block in blocks:
                tokens = block(tokens, window.films[index] + times[index])
                index += 1
            for attention in attentions:
                tokens = attention(tokens, bias, turns)
        return output(tokens[:, window.prefix.shape[1] :])

    return step
