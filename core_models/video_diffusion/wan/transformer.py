"""Wan's video transformer, diffusers' own, with sizes, rotary tables and precision as FantasyTalking needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor, nn
from torch.nn import functional as F

ROTARY_POSITIONS = 1024
"""Longest side of a video in patches, in time, height and width."""

FLOAT32_LINEAR = (
    "condition_embedder.time_embedder.linear_1",
    "condition_embedder.time_embedder.linear_2",
    "condition_embedder.time_proj",
    "proj_out",
)
"""Linear layers that compute in float32 in any precision, as in the released code."""

_KEPT_IN_FLOAT32 = (*(f"{name}." for name in FLOAT32_LINEAR), "patch_embedding.")
_MODULATION = "scale_shift_table"
_NORMS = ("norm1", "norm2", "norm3")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True)
class WanParameters:
    """Sizes of the transformer; the defaults are those of Wan2.1 I2V 14B.

    num_attention_heads, attention_head_dim: their product is the width. in_channels: noisy latents and beside them the
    condition's mask and latents. out_channels: of the latents. text_dim, image_dim: of a prompt's and of a picture's
    tokens; no image_dim, no picture tokens. text_length: tokens that every prompt is padded to with zeros where there
    are picture tokens; without them a prompt may have any length. freq_dim: waves of the timestep. ffn_dim: of the
    feed-forward networks. num_layers: blocks. patch_size: of a token in time, height and width. eps: of normalisations.
    cross_attn_norm: whether cross-attention has an affine norm of its own.
    Raises ValueError for anything but whole numbers >= 1, an odd freq_dim, a head dim that is odd or below 6, patches
    of several latent frames, or no more input than output channels.
    """

    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 36
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    patch_size: tuple[int, int, int] = (1, 2, 2)
    image_dim: int | None = 1280
    text_length: int = 512
    eps: float = 1e-6
    cross_attn_norm: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_size", tuple(self.patch_size))
        for one in fields(self):
            value = getattr(self, one.name)
            counted = one.name not in ("patch_size", "eps", "cross_attn_norm")
            if counted and value is not None and not _is_count(value):
                raise ValueError(f"WanParameters.{one.name} is {value!r}, expected a whole number >= 1")
        if len(self.patch_size) != 3 or not all(map(_is_count, self.patch_size)) or self.patch_size[0] != 1:
            raise ValueError(
                f"patch_size is {self.patch_size}, expected (1, height, width): a patch has one latent frame"
            )
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim is {self.freq_dim}, expected an even number")
        if self.attention_head_dim % 2 or self.attention_head_dim < 6:
            raise ValueError(
                f"attention_head_dim is {self.attention_head_dim}, expected an even number >= 6: its rotary position "
                "has three parts"
            )
        if self.in_channels <= self.out_channels:
            raise ValueError(
                f"in_channels is {self.in_channels} and out_channels {self.out_channels}: an image-to-video model "
                "takes the condition's channels beside the latents'"
            )
        if not self.eps > 0:
            raise ValueError(f"eps is {self.eps}, expected a number above 0")

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def condition_channels(self) -> int:
        """Input channels beside the noisy latents: the mask's 4 and the latents of the condition."""
        return self.in_channels - self.out_channels

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WanParameters:
        """Rebuild from `to_dict`; raises TypeError for unknown fields, ValueError for sizes that do not fit."""
        return cls(**values)


WAN_I2V_14B = WanParameters()
"""The published network that FantasyTalking stands on."""


def new_wan_transformer(parameters: WanParameters) -> WanTransformer3DModel:
    """Return a transformer of these sizes, with weights drawn from torch's global generator, in float32.

    On the meta device its tables of rotary positions have memory all the same: no weight file holds them.
    """
    p = parameters
    transformer = WanTransformer3DModel(
        patch_size=p.patch_size,
        num_attention_heads=p.num_attention_heads,
        attention_head_dim=p.attention_head_dim,
        in_channels=p.in_channels,
        out_channels=p.out_channels,
        text_dim=p.text_dim,
        freq_dim=p.freq_dim,
        ffn_dim=p.ffn_dim,
        num_layers=p.num_layers,
        cross_attn_norm=p.cross_attn_norm,
        eps=p.eps,
        image_dim=p.image_dim,
        added_kv_proj_dim=None if p.image_dim is None else p.width,
        rope_max_seq_len=ROTARY_POSITIONS,
    )
    if transformer.rope.freqs_cos.is_meta:
        with torch.device("cpu"):
            transformer.rope = WanRotaryPosEmbed(p.attention_head_dim, p.patch_size, ROTARY_POSITIONS)
    return transformer


def kept_in_float32(name: str) -> bool:
    """Return whether a weight of the transformer, by its key, stays in float32 in any precision.

    Such are those that compute in float32, which would otherwise be converted at every step, and what scales and
    shifts: norms over a token and modulation. They are 1 % of the published weights.
    """
    if name.startswith(_KEPT_IN_FLOAT32) or name.endswith(_MODULATION):
        return True
    return any(part in _NORMS for part in name.split("."))


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32, under autocast too."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) float32 of x (..., in) of any precision."""
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(x.float(), self.weight.float(), bias)


def keep_float32_residual(transformer: WanTransformer3DModel) -> WanTransformer3DModel:
    """Make a transformer keep what runs from block to block in float32 under autocast, and return it.

    As in the released code: tokens leave the patch embedding in float32, so all blocks add to float32, and the time
    embedding, its projection and the last layer compute in float32; their weights become float32. Without autocast,
    in float32, nothing changes. Prompts must come in float32: diffusers gives the time embedding their precision.
    May be called again.
    """
    for name in FLOAT32_LINEAR:
        parent, _, child = name.rpartition(".")
        owner = transformer.get_submodule(parent)
        setattr(owner, child, _in_float32(getattr(owner, child)))
    transformer.patch_embedding.float()
    if _to_float32 not in transformer.patch_embedding._forward_hooks.values():
        transformer.patch_embedding.register_forward_hook(_to_float32)
    return transformer


def _in_float32(layer: nn.Linear) -> Float32Linear:
    """Return a layer with the same parameters; themselves where they are in float32."""
    if isinstance(layer, Float32Linear):
        return layer.float()
    with torch.device("meta"):
        found = Float32Linear(layer.in_features, layer.out_features, layer.bias is not None)
    found.weight, found.bias = layer.weight, layer.bias
    return found.train(layer.training).float()


def _to_float32(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    return output.float()
