"""ACTalker's files on this machine as model handles, and its networks from the shared cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core_models.types import ModelHandle
from ..core_models.video_types import (
    ACTALKER,
    ACTALKER_ENTRY,
    ACTALKER_POCKET,
    ARCFACE,
    PUBLISHED_PARTS,
    ACTalkerModels,
)
from .input_files import file_fingerprint
from .keypoint_diffusion_models import safetensors_metadata
from .model_cache import model_cache
from .renderer_models import chosen_precision
from .trained_files import autoencoder_beside, stamped_handle, trained_files
from .weight_files import found_or_explained
from .weights import find_weight

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder

    from ..core_models.face.recognition import FaceRecognitionNetwork
    from ..core_models.motion.expression_and_pose import ExpressionAndPoseNetworks
    from ..core_models.video_diffusion.actalker.model import ACTalkerModel, ACTalkerParameters

POCKET_CHOICE, ACTALKER_CHOICE = "pocket (embedded)", "ACTalker"
LOADER = "Load ACTalker"
SYSTEM = "actalker"
"""What to fetch, and the folder of a models folder in which models trained here are looked for."""
PUBLISHED_LISTENING = "whisper"
POCKET_AUTOENCODER = "actalker_pocket_autoencoder"
AUTOENCODER_ROW, RECOGNITION_ROW, EXPRESSION_ROW = "svd_xt_1_1_vae", "arcface_r50", "actalker_expression"
ACTALKER_ROWS: dict[str, str] = {
    **PUBLISHED_PARTS,
    "expression": EXPRESSION_ROW,
    "recognition": RECOGNITION_ROW,
    "autoencoder": AUTOENCODER_ROW,
    "speech encoder": "whisper_tiny",
}
"""All that the published model needs."""
_ADVICE = f"To go on without them, choose '{POCKET_CHOICE}' in {LOADER}"


def actalker_choices() -> list[str]:
    """Return what can be chosen: the embedded model, ACTalker, and models trained here, by their files' names.

    The last are what `talking-portrait train actalker export` writes, in the `actalker` folder of a models folder.
    """
    return [POCKET_CHOICE, ACTALKER_CHOICE, *sorted(_trained_files())]


def _trained_files() -> dict[str, Path]:
    return trained_files(SYSTEM, ACTALKER_ENTRY)


def trained_actalker_stamp(choice: str) -> str:
    """Return a text that changes when a trained model's files do; empty for the other choices."""
    path = _trained_files().get(choice)
    return "" if path is None else file_fingerprint(path) + file_fingerprint(_autoencoder_of(path))


