"""What trainings that go step by step share: the loop, the average of the weights, and the file that comes out."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..core_models.strict_loading import require_matching_keys
from ..core_models.types import ProgressCallback
from ..core_models.whole_file import renamed_when_whole

logger = logging.getLogger(__name__)

AVERAGE_WARMUP = 10
"""The average follows faster while there are few steps to average: decay at most (1 + n) / (10 + n)."""


class StepwiseTrainer(Protocol):
    """A model in training. step: updates done. recipe: has the number of all `steps`."""

    step: int
    recipe: Any

    def train_step(self) -> NamedTuple:
        """Update the weights once and return the losses, a named tuple of numbers or tensors of one number."""

    def write_checkpoint(self, path: Path) -> None:
        """Write all that a continuation needs, whole or not at all."""


def fit(
    trainer: StepwiseTrainer,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    log_every: int = 100,
    progress: ProgressCallback | None = None,
    until: int | None = None,
    minutes: float | None = None,
) -> None:
    """Train up to the recipe's number of steps, to step `until`, or for so many minutes.

    The checkpoint is rewritten every so many steps and at the end. progress: called with (steps done, steps in all);
    what it raises ends the run, whose checkpoint stays.
    Raises what `train_step` raises, and ValueError for minutes not above 0 or numbers of steps below 1.
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
        seen.append(trainer.train_step())
        if trainer.step % log_every == 0:
            logger.info("step %d, %.0f s: %s", trainer.step, time.monotonic() - began, mean_losses(seen))
            seen = []
        if minutes is not None and time.monotonic() - began >= 60 * minutes:
            stop = trainer.step
        if checkpoint is not None and (trainer.step % checkpoint_every == 0 or trainer.step == stop):
            trainer.write_checkpoint(checkpoint)
        if progress is not None:
            progress(trainer.step, stop)


def mean_losses(seen: Sequence[NamedTuple]) -> dict[str, float]:
    """Return {name: mean} of several steps' losses, to four digits."""
    rows = torch.stack([torch.stack([torch.as_tensor(v).float().cpu() for v in losses]) for losses in seen])
    return {
        name: round(value, 4) for name, value in zip(seen[0]._fields, rows.mean(dim=0).tolist(), strict=True)
    }


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the averaged twin of a model towards it. step: updates before this one."""
    decay = min(decay, (1 + step) / (AVERAGE_WARMUP + step))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


class TrainingState(Protocol):
    """What a checkpoint holds of a run. weights, average, optimiser: state dictionaries."""

    step: int
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimiser: Mapping[str, Any]


def restore(trainer: Any, state: TrainingState) -> None:
    """Bring a fresh trainer with a `model`, its `average` and an `optimiser` to where a checkpoint was taken.

    Raises WeightMismatchError when its weights do not fit the trainer's sizes.
    """
    for model, weights in ((trainer.model, state.weights), (trainer.average, state.average)):
        require_matching_keys(model.state_dict(), weights, "the checkpoint")
        model.load_state_dict(weights)
    trainer.optimiser.load_state_dict(dict(state.optimiser))
    trainer.step = state.step


def write_safetensors(target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write weights, whole or not at all. Raises ValueError for a name that does not end in .safetensors."""
    from safetensors.torch import save_file

    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"weights are written as safetensors, but the name is {target.name!r}")
    with renamed_when_whole(target) as unfinished:
        save_file(dict(tensors), str(unfinished), dict(metadata))


def facts_entry(facts: Mapping[str, Any]) -> str:
    """Return what a file's metadata says of its training."""
    return json.dumps(dict(facts))
