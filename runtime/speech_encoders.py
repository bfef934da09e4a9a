"""The networks that turn speech into features: where their files are, and the networks from the shared cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core_models.types import POCKET, KeypointDiffusionModels, ModelHandle
from .actalker_models import listening_encoder
from .keypoint_diffusion_models import encoder_of, speech_encoder
from .model_cache import model_cache
from .renderer_models import chosen_precision
from .weight_files import found_files
from .weights import WeightNotFoundError, find_weight

if TYPE_CHECKING:
    from ..core_models.audio.decode import Sound
    from ..core_models.audio.hubert import Hubert
    from ..core_models.audio.wav2vec2 import Wav2Vec2
    from ..core_models.audio.whisper import Whisper
    from ..core_models.keypoint_diffusion.speech_encoder import MelListener
    from ..core_models.types import AudioEmbedding, ProgressCallback
    from ..core_models.video_types import ACTalkerModels
    from ..core_models.wan_types import FantasyTalkingModels

HUBERT_LARGE, HUBERT_BASE = "hubert_large", "hubert_base"
"""Systems of the weights manifest: 25 hidden states of width 1024, and 13 of width 768."""
WHISPER_TINY = "whisper_tiny"
"""System of the weights manifest: 5 hidden states of width 384."""
WHISPER_ROWS: dict[str, tuple[str, ...]] = {"model.safetensors": (WHISPER_TINY,)}
"""File, as people know it -> the manifest rows that will do."""
WAV2VEC2_BASE = "wav2vec2_base_960h"
"""System of the weights manifest: a last hidden state of width 768."""
WAV2VEC2_ROWS: dict[str, tuple[str, ...]] = {
    "model.safetensors": (WAV2VEC2_BASE,),
    "config.json": (f"{WAV2VEC2_BASE}_config",),
}
"""File, as people know it -> the manifest rows that will do."""
POCKET_LISTENER_KIND = "pocket_listener"
"""Name of the pocket model's ear in the shared cache."""
_ADVICE = "To go on without them, choose another encoder in Audio Embedding"


def hubert_rows(system: str) -> dict[str, tuple[str, ...]]:
    """Return {file, as people know it: the manifest rows that will do} of a HuBERT."""
    return {"pytorch_model.bin": (system, f"{system}_safetensors"), "config.json": (f"{system}_config",)}


def hubert_handle(system: str = HUBERT_LARGE, precision: str = "auto") -> ModelHandle:
    """Return the handle of a HuBERT whose files are here.

    system: "hubert_large" or "hubert_base". precision: "auto" is float32.
    Raises WeightNotFoundError (an OSError) that lists every missing file and the command that fetches them, and
    ValueError for another system or precision.
    """
    if system not in (HUBERT_LARGE, HUBERT_BASE):
        raise ValueError(f"there is no HuBERT {system!r}; known: {HUBERT_LARGE}, {HUBERT_BASE}")
    dtype = chosen_precision("float32" if precision == "auto" else precision)
    paths = found_files(hubert_rows(system), system, None, _ADVICE)
    further = [paths["config.json"], *_found_if_here(f"{system}_preprocessor")]
    return ModelHandle(system, str(paths["pytorch_model.bin"]), dtype, further_paths=tuple(map(str, further)))


def _found_if_here(name: str) -> list[Path]:
    try:
        return [find_weight(name)]
    except WeightNotFoundError:
        return []


@contextmanager
def hubert_network(handle: ModelHandle | None = None) -> Iterator[Hubert]:
    """Give a HuBERT from the shared cache, for use in a `with`; None finds the large one.

    Raises what `hubert_handle` and `load_hubert` raise.
    """
    with model_cache().use(handle or hubert_handle(), _loaded_hubert) as network:
        yield network


def _loaded_hubert(handle: ModelHandle) -> Hubert:
    import torch

    from ..core_models.audio.hubert import load_hubert

    return load_hubert(handle.path, getattr(torch, handle.dtype), *handle.further_paths)


def whisper_handle(precision: str = "auto") -> ModelHandle:
    """Return the handle of Whisper tiny, whose file is here.

    precision: "auto" is float32. Raises WeightNotFoundError (an OSError) that names the missing file and the command
    that fetches it, and ValueError for another precision.
    """
    dtype = chosen_precision("float32" if precision == "auto" else precision)
    paths = found_files(WHISPER_ROWS, WHISPER_TINY, None, _ADVICE)
    return ModelHandle(WHISPER_TINY, str(paths["model.safetensors"]), dtype)


