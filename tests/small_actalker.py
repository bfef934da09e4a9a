"""A small ACTalker with random weights, as files of a models folder: of the sizes of the one that is embedded."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from talking_portrait.core_models.video_diffusion.actalker.loading import exported_tensors
from talking_portrait.core_models.video_diffusion.actalker.model import ACTalkerModel
from talking_portrait.core_models.video_diffusion.autoencoder import (
    autoencoder_metadata,
    new_video_autoencoder,
)
from talking_portrait.training.actalker_autoencoder import SMALL_AUTOENCODER
from talking_portrait.training.actalker_run import small_parameters

HEARD_LAYERS, HEARD_CHANNELS = 6, 192
"""What the pocket model's ear gives."""


def write_small_actalker(folder: Path, name: str = "mine", seed: int = 0) -> Path:
    """Write NAME.safetensors and NAME_autoencoder.safetensors into a folder and return the first one's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ACTalkerModel(small_parameters(HEARD_LAYERS, HEARD_CHANNELS))
        autoencoder = new_video_autoencoder(SMALL_AUTOENCODER)
    tensors, metadata = exported_tensors(model)
    save_file(tensors, folder / f"{name}.safetensors", metadata)
    save_file(
        autoencoder.state_dict(),
        folder / f"{name}_autoencoder.safetensors",
        autoencoder_metadata(SMALL_AUTOENCODER),
    )
    return folder / f"{name}.safetensors"
