"""FantasyTalking's published audio weights on their own, for a Wan that somebody else loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...strict_loading import UnreadableWeightsError, require_matching_keys
from .audio_projection import AudioProjection, AudioProjectionParameters
from .core_attention import SoundBranch
from .loading import read_audio_weights

_PROJECTION = "audio_projection."
_BLOCK = re.compile(r"transformer\.blocks\.(\d+)\.attn2\.processor\.([kv]_proj\.weight)")


@dataclass(frozen=True)
class AudioAdapter:
    """What FantasyTalking adds to Wan, frozen, on the CPU.

    projection: features of speech to tokens, float32. branch: keys and values of every block.
    """

    projection: AudioProjection
    branch: SoundBranch


def load_audio_adapter(
    path: str | os.PathLike[str], dtype: torch.dtype | None = None, linear: type[nn.Module] = nn.Linear
) -> AudioAdapter:
    """Return the audio weights of a file: the released .ckpt, its safetensors form, or Kijai's.

    dtype: of the branch; None is the file's. linear: the class of its layers, called as torch.nn.Linear. The sizes are
    those of the weights; the published file has 40 blocks of width 5120, 80 + 3 tensors.
    Raises FileNotFoundError, and ValueError for a damaged file, one of another kind, or any key that is missing,
    unexpected or misshapen (all of them are named).
    """
    weights = read_audio_weights(path)
    projection = {
        key.removeprefix(_PROJECTION): v for key, v in weights.items() if key.startswith(_PROJECTION)
    }
    branch = {_block_key(key): value for key, value in weights.items() if not key.startswith(_PROJECTION)}
    with torch.device("meta"):
        adapter = _of_sizes(branch, projection, path, linear)
    for part, found in ((adapter.branch, branch), (adapter.projection, projection)):
        require_matching_keys(part.state_dict(), found, str(path))
    adapter.branch.load_state_dict({key: value.to(dtype) for key, value in branch.items()}, assign=True)
    adapter.projection.load_state_dict({key: v.float() for key, v in projection.items()}, assign=True)
    for part in (adapter.branch, adapter.projection):
        part.eval().requires_grad_(False)
    return adapter


def _block_key(key: str) -> str:
    """Return the branch's own name of a key; others stay, so that they are reported."""
    found = _BLOCK.fullmatch(key)
    return key if found is None else f"blocks.{found[1]}.{found[2]}"


def _of_sizes(
    branch: Mapping[str, Tensor],
    projection: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    linear: type[nn.Module],
) -> AudioAdapter:
    """Return an adapter as large as the weights say."""
    first, proj = branch.get("blocks.0.k_proj.weight"), projection.get("proj.weight")
    if first is None or proj is None or first.ndim != 2 or proj.ndim != 2:
        raise UnreadableWeightsError(
            f"{path} does not hold FantasyTalking's audio weights: choose fantasytalking_model.ckpt, its safetensors "
            "form, or fantasytalking_fp16.safetensors"
        )
    numbers = [int(key.split(".")[1]) for key in branch if key.startswith("blocks.")]
    width, audio_width = first.shape
    sizes = AudioProjectionParameters(channels=proj.shape[1], width=proj.shape[0])
    return AudioAdapter(AudioProjection(sizes), SoundBranch(max(numbers) + 1, width, audio_width, linear))
