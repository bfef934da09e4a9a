"""What guidance streams have in common before they read and hear, computed once: exact, for a little memory.

In one step of one window the streams are the same latents at the same noise; they part in the first block's
cross-attention, where text and sound come in. So that block's self-attention gives all of them the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .audio_attention import SharedControls

AttentionProcessor = Any
"""What computes an attention of diffusers, `WanAttnProcessor` or another of its kind."""


class SharedBeginning:
    """The first block's self-attention of one step of one window, for all evaluations of its streams.

    Make one for the step and the window, and drop it with them. Streams that begin otherwise than the first stream
    that came, or come to another network, are never answered with what was made of it: what they begin with is compared
    by what it holds. Weights are not compared. keeps: hold on to the result for further evaluations; False serves the
    streams of one evaluation, without memory. At the published sizes the result takes 0.2 GB in bfloat16.
    """

    def __init__(self, keeps: bool = True) -> None:
        self.keeps = keeps
        self._owner: object | None = None
        self._begins_with: list[Tensor | None] = []
        self._attention: Tensor | None = None

    def of_streams(self, owner: object, begins_with: Sequence[Tensor | None]) -> SharedBeginning | None:
        """Return this beginning where it is that of all streams of an evaluation, else None.

        owner: the network. begins_with: all that is computed with before text and sound come in, (B, ...) each, always
        in the same order. Raises RuntimeError where gradients are recorded.
        """
        if torch.is_grad_enabled():
            raise RuntimeError(
                "streams share their beginning only without gradients: use torch.no_grad(), or no shared beginning"
            )
        if self._owner is None:
            self._owner = owner
            self._begins_with = [None if one is None else one[:1].clone() for one in begins_with]
        fits = self._owner is owner and len(begins_with) == len(self._begins_with)
        return self if fits and all(map(_in_all_streams, self._begins_with, begins_with)) else None

    def attention(self) -> Tensor | None:
        """Return what was kept, (1, n, width); None before."""
        return self._attention

    def keep(self, attention: Tensor) -> None:
        """Keep the result for one stream, (1, n, width), where there will be further evaluations."""
        if self.keeps:
            self._attention = attention


def _in_all_streams(first: Tensor | None, values: Tensor | None) -> bool:
    """Whether every row of `values` is the one row of `first`."""
    if first is None or values is None:
        return first is values
    same_kind = first.dtype == values.dtype and first.device == values.device
    same_size = first.shape[1:] == values.shape[1:]
    return same_kind and same_size and torch.equal(first.expand_as(values), values)


class SharingSelfAttention:
    """Attention processor of the first block's self-attention: shares where the controls have a shared beginning.

    ordinary: the processor that computes it; backends that are chosen here are chosen there. shared: where the controls
    are. Without a beginning, and in training mode, in which layers may drop at random, all is as the ordinary one does.
    """

    def __init__(self, ordinary: AttentionProcessor, shared: SharedControls) -> None:
        self.ordinary, self.shared = ordinary, shared

    @property
    def _attention_backend(self) -> Any:
        return self.ordinary._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        self.ordinary._attention_backend = backend

    @property
    def _parallel_config(self) -> Any:
        return self.ordinary._parallel_config

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        self.ordinary._parallel_config = config

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return (B, n, width) of hidden_states (B, n, width); one row for all where it is shared.

        attn: diffusers' attention of the block. rotary_emb: cosines and sines of places, (1, n, 1, head) each.
        """
        beginning = self.shared.current.beginning
        if beginning is None or attn.training or attention_mask is not None:
            return self.ordinary(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        return self._shared(beginning, attn, hidden_states, rotary_emb)

    # A compiled block must ask in every call, not compute with the answer that it got while it was compiled.
    @torch.compiler.disable
    def _shared(
        self,
        beginning: SharedBeginning,
        attn: Any,
        hidden_states: Tensor,
        rotary_emb: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        found = beginning.attention()
        if found is None:
            found = self.ordinary(attn, hidden_states[:1], None, None, rotary_emb)
            beginning.keep(found)
        return found.expand(len(hidden_states), -1, -1)


def let_first_block_share(blocks: Sequence[Any], shared: SharedControls) -> None:
    """Have the first of a Wan transformer's blocks ask the controls in `shared` for a shared beginning."""
    attention = blocks[0].attn1
    ordinary = attention.processor
    if isinstance(ordinary, SharingSelfAttention):  # of a model that had this transformer before
        ordinary = ordinary.ordinary
    attention.set_processor(SharingSelfAttention(ordinary, shared))
