"""KDTalker's denoiser: reference tokens, FiLM residual blocks, attention with rotary and relative bias.

One class, several parameter sets: the published 43 M model over implicit keypoints and the pocket model
over blendshapes. Keys follow the published state dict (below `point_model.model.`). Source: KDTalker
(arXiv 2503.12963) section 3 and the behaviour of its released weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RELATIVE_BUCKETS = 32
RELATIVE_MAX_DISTANCE = 128
ROTARY_BASE = 10000.0
UNUSED_FREQUENCY_BANDS = 10
SHARED_ROTARY = "layers.{}.2.fn.fn.rotary_emb.freqs"
"""Key of the rotary frequencies, of which all layers hold the same."""


@dataclass(frozen=True)
class DenoiserParameters:
    """Sizes of a denoiser; the defaults describe the published KDTalker.

    motion_size: numbers per frame. width: of a token. context_size: audio (and emotion) numbers per frame.
    rotary_size: dimensions of each head that rotate; the release rotates as many as it has heads.
    previous_frames: clean frames before the window that lead it on. window: frames made at once.
    prediction: "epsilon" or "x0". schedule: "linear" (betas 1e-5..8e-3) or "cosine".
    attention, canonical_token: False leaves them out, as the paper's ablations do.
    """

    motion_size: int = 70
    width: int = 768
    layers: int = 6
    heads: int = 12
    head_size: int = 64
    time_size: int = 256
    context_size: int = 512
    rotary_size: int = 12
    previous_frames: int = 1
    window: int = 64
    prediction: str = "epsilon"
    schedule: str = "linear"
    attention: bool = True
    canonical_token: bool = True

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "x0"):
            raise ValueError(f"prediction is {self.prediction!r}, expected 'epsilon' or 'x0'")
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule is {self.schedule!r}, expected 'linear' or 'cosine'")
        if self.rotary_size % 2 or self.rotary_size > self.head_size:
            raise ValueError(
                f"rotary_size {self.rotary_size} must be even and at most head_size {self.head_size}"
            )

    @property
    def prefix_tokens(self) -> int:
        """Clean tokens before the window: the canonical one and the previous frames."""
        return self.canonical_token + self.previous_frames


def sinusoidal_embedding(timesteps: Tensor, size: int) -> Tensor:
    """Return (B, size): sines then cosines of t * 10000^(-i / (size/2 - 1)), for (B,) timesteps."""
    half = size // 2
    frequencies = torch.exp(
        torch.arange(half, device=timesteps.device, dtype=torch.float32) * (-math.log(10000.0) / (half - 1))
    )
    angles = timesteps.float()[:, None] * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def relative_buckets(length: int, device: torch.device) -> Tensor:
    """Return the (length, length) T5 bucket of every query-key distance, bidirectional."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions[None]
    half = RELATIVE_BUCKETS // 2
    exact = half // 2
    size = distance.abs()
    logarithmic = torch.log(size.clamp(min=1).float() / exact) / math.log(RELATIVE_MAX_DISTANCE / exact)
    far = (exact + (logarithmic * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(size < exact, size, far) + half * (distance < 0).long()


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs (2i, 2i+1) of the first dimensions of `x` (..., N, D).

    cos, sin: (N, D_rot / 2), of the angles.
    """
    size = 2 * cos.shape[-1]
    even, odd = x[..., 0:size:2], x[..., 1:size:2]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([turned, x[..., size:]], dim=-1)


class LayerNorm(nn.Module):
    """Layer norm whose gain and offset have the published shape (1, 1, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma.flatten(), self.beta.flatten(), eps=1e-5)


class FilmBlock(nn.Module):
    """Half a residual block. The second half's norm exists in the release and is never used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.proj(x)
        if film is not None:
            scale, shift = film
            x = self.norm(x) * (scale + 1) + shift
        return F.silu(x)


class FilmResidualBlock(nn.Module):
    """x + block2(block1(x; scale and shift from time and context))."""

    def __init__(self, width: int, condition_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(condition_size, 2 * width))
        self.block1 = FilmBlock(width)
        self.block2 = FilmBlock(width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.mlp(condition).chunk(2, dim=-1)
        return self.block2(self.block1(x, (scale, shift))) + x


class RotaryFrequencies(nn.Module):
    """The rotary frequencies, kept as the release keeps them: one shared, untrained parameter."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.freqs = nn.Parameter(self.defined(None), requires_grad=False)

    def defined(self, device: torch.device | None) -> Tensor:
        """Return the frequencies as they are defined, (size / 2,) float32."""
        exponents = torch.arange(0, self.size, 2, dtype=torch.float32, device=device) / self.size
        return ROTARY_BASE**-exponents

    def turns(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cosine and sine, (length, size / 2) each, of positions counted from the first prefix token.

        In half precision the stored frequencies would be off by whole radians far along: then the defined ones count.
        """
        exact = self.freqs.dtype == torch.float32
        frequencies = self.freqs if exact else self.defined(self.freqs.device)
        positions = torch.arange(length, device=frequencies.device, dtype=torch.float32)
        angles = positions[:, None] * frequencies
        return angles.cos().to(dtype), angles.sin().to(dtype)


class Attention(nn.Module):
    """Full self-attention: queries scaled, then rotated; scores plus the shared relative bias."""

    def __init__(self, parameters: DenoiserParameters, rotary: RotaryFrequencies) -> None:
        super().__init__()
        self.heads = parameters.heads
        inner = parameters.heads * parameters.head_size
        self.rotary_emb = rotary
        self.to_qkv = nn.Linear(parameters.width, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, parameters.width)

    def forward(self, x: Tensor, bias: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """x: (B, T, width). bias: (1, heads, T, T). turns: see `RotaryFrequencies.turns`."""
        return self.proj(self.attend(self.to_qkv(x), bias, turns))

    def attend(self, qkv: Tensor, bias: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """Return (B, T, heads * head_size) of projected tokens (B, T, 3 * heads * head_size)."""
        batch, length, _ = qkv.shape
        q, k, v = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate_pairs(q, *turns), rotate_pairs(k, *turns)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return out.transpose(1, 2).reshape(batch, length, -1)


class PreNorm(nn.Module):
    """Layer norm, then attention."""

    def __init__(self, width: int, attention: Attention) -> None:
        super().__init__()
        self.fn = attention
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        return self.fn(self.norm(x), bias, turns)


class Residual(nn.Module):
    """x plus the pre-normed attention."""

    def __init__(self, inner: PreNorm) -> None:
        super().__init__()
        self.fn = inner

    def forward(self, x: Tensor, bias: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        return x + self.fn(x, bias, turns)


class RelativePositionBias(nn.Module):
    """T5's bucketed bias, one number per bucket and head, shared by all layers."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(RELATIVE_BUCKETS, heads)

    def forward(self, length: int, device: torch.device) -> Tensor:
        """Return (1, heads, length, length)."""
        return self.relative_attention_bias(relative_buckets(length, device)).permute(2, 0, 1)[None]


class FrequencyBands(nn.Module):
    """A buffer of the release that nothing reads; kept so that its file loads strictly."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("freq_bands", 2.0 ** torch.linspace(1, 9, UNUSED_FREQUENCY_BANDS))


class Denoiser(nn.Module):
    """Predict the noise in, or the clean value of, a window of motion.

    Tokens are [canonical, previous frames..., noisy window]; the prefix is clean at every step.
    """

    def __init__(self, parameters: DenoiserParameters) -> None:
        super().__init__()
        self.parameters_used = parameters
        p = parameters
        condition_size = p.time_size + p.context_size
        self.time_mlp = nn.Sequential(
            nn.Identity(), nn.Linear(p.width, p.time_size), nn.SiLU(), nn.Linear(p.time_size, p.time_size)
        )
        self.positional_encoding = FrequencyBands()
        self.input_projection = nn.Linear(p.motion_size, p.width)
        self.time_rel_pos_bias = RelativePositionBias(p.heads)
        rotary = RotaryFrequencies(p.rotary_size)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    FilmResidualBlock(p.width, condition_size),
                    FilmResidualBlock(p.width, condition_size),
                    *([Residual(PreNorm(p.width, Attention(p, rotary)))] if p.attention else []),
                ]
            )
            for _ in range(p.layers)
        )
        self.output_projection = nn.Linear(p.width, p.motion_size)

    def turns(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """Return cosine and sine of the rotary angles that all attentions share, None when there is no attention."""
        attentions = [module for layer in self.layers for module in layer[2:]]
        return attentions[0].fn.fn.rotary_emb.turns(length, dtype) if attentions else None

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Return the prediction for every token, (B, N, motion_size).

        x: (B, N, motion_size), normalised motion, prefix first. timesteps: (B,), 0..999.
        context: (B, N, context_size), zeros for tokens that no sound belongs to.
        """
        length = x.shape[1]
        time = self.time_mlp(sinusoidal_embedding(timesteps, self.parameters_used.width).to(x.dtype))
        condition = torch.cat([time[:, None].expand(-1, length, -1), context], dim=-1)
        bias = self.time_rel_pos_bias(length, x.device)
        turns = self.turns(length, x.dtype)
        x = self.input_projection(x)
        for first, second, *attention in self.layers:
            x = second(first(x, condition), condition)
            for module in attention:
                x = module(x, bias, turns)
        return self.output_projection(x)


def with_shared_rotary(state: dict[str, Tensor], layers: int, prefix: str = "") -> dict[str, Tensor]:
    """Return the state with the one stored rotary vector listed under every layer, as the module names it.

    prefix: of the denoiser's keys. A state without the vector comes back as it is.
    """
    name = prefix + SHARED_ROTARY
    if name.format(0) not in state:
        return state
    return {**state, **{name.format(layer): state[name.format(0)] for layer in range(layers)}}
