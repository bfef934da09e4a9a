"""Strict loading of the pocket model's weight file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from ..strict_loading import load_strict, read_metadata, require_matching_keys
from .denoiser import with_shared_rotary
from .pocket import PocketModel, PocketParameters

__all__ = ["EMBEDDED_POCKET", "load_pocket", "require_matching_keys", "with_shared_rotary"]

EMBEDDED_POCKET = Path(__file__).resolve().parent.parent / "embedded" / "pocket.safetensors"


def load_pocket(
    path: str | os.PathLike[str] = EMBEDDED_POCKET, dtype: torch.dtype = torch.float32
) -> PocketModel:
    """Return the pocket model of a safetensors file, on the CPU, in evaluation mode.

    The file's metadata holds the sizes. Raises FileNotFoundError when there is no such file, and ValueError
    when it is not a pocket model or any key is missing, unexpected or misshapen (all of them are named).
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no pocket model at {path}; reinstall the package or train one: talking-portrait train pocket"
        )
    metadata = read_metadata(path)
    if "parameters" not in metadata:
        raise ValueError(f"{path} is not a pocket model: its metadata has no 'parameters'")
    parameters = PocketParameters.from_dict(json.loads(metadata["parameters"]))
    layers = parameters.denoiser.layers
    return load_strict(
        lambda: PocketModel(parameters),
        path,
        dtype=dtype,
        adapt=lambda state: with_shared_rotary(state, layers, "denoiser."),
    )