@contextmanager
def whisper_network(handle: ModelHandle | None = None) -> Iterator[Whisper]:
    """Give Whisper's encoder from the shared cache, for use in a `with`; None finds Whisper tiny.

    Raises what `whisper_handle` and `load_whisper` raise.
    """
    with model_cache().use(handle or whisper_handle(), _loaded_whisper) as network:
        yield network


def _loaded_whisper(handle: ModelHandle) -> Whisper:
    import torch

    from ..core_models.audio.whisper import load_whisper

    return load_whisper(handle.path, getattr(torch, handle.dtype))


def wav2vec2_handle(precision: str = "auto") -> ModelHandle:
    """Return the handle of wav2vec 2.0 base, whose files are here.

    precision: "auto" is float32. Raises WeightNotFoundError (an OSError) that lists every missing file and the command
    that fetches them, and ValueError for another precision.
    """
    dtype = chosen_precision("float32" if precision == "auto" else precision)
    paths = found_files(WAV2VEC2_ROWS, WAV2VEC2_BASE, None, _ADVICE)
    further = [paths["config.json"], *_found_if_here(f"{WAV2VEC2_BASE}_preprocessor")]
    return ModelHandle(
        WAV2VEC2_BASE, str(paths["model.safetensors"]), dtype, further_paths=tuple(map(str, further))
    )


@contextmanager
def wav2vec2_network(handle: ModelHandle | None = None) -> Iterator[Wav2Vec2]:
    """Give a wav2vec 2.0 from the shared cache, for use in a `with`; None finds the base model.

    Raises what `wav2vec2_handle` and `load_wav2vec2` raise.
    """
    with model_cache().use(handle or wav2vec2_handle(), _loaded_wav2vec2) as network:
        yield network


def _loaded_wav2vec2(handle: ModelHandle) -> Wav2Vec2:
    import torch

    from ..core_models.audio.wav2vec2 import load_wav2vec2

    return load_wav2vec2(handle.path, getattr(torch, handle.dtype), *handle.further_paths)


@contextmanager
def pocket_listener_network() -> Iterator[MelListener]:
    """Give the embedded pocket model's ear from the shared cache, for use in a `with`."""
    from ..core_models.keypoint_diffusion.pocket_listener import load_pocket_listener

    handle = ModelHandle(POCKET_LISTENER_KIND, str(find_weight(POCKET)))
    with model_cache().use(handle, lambda wanted: load_pocket_listener(wanted.path)) as network:
        yield network


def wanted_encoder(
    models: KeypointDiffusionModels | None = None,
    actalker: ACTalkerModels | None = None,
    fantasytalking: FantasyTalkingModels | None = None,
) -> str:
    """Return the name of the audio encoder that the connected model needs; the pocket model's without one.

    Raises ValueError when two are connected.
    """
    if sum(connected is not None for connected in (models, actalker, fantasytalking)) > 1:
        raise ValueError(
            "two models are to listen: connect either model or actalker or fantasytalking to Audio Embedding, and use "
            "one for each"
        )
    if fantasytalking is not None:
        from . import fantasytalking_models

        return fantasytalking_models.listening_encoder(fantasytalking)
    return encoder_of(models) if actalker is None else listening_encoder(actalker)


@contextmanager
def encoder_network(encoder: str, models: KeypointDiffusionModels | None = None) -> Iterator[Any]:
    """Give the network of one of embedding.NETWORK_LOADERS from the shared cache, for use in a `with`.

    models: whose encoder, where they bring their own. Raises WeightNotFoundError when it is not here.
    """
    from ..core_models.audio.embedding import HUBERT, POCKET_LISTENER, WAV2LIP, WAV2VEC2, WHISPER

    networks = {
        WAV2LIP: lambda: speech_encoder(models),
        HUBERT: hubert_network,
        WHISPER: whisper_network,
        WAV2VEC2: wav2vec2_network,
        POCKET_LISTENER: pocket_listener_network,
    }
    with networks[encoder]() as network:
        yield network


def embedded_speech(
    sound: Sound,
    encoder: str,
    models: KeypointDiffusionModels | None = None,
    progress: ProgressCallback | None = None,
) -> AudioEmbedding:
    """Return the features of a sound by the encoder of a name, whose network comes from the shared cache if it is one.

    models: as of `encoder_network`. Raises what `embed_audio` and `encoder_network` raise.
    """
    from ..core_models.audio.embedding import NETWORK_LOADERS, embed_audio

    if encoder not in NETWORK_LOADERS:
        return embed_audio(sound, encoder)
    with encoder_network(encoder, models) as network:
        return embed_audio(sound, encoder, network, progress)
