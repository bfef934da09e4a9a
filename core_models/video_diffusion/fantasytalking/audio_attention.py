"""Wan's cross-attention with sound and identity beside text and picture (arXiv 2504.04842, sections 3.1 and 3.2).

Z = text + picture + a1 Attn(Q, K_audio, V_audio) + a2 Attn(Q, K_id, V_id), then the output projection. All share the
block's queries. As in the released code, the keys of sound are not normalised; neither are those of identity.

A block of diffusers passes its attention the tokens of text and picture and nothing else. What else one evaluation of
the network needs lies in an object that all its attentions share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn
from torch.nn import functional as F

from .constant_keys import AUDIO, IDENTITY, PICTURE, TEXT, BlockValues, KeyValue, kept_or_made
from .shared_beginning import SharedBeginning

PUBLISHED_TEXT_LENGTH = 512
"""Tokens of text behind those of the picture, where nobody says how many there are."""


@dataclass(frozen=True)
class Controls:
    """What one evaluation gives to all blocks. B streams of F latent frames.

    picture_tokens: at the front of the tokens that a block gets; the rest are the text's. None: all but 512 where the
    network looks at pictures, else none.
    audio: (B, F, W, width), a window for each latent frame, or (B, L, width), all of it for all frames; None, no sound.
    audio_lengths: (B, F) or (B,) how many tokens of each window count, from its start; None, all of them.
    audio_scale: (B,) what the attention to sound is multiplied with; None, 1.
    identity: (B, Q, width) or None. identity_scale: as audio_scale, one for all.
    time_addition: (B, width of the network) what is added to the time embedding, or None.
    kept: keys and values of earlier evaluations, by kind; kinds that are not there are computed. beginning: what the
    streams of this evaluation share with each other and with further ones; None, nothing.
    """

    picture_tokens: int | None = None
    audio: Tensor | None = None
    audio_lengths: Tensor | None = None
    audio_scale: Tensor | None = None
    identity: Tensor | None = None
    identity_scale: float = 1.0
    time_addition: Tensor | None = None
    kept: Mapping[str, BlockValues | None] = field(default_factory=dict)
    beginning: SharedBeginning | None = None


class SharedControls:
    """Where a network's attentions find the controls of the evaluation that is under way.

    One evaluation at a time: threads that evaluate one network at once need a lock of their own around it.
    """

    def __init__(self) -> None:
        self.current = Controls()

    @contextmanager
    def holding(self, controls: Controls) -> Iterator[None]:
        """Give controls to the attentions within the block; whatever happens there, the former ones come back."""
        former = self.current
        self.current = controls
        try:
            yield
        finally:
            self.current = former


class ControlledCrossAttention(nn.Module):
    """Attention processor of one block: text, picture, sound and identity. In place of diffusers' own.

    width: of the network. audio_width, identity_width: of the tokens of sound and of identity; no identity_width, no
    identity attention. shared: where the controls are. block: the block's number. Before training nothing changes:
    the projections of sound begin at 0, as in the release, and of identity's the values only, so that its keys learn
    from the second step on.
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(
        self,
        width: int,
        audio_width: int,
        shared: SharedControls,
        identity_width: int | None = None,
        block: int = 0,
    ) -> None:
        super().__init__()
        self.shared, self.block = shared, block
        self.k_proj = nn.Linear(audio_width, width, bias=False)
        self.v_proj = nn.Linear(audio_width, width, bias=False)
        zeroed = [self.k_proj, self.v_proj]
        if identity_width is not None:
            self.identity_k_proj = nn.Linear(identity_width, width, bias=False)
            self.identity_v_proj = nn.Linear(identity_width, width, bias=False)
            zeroed.append(self.identity_v_proj)
        for layer in zeroed:
            nn.init.zeros_(layer.weight)

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: None = None,
    ) -> Tensor:
        """Return (B, n, width of the network), n tokens, frame by frame.

        attn: diffusers' attention of the block. encoder_hidden_states: (B, picture + text tokens, width).
        """
        controls = self.shared.current
        pictures, text = _separated(attn, encoder_hidden_states, controls.picture_tokens)
        query = attn.norm_q(attn.to_q(hidden_states))
        found = self._text(attn, query, text, controls, attention_mask)
        if pictures is not None:
            found = found + self._picture(attn, query, pictures, controls)
        if controls.audio is not None:
            found = found + self._audio(attn.heads, query, controls)
        if controls.identity is not None:
            found = found + self._identity(attn.heads, query, controls)
        return attn.to_out[1](attn.to_out[0](found))

    def _text(
        self, attn: Any, query: Tensor, text: Tensor, controls: Controls, mask: Tensor | None
    ) -> Tensor:
        key, value = self._kept(TEXT, controls, lambda: (attn.norm_k(attn.to_k(text)), attn.to_v(text)))
        return self._dispatched(attn.heads, query, key, value, mask)

    def _picture(self, attn: Any, query: Tensor, pictures: Tensor, controls: Controls) -> Tensor:
        def made() -> KeyValue:
            return attn.norm_added_k(attn.add_k_proj(pictures)), attn.add_v_proj(pictures)

        return self._dispatched(attn.heads, query, *self._kept(PICTURE, controls, made))

    def _audio(self, heads: int, query: Tensor, controls: Controls) -> Tensor:
        if self._parallel_config is not None:
            raise ValueError(
                "sound cannot be heard frame by frame when the tokens of a video are split over devices: switch "
                "context parallelism off"
            )
        audio = controls.audio
        key, value = self._kept(AUDIO, controls, lambda: (self.k_proj(audio), self.v_proj(audio)))
        if controls.audio_scale is not None:  # the few values are scaled: attention is linear in them
            scale = controls.audio_scale.float().reshape(-1, *(1,) * (value.ndim - 1))
            value = (value * scale).type_as(value)
        attend = frame_attention if audio.ndim == 4 else masked_attention
        return attend(query, key, value, heads, controls.audio_lengths)

    def _identity(self, heads: int, query: Tensor, controls: Controls) -> Tensor:
        tokens = controls.identity

        def made() -> KeyValue:
            return self.identity_k_proj(tokens), self.identity_v_proj(tokens)

        key, value = self._kept(IDENTITY, controls, made)
        return masked_attention(query, key, value * controls.identity_scale, heads)

    def _kept(self, kind: str, controls: Controls, make: Any) -> KeyValue:
        def made() -> KeyValue:
            key, value = make()
            return key.type_as(value), value  # norms may give another precision than the layers

        return kept_or_made(controls.kept.get(kind), self.block, made)

    def _dispatched(
        self, heads: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return attention by the backend that the network was given: (B, n, width)."""
        split = (rows.unflatten(-1, (heads, -1)) for rows in (query.type_as(value), key, value))
        return dispatch_attention_fn(*split, attn_mask=mask, backend=self._attention_backend).flatten(2)


def _separated(attn: Any, tokens: Tensor, pictures: int | None) -> tuple[Tensor | None, Tensor]:
    """Return the tokens of the picture, None where the attention has no part for them, and those of the text."""
    if attn.add_k_proj is None:
        return None, tokens
    count = tokens.shape[1] - PUBLISHED_TEXT_LENGTH if pictures is None else pictures
    return tokens[:, :count], tokens[:, count:]


def frame_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, lengths: Tensor | None = None
) -> Tensor:
    """Return attention of each latent frame to its own window: (B, n, width).

    query: (B, n, width), the tokens of one frame after those of the other. key, value: (B, F, W, width). lengths: (B,
    F), as of `masked_attention`.
    """
    batch, frames = key.shape[:2]
    of_frames = query.unflatten(1, (frames, -1)).flatten(0, 1)
    flat = None if lengths is None else lengths.flatten()
    found = masked_attention(of_frames, key.flatten(0, 1), value.flatten(0, 1), heads, flat)
    return found.unflatten(0, (batch, frames)).flatten(1, 2)


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, lengths: Tensor | None = None
) -> Tensor:
    """Return multi-head attention of query (N, n, width) over key and value (N, T, width): (N, n, width).

    lengths: (N,) how many of the T tokens count, from the first; a row of which none counts gives 0. None: all count.
    """
    split = [rows.unflatten(-1, (heads, -1)).transpose(1, 2) for rows in (query.type_as(value), key, value)]
    if lengths is None:
        return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    lengths = lengths[:, None]
    places = torch.arange(key.shape[1], device=query.device)
    silent = lengths < 1
    counts = (places < lengths) | silent  # a row without any key would have no softmax
    found = F.scaled_dot_product_attention(*split, attn_mask=counts[:, None, None])
    return found.transpose(1, 2).flatten(2).masked_fill(silent[:, None], 0)
