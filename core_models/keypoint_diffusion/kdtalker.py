"""KDTalker: its denoiser with the statistics of its motion, from the published files or from our own training."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import torch
from torch import Tensor, nn

from ..audio.wav2lip_mel import VIDEO_FPS
from ..key_tables import KEY_TABLES
from ..strict_loading import UnreadableWeightsError, load_strict, read_metadata, read_weights
from .choices import PARAMETERS_ENTRY
from .denoiser import SHARED_ROTARY, Denoiser, DenoiserParameters, with_shared_rotary
from .motion_vectors import MotionStatistics, read_statistics

KDTALKER_FPS = VIDEO_FPS
KDTALKER_STEPS = 10
"""The paper's Table 6: lips are in sync at 5 to 10 steps as well as at 50."""
_STATISTICS = "statistics."


class KDTalkerModel(nn.Module):
    """A denoiser over the 70 numbers of `motion_vectors`, and what its numbers mean.

    The statistics are no tensors of the module, so that half precision does not touch them.
    """

    def __init__(self, parameters: DenoiserParameters, statistics: MotionStatistics) -> None:
        super().__init__()
        self.denoiser = Denoiser(parameters)
        self.statistics = statistics

    @property
    def parameters_used(self) -> DenoiserParameters:
        return self.denoiser.parameters_used

    def prefix(self, canonical: Tensor, reference: Tensor) -> Tensor:
        """Return the clean tokens (B, P, 70) of canonical and reference motion tokens (B, 70)."""
        tokens = [canonical, reference] if self.parameters_used.canonical_token else [reference]
        return torch.stack(tokens, dim=1)


def load_kdtalker(
    path: str | os.PathLike[str], statistics_path: str | os.PathLike[str] | None = None
) -> KDTalkerModel:
    """Return the model of KDTalker's published file, or of a safetensors file that our training exported.

    statistics_path: `norm.npz`, which the published file needs and ours holds.
    Raises what `load_strict` and `read_statistics` raise, and ValueError for a published file without statistics.
    """
    own = _own_parameters(path)
    if own is not None:
        return _load_exported(path, own)
    if statistics_path is None:
        raise ValueError(f"{path} holds no statistics of its motion: KDTalker's norm.npz is needed beside it")
    statistics = read_statistics(statistics_path)
    parameters = DenoiserParameters()
    denoiser = load_strict(lambda: Denoiser(parameters), path, KEY_TABLES["kdtalker_pth"], torch.float32)
    return _assembled(parameters, statistics, denoiser)


def _assembled(
    parameters: DenoiserParameters, statistics: MotionStatistics, denoiser: Denoiser
) -> KDTalkerModel:
    with torch.device("meta"):
        model = KDTalkerModel(parameters, statistics)
    model.denoiser = denoiser
    return model.eval().requires_grad_(False)


def _own_parameters(path: str | os.PathLike[str]) -> DenoiserParameters | None:
    if not str(path).lower().endswith(".safetensors"):
        return None
    text = read_metadata(path).get(PARAMETERS_ENTRY)
    if text is None:
        return None
    try:
        return DenoiserParameters(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise UnreadableWeightsError(f"{path}: its sizes ({text[:80]}) cannot be read: {error}") from error


def _load_exported(path: str | os.PathLike[str], parameters: DenoiserParameters) -> KDTalkerModel:
    tensors = read_weights(path).tensors
    names = ("motion_mean", "motion_std", "canonical_mean", "canonical_std")
    missing = [_STATISTICS + name for name in names if _STATISTICS + name not in tensors]
    if missing:
        raise UnreadableWeightsError(f"{path} lacks {', '.join(missing)}: export the training run again")
    statistics = MotionStatistics(**{name: tensors[_STATISTICS + name].double().numpy() for name in names})
    table = {f"{_STATISTICS}*": None, "denoiser.*": "*"}
    denoiser = load_strict(
        lambda: Denoiser(parameters),
        path,
        table,
        torch.float32,
        lambda state: with_shared_rotary(state, parameters.layers),
    )
    return _assembled(parameters, statistics, denoiser)


def exported_tensors(model: KDTalkerModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file that `load_kdtalker` reads."""
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    for layer in range(1, model.parameters_used.layers):  # one tensor under many names is stored once
        state.pop("denoiser." + SHARED_ROTARY.format(layer), None)
    for name, values in asdict(model.statistics).items():
        state[_STATISTICS + name] = torch.from_numpy(values.copy())
    return state, {PARAMETERS_ENTRY: json.dumps(asdict(model.parameters_used))}
