"""Cross-attention to the identity with two adapters beside it, for sound and for motion, each within its region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

ADAPTER_SCALE = 1.25
"""How much each adapter counts beside the identity, in the released model."""
SIGNALS = 2


@dataclass(frozen=True)
class SignalContext:
    """What one adapter attends to. tokens: (B, T, width). weight: of its result, broadcastable to (B, queries, 1)."""

    tokens: Tensor
    weight: Tensor | float = 1.0


@dataclass(frozen=True)
class AttentionContext:
    """What a cross-attention attends to: the identity (B, 1, width), and for each adapter a signal or None (closed)."""

    identity: Tensor
    signals: tuple[SignalContext | None, ...]


class ControlAttention(nn.Module):
    """Attention processor of diffusers: out = attn(q, identity) + sum of 1.25 x weight x attn(q, signal).

    It takes the `AttentionContext` where the blocks of diffusers pass the tokens to attend to.
    """

    def __init__(self, hidden_width: int, condition_width: int) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = (
            nn.ModuleList(nn.Linear(condition_width, hidden_width, bias=False) for _ in range(SIGNALS))
            for _ in range(2)
        )

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: AttentionContext,
        attention_mask: None = None,
    ) -> Tensor:
        """Return hidden_states' shape. The queries of one context may come in several rows: (B x rows, n, width)."""
        context = encoder_hidden_states
        queries = attn.to_q(hidden_states.reshape(len(context.identity), -1, hidden_states.shape[-1]))
        result = attended(queries, context.identity, attn.to_k, attn.to_v, attn.heads)
        for signal, to_k, to_v in zip(context.signals, self.to_k_ip, self.to_v_ip, strict=True):
            if signal is not None:
                found = attended(queries, signal.tokens, to_k, to_v, attn.heads)
                result = result + ADAPTER_SCALE * signal.weight * found
        return attn.to_out[0](result.expand_as(queries)).reshape(hidden_states.shape)


def attended(queries: Tensor, tokens: Tensor, to_k: nn.Linear, to_v: nn.Linear, heads: int) -> Tensor:
    """Return attention of queries (B, n, width) over tokens (B, T, conditions): (B, n, width), or (B, 1, width).

    A single token gets all the attention whatever the queries are, so its value alone is returned, to be broadcast.
    """
    values = to_v(tokens)
    if tokens.shape[1] == 1:
        return values
    split = (_heads(rows, heads) for rows in (queries, to_k(tokens), values))
    return functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def _heads(rows: Tensor, heads: int) -> Tensor:
    return rows.unflatten(-1, (heads, -1)).transpose(1, 2)
