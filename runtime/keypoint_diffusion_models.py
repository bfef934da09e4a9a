"""The models that turn speech into motion: where their files are, and the networks from the shared cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core_models.keypoint_diffusion.choices import PARAMETERS_ENTRY
from ..core_models.types import KDTALKER, POCKET, KeypointDiffusionModels, ModelHandle
from .host import host
from .input_files import file_fingerprint
from .model_cache import model_cache
from .renderer_models import chosen_precision
from .weight_files import found_files
from .weights import find_weight

if TYPE_CHECKING:
    from ..core_models.audio.wav2lip_encoder import Wav2LipSpeechEncoder

POCKET_CHOICE, KDTALKER_CHOICE = "pocket (embedded)", "KDTalker"
LOADER = "Load Keypoint Diffusion"
SPEECH_ENCODER_ROW = "kdtalker_wav2lip"
KDTALKER_ROWS: dict[str, tuple[str, ...]] = {
    "KDTalker.pth": ("kdtalker",),
    "norm.npz": ("kdtalker_norm",),
    "wav2lip.pth": (SPEECH_ENCODER_ROW,),
}
"""File, as people know it -> the manifest rows that will do."""
LARGEST_HEADER = 100_000_000
_ADVICE = f"To go on without them, choose '{POCKET_CHOICE}' in {LOADER}"


def model_choices() -> list[str]:
    """Return what can be chosen: the embedded model, KDTalker, and models trained here, by their files' names.

    The last are what `talking-portrait train kdtalker export` writes, in the `kdtalker` folder of a models folder.
    """
    return [POCKET_CHOICE, KDTALKER_CHOICE, *sorted(_trained_files())]


def _trained_files() -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in host().model_folders(KDTALKER):
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
            if PARAMETERS_ENTRY in safetensors_metadata(path):
                files.setdefault(path.name, path)
    return files


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, read without torch; nothing for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if 0 < size <= LARGEST_HEADER else {}
    except (OSError, ValueError):
        return {}
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return metadata if isinstance(metadata, dict) else {}


def trained_file_stamp(choice: str) -> str:
    """Return a text that changes when a trained model's file does; empty for the other choices."""
    path = _trained_files().get(choice)
    return "" if path is None else file_fingerprint(path)


def keypoint_diffusion_models(
    choice: str,
    precision: str = "auto",
    compiled: bool = False,
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> KeypointDiffusionModels:
    """Return handles of a model of `model_choices`.

    precision: of KDTalker's denoiser; "auto" is float32, whose steps are short beside a frame's. compiled: let
    torch.compile work on it first. download: fetch what is missing.
    Raises WeightNotFoundError (an OSError) that lists every missing file and the command that fetches them, and
    ValueError for another choice.
    """
    if choice == POCKET_CHOICE:
        return KeypointDiffusionModels(POCKET, ModelHandle(POCKET, str(find_weight(POCKET))))
    dtype = chosen_precision("float32" if precision == "auto" else precision)
    if choice == KDTALKER_CHOICE:
        paths = found_files(KDTALKER_ROWS, KDTALKER, LOADER, _ADVICE, download, progress)
        denoiser = ModelHandle(
            KDTALKER, str(paths["KDTalker.pth"]), dtype, further_paths=(str(paths["norm.npz"]),)
        )
        return _kdtalker_models(denoiser, paths["wav2lip.pth"], compiled)
    trained = _trained_files()
    if choice not in trained:
        raise ValueError(f"there is no model {choice!r}; here are: {', '.join(model_choices())}")
    rows = {"wav2lip.pth": KDTALKER_ROWS["wav2lip.pth"]}
    paths = found_files(rows, KDTALKER, LOADER, _ADVICE, download, progress)
    return _kdtalker_models(
        ModelHandle(KDTALKER, str(trained[choice]), dtype, stamp=trained_file_stamp(choice)),
        paths["wav2lip.pth"],
        compiled,
    )


def _kdtalker_models(denoiser: ModelHandle, encoder: Path, compiled: bool) -> KeypointDiffusionModels:
    return KeypointDiffusionModels(
        KDTALKER, denoiser, ModelHandle(SPEECH_ENCODER_ROW, str(encoder)), compiled
    )


def encoder_of(models: KeypointDiffusionModels | None) -> str:
    """Return the name of the audio encoder that a model needs; without a model the pocket model's."""
    from ..core_models.audio.embedding import LOG_MEL, WAV2LIP

    return WAV2LIP if models is not None and models.kind == KDTALKER else LOG_MEL


@contextmanager
def keypoint_diffusion_network(models: KeypointDiffusionModels) -> Iterator[Any]:
    """Give the PocketModel or the KDTalkerModel from the shared cache, for use in a `with`."""
    with model_cache().use(models.denoiser, _loaders()[models.kind]) as network:
        yield network


def _loaders() -> dict[str, Callable[[ModelHandle], Any]]:
    from ..core_models.keypoint_diffusion.kdtalker import load_kdtalker
    from ..core_models.keypoint_diffusion.loading import load_pocket

    return {
        POCKET: lambda handle: load_pocket(handle.path),
        KDTALKER: lambda handle: load_kdtalker(handle.path, next(iter(handle.further_paths), None)),
    }


@contextmanager
def speech_encoder(models: KeypointDiffusionModels | None = None) -> Iterator[Wav2LipSpeechEncoder]:
    """Give Wav2Lip's speech encoder from the shared cache, for use in a `with`.

    models: whose encoder; None finds the published file. Raises WeightNotFoundError when it is not here.
    """
    from ..core_models.audio.wav2lip_encoder import load_wav2lip_encoder

    handle = None if models is None else models.speech_encoder
    handle = handle or ModelHandle(SPEECH_ENCODER_ROW, str(find_weight(SPEECH_ENCODER_ROW)))
    with model_cache().use(handle, lambda wanted: load_wav2lip_encoder(wanted.path)) as network:
        yield network
