"""The models that turn speech into motion: where their files are, and the networks from the shared cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core_models.keypoint_diffusion.choices import PARAMETERS_ENTRY, TAKIN_ADA_ENTRY
from ..core_models.types import (
    IMPLICIT_KEYPOINTS,
    KDTALKER,
    POCKET,
    TAKIN_ADA,
    KeypointDiffusionModels,
    ModelHandle,
)
from .host import host
from .input_files import file_fingerprint
from .model_cache import model_cache
from .renderer_models import chosen_precision
from .weight_files import found_files
from .weights import find_weight

if TYPE_CHECKING:
    from ..core_models.audio.wav2lip_encoder import Wav2LipSpeechEncoder

POCKET_CHOICE, KDTALKER_CHOICE = "pocket (embedded)", "KDTalker"
TRAINED_ENTRIES = {KDTALKER: PARAMETERS_ENTRY, TAKIN_ADA: TAKIN_ADA_ENTRY}
"""Folder of models trained here -> the entry of a file's metadata that says it is one."""
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

    The last are what `talking-portrait train kdtalker export` and `train takin-ada speech` write, in the `kdtalker` and
    `takin_ada` folders of a models folder.
    """
    return [POCKET_CHOICE, KDTALKER_CHOICE, *sorted(_trained_files())]


def _trained_files() -> dict[str, tuple[str, Path]]:
    """Return {file name: (kind, path)}; the second of two files of one name goes by its folder too."""
    files: dict[str, tuple[str, Path]] = {}
    for kind, entry in TRAINED_ENTRIES.items():
        for folder in host().model_folders(kind):
            for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
                if entry not in safetensors_metadata(path):
                    continue
                taken = files.get(path.name, (kind, path))[0] != kind
                files.setdefault(f"{kind}/{path.name}" if taken else path.name, (kind, path))
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
    found = _trained_files().get(choice)
    return "" if found is None else file_fingerprint(found[1])


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
    trained = _trained_files()
    if choice != KDTALKER_CHOICE and choice not in trained:
        raise ValueError(f"there is no model {choice!r}; here are: {', '.join(model_choices())}")
    if choice in trained:
        kind, path = trained[choice]
        handle = ModelHandle(kind, str(path), dtype, stamp=file_fingerprint(path))
        if kind == TAKIN_ADA:
            return _takin_ada_models(handle)
        rows = {"wav2lip.pth": KDTALKER_ROWS["wav2lip.pth"]}
        paths = found_files(rows, KDTALKER, LOADER, _ADVICE, download, progress)
    else:
        paths = found_files(KDTALKER_ROWS, KDTALKER, LOADER, _ADVICE, download, progress)
        further = (str(paths["norm.npz"]),)
        handle = ModelHandle(KDTALKER, str(paths["KDTalker.pth"]), dtype, further_paths=further)
    return _kdtalker_models(handle, paths["wav2lip.pth"], compiled)


def _kdtalker_models(denoiser: ModelHandle, encoder: Path, compiled: bool) -> KeypointDiffusionModels:
    return KeypointDiffusionModels(
        KDTALKER,
        denoiser,
        ModelHandle(SPEECH_ENCODER_ROW, str(encoder)),
        compiled,
        space=IMPLICIT_KEYPOINTS,
    )


def _takin_ada_models(handle: ModelHandle) -> KeypointDiffusionModels:
    """Return the models of a Takin-ADA file, whose metadata tells what it hears and what it makes."""
    from ..core_models.audio.embedding import HUBERT, LOG_MEL

    sizes = json.loads(safetensors_metadata(Path(handle.path)).get(TAKIN_ADA_ENTRY, "{}"))
    return KeypointDiffusionModels(
        TAKIN_ADA,
        handle,
        space=sizes.get("layout", {}).get("space", IMPLICIT_KEYPOINTS),
        audio_encoder=LOG_MEL if sizes.get("listener") else HUBERT,
    )


def encoder_of(models: KeypointDiffusionModels | None) -> str:
    """Return the name of the audio encoder that a model needs; without a model the pocket model's."""
    from ..core_models.audio.embedding import HUBERT, LOG_MEL, WAV2LIP

    if models is None:
        return LOG_MEL
    return models.audio_encoder or {POCKET: LOG_MEL, KDTALKER: WAV2LIP, TAKIN_ADA: HUBERT}[models.kind]


@contextmanager
def keypoint_diffusion_network(models: KeypointDiffusionModels) -> Iterator[Any]:
    """Give the PocketModel, KDTalkerModel or TakinADAModel from the shared cache, for use in a `with`."""
    with model_cache().use(models.denoiser, _loaders()[models.kind]) as network:
        yield network


def _loaders() -> dict[str, Callable[[ModelHandle], Any]]:
    from ..core_models.keypoint_diffusion.kdtalker import load_kdtalker
    from ..core_models.keypoint_diffusion.loading import load_pocket
    from ..core_models.keypoint_diffusion.takin_ada_loading import load_takin_ada

    return {
        POCKET: lambda handle: load_pocket(handle.path),
        KDTALKER: lambda handle: load_kdtalker(handle.path, next(iter(handle.further_paths), None)),
        TAKIN_ADA: lambda handle: load_takin_ada(handle.path),
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
