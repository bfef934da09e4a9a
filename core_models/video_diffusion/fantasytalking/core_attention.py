"""FantasyTalking's sound in the cross-attention of a Wan that keeps its original names, such as ComfyUI's own.

Z = text + picture + a Attn(Q, K_audio, V_audio), then the output projection (arXiv 2504.04842, section 3.1; the
released code adds the sound at the same place). The program that owns the network brings its layers and its attention
function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .audio_attention import frame_attention, masked_attention

AttentionFunction = Callable[..., Tensor]
"""Called as (query, key, value, heads=..., transformer_options=...), all (B, n, width); returns (B, n, width)."""


@dataclass(frozen=True)
class HeardSound:
    """What one evaluation of a network hears: B elements of one batch, F latent frames.

    tokens: (F, W, width), a window for each latent frame, or (L, width), all of it for all frames; every element hears
    the same. scales: (B,) what the attention to sound is multiplied with; 0 is no sound. lengths: (F,) how many tokens
    of each window count, from its start, or (1,) of all; None, all of them. places: tokens of the video in a latent
    frame; None is not checked.
    """

    tokens: Tensor
    scales: Tensor
    lengths: Tensor | None = None
    places: int | None = None

    def like(self, x: Tensor) -> HeardSound:
        """Return the same where x is, its tokens in x's precision."""
        lengths = None if self.lengths is None else self.lengths.to(x.device)
        return replace(self, tokens=self.tokens.to(x), scales=self.scales.to(x.device), lengths=lengths)


class SoundProjections(nn.Module):
    """Keys and values of sound in one block.

    linear: the class of the layers, called as torch.nn.Linear.
    """

    def __init__(self, width: int, audio_width: int, linear: type[nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.k_proj = linear(audio_width, width, bias=False)
        self.v_proj = linear(audio_width, width, bias=False)


class SoundBranch(nn.Module):
    """Keys and values of sound in all blocks of a network, apart from it.

    width: of the network. audio_width: of a token of sound. linear: as of `SoundProjections`.
    """

    def __init__(
        self, blocks: int, width: int, audio_width: int, linear: type[nn.Module] = nn.Linear
    ) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList(SoundProjections(width, audio_width, linear) for _ in range(blocks))


def cross_attention_with_sound(
    attention: Any,
    projections: SoundProjections,
    x: Tensor,
    context: Tensor,
    context_img_len: int | None,
    heard: HeardSound | None,
    attend: AttentionFunction,
    transformer_options: Mapping[str, Any],
) -> Tensor:
    """Return what a Wan's image-to-video cross-attention gives, with sound before its output layer: (B, n, width).

    attention: the module: q, k, v, o, norm_q, norm_k, k_img, v_img, norm_k_img, num_heads. projections: of its block.
    x: (B, n, width), tokens of the video, frame by frame. context: (B, picture + text tokens, width), of which the
    first context_img_len are the picture's. heard: None is no sound. transformer_options: handed to `attend`.
    Raises ValueError when the tokens are not those of the frames that have sound.
    """
    pictures, text = context[:, :context_img_len], context[:, context_img_len:]
    query = attention.norm_q(attention.q(x))

    def looked_at(key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, heads=attention.num_heads, transformer_options=transformer_options)

    found = looked_at(attention.norm_k_img(attention.k_img(pictures)), attention.v_img(pictures))
    found = looked_at(attention.norm_k(attention.k(text)), attention.v(text)) + found
    if heard is not None:
        found = found + sound_attention(query, projections, heard, attention.num_heads)
    return attention.o(found)


def sound_attention(query: Tensor, projections: SoundProjections, heard: HeardSound, heads: int) -> Tensor:
    """Return the scaled attention of queries (B, n, width) to sound, (B, n, width).

    Keys and values are computed once for the whole batch, which hears the same. Raises ValueError when n is not the
    number of tokens of the frames.
    """
    by_frame = heard.tokens.ndim == 3
    if by_frame:
        _require_frames(query, heard)
    tokens = heard.tokens.to(query)
    key, value = (_for_all(layer(tokens), len(query)) for layer in (projections.k_proj, projections.v_proj))
    scales = heard.scales.to(value).reshape(-1, *[1] * (value.ndim - 1))
    lengths = None if heard.lengths is None else _for_all(heard.lengths, len(query))
    if by_frame:
        return frame_attention(query, key, value * scales, heads, lengths)
    return masked_attention(query, key, value * scales, heads, None if lengths is None else lengths[:, 0])


def _for_all(value: Tensor, batch: int) -> Tensor:
    return value.expand(batch, *value.shape)


def _require_frames(query: Tensor, heard: HeardSound) -> None:
    frames, places = len(heard.tokens), heard.places
    fits = query.shape[1] % frames == 0 if places is None else query.shape[1] == frames * places
    if not fits:
        expected = f"a multiple of {frames}" if places is None else f"{frames} x {places}"
        raise ValueError(
            f"the network has {query.shape[1]} tokens of video, expected {expected}: sound is heard frame by frame, so "
            "leave out what adds frames of its own, such as a reference latent"
        )


def stream_scales(
    batch: int, scale: float, hears: tuple[bool, ...] | None = None, streams: tuple[int, ...] | None = None
) -> Tensor:
    """Return how strongly each element of a batch hears: (batch,) float32.

    scale: of those that hear. hears: whether each stream does, by its number; None, all do. streams: the number of
    the stream of each of the batch's equal parts, in order.
    Raises ValueError when there is no telling which elements belong to which stream.
    """
    if hears is None:
        return torch.full((batch,), float(scale))
    if not streams or batch % len(streams) or max(streams) >= len(hears):
        raise ValueError(
            f"a batch of {batch} cannot be told apart by streams {streams} of {len(hears)}: leave out the node that "
            "evaluates the model on its own within a step"
        )
    strengths = torch.tensor([float(scale) if hears[stream] else 0.0 for stream in streams])
    return strengths.repeat_interleave(batch // len(streams))
