"""A run of KDTalker's training: steps, metrics, validation and checkpoints, from the start or from a checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core_models.keypoint_diffusion.denoiser import DenoiserParameters
from ..core_models.keypoint_diffusion.kdtalker import KDTalkerModel
from ..core_models.keypoint_diffusion.motion_vectors import MotionStatistics
from ..core_models.types import ProgressCallback
from .kdtalker import (
    KDTalkerTrainingParameters,
    LossParts,
    TrainingBatch,
    learning_rate_at,
    new_model,
    new_optimiser,
    step_generator,
    training_batch,
    training_loss,
)
from .kdtalker_checkpoint import (
    Checkpoint,
    checkpoint_path,
    remove_old_checkpoints,
    remove_unfinished,
    set_aside_later_checkpoints,
    write_checkpoint,
)
from .kdtalker_dataset import (
    ClipSource,
    data_digest,
    draw_windows,
    long_enough,
    read_windows,
    shown,
    split_by_person,
    usable_starts,
)

logger = logging.getLogger(__name__)

Metrics = Callable[[int, Mapping[str, float]], None]
"""Takes (step, figures by name)."""


class TrainingDivergedError(RuntimeError):
    """The loss or its gradient became NaN or infinite; the weights are still those of the step before."""


@dataclass(frozen=True)
class RunParameters:
    """How a run is watched and kept; nothing of it changes what is trained.

    checkpoint_every, log_every, validate_every: steps. keep: how many checkpoints stay. validation_windows: how many
    windows of held-out persons the validation loss is over, always the same ones with the same noise.
    """

    checkpoint_every: int = 10_000
    keep: int = 3
    log_every: int = 50
    validate_every: int = 1000
    validation_windows: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")


@dataclass(frozen=True)
class TrainingData:
    """Clips that are long enough, split by person. digest: of all clips, held-out ones included."""

    training: Sequence[ClipSource]
    held_out: Sequence[ClipSource]
    digest: str


def training_data(clips: Sequence[ClipSource], window: int, held_out_share: float) -> TrainingData:
    """Return the clips that windows of `window` frames can be drawn from; the log names those that are too short.

    Raises ValueError when no clip is long enough.
    """
    fitting, short = long_enough(clips, window)
    if short:
        logger.warning("%d clips are too short for a window of %d: %s", len(short), window, shown(short))
    training, held_out = split_by_person(fitting, held_out_share)
    if held_out_share > 0 and not held_out:
        logger.warning("all clips show one person: none is held out, so there is no validation loss")
    return TrainingData(training, held_out, data_digest(clips))


def batch_of(
    clips: Sequence[ClipSource], statistics: MotionStatistics, window: int, size: int, seed: int, step: int
) -> TrainingBatch:
    """Return the batch of a step, on the CPU: a function of nothing but the arguments."""
    starts = np.array([usable_starts(clip.frames, window) for clip in clips])
    return training_batch(read_windows(clips, draw_windows(starts, size, seed, step), window), statistics)


@dataclass(frozen=True)
class StepFigures:
    """What a training step saw: the loss and its parts, the norm of its gradient before clipping."""

    loss: float
    pose: float
    expression: float
    gradient_norm: float


class KDTalkerTrainer:
    """A model on its device, its optimiser, and how many steps are done."""

    def __init__(
        self,
        model: KDTalkerModel,
        recipe: KDTalkerTrainingParameters,
        data: TrainingData,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model, self.recipe, self.data = model.to(device), recipe, data
        self.device = torch.device(device)
        self.optimiser = new_optimiser(self.model, recipe)
        self.step = 0

    @classmethod
    def begin(
        cls,
        parameters: DenoiserParameters,
        statistics: MotionStatistics,
        recipe: KDTalkerTrainingParameters,
        data: TrainingData,
        device: torch.device | str = "cpu",
    ) -> KDTalkerTrainer:
        """Return a trainer of a new model."""
        return cls(new_model(parameters, statistics, recipe.seed), recipe, data, device)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, data: TrainingData, device: torch.device | str = "cpu"
    ) -> KDTalkerTrainer:
        """Return a trainer that goes on where a checkpoint was taken; other data is allowed, with a warning."""
        if checkpoint.data != data.digest:
            logger.warning(
                "the clips are not those of the checkpoint: the run goes on with these, but is no longer the same run"
            )
        trainer = cls(checkpoint.model(), checkpoint.recipe, data, device)
        trainer.optimiser.load_state_dict(checkpoint.optimiser)
        trainer.step = checkpoint.step
        return trainer

    def checkpoint(self) -> Checkpoint:
        """Return the run as it is now; the tensors are the live ones, to be written before the next step."""
        return Checkpoint(
            step=self.step,
            parameters=self.model.parameters_used,
            recipe=self.recipe,
            statistics=self.model.statistics,
            weights=self.model.state_dict(),
            optimiser=self.optimiser.state_dict(),
            data=self.data.digest,
        )

    def batch(self, step: int) -> TrainingBatch:
        """Return the batch of a step, on the CPU."""
        return batch_of(
            self.data.training,
            self.model.statistics,
            self.model.parameters_used.window,
            self.recipe.batch,
            self.recipe.seed,
            step,
        )

    def train_step(self, batch: TrainingBatch) -> StepFigures:
        """Update the weights once. Raises TrainingDivergedError, before anything is changed."""
        rate = learning_rate_at(self.step, self.recipe)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        parts = training_loss(
            self.model,
            batch.to(self.device),
            step_generator(self.recipe.seed, self.step, self.device),
            self.recipe.noise_probability,
            self.recipe.precision,
        )
        self.optimiser.zero_grad(set_to_none=True)
        parts.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        figures = StepFigures(*(value.item() for value in (*parts, norm)))
        if not (math.isfinite(figures.loss) and math.isfinite(figures.gradient_norm)):
            raise TrainingDivergedError(
                f"training diverged in step {self.step}: loss {figures.loss}, gradient norm {figures.gradient_norm} at "
                f"learning rate {rate:g}"
            )
        self.optimiser.step()
        self.step += 1
        return figures

    def validation_loss(self, windows: int) -> float | None:
        """Return the mean loss over fixed windows of held-out persons, heard without noise; None without any."""
        if not self.data.held_out:
            return None
        size = min(windows, self.recipe.batch)
        losses = [self._held_out_parts(size, index).loss for index in range(math.ceil(windows / size))]
        return float(torch.stack(losses).mean())

    @torch.no_grad()
    def _held_out_parts(self, size: int, index: int) -> LossParts:
        recipe, window = self.recipe, self.model.parameters_used.window
        batch = batch_of(self.data.held_out, self.model.statistics, window, size, recipe.seed, index)
        generator = step_generator(recipe.seed, index, self.device)
        return training_loss(self.model, batch.to(self.device), generator, precision=recipe.precision)


def batches(trainer: KDTalkerTrainer, stop: int) -> Iterator[TrainingBatch]:
    """Yield the batches of the steps up to `stop`; while one is learned from, the next is read."""
    first = trainer.step
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(trainer.batch, first)
        for step in range(first, stop):
            batch = ahead.result()
            if step + 1 < stop:
                ahead = reader.submit(trainer.batch, step + 1)
            yield batch


def fit(
    trainer: KDTalkerTrainer,
    run: Path,
    parameters: RunParameters | None = None,
    until: int | None = None,
    metrics: Metrics | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Train up to the recipe's number of steps, or to step `until`; return the last checkpoint's path.

    Checkpoints are written into the run's folder at the start, every so many steps and at the end; the newest few are
    kept, and those after the step the run goes on from are set aside. progress: called with (steps done, steps in all);
    what it raises ends the run, whose checkpoints stay.
    Raises TrainingDivergedError, ValueError when another process trains in that folder.
    """
    parameters = parameters or RunParameters()
    stop = trainer.recipe.steps if until is None else min(until, trainer.recipe.steps)
    with only_process(run):
        remove_unfinished(run)
        for path in set_aside_later_checkpoints(run, trainer.step):
            logger.warning("the run goes on from step %d; a later checkpoint is now %s", trainer.step, path)
        last = _keep(trainer, run, parameters)
        watch = _Watch(parameters, metrics, trainer.step)
        for batch in batches(trainer, stop):
            try:
                figures = trainer.train_step(batch)
            except TrainingDivergedError as error:
                raise TrainingDivergedError(_what_now(error, last)) from error
            watch.look(trainer, figures, trainer.step == stop)
            if trainer.step % parameters.checkpoint_every == 0 or trainer.step == stop:
                last = _keep(trainer, run, parameters)
            if progress is not None:
                progress(trainer.step, stop)
    return last


