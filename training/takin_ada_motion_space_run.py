"""A run of Takin-ADA's first stage: checkpoints that it goes on from, and the weight file that comes out.

A checkpoint holds tensors, numbers and text only, so that reading one runs no code, and appears under its name when it
is whole and on the disk. Where and how many are kept is as in KDTalker's training.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core_models.rendering.motion_space import (
    MotionSpaceNetworks,
    MotionSpaceParameters,
    new_motion_space,
    save_motion_space,
)
from ..core_models.strict_loading import require_matching_keys
from ..core_models.types import ProgressCallback
from .checkpoint_file import read_checkpoint_content, write_checkpoint_content
from .kdtalker_checkpoint import (
    checkpoint_path,
    remove_old_checkpoints,
    remove_unfinished,
    set_aside_later_checkpoints,
)
from .kdtalker_run import TrainingDivergedError, only_process
from .perceptual_features import RandomFeatures, features_name
from .takin_ada_frames import FrameSampler
from .takin_ada_losses import FeatureNetwork
from .takin_ada_motion_space import MotionSpaceTrainer
from .takin_ada_motion_space_recipe import MotionSpaceTrainingParameters

logger = logging.getLogger(__name__)

CHECKPOINT_KIND = "takin_ada_motion_space_training_1"
"""What a checkpoint says it is."""
WEIGHT_FILE = "motion_space.safetensors"
"""In the run's folder, written when the run ends."""
TRAINING_ENTRY = "takin_ada_motion_space_training"
"""Entry of the weight file's metadata: the recipe, the number of steps and what compared pictures, JSON."""


@dataclass(frozen=True)
class KeepingParameters:
    """How a run is watched and kept; nothing of it changes what is trained. checkpoint_every, log_every: steps.

    keep: how many checkpoints stay. Raises ValueError for a number below 1.
    """

    checkpoint_every: int = 200
    keep: int = 2
    log_every: int = 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")


@dataclass(frozen=True)
class MotionSpaceCheckpoint:
    """A run after `step` updates. frames: `frames_digest` of what it learnt from. The rest are state dictionaries.

    features: `features_name` of what compares pictures; None in a file of the first runs, which did not keep it.
    """

    step: int
    parameters: MotionSpaceParameters
    recipe: MotionSpaceTrainingParameters
    frames: str
    networks: dict[str, Tensor]
    optimiser: dict[str, Any]
    discriminator: dict[str, Tensor] | None
    discriminator_optimiser: dict[str, Any] | None
    features: str | None = None

    def trained_networks(self) -> MotionSpaceNetworks:
        """Return the networks, on the CPU. Raises WeightMismatchError when the weights do not fit the sizes."""
        networks = new_motion_space(self.parameters, self.recipe.seed)
        require_matching_keys(networks.state_dict(), self.networks, "the checkpoint")
        networks.load_state_dict(self.networks)
        return networks


def checkpoint_of(trainer: MotionSpaceTrainer) -> MotionSpaceCheckpoint:
    """Return the run as it is now; the tensors are the live ones, to be written before the next step."""
    judge, judge_optimiser = trainer.discriminator, trainer.discriminator_optimiser
    return MotionSpaceCheckpoint(
        step=trainer.step,
        parameters=trainer.networks.parameters_used,
        recipe=trainer.recipe,
        frames=trainer.sampler.digest,
        networks=trainer.networks.state_dict(),
        optimiser=trainer.optimiser.state_dict(),
        discriminator=None if judge is None else judge.state_dict(),
        discriminator_optimiser=None if judge_optimiser is None else judge_optimiser.state_dict(),
        features=trainer.features_name,
    )


def require_same_features(checkpoint: MotionSpaceCheckpoint, features: FeatureNetwork | None) -> None:
    """Raise ValueError for a feature network other than the one a checkpoint names; None is `RandomFeatures`."""
    given = features_name(RandomFeatures() if features is None else features)
    if checkpoint.features not in (None, given):
        raise ValueError(
            f"the run began with {checkpoint.features} in its perceptual loss, but given is {given}: give the VGG-19 "
            "file that it began with, or none if it began without"
        )


def trainer_from_checkpoint(
    checkpoint: MotionSpaceCheckpoint,
    sampler: FrameSampler,
    device: torch.device | str = "cpu",
    features: FeatureNetwork | None = None,
) -> MotionSpaceTrainer:
    """Return a trainer that goes on where a checkpoint was taken; other frames are allowed, with a warning.

    Raises ValueError when weights do not fit, and as `require_same_features` does.
    """
    require_same_features(checkpoint, features)
    if checkpoint.features is None:
        logger.warning("the checkpoint does not say what compared pictures: see that it was the same")
    if checkpoint.frames != sampler.digest:
        logger.warning(
            "the frames are not those of the checkpoint: the run goes on with these, but is no longer the same run"
        )
    trainer = MotionSpaceTrainer(checkpoint.trained_networks(), checkpoint.recipe, sampler, device, features)
    trainer.optimiser.load_state_dict(checkpoint.optimiser)
    if trainer.discriminator is not None and trainer.discriminator_optimiser is not None:
        if checkpoint.discriminator is None or checkpoint.discriminator_optimiser is None:
            raise ValueError("the checkpoint has no discriminator, but its recipe asks for one: begin anew")
        trainer.discriminator.load_state_dict(checkpoint.discriminator)
        trainer.discriminator_optimiser.load_state_dict(checkpoint.discriminator_optimiser)
    trainer.step = checkpoint.step
    return trainer


