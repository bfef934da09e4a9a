"""FantasyTalking's network: Wan's video transformer that also hears, knows a face, and is told how much to move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..actalker.portrait_encoder import PortraitEncoder
from ..wan.float8_linear import layer_computing_dtype
from ..wan.transformer import keep_float32_residual, new_wan_transformer
from .audio_attention import ControlledCrossAttention, Controls, SharedControls
from .audio_projection import AudioProjection
from .conditions import IDENTITY_SCALE, DenoiserConditions, require_fitting
from .constant_keys import AUDIO, IDENTITY, PICTURE, TEXT, BlockValues, KeyValueCache
from .identity_branch import IdentityBranch
from .intensity_network import IntensityNetwork
from .parameters import ClipDefaults, FantasyTalkingParameters
from .shared_beginning import SharedBeginning, let_first_block_share

__all__ = [
    "IDENTITY_SCALE",
    "ClipDefaults",
    "DenoiserConditions",
    "FantasyTalkingModel",
    "FantasyTalkingParameters",
]


class FantasyTalkingModel(nn.Module):
    """Velocity of noisy latents, by Wan's transformer with `ControlledCrossAttention` in every block.

    transformer: Wan's, which becomes part of the model; None builds one. What is added changes nothing before it is
    trained. The blocks compute in the precision of their weights, in half precision under an autocast of this class;
    what runs between them and all that is added outside of them is float32, so the model must not be cast as a whole.
    """

    keeps_its_dtypes = True
    """Whoever holds networks leaves the dtypes of this one as they were loaded."""

    def __init__(
        self,
        parameters: FantasyTalkingParameters | None = None,
        transformer: WanTransformer3DModel | None = None,
    ) -> None:
        super().__init__()
        self.parameters_used = p = parameters or FantasyTalkingParameters()
        self.shared = SharedControls()
        self.transformer = keep_float32_residual(transformer or new_wan_transformer(p.wan))
        for number, block in enumerate(self.transformer.blocks):
            block.attn2.set_processor(
                ControlledCrossAttention(
                    p.wan.width,
                    p.audio.width,
                    self.shared,
                    None if p.identity is None else p.identity.width,
                    number,
                )
            )
        let_first_block_share(self.transformer.blocks, self.shared)
        self.transformer.condition_embedder.time_embedder.register_forward_hook(self._with_time_addition)
        self.audio_projection = AudioProjection(p.audio)
        self.identity = None if p.identity is None else IdentityBranch(p.identity)
        self.intensity = None if p.intensity is None else IntensityNetwork(p.intensity)
        self.portrait_encoder = None if p.portrait_encoder is None else PortraitEncoder(p.portrait_encoder)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        conditions: DenoiserConditions,
        cache: KeyValueCache | None = None,
        beginning: SharedBeginning | None = None,
    ) -> Tensor:
        """Return the velocity, (B, C, F, h, w) float32.

        latents: (B, C, F, h, w), noisy. timesteps: (B,) in 0..1000. cache: keys and values of conditions that stay the
        same from call to call are taken from it. beginning: of the step and window whose streams these are; what they
        have in common is computed once. With either the result is the same.
        Raises ValueError for anything that does not fit the network, with its shape, and RuntimeError for a cache or a
        beginning where gradients are recorded.
        """
        require_fitting(latents, timesteps, conditions, self.parameters_used)
        text, picture = self._text(conditions.text), conditions.picture
        given = torch.cat([latents.float(), conditions.image.to(latents.device, torch.float32)], dim=1)
        if beginning is not None:
            beginning = beginning.of_streams(self, (given, timesteps.float(), conditions.intensity))
        controls = replace(self._controls(conditions, text, cache), beginning=beginning)
        with self.shared.holding(controls), self._precision(latents.device):
            return self.transformer(
                hidden_states=given,
                timestep=timesteps.float(),
                encoder_hidden_states=text,
                encoder_hidden_states_image=None if picture is None else picture.float(),
                return_dict=False,
            )[0].float()

    def audio_tokens(self, features: Tensor) -> Tensor:
        """Return tokens of sound (L, width) float32 of features (L, layers, channels), before they are windowed."""
        return self._in_float32(self.audio_projection, features)

    def identity_tokens(self, features: Tensor) -> Tensor:
        """Return tokens of identities (B, Q, width) float32 of face recognition embeddings (B, features).

        Raises ValueError for a model without an identity branch.
        """
        if self.identity is None:
            raise ValueError("this model has no identity branch (the release has none): give no identity")
        return self._in_float32(self.identity, features)

    def enable_gradient_checkpointing(self) -> None:
        """Compute each block again for its gradients, in place of keeping all it computed: less memory, more time.

        Use this, not the transformer's own: a block that computes again needs the controls of its first time.
        """

        def checkpointed(block: Callable[..., Tensor], *given: Any) -> Tensor:
            controls = self.shared.current

            def again(*values: Any) -> Tensor:
                with self.shared.holding(controls):
                    return block(*values)

            return checkpoint(again, *given, use_reentrant=False)

        self.transformer.enable_gradient_checkpointing(checkpointed)

    @property
    def computing_dtype(self) -> torch.dtype:
        """What the blocks compute in: float32, bfloat16 or float16."""
        return layer_computing_dtype(self.transformer.blocks[0].attn1.to_q)

    def _text(self, text: Tensor) -> Tensor:
        """Return the prompt in float32; as long as Wan has it, with zeros behind it, where there are picture tokens."""
        p = self.parameters_used.wan
        lacking = 0 if p.image_dim is None else p.text_length - text.shape[1]
        return F.pad(text.float(), (0, 0, 0, lacking))

    def _controls(self, c: DenoiserConditions, text: Tensor, cache: KeyValueCache | None) -> Controls:
        heard = c.audio is not None and (c.audio_scale is None or bool(c.audio_scale.any()))
        audio = self.audio_projection.placed(c.audio) if heard else None
        identity = c.identity if c.identity_scale != 0 else None
        made_of = {TEXT: text, PICTURE: c.picture, AUDIO: audio, IDENTITY: identity}
        return Controls(
            picture_tokens=0 if c.picture is None else c.picture.shape[1],
            audio=audio,
            audio_lengths=None if c.audio_lengths is None else c.audio_lengths.to(text.device),
            audio_scale=None if c.audio_scale is None else c.audio_scale.to(text.device),
            identity=identity,
            identity_scale=c.identity_scale,
            time_addition=None if c.intensity is None else self._in_float32(self.intensity, c.intensity),
            kept={} if cache is None else self._kept(cache, made_of),
        )

    def _kept(
        self, cache: KeyValueCache, made_of: Mapping[str, Tensor | None]
    ) -> dict[str, BlockValues | None]:
        return {
            kind: cache.of_condition(self, kind, condition)
            for kind, condition in made_of.items()
            if condition is not None
        }

    def _with_time_addition(self, module: nn.Module, inputs: tuple, embedding: Tensor) -> Tensor:
        addition = self.shared.current.time_addition
        return embedding if addition is None else embedding + addition

    def _precision(self, device: torch.device) -> AbstractContextManager:
        """Return an autocast for weights in half precision; for float32 ones whatever the caller has."""
        dtype = self.computing_dtype
        if dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, dtype=dtype)

    def _in_float32(self, module: nn.Module, value: Tensor) -> Tensor:
        with torch.autocast(value.device.type, enabled=False):
            return module(value.float())