def _what_now(error: TrainingDivergedError, last: Path) -> str:
    return (
        f"{error}. The last good checkpoint is {last}: look at the loss before that step, and begin anew with a lower "
        "learning rate or after checking the data's statistics"
    )


def _keep(trainer: KDTalkerTrainer, run: Path, parameters: RunParameters) -> Path:
    """Write the run as it is now, in place of a damaged checkpoint or one of an abandoned branch; return its path."""
    path = checkpoint_path(run, trainer.step)
    write_checkpoint(path, trainer.checkpoint())
    remove_old_checkpoints(run, trainer.step, parameters.keep)
    return path


@contextmanager
def only_process(run: Path) -> Iterator[None]:
    """Make sure that one process at a time trains in a folder, which is made if missing; a killed one lets go."""
    from filelock import FileLock, Timeout

    run.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"another process trains in {run}: wait for it, or choose another folder") from error


class _Watch:
    """Passes figures on to the metrics and the log every so many steps."""

    def __init__(self, parameters: RunParameters, metrics: Metrics | None, step: int) -> None:
        self._parameters, self._metrics = parameters, metrics
        self._step, self._time = step, time.monotonic()

    def look(self, trainer: KDTalkerTrainer, figures: StepFigures, at_the_end: bool) -> None:
        named: dict[str, float] = {}
        if at_the_end or trainer.step % self._parameters.log_every == 0:
            named = self._named(trainer, figures)
        if at_the_end or trainer.step % self._parameters.validate_every == 0:
            loss = trainer.validation_loss(self._parameters.validation_windows)
            named.update({} if loss is None else {"loss/validation": loss})
        if named:
            logger.info("step %d: %s", trainer.step, {name: round(v, 5) for name, v in named.items()})
            if self._metrics is not None:
                self._metrics(trainer.step, named)

    def _named(self, trainer: KDTalkerTrainer, figures: StepFigures) -> dict[str, float]:
        now = time.monotonic()
        rate = (trainer.step - self._step) / max(now - self._time, 1e-9)
        self._step, self._time = trainer.step, now
        return {
            "loss/training": figures.loss,
            "loss/pose": figures.pose,
            "loss/expression": figures.expression,
            "learning_rate": learning_rate_at(trainer.step - 1, trainer.recipe),
            "gradient_norm": figures.gradient_norm,
            "steps_per_second": rate,
        }
