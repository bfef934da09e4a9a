"""A run of FantasyTalking's training: steps, averaged weights, checkpoints; resumed, it is the same run bit for bit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core_models.audio.embedding import POCKET_LISTENER
from ..core_models.strict_loading import require_matching_keys
from ..core_models.video_diffusion.actalker.portrait_encoder import PortraitEncoderParameters
from ..core_models.video_diffusion.fantasytalking.audio_projection import AudioProjectionParameters
from ..core_models.video_diffusion.fantasytalking.identity_branch import IdentityBranchParameters
from ..core_models.video_diffusion.fantasytalking.intensity_network import IntensityParameters
from ..core_models.video_diffusion.fantasytalking.loading import exported_tensors
from ..core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
from ..core_models.video_diffusion.fantasytalking.parameters import ClipDefaults, FantasyTalkingParameters
from ..core_models.video_diffusion.wan.image_conditions import MASK_CHANNELS
from ..core_models.video_diffusion.wan.transformer import WanParameters
from .actalker import learning_rate_at
from .actalker_data import FRAME_SIZE, FRAME_STEP
from .fantasytalking import (
    LOW_RANK,
    WHOLE,
    FantasyTalkingTrainingParameters,
    TrainingClips,
    drawn_batch,
    on_device,
    training_loss,
)
from .fantasytalking_data import CLIP_FRAMES
from .kdtalker_run import TrainingDivergedError
from .low_rank import ADDED_KEYS, add_low_rank, merge_low_rank
from .made_heads.performance import FPS
from .run_checkpoint import RunCheckpoint
from .stepwise_training import facts_entry, follow, restore, write_safetensors

TRAINING_ENTRY = "fantasytalking_training"
"""Entry of the exported file's metadata that tells how it was trained."""
HEADS, BLOCKS = 4, 6
"""Attention heads of 32 numbers each, and blocks, of a small model: an update of 4 clips of 37 frames takes 0.8 s on
one core."""
LATENT_CHANNELS, LATENT_PIXELS = 16, 8
WINDOW_TOKENS = 25
"""Of a latent frame's sound, at four tokens to a video frame."""
_HEAD_WIDTH, _FEATURES = 32, 64
_ATTENTION = re.compile(r"transformer\.blocks\.\d+\.attn[12]\.(to_[qkv]|to_out\.0|add_[kv]_proj)")
_BASE, _ADDED_TO_BASE = "transformer.", ".processor."


def small_parameters(
    layers: int, channels: int, heads: int = HEADS, blocks: int = BLOCKS
) -> FantasyTalkingParameters:
    """Return the sizes of a small model for pictures of 64 pixels and latents of 8 x 8 with 16 channels.

    layers, channels: of what is heard.
    """
    wan = WanParameters(
        num_attention_heads=heads,
        attention_head_dim=_HEAD_WIDTH,
        in_channels=2 * LATENT_CHANNELS + MASK_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=16,
        freq_dim=64,
        ffn_dim=3 * heads * _HEAD_WIDTH,
        num_layers=blocks,
        patch_size=(1, 1, 1),
        image_dim=None,
        text_length=1,
    )
    return FantasyTalkingParameters(
        wan=wan,
        audio=AudioProjectionParameters(channels, width=128, layers=layers, places=WINDOW_TOKENS),
        identity=IdentityBranchParameters(
            features=_FEATURES, width=64, queries=4, layers=1, heads=4, hidden=64, tokens=4
        ),
        intensity=IntensityParameters(frequency_dim=32, hidden=64, width=wan.width),
        listening=POCKET_LISTENER,
        portrait_encoder=PortraitEncoderParameters(features=_FEATURES),
        defaults=ClipDefaults(
            fps=FPS / FRAME_STEP,
            window=CLIP_FRAMES,
            steps=16,
            shift=2.0,
            prompt_guidance=1.0,
            audio_guidance=2.0,
            image_size=FRAME_SIZE,
            size_multiple=LATENT_PIXELS,
        ),
    )


def trained_model(
    parameters: FantasyTalkingParameters,
    recipe: FantasyTalkingTrainingParameters,
    start: Mapping[str, Tensor] | None = None,
) -> FantasyTalkingModel:
    """Return a model of which what the recipe says learns; new weights are drawn from torch's global generator.

    start: weights to begin with, of all that a model of these sizes has.
    Raises WeightMismatchError when they do not fit, ValueError for a rank that does not.
    """
    model = FantasyTalkingModel(parameters)
    if start is not None:
        require_matching_keys(model.state_dict(), start, "what the training begins with")
        model.load_state_dict(start)
    if recipe.base == LOW_RANK:
        add_low_rank(model, lambda name: _ATTENTION.fullmatch(name) is not None, recipe.rank)
    for name, value in model.named_parameters():
        value.requires_grad_(recipe.base == WHOLE or _learns_on_a_base(name))
    return model


