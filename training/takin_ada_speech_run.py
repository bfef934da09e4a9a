"""A run of Takin-ADA's second stage: steps, averaged weights, checkpoints; resumed, it is the same run bit for bit."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..core_models.keypoint_diffusion.conformer import ConformerParameters
from ..core_models.keypoint_diffusion.takin_ada import TakinADAModel, TakinADAParameters
from ..core_models.keypoint_diffusion.takin_ada_loading import exported_tensors
from ..core_models.strict_loading import require_matching_keys
from ..core_models.types import ProgressCallback
from ..core_models.whole_file import renamed_when_whole
from .checkpoint_file import read_checkpoint_content, write_checkpoint_content
from .kdtalker_dataset import data_digest
from .kdtalker_run import TrainingDivergedError
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

CHECKPOINT_FILE = "checkpoint.pt"
"""In the run's folder, rewritten as the run goes on."""
CHECKPOINT_KIND = "takin_ada_speech_training_1"
TRAINING_ENTRY = "takin_ada_speech_training"
AVERAGE_WARMUP = 10
"""The average follows faster while there are few steps to average: decay at most (1 + n) / (10 + n)."""


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
        self._update_average()
        self.step += 1
        return SpeechLosses(*(value.detach() for value in losses))

    def _cards(self) -> list[torch.device]:
        """Graphics cards whose random numbers a step draws from."""
        return [self.device] if self.device.type == "cuda" else []

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average_decay, (1 + self.step) / (AVERAGE_WARMUP + self.step))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def write_checkpoint(self, path: Path) -> None:
        """Write all that a continuation needs, whole or not at all."""
        content = {
            "kind": CHECKPOINT_KIND,
            "step": self.step,
            "parameters": json.dumps(self.model.parameters_used.to_dict()),
            "recipe": self.recipe.to_dict(),
            "weights": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "data": data_digest(self.clips),
        }
        write_checkpoint_content(path, content)

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
            checkpoint = read_speech_checkpoint(checkpoint)
        if checkpoint.data not in (None, data_digest(clips)):
            logger.warning(
                "the clips are not those of the checkpoint: the run goes on with these, but is no longer the same run"
            )
        trainer = cls(checkpoint.parameters, checkpoint.recipe, clips, device=device)
        for model, weights in ((trainer.model, checkpoint.weights), (trainer.average, checkpoint.average)):
            require_matching_keys(model.state_dict(), weights, "the checkpoint")
            model.load_state_dict(weights)
        trainer.optimiser.load_state_dict(checkpoint.optimiser)
        trainer.step = checkpoint.step
        return trainer


@dataclass(frozen=True)
class SpeechCheckpoint:
    """A run after `step` updates, on the CPU. data: `data_digest` of its clips, or None; the rest are states."""

    step: int
    parameters: TakinADAParameters
    recipe: TakinADASpeechTrainingParameters
    weights: Mapping[str, torch.Tensor]
    average: Mapping[str, torch.Tensor]
    optimiser: Mapping[str, Any]
    data: str | None = None

    def averaged_model(self) -> TakinADAModel:
        """Return the model with the averaged weights. Raises WeightMismatchError when they do not fit the sizes."""
        model = TakinADAModel(self.parameters)
        require_matching_keys(model.state_dict(), self.average, "the checkpoint")
        model.load_state_dict(self.average)
        return model.eval().requires_grad_(False)

    @property
    def facts(self) -> dict[str, Any]:
        """What an exported file says of its training: the number of steps and the recipe."""
        return {"step": self.step, **self.recipe.to_dict()}


def speech_checkpoint(place: Path) -> Path:
    """Return a run's checkpoint, or `place` itself when it is a file.

    Raises FileNotFoundError when there is no such place or the run has none yet.
    """
    path = place if place.is_file() else place / CHECKPOINT_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{place} holds no checkpoint: it is not the folder of a training run, or the run never began"
        )
    return path


def remove_unfinished(run: Path) -> None:
    """Remove what a killed process left half written. Nobody else may be writing into the run."""
    for path in run.glob(f".{Path(CHECKPOINT_FILE).stem}.*.part"):
        path.unlink(missing_ok=True)


def read_speech_checkpoint(path: Path) -> SpeechCheckpoint:
    """Return the checkpoint in a file, on the CPU; no code of it is run.

    Raises FileNotFoundError, and ValueError for a file that is damaged or something else.
    """
    content = read_checkpoint_content(path, CHECKPOINT_KIND, "Takin-ADA's second stage")
    try:
        return SpeechCheckpoint(
            step=content["step"],
            parameters=TakinADAParameters.from_dict(json.loads(content["parameters"])),
            recipe=TakinADASpeechTrainingParameters.from_dict(content["recipe"]),
            weights=content["weights"],
            average=content["average"],
            optimiser=content["optimiser"],
            data=content.get("data"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was written by another version of this package ({error})") from error


def fit(
    trainer: TakinADASpeechTrainer,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1000,
    log_every: int = 100,
    progress: ProgressCallback | None = None,
    until: int | None = None,
    minutes: float | None = None,
) -> None:
    """Train up to the recipe's number of steps, to step `until`, or for so many minutes.

    The checkpoint is rewritten every so many steps and at the end. progress: called with (steps done, steps in all);
    what it raises ends the run, whose checkpoint stays.
    Raises TrainingDivergedError, and ValueError for minutes not above 0 or numbers of steps below 1.
    """
    for name, steps in (("checkpoint_every", checkpoint_every), ("log_every", log_every)):
        if steps < 1:
            raise ValueError(f"{name} is {steps}, expected at least 1")
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes is {minutes}, expected a number above 0")
    if until is not None and until < 1:
        raise ValueError(f"until is {until}, expected the number of a step, 1 or later")
    stop = trainer.recipe.steps if until is None else min(until, trainer.recipe.steps)
    began, seen = time.monotonic(), []
    while trainer.step < stop:
        seen.append(torch.stack([value.float() for value in trainer.train_step()]))
        if trainer.step % log_every == 0:
            _log(trainer.step, time.monotonic() - began, seen)
            seen = []
        if minutes is not None and time.monotonic() - began >= 60 * minutes:
            stop = trainer.step
        if checkpoint is not None and (trainer.step % checkpoint_every == 0 or trainer.step == stop):
            trainer.write_checkpoint(checkpoint)
        if progress is not None:
            progress(trainer.step, stop)


def _log(step: int, seconds: float, seen: Sequence[torch.Tensor]) -> None:
    means = dict(zip(SpeechLosses._fields, torch.stack(seen).mean(dim=0).tolist(), strict=True))
    named = {name: round(value, 4) for name, value in means.items()}
    logger.info("step %d, %.0f s: %s", step, seconds, named)


def export(model: TakinADAModel, target: Path, facts: Mapping, half: bool = False) -> None:
    """Write a model as the safetensors file that `load_takin_ada` reads, whole or not at all.

    half: in float16, but for statistics. Raises ValueError for a name that does not end in .safetensors.
    """
    from safetensors.torch import save_file

    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"weights are written as safetensors, but the name is {target.name!r}")
    tensors, metadata = exported_tensors(model, half)
    with renamed_when_whole(target) as unfinished:
        save_file(tensors, str(unfinished), {**metadata, TRAINING_ENTRY: json.dumps(dict(facts))})
