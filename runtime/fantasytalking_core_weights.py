"""FantasyTalking's audio weights for models that ComfyUI loaded: where the file is, and the network ComfyUI manages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fantasytalking_adapter_files import ADAPTER_ROWS, chosen_adapter
from .fantasytalking_models import SYSTEM
from .host import host
from .weight_files import found_files

if TYPE_CHECKING:
    from ..core_models.video_diffusion.fantasytalking.audio_adapter import AudioAdapter

LOADING_NODE = "Load FantasyTalking Adapter"
_PREFERRED = tuple(reversed(ADAPTER_ROWS))
"""The smallest form, which is also the one that is fetched, first."""


class OutsideComfyUIError(RuntimeError):
    """What needs ComfyUI's own models was asked for elsewhere."""


def require_comfyui(node: str) -> None:
    """Raise OutsideComfyUIError unless this process is ComfyUI. node: what the user wants to run."""
    if not host().in_comfyui:
        raise OutsideComfyUIError(
            f"{node} works on ComfyUI's own models and runs in ComfyUI only: elsewhere use Load FantasyTalking and "
            "FantasyTalking Sampler"
        )


@dataclass(frozen=True)
class CoreAdapter:
    """The audio weights of FantasyTalking for models that ComfyUI loaded.

    weights: the network parts. patcher: ComfyUI's ModelPatcher of the branch. source: the file.
    """

    weights: AudioAdapter
    patcher: Any
    source: str


def adapter_path(
    choice: str, download: bool = False, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Return the file of the audio weights: "automatic", whichever is here, or one form by its file's name.

    download: fetch it when it is missing. Raises WeightNotFoundError (an OSError) that says where it comes from, and
    ValueError for another choice.
    """

    def find() -> Path:
        rows = {"audio weights": _PREFERRED}
        advice = "Wan itself comes from ComfyUI's Load Diffusion Model"
        return found_files(rows, SYSTEM, LOADING_NODE, advice, download, progress)["audio weights"]

    return chosen_adapter(choice, find, download, progress)


def load_core_adapter(path: str) -> CoreAdapter:
    """Return the audio weights of a file, their branch under ComfyUI's memory management.

    Weights in half precision stay as they are; others are brought to what ComfyUI computes with on its device. Raises
    what `load_audio_adapter` raises, and OutsideComfyUIError.
    """
    require_comfyui(LOADING_NODE)
    import torch

    from ..core_models.video_diffusion.fantasytalking.audio_adapter import load_audio_adapter

    management, patcher_module = (
        sys.modules[f"comfy.{name}"] for name in ("model_management", "model_patcher")
    )
    device = management.get_torch_device()
    # ComfyUI's own layers can be left in main memory, one by one, and are brought to the input's precision.
    weights = load_audio_adapter(path, linear=sys.modules["comfy.ops"].manual_cast.Linear)
    if next(weights.branch.parameters()).dtype == torch.float32:
        count = sum(weight.numel() for weight in weights.branch.parameters())
        weights.branch.to(management.unet_dtype(device=device, model_params=count))
    offload = management.unet_offload_device()
    patcher = patcher_module.ModelPatcher(weights.branch, device, offload)
    return CoreAdapter(weights, patcher, Path(path).name)