def _learns_on_a_base(name: str) -> bool:
    """Return whether a parameter is no part of Wan itself."""
    return not name.startswith(_BASE) or _ADDED_TO_BASE in name or name.endswith(ADDED_KEYS)


class FantasyTalkingLosses(NamedTuple):
    """What one step reports: the weighted squared error of the velocity."""

    loss: float


class FantasyTalkingTrainer:
    """A model, its averaged twin, the optimiser and the number of steps done."""

    def __init__(
        self,
        parameters: FantasyTalkingParameters,
        recipe: FantasyTalkingTrainingParameters,
        data: TrainingClips,
        device: torch.device | str = "cpu",
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        """device: where the networks are trained; weights are drawn on the processor whatever it is. start: weights to
        begin with.

        Raises ValueError for an identity branch that is to read face recognition, and what `trained_model` raises.
        """
        if parameters.identity is not None and parameters.portrait_encoder is None:
            raise ValueError(
                "this trainer knows people by the model's own portrait encoder: give its sizes, or leave the identity "
                "branch out"
            )
        self.recipe, self.data, self.device = recipe, data, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = trained_model(parameters, recipe, start).to(self.device)
        self.average = deepcopy(self.model).eval().requires_grad_(False)
        self.learning = [value for value in self.model.parameters() if value.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.learning, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.step = 0

    def train_step(self) -> FantasyTalkingLosses:
        """Update the weights once and return the loss. Raises TrainingDivergedError, before anything is changed."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(self.step, self.recipe)
        batch = on_device(drawn_batch(self.data, self.recipe, self.step), self.device)
        loss = training_loss(self.model, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.learning, self.recipe.clip_norm)
        # Read together: a device is waited for once.
        found, size = torch.stack([loss.detach(), norm]).tolist()
        if not (math.isfinite(found) and math.isfinite(size)):
            raise TrainingDivergedError(
                f"training diverged in step {self.step}: loss {found}, gradient norm {size}; begin a new run with a "
                "lower learning rate"
            )
        self.optimiser.step()
        follow(self.average, self.model, self.recipe.average_decay, self.step)
        self.step += 1
        return FantasyTalkingLosses(found)

    def write_checkpoint(self, path: Path) -> None:
        """Write all that a continuation needs, whole or not at all."""
        FantasyTalkingCheckpoint.write(path, self)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: FantasyTalkingCheckpoint,
        data: TrainingClips,
        device: torch.device | str = "cpu",
    ) -> FantasyTalkingTrainer:
        """Return the trainer that goes on where a checkpoint was taken.

        Raises WeightMismatchError when its weights do not fit its sizes.
        """
        trainer = cls(checkpoint.parameters, checkpoint.recipe, data, device)
        restore(trainer, checkpoint)
        return trainer


@dataclass(frozen=True)
class FantasyTalkingCheckpoint(RunCheckpoint):
    """A FantasyTalking's run after `step` updates, on the CPU."""

    kind = "fantasytalking_training_1"
    maker = "FantasyTalking's training"
    parameters_type, recipe_type = FantasyTalkingParameters, FantasyTalkingTrainingParameters

    def new_model(self) -> FantasyTalkingModel:
        """Return a model of the checkpoint's sizes and its additions of low rank, with other weights."""
        return trained_model(self.parameters, self.recipe)

    def averaged_model(self) -> FantasyTalkingModel:
        """Return the model with the averaged weights, frozen, additions of low rank merged into them.

        Raises WeightMismatchError when they do not fit the sizes.
        """
        return merge_low_rank(super().averaged_model()).requires_grad_(False)


def export(model: FantasyTalkingModel, target: Path, facts: Mapping, half: bool = False) -> None:
    """Write a model as the safetensors file that `load_fantasytalking_file` reads, whole or not at all.

    half: the blocks' weights in float16. Raises ValueError for a name that does not end in .safetensors.
    """
    tensors, metadata = exported_tensors(model, half)
    write_safetensors(target, tensors, {**metadata, TRAINING_ENTRY: facts_entry(facts)})
