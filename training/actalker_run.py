"""A run of ACTalker's training: steps, averaged weights, checkpoints; resumed, it is the same run bit for bit."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from ..core_models.audio.embedding import POCKET_LISTENER
from ..core_models.video_diffusion.actalker.blendshape_motion import HEAD_NUMBERS, SIGNAL_SIZE
from ..core_models.video_diffusion.actalker.condition_projections import (
    AudioProjectionParameters,
    IdentityProjectionParameters,
    MotionProjectionParameters,
)
from ..core_models.video_diffusion.actalker.controlled_transformer import PER_FRAME
from ..core_models.video_diffusion.actalker.guidance import GuidanceScales
from ..core_models.video_diffusion.actalker.loading import exported_tensors
from ..core_models.video_diffusion.actalker.model import (
    BLENDSHAPE_MOTION,
    ACTalkerModel,
    ACTalkerParameters,
    ClipDefaults,
    ListeningWindow,
)
from ..core_models.video_diffusion.actalker.portrait_encoder import PortraitEncoderParameters
from ..core_models.video_diffusion.actalker.pose_guider import PoseGuiderParameters
from ..core_models.video_diffusion.actalker.unet import UNetParameters
from .actalker import (
    ACTalkerTrainingParameters,
    TrainingClips,
    drawn_batch,
    learning_rate_at,
    on_device,
    training_loss,
)
from .actalker_data import FRAME_SIZE, HEARD_BEFORE, HEARD_STEPS
from .kdtalker_run import TrainingDivergedError
from .run_checkpoint import RunCheckpoint
from .stepwise_training import facts_entry, follow, restore, write_safetensors

logger = logging.getLogger(__name__)

TRAINING_ENTRY = "actalker_training"
"""Entry of the exported file's metadata that tells how it was trained."""


def small_parameters(layers: int, channels: int, layer: str = PER_FRAME) -> ACTalkerParameters:
    """Return the sizes of a small model for pictures of 64 pixels and latents of 16.

    layers, channels: of what is heard. layer: form of the masked SSM layer.
    """
    width, features = 64, 64
    return ACTalkerParameters(
        unet=UNetParameters((32, 64, 64), (2, 4, 4), width, 32, layers=1, layer=layer),
        pose=PoseGuiderParameters(widths=(8, 16, 32), strides=(2, 2), channels=32),
        audio=AudioProjectionParameters(HEARD_STEPS, layers, channels, hidden=128, tokens=4, width=width),
        identity=IdentityProjectionParameters(features, hidden=64, width=width),
        motion=MotionProjectionParameters(SIGNAL_SIZE, HEAD_NUMBERS // 2, HEAD_NUMBERS // 2, width),
        portrait_encoder=PortraitEncoderParameters(features=features),
        listening=ListeningWindow(POCKET_LISTENER, HEARD_STEPS, HEARD_BEFORE),
        motion_kind=BLENDSHAPE_MOTION,
        defaults=ClipDefaults(
            window=6,
            shift=2,
            steps=12,
            sigma_min=0.02,
            sigma_max=80.0,
            guidance=GuidanceScales(1.0, 1.0, 1.0),
            image_size=FRAME_SIZE,
        ),
    )


class ACTalkerLosses(NamedTuple):
    """What one step reports: the weighted squared error of v."""

    loss: float


class ACTalkerTrainer:
    """A model, its averaged twin, the optimiser and the number of steps done."""

    def __init__(
        self,
        parameters: ACTalkerParameters,
        recipe: ACTalkerTrainingParameters,
        data: TrainingClips,
        device: torch.device | str = "cpu",
    ) -> None:
        """device: where the networks are trained; weights are drawn on the processor whatever it is."""
        self.recipe, self.data, self.device = recipe, data, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = ACTalkerModel(parameters).to(self.device)
        self.average = deepcopy(self.model).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.step = 0

    def train_step(self) -> ACTalkerLosses:
        """Update the weights once and return the loss. Raises TrainingDivergedError, before anything is changed."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(self.step, self.recipe)
        batch = on_device(drawn_batch(self.data, self.recipe, self.step), self.device)
        loss = training_loss(self.model, batch, self.recipe.regions)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise TrainingDivergedError(
                f"training diverged in step {self.step}: loss {loss.item()}, gradient norm {norm.item()}; "
                "begin a new run with a lower learning rate"
            )
        self.optimiser.step()
        follow(self.average, self.model, self.recipe.average_decay, self.step)
        self.step += 1
        return ACTalkerLosses(loss.item())

    def write_checkpoint(self, path: Path) -> None:
        """Write all that a continuation needs, whole or not at all."""
        ACTalkerCheckpoint.write(path, self)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: ACTalkerCheckpoint, data: TrainingClips, device: torch.device | str = "cpu"
    ) -> ACTalkerTrainer:
        """Return the trainer that goes on where a checkpoint was taken.

        Raises WeightMismatchError when its weights do not fit its sizes.
        """
        trainer = cls(checkpoint.parameters, checkpoint.recipe, data, device)
        restore(trainer, checkpoint)
        return trainer


@dataclass(frozen=True)
class ACTalkerCheckpoint(RunCheckpoint):
    """An ACTalker's run after `step` updates, on the CPU."""

    kind = "actalker_training_1"
    maker = "ACTalker's training"
    parameters_type, recipe_type = ACTalkerParameters, ACTalkerTrainingParameters

    def new_model(self) -> ACTalkerModel:
        """Return a model of the checkpoint's sizes, whose weights are not the checkpoint's yet."""
        return ACTalkerModel(self.parameters)


def export(model: ACTalkerModel, target: Path, facts: Mapping, half: bool = False) -> None:
    """Write a model as the safetensors file that `load_actalker` reads, whole or not at all.

    half: in float16, but for what the scan keeps in float32. Raises ValueError for a name that does not end in
    .safetensors.
    """
    tensors, metadata = exported_tensors(model, half)
    write_safetensors(target, tensors, {**metadata, TRAINING_ENTRY: facts_entry(facts)})
