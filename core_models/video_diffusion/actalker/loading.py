"""ACTalker's networks from files: the published ones, each part by itself, and models trained here in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import torch
from torch import Tensor

from ...key_tables import KEY_TABLES
from ...strict_loading import (
    load_strict,
    map_keys,
    read_sizes,
    read_weights,
    require_matching_keys,
    require_no_meta_tensors,
)
from ...video_types import ACTALKER_ENTRY, PUBLISHED_PARTS
from .model import ACTalkerModel, ACTalkerParameters

KEPT_IN_FLOAT32 = ("A_logs", "Ds", "dt_projs_bias")
"""Endings of parameters that stay in float32 in any precision: the scan's, as in the released code."""


def actalker_parameters(path: str | os.PathLike[str]) -> ACTalkerParameters:
    """Return the sizes of a model that was trained here, read without its weights.

    Raises FileNotFoundError, and UnreadableWeightsError (a ValueError) for a file of another kind.
    """
    kind = "an ACTalker model of 'talking-portrait train actalker'"
    return read_sizes(path, ACTALKER_ENTRY, ACTalkerParameters.from_dict, kind)


def load_actalker(path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> ACTalkerModel:
    """Return a model that was trained here, from its file, frozen, on the CPU, in evaluation mode.

    Raises FileNotFoundError, and ValueError for a file of another kind or any key that is missing, unexpected or
    misshapen (all of them are named).
    """
    parameters = actalker_parameters(path)
    model = load_strict(
        lambda: ACTalkerModel(parameters), path, adapt=lambda state: in_precision(state, dtype)
    )
    return model.requires_grad_(False)


def load_published_actalker(
    paths: Mapping[str, str | os.PathLike[str]], dtype: torch.dtype = torch.float32
) -> ACTalkerModel:
    """Return the published model from its files, frozen, on the CPU, in evaluation mode.

    paths: {part: file} of PUBLISHED_PARTS. dtype: of the weights, but for those the scan keeps in float32.
    Raises FileNotFoundError, and ValueError for a missing part or any key of a file that does not fit.
    """
    absent = sorted(set(PUBLISHED_PARTS) - set(paths))
    if absent:
        raise ValueError(f"files are missing for {', '.join(absent)}: give one for each part of the model")
    with torch.device("meta"):
        model = ACTalkerModel()
    for part, layout in PUBLISHED_PARTS.items():
        source = str(paths[part])
        state = map_keys(read_weights(source).tensors, KEY_TABLES.get(layout, {}), source)
        module = model.get_submodule(part)
        require_matching_keys(module.state_dict(), state, source)
        module.load_state_dict(in_precision(state, dtype), assign=True)
    return require_no_meta_tensors(model).eval().requires_grad_(False)


def in_precision(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a state in a precision, but for what the scan keeps in float32."""
    return {
        name: value.to(torch.float32 if name.endswith(KEPT_IN_FLOAT32) else dtype)
        if value.is_floating_point()
        else value
        for name, value in state.items()
    }


def exported_tensors(model: ACTalkerModel, half: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file that `load_actalker` reads. half: weights in float16."""
    state = in_precision(model.state_dict(), torch.float16 if half else torch.float32)
    tensors = {name: value.detach().contiguous() for name, value in state.items()}
    return tensors, {ACTALKER_ENTRY: json.dumps(model.parameters_used.to_dict())}
