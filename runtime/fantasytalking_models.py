"""Wan's and FantasyTalking's files on this machine as model handles, and their networks from the shared cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core_models.types import ModelHandle
from ..core_models.video_types import ARCFACE
from ..core_models.wan_types import (
    AUTOMATIC_ATTENTION,
    AUTOMATIC_MEMORY,
    FANTASYTALKING,
    FANTASYTALKING_POCKET,
    WAN,
    WAN_POCKET,
    FantasyTalkingModels,
    WanModels,
)
from .fantasytalking_adapter_files import ADAPTER_ROWS as ADAPTER_ROWS
from .fantasytalking_adapter_files import AUTOMATIC, chosen_adapter, require_adapter_choice
from .fantasytalking_adapter_files import adapter_choices as adapter_choices
from .input_files import named_model_path
from .keypoint_diffusion_models import safetensors_metadata
from .model_cache import model_cache
from .model_parts import FoundPart, found_parts
from .renderer_models import chosen_precision
from .trained_files import autoencoder_beside, stamped_handle, trained_files
from .weights import WeightNotFoundError, find_weight

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from transformers import CLIPVisionModel

    from ..core_models.face.recognition import FaceRecognitionNetwork
    from ..core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
    from ..core_models.video_diffusion.fantasytalking.parameters import FantasyTalkingParameters
    from ..core_models.video_diffusion.wan.prompt_encoder import PromptEncoder

POCKET_CHOICE, WAN_CHOICE = "pocket (embedded)", "Wan 2.1 I2V 14B"
WAN_LOADER, LOADER = "Load Wan", "Load FantasyTalking"
SYSTEM, WAN_SYSTEM = "fantasytalking", "wan21_i2v_14b"
"""What to fetch; the first is also the folder of a models folder in which models trained here are looked for."""
FANTASYTALKING_ENTRY = "fantasytalking"
"""Entry of a file's metadata that holds the sizes of a model trained here."""
PUBLISHED_LISTENING = "wav2vec2"
POCKET_AUTOENCODER = "fantasytalking_pocket_autoencoder"
RECOGNITION_ROW = "arcface_r50"
WAN_PARTS: dict[str, str] = {
    "transformer": "wan21_i2v_14b_bf16",
    "autoencoder": "wan21_i2v_14b_vae",
    "text encoder": "wan21_i2v_14b_text_encoder",
    "CLIP vision": "wan21_i2v_14b_clip",
}
"""Part of the published Wan -> a manifest row of it; rows of the same role are its other forms."""
ADAPTER_PART = {"audio weights": "fantasytalking"}
TOKENISER_PLACES = (
    *("tokenizer.json", "google/umt5-xxl/tokenizer.json", "umt5-xxl/tokenizer.json"),
    *("../tokenizer/tokenizer.json", "spiece.model", "google/umt5-xxl/spiece.model"),
    "../tokenizer/spiece.model",
)
"""Where the tokeniser lies, seen from the folder of the text encoder's file: in the release, in diffusers' form."""
_ADVICE = f"To go on without them, choose '{POCKET_CHOICE}' in {WAN_LOADER}"


def wan_choices() -> list[str]:
    """Return what can be chosen: the embedded model, the published Wan, and models trained here, by their files' names.

    The last are what `talking-portrait train fantasytalking export` writes, in the `fantasytalking` folder of a models
    folder.
    """
    return [POCKET_CHOICE, WAN_CHOICE, *sorted(_trained_files())]


def _trained_files() -> dict[str, Path]:
    return trained_files(SYSTEM, FANTASYTALKING_ENTRY)


def wan_stamp(choice: str, transformer: str = "") -> str:
    """Return a text that changes when one of a model's files is replaced; empty while not all are here.

    transformer: as for `wan_models`.
    """
    try:
        found = _wan_of(choice, "auto", transformer, False, None)
    except (OSError, ValueError):
        return ""
    parts = (found.transformer, found.autoencoder, found.text_encoder, found.clip_vision)
    return "".join(handle.stamp for handle in parts if handle is not None)


