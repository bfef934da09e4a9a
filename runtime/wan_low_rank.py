"""LoRA files on this machine as a part of a Wan's handle: found, and told from those of other models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core_models.low_rank_file import LowRankFile
from ..core_models.wan_types import WAN, WanModels
from .input_files import file_fingerprint, named_model_path

if TYPE_CHECKING:
    from ..core_models.video_diffusion.wan.transformer import WanParameters

FOLDER = "loras"
"""Where ComfyUI has LoRAs in a models folder."""


def low_rank_path(file: str) -> Path:
    """Return the path of a LoRA file that a workflow names: its name in a `loras` folder, or a path; see
    `named_model_path`.

    Raises OSError for a file that is not there or may not be read, and ValueError for an empty text or a folder.
    """
    if not file.strip():
        raise ValueError(
            f"name a LoRA file: its name in the {FOLDER} folder of a models folder, or its path there"
        )
    path = named_model_path(file.strip(), FOLDER)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name one LoRA file in it")
    return path


def low_rank_stamp(file: str) -> str:
    """Return a text that changes when a LoRA file is replaced; empty while it is not here. file: a name or a path."""
    try:
        return file_fingerprint(low_rank_path(file))
    except (OSError, ValueError):
        return ""


def with_low_rank_file(wan: WanModels, file: str, strength: float = 1.0) -> WanModels:
    """Return the handles of a Wan with a LoRA more; of strength 0 those that were given.

    file: a name or a path, as of `low_rank_path`. Its header is read and compared with the Wan's sizes.
    Raises what `low_rank_path` raises, and ValueError for a strength that is no finite number, a damaged file, or one
    that was made for another model: all its keys that do not fit are named.
    """
    path = low_rank_path(file)  # before the imports, which take seconds
    added = LowRankFile(str(path), strength, file_fingerprint(path))
    from ..core_models.video_diffusion.wan.low_rank_files import refuse_other_low_rank_files

    refuse_other_low_rank_files(path, _sizes(wan))
    if not strength:
        return wan
    files = (*wan.transformer.low_rank_files, added)
    return replace(wan, transformer=replace(wan.transformer, low_rank_files=files))


def _sizes(wan: WanModels) -> WanParameters:
    """Return the sizes of a Wan's transformer, read without its weights."""
    from ..core_models.video_diffusion.fantasytalking.loading import fantasytalking_parameters
    from ..core_models.video_diffusion.wan.transformer import WAN_I2V_14B

    return WAN_I2V_14B if wan.kind == WAN else fantasytalking_parameters(wan.transformer.path).wan