def write_motion_space_checkpoint(path: Path, checkpoint: MotionSpaceCheckpoint) -> None:
    """Write a checkpoint, whole or not at all; when this returns it is on the disk."""
    content = {entry.name: getattr(checkpoint, entry.name) for entry in fields(checkpoint)}
    content.update(
        kind=CHECKPOINT_KIND, parameters=checkpoint.parameters.to_dict(), recipe=checkpoint.recipe.to_dict()
    )
    write_checkpoint_content(path, content)


def read_motion_space_checkpoint(path: Path) -> MotionSpaceCheckpoint:
    """Return the checkpoint in a file, on the CPU; no code of it is run.

    Raises FileNotFoundError, and ValueError for a file that is damaged or something else.
    """
    maker = "'talking-portrait train takin-ada motion-space'"
    content = read_checkpoint_content(path, CHECKPOINT_KIND, maker)
    try:
        content = {"features": None, **content}
        values = {entry.name: content[entry.name] for entry in fields(MotionSpaceCheckpoint)}
        values["parameters"] = MotionSpaceParameters.from_dict(values["parameters"])
        values["recipe"] = MotionSpaceTrainingParameters.from_dict(values["recipe"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was written by another version of this package ({error})") from error
    return MotionSpaceCheckpoint(**values)


def require_minutes(minutes: float | None) -> None:
    """Raise ValueError for minutes that are given and not above 0."""
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes is {minutes}, expected a number above 0")


def fit_motion_space(
    trainer: MotionSpaceTrainer,
    run: Path,
    keeping: KeepingParameters | None = None,
    minutes: float | None = None,
    until: int | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Train up to the recipe's steps, to step `until`, or for so many minutes; return the path of the weight file.

    Checkpoints are written at the start, every so many steps and at the end, the weight file at the end. progress:
    called with (steps done, steps in all); what it raises ends the run, whose checkpoints stay.
    Raises TrainingDivergedError, and ValueError for minutes not above 0 or when another process trains in that folder.
    """
    require_minutes(minutes)
    keeping = keeping or KeepingParameters()
    stop = trainer.recipe.steps if until is None else min(until, trainer.recipe.steps)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    with only_process(run):
        remove_unfinished(run)
        for path in set_aside_later_checkpoints(run, trainer.step):
            logger.warning("the run goes on from step %d; a later checkpoint is now %s", trainer.step, path)
        last = _keep(trainer, run, keeping)
        began, first = time.monotonic(), trainer.step
        while trainer.step < stop and (end is None or time.monotonic() < end):
            figures = _stepped(trainer, last)
            if trainer.step % keeping.log_every == 0 or trainer.step == stop:
                rate = (trainer.step - first) / max(time.monotonic() - began, 1e-9)
                _log(trainer.step, {**figures, "steps_per_second": rate})
            if trainer.step % keeping.checkpoint_every == 0:
                last = _keep(trainer, run, keeping)
            if progress is not None:
                progress(trainer.step, stop)
        _keep(trainer, run, keeping)
        return _write_weights(trainer, run)


def _stepped(trainer: MotionSpaceTrainer, last: Path) -> dict[str, float]:
    try:
        return trainer.train_step()
    except TrainingDivergedError as error:
        raise TrainingDivergedError(
            f"{error}. The last good checkpoint is {last}: begin anew with a lower learning rate"
        ) from error


def _log(step: int, figures: Mapping[str, float]) -> None:
    logger.info("step %d: %s", step, {name: round(value, 4) for name, value in figures.items()})


def _keep(trainer: MotionSpaceTrainer, run: Path, keeping: KeepingParameters) -> Path:
    path = checkpoint_path(run, trainer.step)
    write_motion_space_checkpoint(path, checkpoint_of(trainer))
    remove_old_checkpoints(run, trainer.step, keeping.keep)
    return path


def _write_weights(trainer: MotionSpaceTrainer, run: Path) -> Path:
    facts = json.dumps({"step": trainer.step, "features": trainer.features_name, **trainer.recipe.to_dict()})
    save_motion_space(trainer.networks, run / WEIGHT_FILE, {TRAINING_ENTRY: facts})
    return run / WEIGHT_FILE
