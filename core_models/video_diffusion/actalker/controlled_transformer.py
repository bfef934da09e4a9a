"""A spatio-temporal transformer of Stable Video Diffusion with ACTalker's layer between its two blocks."""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn

from ...ssm.masked_ssm import BranchSignal, JointMaskedSSMLayer, MaskedSSMLayer, RegionPass
from .control_attention import ControlAttention
from .controls import LevelControls, PlacedControls

PER_FRAME, JOINT, NO_LAYER = "per_frame", "joint", "none"
LAYERS: dict[str, type[nn.Module] | None] = {
    PER_FRAME: MaskedSSMLayer,
    JOINT: JointMaskedSSMLayer,
    NO_LAYER: None,
}
"""Forms of the masked SSM layer: the released weights', the paper's, and cross-attention only (its baseline)."""


class ControlledTransformer(TransformerSpatioTemporalModel):
    """Normalise, project in, spatial block, masked SSM layer, temporal block blended in, project out, residual.

    It takes `PlacedControls` where the blocks of diffusers pass the tokens to attend to.
    """

    def __init__(self, heads: int, head_width: int, channels: int, condition_width: int, layer: str) -> None:
        """layer: one of LAYERS."""
        super().__init__(heads, head_width, channels, cross_attention_dim=condition_width)
        if LAYERS[layer] is not None:
            self.mamba_blocks = nn.ModuleList([LAYERS[layer](channels, condition_width)])
        for block in (*self.transformer_blocks, *self.temporal_transformer_blocks):
            block.attn2.set_processor(ControlAttention(channels, condition_width))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: PlacedControls,
        image_only_indicator: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Return ((B x F, channels, H, W),). image_only_indicator: (B, F) zeros."""
        height, width = hidden_states.shape[2:]
        frames = image_only_indicator.shape[1]
        level = encoder_hidden_states.at(height, width)
        tokens = self.proj_in(self.norm(hidden_states).flatten(2).mT)
        tokens = self.transformer_blocks[0](tokens, encoder_hidden_states=level.spatial)
        tokens = self._controlled(tokens, level, frames)
        over_time = self.temporal_transformer_blocks[0](
            tokens + self._frame_positions(tokens, frames),
            num_frames=frames,
            encoder_hidden_states=level.temporal,
        )
        tokens = self.time_mixer(tokens, over_time, image_only_indicator=image_only_indicator)
        return (self.proj_out(tokens).mT.unflatten(2, (height, width)).contiguous() + hidden_states,)

    def _controlled(self, tokens: Tensor, level: LevelControls, frames: int) -> Tensor:
        layer = self.mamba_blocks[0] if hasattr(self, "mamba_blocks") else None
        if layer is None:
            return tokens
        identity, (audio, motion) = level.spatial.identity, level.branches
        if isinstance(layer, JointMaskedSSMLayer):
            count = tokens.shape[1]
            joined = [over_frames(signal, frames, count) for signal in (audio, motion)]
            first = identity.unflatten(0, (-1, frames))[:, 0]
            return layer(tokens.reshape(-1, frames * count, tokens.shape[2]), first, *joined).reshape(
                tokens.shape
            )
        return layer(tokens, identity, audio, motion)

    def _frame_positions(self, tokens: Tensor, frames: int) -> Tensor:
        """Return (B x F, 1, channels): the embedding of each frame's number within its clip."""
        numbers = torch.arange(frames, device=tokens.device).repeat(len(tokens) // frames)
        return self.time_pos_embed(self.time_proj(numbers).to(tokens.dtype))[:, None]


def over_frames(signal: BranchSignal, frames: int, count: int) -> BranchSignal:
    """Return a signal given frame by frame, tokens (B x F, T, C), as one of all frames' tokens: (B, F x T, C)."""
    tokens = signal.tokens.unflatten(0, (-1, frames)).flatten(1, 2)
    return BranchSignal(tokens, tuple(_pass_over_frames(region, frames, count) for region in signal.passes))


def _pass_over_frames(region: RegionPass, frames: int, count: int) -> RegionPass:
    first = torch.arange(frames, device=region.selected.device)[:, None] * count
    weight = region.weight
    if weight is not None:  # (B x F, 1, 1) -> one for each selected token of all frames
        weight = weight.view(-1, frames, 1).repeat_interleave(len(region.selected), dim=1)
    return RegionPass((first + region.selected).flatten(), weight)
