"""Who the portrait shows, as tokens for FantasyTalking's identity attention (arXiv 2504.04842, section 3.2).

The paper gives a face recognition feature to a Q-Former whose tokens every block attends to. It gives no sizes and
released no weights: all sizes here are ours. The feature is one vector, over which attention would have nothing to
choose from, so it is first spread over several tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEED_FORWARD_FACTOR = 4
"""Width of a layer's feed-forward network over that of its tokens."""
QUERY_SPREAD = 0.02
"""Standard deviation of the queries before training."""


@dataclass(frozen=True)
class IdentityBranchParameters:
    """Sizes; none is in the paper.

    features: numbers of a face recognition embedding. width: of the tokens that come out, from which every block makes
    its own keys and values. queries: tokens that come out. layers, heads: of the Q-Former. hidden: its width.
    tokens: over which the embedding is spread.
    Raises ValueError for anything but whole numbers above 0, or a hidden width that the heads do not divide.
    """

    features: int = 512
    width: int = 2048
    queries: int = 32
    layers: int = 2
    heads: int = 8
    hidden: int = 768
    tokens: int = 8

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"IdentityBranchParameters.{one.name} is {value!r}, expected a whole number >= 1"
                )
        if self.hidden % self.heads:
            raise ValueError(f"hidden is {self.hidden}, which {self.heads} heads do not divide")


class TokenAttention(nn.Module):
    """Multi-head attention from one row of tokens to another, with an output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Return (B, T, width) of tokens (B, T, width) that look at context (B, S, width)."""
        query, key, value = self.to_q(tokens), self.to_k(context), self.to_v(context)
        split = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value)]
        seen = F.scaled_dot_product_attention(*split)
        return self.to_out(seen.transpose(1, 2).flatten(-2))


class QueryLayer(nn.Module):
    """Queries look at each other, then at the identity, then each goes through a feed-forward network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.self_attention = nn.LayerNorm(width), TokenAttention(width, heads)
        self.norm2, self.cross_attention = nn.LayerNorm(width), TokenAttention(width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, FEED_FORWARD_FACTOR * width),
            nn.GELU(),
            nn.Linear(FEED_FORWARD_FACTOR * width, width),
        )

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Return (B, Q, width) of queries (B, Q, width) and context (B, S, width), which is normalised already."""
        normal = self.norm1(queries)
        queries = queries + self.self_attention(normal, normal)
        queries = queries + self.cross_attention(self.norm2(queries), context)
        return queries + self.feed_forward(self.norm3(queries))


class IdentityBranch(nn.Module):
    """A Q-Former: learned queries that read a face recognition embedding.

    Its weights begin as usual; what makes a fresh branch change nothing are the values of zero in every block's
    identity attention.
    """

    def __init__(self, parameters: IdentityBranchParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or IdentityBranchParameters()
        self.spread = nn.Linear(p.features, p.tokens * p.hidden)
        self.norm_in = nn.LayerNorm(p.hidden)
        self.queries = nn.Parameter(QUERY_SPREAD * torch.randn(p.queries, p.hidden))
        self.layers = nn.ModuleList(QueryLayer(p.hidden, p.heads) for _ in range(p.layers))
        self.norm_out = nn.LayerNorm(p.hidden)
        self.proj_out = nn.Linear(p.hidden, p.width)

    def forward(self, features: Tensor) -> Tensor:
        """Return tokens (B, queries, width) of embeddings (B, features). Raises ValueError for another shape."""
        p = self.parameters_used
        if features.ndim != 2 or features.shape[1] != p.features:
            raise ValueError(
                f"identity embeddings have shape {tuple(features.shape)}, expected (batch, {p.features}): those of the "
                "face recognition network that this branch was trained with"
            )
        context = self.norm_in(self.spread(features).unflatten(-1, (p.tokens, p.hidden)))
        queries = self.queries.expand(len(features), -1, -1)
        for layer in self.layers:
            queries = layer(queries, context)
        return self.proj_out(self.norm_out(queries))
