"""Takin-ADA's second stage from and to a safetensors file; there are no published weights, so the layout is ours."""

from __future__ import annotations

import json
import os

import torch
from torch import Tensor

from ..strict_loading import UnreadableWeightsError, load_strict, read_metadata
from .choices import TAKIN_ADA_ENTRY
from .takin_ada import TakinADAModel, TakinADAParameters

STATISTICS = (
    *("motion_mean", "motion_std", "source_mean", "source_std"),
    *("neutral_emotion", "affective_vectors"),
)
"""Kept in float32 whatever the weights are in."""


def load_takin_ada(path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> TakinADAModel:
    """Return the model of a file that our training exported, on the CPU, in evaluation mode; its metadata holds the
    sizes.

    Raises FileNotFoundError, and ValueError for a file of another kind or any key that is missing, unexpected or
    misshapen (all of them are named).
    """
    text = read_metadata(path).get(TAKIN_ADA_ENTRY)
    if text is None:
        raise UnreadableWeightsError(
            f"{path} is not a Takin-ADA model of 'talking-portrait train takin-ada': its metadata has no sizes"
        )
    try:
        parameters = TakinADAParameters.from_dict(json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableWeightsError(f"{path}: its sizes ({text[:80]}) cannot be read: {error}") from error
    return load_strict(lambda: TakinADAModel(parameters), path, dtype=dtype).eval().requires_grad_(False)


def exported_tensors(model: TakinADAModel, half: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file that `load_takin_ada` reads. half: weights in float16."""
    tensors = {
        name: (value if name in STATISTICS or not half else value.half()).detach().contiguous()
        for name, value in model.state_dict().items()
    }
    return tensors, {TAKIN_ADA_ENTRY: json.dumps(model.parameters_used.to_dict())}
