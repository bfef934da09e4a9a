"""Strict loading of the pocket model's weight file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from .pocket import PocketModel, PocketParameters

EMBEDDED_POCKET = Path(__file__).resolve().parent.parent / "embedded" / "pocket.safetensors"


def load_pocket(
    path: str | os.PathLike[str] = EMBEDDED_POCKET, dtype: torch.dtype = torch.float32
) -> PocketModel:
    """Return the pocket model of a safetensors file, on the CPU, in evaluation mode.

    The file's metadata holds the sizes. Raises FileNotFoundError when there is no such file, and ValueError
    when it is not a pocket model or any key is missing, unexpected or misshapen (all of them are named).
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no pocket model at {path}; reinstall the package or train one: talking-portrait train pocket"
        )
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    if "parameters" not in metadata:
        raise ValueError(f"{path} is not a pocket model: its metadata has no 'parameters'")
    parameters = PocketParameters.from_dict(json.loads(metadata["parameters"]))
    with torch.device("meta"):
        model = PocketModel(parameters)
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    state = with_shared_rotary(state, parameters.denoiser.layers)
    require_matching_keys(model.state_dict(), state, str(path))
    model.load_state_dict(state, assign=True)
    return model.eval()


def with_shared_rotary(state: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Return the state with the one stored rotary vector listed under every layer, as the module names it."""
    name = "denoiser.layers.{}.2.fn.fn.rotary_emb.freqs"
    if name.format(0) not in state:
        return state
    return {**state, **{name.format(layer): state[name.format(0)] for layer in range(layers)}}


def require_matching_keys(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], source: str
) -> None:
    """Raise ValueError naming every missing, unexpected and misshapen key, unless there are none."""
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    misshapen = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(found))
        if found[name].shape != expected[name].shape
    ]
    if missing or unexpected or misshapen:
        raise ValueError(
            f"{source} does not fit the model. Missing: {missing or 'none'}. "
            f"Unexpected: {unexpected or 'none'}. Misshapen: {misshapen or 'none'}."
        )