def actalker_models(
    choice: str,
    precision: str = "auto",
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ACTalkerModels:
    """Return handles of a model of `actalker_choices`.

    precision: of the model and the autoencoder; "auto" is float16 on CUDA for the published one, else float32; what
    reads identities and films is float32. download: fetch what is missing and can be fetched.
    Raises WeightNotFoundError (an OSError) that lists every missing file and where it comes from, and ValueError for
    another choice or precision.
    """
    trained = _trained_files()
    if choice == ACTALKER_CHOICE:
        paths = found_or_explained(ACTALKER_ROWS, SYSTEM, LOADER, _ADVICE, download, progress)
        return _published_models(paths, chosen_precision(precision))
    dtype = chosen_precision("float32" if precision == "auto" else precision)
    if choice == POCKET_CHOICE:
        model = ModelHandle(ACTALKER_POCKET, str(find_weight(ACTALKER_POCKET)), dtype)
        autoencoder = ModelHandle(POCKET_AUTOENCODER, str(find_weight(POCKET_AUTOENCODER)), dtype)
        return ACTalkerModels(ACTALKER_POCKET, model, autoencoder)
    if choice not in trained:
        raise ValueError(f"there is no model {choice!r}; here are: {', '.join(actalker_choices())}")
    return ACTalkerModels(
        ACTALKER_POCKET,
        stamped_handle(ACTALKER_POCKET, trained[choice], dtype),
        stamped_handle(POCKET_AUTOENCODER, _autoencoder_of(trained[choice]), dtype),
    )


def _published_models(paths: dict[str, Path], dtype: str) -> ACTalkerModels:
    further = tuple(str(paths[part]) for part in PUBLISHED_PARTS if part != "unet")
    return ACTalkerModels(
        ACTALKER,
        ModelHandle(ACTALKER, str(paths["unet"]), dtype, further_paths=further),
        ModelHandle(AUTOENCODER_ROW, str(paths["autoencoder"]), dtype),
        ModelHandle(RECOGNITION_ROW, str(paths["recognition"])),
        ModelHandle(EXPRESSION_ROW, str(paths["expression"])),
    )


def _autoencoder_of(path: Path) -> Path:
    """Return the autoencoder beside a model trained here, else the embedded one."""
    return autoencoder_beside(path) or find_weight(POCKET_AUTOENCODER)


def parameters_of(models: ACTalkerModels) -> ACTalkerParameters:
    """Return the sizes and defaults of a model, read without its weights."""
    from ..core_models.video_diffusion.actalker.loading import actalker_parameters
    from ..core_models.video_diffusion.actalker.model import ACTalkerParameters

    return ACTalkerParameters() if models.kind == ACTALKER else actalker_parameters(models.model.path)


def listening_encoder(models: ACTalkerModels) -> str:
    """Return the name of the audio encoder that a model needs, read without its networks' code.

    Raises ValueError for a file that is not a model trained here.
    """
    if models.kind == ACTALKER:
        return PUBLISHED_LISTENING
    text = safetensors_metadata(Path(models.model.path)).get(ACTALKER_ENTRY, "{}")
    try:
        return str(json.loads(text)["listening"]["encoder"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{models.model.path} does not say what it listens with: export it again") from error


def identity_encoder(models: ACTalkerModels) -> str:
    """Return what a model's identities come from: face recognition, or the model, by its file's name."""
    return ARCFACE if models.recognition is not None else Path(models.model.path).stem


@contextmanager
def actalker_model(models: ACTalkerModels) -> Iterator[ACTalkerModel]:
    """Give the UNet with its projections from the shared cache, for use in a `with`.

    Where the handle asks for `cpu_offload`, the UNet's blocks come to the device one at a time.
    """
    with model_cache().use(models.model, _loaded_model, _offloadable_blocks) as network:
        yield network


def _offloadable_blocks(model: ACTalkerModel) -> list[Any]:
    from ..core_models.video_diffusion.actalker.memory_plan import offloadable_blocks

    return offloadable_blocks(model.unet)


def _loaded_model(handle: ModelHandle) -> Any:
    import torch

    from ..core_models.video_diffusion.actalker.loading import load_actalker, load_published_actalker

    dtype = getattr(torch, handle.dtype)
    if handle.name != ACTALKER:
        return load_actalker(handle.path, dtype)
    paths = (handle.path, *handle.further_paths)
    return load_published_actalker(dict(zip(PUBLISHED_PARTS, paths, strict=True)), dtype)


@contextmanager
def actalker_autoencoder(models: ACTalkerModels) -> Iterator[AutoencoderKLTemporalDecoder]:
    """Give the video autoencoder from the shared cache, for use in a `with`."""
    import torch

    from ..core_models.video_diffusion.autoencoder import load_video_autoencoder

    def load(wanted: ModelHandle) -> Any:
        return load_video_autoencoder(wanted.path, getattr(torch, wanted.dtype))

    with model_cache().use(models.autoencoder, load) as network:
        yield network


@contextmanager
def face_recognition(models: ACTalkerModels) -> Iterator[FaceRecognitionNetwork]:
    """Give the face recognition network from the shared cache, for use in a `with`.

    Raises ValueError for a model that has its own portrait encoder.
    """
    from ..core_models.face.recognition import load_face_recognition

    if models.recognition is None:
        raise ValueError("this ACTalker needs no face recognition: it has a portrait encoder of its own")
    with model_cache().use(models.recognition, lambda wanted: load_face_recognition(wanted.path)) as network:
        yield network


@contextmanager
def expression_and_pose_networks(models: ACTalkerModels) -> Iterator[ExpressionAndPoseNetworks]:
    """Give the networks that read driving films from the shared cache, for use in a `with`.

    Raises ValueError for a model that takes motion as blendshapes.
    """
    from ..core_models.motion.expression_and_pose import load_expression_and_pose

    if models.expression is None:
        raise ValueError(
            "this ACTalker takes motion as blendshapes: read the film with Motion from Video and connect its motion"
        )
    with model_cache().use(
        models.expression, lambda wanted: load_expression_and_pose(wanted.path)
    ) as networks:
        yield networks
