"""FantasyTalking from files: the published audio weights on Wan, and models trained here in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import torch
from torch import Tensor

from ...key_tables import KEY_TABLES
from ...strict_loading import (
    PICKLE_SUFFIXES,
    load_strict,
    map_keys,
    read_sizes,
    read_weights,
    require_matching_keys,
    require_no_meta_tensors,
)
from ..wan.float8_linear import Float8Linear
from ..wan.loading import WAN_ORIGINAL, load_wan_transformer
from ..wan.transformer import kept_in_float32
from ..wan.weight_shards import WeightPaths
from .model import FantasyTalkingModel
from .parameters import PUBLISHED_FANTASYTALKING, FantasyTalkingParameters

FANTASYTALKING_ENTRY = "fantasytalking"
"""Entry of a file's metadata that holds the sizes of a model trained here."""
CKPT, SAFETENSORS, KIJAI = "fantasytalking_ckpt", "fantasytalking_safetensors", "fantasytalking_kijai"
"""Layouts of the published audio weights."""

_TRANSFORMER = "transformer."
_PROJECTION_FILE, _PROJECTION = "proj_model.*", "audio_projection.*"


def audio_layout(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> str:
    """Return which of the three layouts a file of audio weights has, by its keys and its kind."""
    if any(name.startswith("audio_processor.") for name in tensors):
        return CKPT if os.fspath(path).lower().endswith(tuple(PICKLE_SUFFIXES)) else SAFETENSORS
    return KIJAI


def read_audio_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the published audio weights of a file, in any of their layouts, by the keys of `FantasyTalkingModel`.

    Raises FileNotFoundError, and UnreadableWeightsError for a damaged file.
    """
    tensors = read_weights(path).tensors
    tensors = map_keys(tensors, KEY_TABLES[audio_layout(tensors, path)], str(path))
    tensors = map_keys(tensors, {**WAN_ORIGINAL, _PROJECTION_FILE: _PROJECTION}, str(path))
    return {
        name if name.startswith("audio_projection.") else _TRANSFORMER + name: value
        for name, value in tensors.items()
    }


def load_fantasytalking(
    wan_paths: WeightPaths,
    audio_path: str | os.PathLike[str],
    dtype: torch.dtype = torch.bfloat16,
    parameters: FantasyTalkingParameters = PUBLISHED_FANTASYTALKING,
    keep_float8: bool = True,
) -> FantasyTalkingModel:
    """Return the published model: Wan from its files and the audio weights from theirs, frozen, on the CPU.

    wan_paths, dtype, keep_float8: as of `load_wan_transformer`. audio_path: the released .ckpt, its safetensors form,
    or Kijai's. parameters: sizes, without the branches that the release lacks.
    Raises FileNotFoundError, and ValueError for a file of another kind or any key that is missing, unexpected or
    misshapen (all of them are named).
    """
    absent = [parameters.identity, parameters.intensity, parameters.portrait_encoder]
    if any(part is not None for part in absent):
        raise ValueError(
            "the published files hold no identity branch and no intensity network: leave them None"
        )
    audio = read_audio_weights(audio_path)
    with torch.device("meta"):
        model = FantasyTalkingModel(parameters)
    expected = {name: value for name, value in model.state_dict().items() if _is_added(name)}
    require_matching_keys(expected, audio, str(audio_path))
    transformer = load_wan_transformer(wan_paths, dtype, parameters.wan, keep_float8)
    with torch.device("meta"):
        model = FantasyTalkingModel(parameters, transformer)
    model.load_state_dict(in_precision(audio, dtype), assign=True, strict=False)
    return require_no_meta_tensors(model).eval().requires_grad_(False)


def _is_added(name: str) -> bool:
    return ".processor." in name or not name.startswith(_TRANSFORMER)


def fantasytalking_parameters(path: str | os.PathLike[str]) -> FantasyTalkingParameters:
    """Return the sizes of a model that was trained here, read without its weights.

    Raises FileNotFoundError, and UnreadableWeightsError (a ValueError) for a file of another kind.
    """
    kind = "a FantasyTalking model of 'talking-portrait train fantasytalking'"
    return read_sizes(path, FANTASYTALKING_ENTRY, FantasyTalkingParameters.from_dict, kind)


def load_fantasytalking_file(
    path: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> FantasyTalkingModel:
    """Return a model that was trained here, from its one file, frozen, on the CPU, in evaluation mode.

    dtype: of the blocks; the rest is in float32. Raises FileNotFoundError, and ValueError for a file of another kind or
    any key that is missing, unexpected or misshapen (all of them are named).
    """
    parameters = fantasytalking_parameters(path)
    model = load_strict(
        lambda: FantasyTalkingModel(parameters), path, adapt=lambda state: in_precision(state, dtype)
    )
    return model.requires_grad_(False)


def in_precision(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a model's state with the blocks in a precision; what lies outside of them, and what they scale and shift
    with, in float32."""
    return {
        name: value.to(torch.float32 if stays_in_float32(name) else dtype)
        if value.is_floating_point()
        else value
        for name, value in state.items()
    }


def stays_in_float32(name: str) -> bool:
    """Return whether a weight of the model, by its key, is in float32 in any precision."""
    return not name.startswith(_TRANSFORMER) or kept_in_float32(name.removeprefix(_TRANSFORMER))


def exported_tensors(
    model: FantasyTalkingModel, half: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file that `load_fantasytalking_file` reads.

    half: the blocks' weights in float16. Raises ValueError for a model whose weights lie in 8 bits.
    """
    if any(isinstance(module, Float8Linear) for module in model.modules()):
        raise ValueError("weights in 8 bits are not exported: export the model before they are rounded")
    state = in_precision(model.state_dict(), torch.float16 if half else torch.float32)
    tensors = {name: value.detach().contiguous() for name, value in state.items()}
    return tensors, {FANTASYTALKING_ENTRY: json.dumps(model.parameters_used.to_dict())}
