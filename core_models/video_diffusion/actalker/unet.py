"""ACTalker's UNet: Stable Video Diffusion's with masked SSM layers and two masked adapters, on diffusers' blocks."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from .controlled_transformer import LAYERS, NO_LAYER, PER_FRAME, ControlledTransformer
from .controls import PlacedControls, UNetControls

TIME_CONDITIONS = 3
"""Frame rate and the two motion buckets, head and expression."""


@dataclass(frozen=True)
class UNetParameters:
    """Sizes of the UNet; the defaults are the published ones.

    channels, heads: at each level, from the finest; all but the last level attend. condition_width: of identity and
    control tokens. time_condition_width: of the embedding of each of three time conditions. layers: ResNets at each
    level on the way down. latent_channels: of the video; the input has the portrait's beside them. layer: form of the
    masked SSM layer, one of LAYERS. Raises ValueError for sizes that do not fit each other.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    heads: tuple[int, ...] = (5, 10, 20, 20)
    condition_width: int = 1024
    time_condition_width: int = 256
    layers: int = 2
    latent_channels: int = 4
    layer: str = PER_FRAME

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "heads", tuple(self.heads))
        if self.layer not in LAYERS:
            raise ValueError(
                f"unknown form of the masked SSM layer {self.layer!r}; known: {', '.join(LAYERS)}"
            )
        if len(self.channels) != len(self.heads) or len(self.channels) < 2:
            raise ValueError(
                f"channels {self.channels} and heads {self.heads} need one entry for each of >= 2 levels"
            )
        bad = [c for c, h in zip(self.channels, self.heads, strict=True) if c % 32 or c % h]
        if bad:
            raise ValueError(f"channels {bad} must be multiples of 32 and of the heads of their level")


class ACTalkerUNet(nn.Module):
    """Predicts v of a window of latents, steered by identity, sound and motion.

    Its state has the keys of the published file. All the blocks are diffusers'; its transformers are replaced by
    `ControlledTransformer`.
    """

    def __init__(self, parameters: UNetParameters = UNetParameters()) -> None:
        super().__init__()
        self.parameters_used = parameters
        base = UNetSpatioTemporalConditionModel(**_of_diffusers(parameters))
        for blocks in (base.down_blocks, base.up_blocks, [base.mid_block]):
            for block in blocks:
                layer = NO_LAYER if block is base.mid_block else parameters.layer
                _control_transformers(block, parameters.condition_width, layer)
        for name, child in base.named_children():
            self.add_module(name, child)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        controls: UNetControls,
        time_conditions: Tensor,
        spatial_condition: Tensor | None = None,
    ) -> Tensor:
        """Return v, (B, F, latent_channels, H, W).

        latents: (B, F, 2 x latent_channels, H, W), noisy ones beside the portrait's. timestep: (B,) or a scalar,
        ln(sigma) / 4. time_conditions: (B, 3) frame rate and motion buckets. spatial_condition: (B, F, channels[0],
        H, W), the pose guider's features, added after the first convolution.
        """
        batch, frames = latents.shape[:2]
        embedding = self._time_embedding(timestep.expand(batch), time_conditions).to(latents.dtype)
        embedding = embedding.repeat_interleave(frames, dim=0)
        hidden = self.conv_in(latents.flatten(0, 1))
        if spatial_condition is not None:
            hidden = hidden + spatial_condition.flatten(0, 1)
        passed = {
            "temb": embedding,
            "image_only_indicator": latents.new_zeros(batch, frames),
            "encoder_hidden_states": PlacedControls(controls),
        }
        hidden, skipped = self._down(hidden, passed)
        hidden = self.mid_block(hidden, **passed)
        hidden = self._up(hidden, skipped, passed)
        return self.conv_out(self.conv_act(self.conv_norm_out(hidden))).unflatten(0, (batch, frames))

    def _time_embedding(self, timestep: Tensor, conditions: Tensor) -> Tensor:
        dtype = self.time_embedding.linear_1.weight.dtype
        time = self.time_embedding(self.time_proj(timestep).to(dtype))
        rows = self.add_time_proj(conditions.flatten()).to(dtype).reshape(len(conditions), -1)
        return time + self.add_embedding(rows)

    def _down(self, hidden: Tensor, passed: dict) -> tuple[Tensor, list[Tensor]]:
        skipped = [hidden]
        for block in self.down_blocks:
            hidden, further = block(hidden, **_accepted(block, passed))
            skipped += further
        return hidden, skipped

    def _up(self, hidden: Tensor, skipped: list[Tensor], passed: dict) -> Tensor:
        for block in self.up_blocks:
            count = len(block.resnets)
            used, skipped = tuple(skipped[-count:]), skipped[:-count]
            size = skipped[-1].shape[2:] if skipped else None  # odd sizes do not come back by doubling
            hidden = block(
                hidden, res_hidden_states_tuple=used, upsample_size=size, **_accepted(block, passed)
            )
        return hidden


def _of_diffusers(parameters: UNetParameters) -> dict:
    """Return the arguments of diffusers' UNet."""
    attending = len(parameters.channels) - 1
    return {
        "in_channels": 2 * parameters.latent_channels,
        "out_channels": parameters.latent_channels,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * attending + ("DownBlockSpatioTemporal",),
        "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * attending,
        "block_out_channels": parameters.channels,
        "num_attention_heads": parameters.heads,
        "cross_attention_dim": parameters.condition_width,
        "addition_time_embed_dim": parameters.time_condition_width,
        "projection_class_embeddings_input_dim": TIME_CONDITIONS * parameters.time_condition_width,
        "layers_per_block": parameters.layers,
    }


def _control_transformers(block: nn.Module, condition_width: int, layer: str) -> None:
    """Put controlled transformers in place of a block's."""
    for index, old in enumerate(getattr(block, "attentions", ())):
        block.attentions[index] = ControlledTransformer(
            old.num_attention_heads, old.attention_head_dim, old.in_channels, condition_width, layer
        )


def _accepted(block: nn.Module, passed: dict) -> dict:
    """Return what a block takes: those without attention take no controls."""
    if getattr(block, "has_cross_attention", False):
        return passed
    return {name: value for name, value in passed.items() if name != "encoder_hidden_states"}
