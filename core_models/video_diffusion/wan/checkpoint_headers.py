"""Which model a Wan's files hold, told from their headers before gigabytes of weights are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ...strict_loading import SAFETENSORS_SUFFIXES, read_metadata
from .checkpoint_kinds import refuse_other_models
from .loading import in_diffusers_names
from .transformer import WAN_I2V_14B, WanParameters


def refuse_other_files(
    files: Sequence[str | os.PathLike[str]], parameters: WanParameters = WAN_I2V_14B
) -> None:
    """Raise WeightMismatchError when files are known by their keys and shapes to hold another model; say what to load.

    files: all those of one transformer, as `weight_files` gives them. Files other than safetensors have no header that
    says so, and pass. Raises UnreadableWeightsError for a safetensors file that is cut off or damaged.
    """
    paths = [Path(one) for one in files if Path(one).suffix.lower() in SAFETENSORS_SUFFIXES]
    if not paths:
        return
    shapes = {name: value for path in paths for name, value in tensors_without_memory(path).items()}
    source = str(paths[0])
    refuse_other_models(in_diffusers_names(shapes, source), parameters, source)


def tensors_without_memory(path: Path) -> dict[str, Tensor]:
    """Return tensors of a safetensors file's shapes by its keys, on the meta device, where they have no memory.

    Raises FileNotFoundError, and UnreadableWeightsError for a file that is cut off or damaged.
    """
    read_metadata(path)  # which says what is wrong with a damaged file
    with safe_open(os.fspath(path), framework="pt") as file:
        names = list(file.keys())
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
