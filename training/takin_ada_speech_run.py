"""A run of Takin-ADA's second stage: steps, averaged weights, checkpoints; resumed, it is the same run bit for bit."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..core_models.keypoint_diffusion.conformer import ConformerParameters
from ..core_models.keypoint_diffusion.takin_ada import TakinADAModel, TakinADAParameters
from ..core_models.keypoint_diffusion.takin_ada_loading import exported_tensors
from .kdtalker_dataset import data_digest
from .kdtalker_run import TrainingDivergedError
from .run_checkpoint import RunCheckpoint
from .stepwise_training import facts_entry, follow, restore, write_safetensors
from .takin_ada_speech import (
    SpeechLosses,
    SpeechSource,
    TakinADASpeechTrainingParameters,
    draw_batch,
    learning_rate_at,
    new_model,
    training_loss,
)

logger = logging.getLogger(__name__)

TRAINING_ENTRY = "takin_ada_speech_training"


def small_speech_parameters(sizes: TakinADAParameters) -> TakinADAParameters:
    """Return a network for a processor or a trial that hears and makes what one of these sizes does."""
    return replace(
        sizes,
        encoder=ConformerParameters(width=128, blocks=2, heads=2, kernel=7, dropout=0.1),
        generator=ConformerParameters(width=256, blocks=4, heads=4, kernel=7, dropout=0.1),
        token_width=16,
        adapter_hidden=64,
    )


class TakinADASpeechTrainer:
    """A model, its averaged twin, the optimiser and the number of steps done."""

    def __init__(
        self,
        parameters: TakinADAParameters,
        recipe: TakinADASpeechTrainingParameters,
        clips: Sequence[SpeechSource],
        start: Mapping[str, torch.Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """start: weights to begin with, such as a listener's, by the model's names; the rest is drawn from the seed.

        device: where the networks are trained; weights are drawn on the processor whatever it is.
        """
        self.recipe, self.clips, self.device = recipe, clips, torch.device(device)
        self.model = new_model(parameters, clips, recipe.seed)
        if start is not None:
            self.model.load_state_dict({**self.model.state_dict(), **start})
        self.model.to(self.device)
        self.average = deepcopy(self.model).eval().requires_grad_(False)
        trained = [value for value in self.model.parameters() if value.requires_grad]
        self.optimiser = torch.optim.Adam(trained, lr=recipe.learning_rate)
        self.step = 0

    def train_step(self) -> SpeechLosses:
        """Update the weights once. Raises TrainingDivergedError, before anything is changed."""
        recipe = self.recipe
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(self.step, recipe)
        batch = draw_batch(self.average, self.clips, recipe.batch, recipe.seed, self.step)
        self.model.train()
        with (
            torch.random.fork_rng(devices=self._cards()),
            torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"),
        ):
            # dropout's, which takes no generator
            torch.manual_seed((recipe.seed * 1_000_003 + self.step) % 2**64)
            losses = training_loss(self.model, batch, recipe, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        losses.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        if not (math.isfinite(losses.loss.item()) and math.isfinite(norm.item())):
            raise TrainingDivergedError(
                f"training diverged in step {self.step}: loss {losses.loss.item()}, gradient norm {norm.item()}; "
                "begin a new run with a lower learning rate"
            )
        self.optimiser.step()
        follow(self.average, self.model, self.recipe.average_decay, self.step)
        self.step += 1
        return SpeechLosses(*(value.detach() for value in losses))

    def _cards(self) -> list[torch.device]:
        """Graphics cards whose random numbers a step draws from."""
        return [self.device] if self.device.type == "cuda" else []

    def write_checkpoint(self, path: Path) -> None:
        """Write all that a continuation needs, whole or not at all."""
        SpeechCheckpoint.write(path, self, data=data_digest(self.clips))

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | SpeechCheckpoint,
        clips: Sequence[SpeechSource],
        device: torch.device | str = "cpu",
    ) -> TakinADASpeechTrainer:
        """Return the trainer that goes on where a checkpoint was taken; other clips are allowed, with a warning.

        Raises FileNotFoundError, and ValueError for a file that is damaged or something else.
        """
        if isinstance(checkpoint, Path):
            checkpoint = SpeechCheckpoint.read(checkpoint)
        if checkpoint.data not in (None, data_digest(clips)):
            logger.warning(
                "the clips are not those of the checkpoint: the run goes on with these, but is no longer the same run"
            )
        trainer = cls(checkpoint.parameters, checkpoint.recipe, clips, device=device)
        restore(trainer, checkpoint)
        return trainer


@dataclass(frozen=True)
class SpeechCheckpoint(RunCheckpoint):
    """A run after `step` updates, on the CPU. data: `data_digest` of its clips, or None."""

    kind = "takin_ada_speech_training_1"
    maker = "Takin-ADA's second stage"
    parameters_type, recipe_type = TakinADAParameters, TakinADASpeechTrainingParameters

    data: str | None = None

    @classmethod
    def further(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the digest of the clips, out of a file's content."""
        return {"data": content.get("data")}

    def new_model(self) -> TakinADAModel:
        """Return a model of the checkpoint's sizes, whose weights are not the checkpoint's yet."""
        return TakinADAModel(self.parameters)


def export(model: TakinADAModel, target: Path, facts: Mapping, half: bool = False) -> None:
    """Write a model as the safetensors file that `load_takin_ada` reads, whole or not at all.

    half: in float16, but for statistics. Raises ValueError for a name that does not end in .safetensors.
    """
    tensors, metadata = exported_tensors(model, half)
    write_safetensors(target, tensors, {**metadata, TRAINING_ENTRY: facts_entry(facts)})
