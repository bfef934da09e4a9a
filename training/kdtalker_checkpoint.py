"""Checkpoints of KDTalker's training, and the weight file that comes out of one.

A checkpoint is all that a continuation needs: sizes, recipe, statistics, weights, optimiser state and the number of
steps done. It holds tensors, numbers and text only, so that reading one runs no code, and appears under its name when
it is whole and on the disk.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core_models.keypoint_diffusion.denoiser import DenoiserParameters
from ..core_models.keypoint_diffusion.kdtalker import KDTalkerModel, exported_tensors
from ..core_models.keypoint_diffusion.motion_vectors import MotionStatistics
from ..core_models.strict_loading import require_matching_keys
from ..core_models.whole_file import renamed_when_whole
from .checkpoint_file import read_checkpoint_content, write_checkpoint_content
from .kdtalker import KDTalkerTrainingParameters, new_model

CHECKPOINT_KIND = "kdtalker_training_1"
CHECKPOINT_FOLDER = "checkpoints"
TRAINING_ENTRY = "kdtalker_training"
"""Entry of an exported file's metadata: the recipe and the number of steps, JSON."""

_NAME = re.compile(r"step_(\d+)\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A training run after `step` updates.

    weights: the model's state. optimiser: AdamW's `state_dict`. data: `data_digest` of the clips it was trained on.
    """

    step: int
    parameters: DenoiserParameters
    recipe: KDTalkerTrainingParameters
    statistics: MotionStatistics
    weights: dict[str, Tensor]
    optimiser: dict[str, Any]
    data: str

    def model(self) -> KDTalkerModel:
        """Return the model with these weights, on the CPU. Raises ValueError when they do not fit its sizes."""
        model = new_model(self.parameters, self.statistics, self.recipe.seed)
        require_matching_keys(model.state_dict(), self.weights, "the checkpoint")
        model.load_state_dict(self.weights)
        return model


def checkpoint_path(run: Path, step: int) -> Path:
    """Return where the checkpoint after `step` updates is kept in a run's folder."""
    return run / CHECKPOINT_FOLDER / f"step_{step:07d}.pt"


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all; when this returns it is on the disk."""
    content = {
        "kind": CHECKPOINT_KIND,
        "step": checkpoint.step,
        "parameters": asdict(checkpoint.parameters),
        "recipe": checkpoint.recipe.to_dict(),
        "statistics": {
            name: torch.from_numpy(values.copy()) for name, values in asdict(checkpoint.statistics).items()
        },
        "weights": checkpoint.weights,
        "optimiser": checkpoint.optimiser,
        "data": checkpoint.data,
    }
    write_checkpoint_content(path, content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file, on the CPU; no code of it is run.

    Raises FileNotFoundError, and ValueError for a file that is damaged or something else.
    """
    content = read_checkpoint_content(path, CHECKPOINT_KIND, "'talking-portrait train kdtalker fit'")
    try:
        return Checkpoint(
            step=content["step"],
            parameters=DenoiserParameters(**content["parameters"]),
            recipe=KDTalkerTrainingParameters.from_dict(content["recipe"]),
            statistics=MotionStatistics(
                **{name: values.numpy() for name, values in content["statistics"].items()}
            ),
            weights=content["weights"],
            optimiser=content["optimiser"],
            data=content["data"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} was written by another version of this package ({error})") from error


def checkpoints_of(run: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of a run's checkpoints, oldest first; empty for a run that has none."""
    found = ((_NAME.fullmatch(path.name), path) for path in (run / CHECKPOINT_FOLDER).glob("step_*.pt"))
    return sorted((int(match[1]), path) for match, path in found if match)


def newest_checkpoint(place: Path) -> Path:
    """Return a run's newest checkpoint, or `place` itself when it is a file.

    Raises FileNotFoundError when there is no such place or the run has none yet.
    """
    if place.is_file():
        return place
    found = checkpoints_of(place)
    if not found:
        raise FileNotFoundError(
            f"{place} holds no checkpoint: it is not the folder of a training run, or the run never began"
        )
    return found[-1][1]


def remove_old_checkpoints(run: Path, step: int, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `step`."""
    for _, path in [entry for entry in checkpoints_of(run) if entry[0] <= step][:-keep]:
        path.unlink(missing_ok=True)


def set_aside_later_checkpoints(run: Path, step: int) -> list[Path]:
    """Rename the checkpoints after `step` to `<name>.abandoned`, so that none of them is taken for the run's newest.

    Return their new paths. For a run that goes on from an earlier checkpoint.
    """
    later = [path for at, path in checkpoints_of(run) if at > step]
    return [path.replace(path.with_name(path.name + ".abandoned")) for path in later]


def remove_unfinished(run: Path) -> None:
    """Remove what a killed process left half written. Nobody else may be writing into the run."""
    for path in (run / CHECKPOINT_FOLDER).glob(".step_*.part"):
        path.unlink(missing_ok=True)


def export_checkpoint(checkpoint: Checkpoint, target: Path) -> None:
    """Write the weights as the safetensors file that `load_kdtalker` and the loader node read, whole or not at all.

    Raises ValueError for a name that does not end in .safetensors, OSError when it cannot be written.
    """
    from safetensors.torch import save_file

    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"weights are written as safetensors, but the name is {target.name!r}")
    tensors, metadata = exported_tensors(checkpoint.model())
    facts = {"step": checkpoint.step, **checkpoint.recipe.to_dict()}
    with renamed_when_whole(target) as unfinished:
        save_file(tensors, str(unfinished), {**metadata, TRAINING_ENTRY: json.dumps(facts)})
