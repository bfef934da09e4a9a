"""Models that were trained here, found by what their files' metadata says, and handles that tell versions apart."""

from __future__ import annotations

from pathlib import Path

from ..core_models.types import ModelHandle
from .host import host
from .input_files import file_fingerprint
from .keypoint_diffusion_models import safetensors_metadata

AUTOENCODER_ENDING = "_autoencoder.safetensors"
"""A model trained here, NAME.safetensors, brings an autoencoder of its own as NAME_autoencoder.safetensors."""


def trained_files(folder_name: str, entry: str) -> dict[str, Path]:
    """Return {file name: path} of the models trained here; of two of one name the first.

    folder_name: the folder of a models folder in which they are looked for. entry: of the metadata, which tells them
    from other files.
    """
    files: dict[str, Path] = {}
    for folder in host().model_folders(folder_name):
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
            if entry in safetensors_metadata(path):
                files.setdefault(path.name, path)
    return files


def stamped_handle(name: str, path: Path, dtype: str, further_paths: tuple[Path, ...] = ()) -> ModelHandle:
    """Return the handle of a file, and further ones of its model, that may be written again under their names."""
    stamp = "".join(map(file_fingerprint, (path, *further_paths)))
    return ModelHandle(name, str(path), dtype, further_paths=tuple(map(str, further_paths)), stamp=stamp)


def autoencoder_beside(path: Path) -> Path | None:
    """Return the autoencoder that a model trained here brought along, None where it brought none."""
    own = path.with_name(path.stem + AUTOENCODER_ENDING)
    return own if own.is_file() else None