def _autoencoder_of(path: Path) -> Path:
    """Return the autoencoder beside a model trained here, else the embedded one."""
    return autoencoder_beside(path) or find_weight(POCKET_AUTOENCODER)


def wan_models(
    choice: str,
    precision: str = "auto",
    attention: str = AUTOMATIC_ATTENTION,
    transformer: str = "",
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
    memory: str = AUTOMATIC_MEMORY,
    eight_bits: bool = False,
) -> WanModels:
    """Return handles of a model of `wan_choices`.

    precision: of all its networks; "auto" is bfloat16 for the published one, as in the release, else float32.
    attention: one of ATTENTIONS. transformer: of the published one, another file of it: a path, or a name in a
    diffusion_models folder; a file, one of its shards, their index or their folder. download: fetch what is missing.
    memory: one of MEMORY_LEVELS. eight_bits: keep the blocks' weights in 8 bits, which is approximate.
    Raises WeightNotFoundError (an OSError) that lists every missing file and where it comes from, and ValueError for
    another choice, precision or attention, or a `transformer` that its header says is another model.
    """
    found = _wan_of(choice, precision, transformer, download, progress)
    stored = replace(found.transformer, eight_bits=eight_bits)
    return replace(found, transformer=stored, attention=attention, memory=memory)


def _wan_of(
    choice: str,
    precision: str,
    transformer: str,
    download: bool,
    progress: Callable[[int, int], None] | None,
) -> WanModels:
    trained = _trained_files()
    if choice == WAN_CHOICE:
        own = chosen_precision("bfloat16" if precision == "auto" else precision)
        return _published_wan(own, transformer.strip(), download, progress)
    if transformer.strip():
        raise ValueError(
            f"another transformer file ({transformer.strip()}) goes with '{WAN_CHOICE}' only: choose that, or leave it "
            "empty"
        )
    dtype = chosen_precision("float32" if precision == "auto" else precision)
    if choice == POCKET_CHOICE:
        model = ModelHandle(FANTASYTALKING_POCKET, str(find_weight(FANTASYTALKING_POCKET)), dtype)
        autoencoder = ModelHandle(POCKET_AUTOENCODER, str(find_weight(POCKET_AUTOENCODER)), dtype)
        return WanModels(WAN_POCKET, model, autoencoder)
    if choice not in trained:
        raise ValueError(f"there is no model {choice!r}; here are: {', '.join(wan_choices())}")
    path = trained[choice]
    return WanModels(
        WAN_POCKET,
        stamped_handle(FANTASYTALKING_POCKET, path, dtype),
        stamped_handle(POCKET_AUTOENCODER, _autoencoder_of(path), dtype),
    )


def _published_wan(
    dtype: str,
    transformer: str,
    download: bool,
    progress: Callable[[int, int], None] | None,
) -> WanModels:
    own = _transformer_files(transformer) if transformer else None
    parts = {part: row for part, row in WAN_PARTS.items() if own is None or part != "transformer"}
    found = found_parts(parts, WAN_SYSTEM, WAN_LOADER, _ADVICE, download, progress)
    files = found["transformer"].paths if own is None else own
    text = found["text encoder"]
    return WanModels(
        WAN,
        stamped_handle(WAN, files[0], dtype, files[1:]),
        *(
            stamped_handle(WAN_PARTS[part], paths[0], dtype, paths[1:])
            for part, paths in (
                ("autoencoder", found["autoencoder"].paths),
                ("text encoder", (*text.paths, _tokeniser_file(text))),
                ("CLIP vision", found["CLIP vision"].paths),
            )
        ),
    )


def _transformer_files(text: str) -> tuple[Path, ...]:
    """Return the files of a transformer that a workflow names; see `named_model_path`.

    Raises OSError for a path that is not there, naming missing shards, or may not be read, and ValueError for files
    that hold another model, as their headers say.
    """
    path = named_model_path(text, "diffusion_models")  # before the imports, which take seconds
    from ..core_models.video_diffusion.wan.checkpoint_headers import refuse_other_files
    from ..core_models.video_diffusion.wan.weight_shards import weight_files

    files = weight_files(path)
    refuse_other_files(files)
    return files


def _tokeniser_file(text_encoder: FoundPart) -> Path:
    """Return the file that holds the tokeniser: one beside the text encoder, or its own, as ComfyUI's does."""
    first = text_encoder.paths[0]
    for place in TOKENISER_PLACES:
        if (first.parent / place).is_file():
            return first.parent / place
    if first.suffix == ".safetensors" and len(text_encoder.paths) == 1:
        return first
    raise WeightNotFoundError(
        f"umT5's tokeniser is not on this computer: get tokenizer.json from https://huggingface.co/google/umt5-xxl and "
        f"put it into {first.parent}, beside {first.name}; ComfyUI's umt5_xxl files need none"
    )


def fantasytalking_models(
    wan: WanModels,
    weights: str = AUTOMATIC,
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FantasyTalkingModels:
    """Return handles of what FantasyTalking adds to a Wan.

    weights: one of `adapter_choices`; "automatic" is what belongs to the Wan: a small model has all in its one file.
    download: fetch what is missing.
    Raises WeightNotFoundError (an OSError) for missing files, and ValueError for another choice, or published weights
    on a small model.
    """
    require_adapter_choice(weights)
    if wan.kind == WAN_POCKET:
        if weights != AUTOMATIC:
            raise ValueError(
                f"{weights} belongs on the published Wan, but the connected model is a small one, whose weights are "
                f"all in its own file: choose '{AUTOMATIC}', or '{WAN_CHOICE}' in {WAN_LOADER}"
            )
        return FantasyTalkingModels(FANTASYTALKING_POCKET, wan, wan.transformer)

    def find() -> Path:
        found = found_parts(ADAPTER_PART, SYSTEM, LOADER, _ADVICE, download, progress)
        return found["audio weights"].paths[0]

    path, transformer = chosen_adapter(weights, find, download, progress), wan.transformer
    files = (Path(transformer.path), *map(Path, transformer.further_paths))
    adapter = stamped_handle(FANTASYTALKING, path, transformer.dtype, files)
    as_wan = {"eight_bits": transformer.eight_bits, "low_rank_files": transformer.low_rank_files}
    return FantasyTalkingModels(FANTASYTALKING, wan, replace(adapter, **as_wan))


def parameters_of(models: FantasyTalkingModels) -> FantasyTalkingParameters:
    """Return the sizes and defaults of a model, read without its weights."""
    from ..core_models.video_diffusion.fantasytalking.loading import fantasytalking_parameters
    from ..core_models.video_diffusion.fantasytalking.parameters import PUBLISHED_FANTASYTALKING

    if models.kind == FANTASYTALKING:
        return PUBLISHED_FANTASYTALKING
    return fantasytalking_parameters(models.adapter.path)


def listening_encoder(models: FantasyTalkingModels) -> str:
    """Return the name of the audio encoder that a model needs, read without its networks' code.

    Raises ValueError for a file that is not a model trained here.
    """
    if models.kind == FANTASYTALKING:
        return PUBLISHED_LISTENING
    return str(_stated(models, "listening", "what it listens with"))


def knows_people(models: FantasyTalkingModels) -> bool:
    """Say whether a model has an identity branch, read without its networks; the published one has none."""
    return (
        models.kind != FANTASYTALKING and _stated(models, "identity", "whether it knows people") is not None
    )


def identity_encoder(models: FantasyTalkingModels) -> str:
    """Return what a model's identities come from: the model, by its file's name, or face recognition.

    Raises ValueError for a model without an identity branch, as the published one is.
    """
    if not knows_people(models):
        raise ValueError(
            "this FantasyTalking has no identity branch (the release has none: it keeps the person by the first frame "
            "and by what CLIP sees of it): leave the identity out, or load a model that was trained with one"
        )
    own = _stated(models, "portrait_encoder", "how it knows people")
    return ARCFACE if own is None else Path(models.adapter.path).stem


def _stated(models: FantasyTalkingModels, name: str, what: str) -> Any:
    text = safetensors_metadata(Path(models.adapter.path)).get(FANTASYTALKING_ENTRY, "{}")
    try:
        values: Mapping[str, Any] = json.loads(text)
        return values[name]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{models.adapter.path} does not say {what}: export it again") from error


@contextmanager
def fantasytalking_model(models: FantasyTalkingModels) -> Iterator[FantasyTalkingModel]:
    """Give the transformer with all that is added to it from the shared cache, for use in a `with`.

    Where a handle asks for `cpu_offload`, blocks come to the device one at a time; so do those of the text encoder and
    of CLIP.
    """
    with model_cache().use(models.adapter, _loaded_model, lambda model: model.transformer.blocks) as network:
        yield network


def _loaded_model(handle: ModelHandle) -> Any:
    import torch

    from ..core_models.video_diffusion.fantasytalking.loading import (
        load_fantasytalking,
        load_fantasytalking_file,
    )
    from ..core_models.video_diffusion.wan.float8_linear import store_in_float8
    from ..core_models.video_diffusion.wan.low_rank_merging import merge_low_rank_files

    dtype = getattr(torch, handle.dtype)
    if handle.name == FANTASYTALKING:
        model = load_fantasytalking(handle.further_paths, handle.path, dtype)
    else:
        model = load_fantasytalking_file(handle.path, dtype)

    def finish(block: Any) -> None:
        if handle.eight_bits:
            store_in_float8(block, dtype)

    merge_low_rank_files(model.transformer, handle.low_rank_files, finish)
    return model


@contextmanager
def wan_autoencoder(wan: WanModels) -> Iterator[AutoencoderKLWan]:
    """Give the video autoencoder from the shared cache, for use in a `with`."""
    import torch

    from ..core_models.video_diffusion.wan.autoencoder import load_wan_autoencoder

    def load(wanted: ModelHandle) -> Any:
        return load_wan_autoencoder(wanted.path, getattr(torch, wanted.dtype))

    with model_cache().use(wan.autoencoder, load) as network:
        yield network


@contextmanager
def prompt_encoder(wan: WanModels) -> Iterator[PromptEncoder]:
    """Give the text encoder and its tokeniser from the shared cache, for use in a `with`.

    Raises ValueError for a model that reads no prompts.
    """
    if wan.text_encoder is None:
        raise ValueError("this Wan reads no prompts: it has no text encoder")
    with model_cache().use(
        wan.text_encoder, _loaded_prompt_encoder, lambda network: network.encoder.encoder.block
    ) as network:
        yield network


def _loaded_prompt_encoder(handle: ModelHandle) -> Any:
    import torch

    from ..core_models.video_diffusion.wan.prompt_encoder import load_prompt_encoder

    *files, tokeniser = (handle.path, *handle.further_paths)
    return load_prompt_encoder(files, tokeniser, getattr(torch, handle.dtype))


@contextmanager
def clip_vision(wan: WanModels) -> Iterator[CLIPVisionModel]:
    """Give CLIP's view of pictures from the shared cache, for use in a `with`.

    Raises ValueError for a model that does not look at pictures through it.
    """
    import torch

    from ..core_models.video_diffusion.wan.clip_vision import clip_vision_blocks, load_clip_vision

    if wan.clip_vision is None:
        raise ValueError("this Wan does not look at the picture through CLIP")

    def load(wanted: ModelHandle) -> Any:
        return load_clip_vision(wanted.path, getattr(torch, wanted.dtype))

    with model_cache().use(wan.clip_vision, load, clip_vision_blocks) as network:
        yield network


def recognition_handle() -> ModelHandle:
    """Return the handle of face recognition, for models that know people by it.

    Raises WeightNotFoundError (an OSError) that says where its file comes from.
    """
    return ModelHandle(RECOGNITION_ROW, str(find_weight(RECOGNITION_ROW)))


@contextmanager
def face_recognition(handle: ModelHandle) -> Iterator[FaceRecognitionNetwork]:
    """Give the face recognition network from the shared cache, for use in a `with`."""
    from ..core_models.face.recognition import load_face_recognition

    with model_cache().use(handle, lambda wanted: load_face_recognition(wanted.path)) as network:
        yield network
