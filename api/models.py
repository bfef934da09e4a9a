"""The models of every system, as handles: their networks are loaded into the shared cache when they are first used.

Nothing is fetched unless `download` says so. What is missing raises WeightNotFoundError (an OSError), which lists every
file and the command that fetches it. Networks run where `TALKING_PORTRAIT_DEVICE` says, else on the first CUDA card.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType

from ..core_models.types import KeypointDiffusionModels, ProgressCallback, RendererModels
from ..core_models.video_types import ACTalkerModels
from ..core_models.wan_types import AUTOMATIC_ATTENTION, AUTOMATIC_MEMORY, FantasyTalkingModels
from ..runtime.actalker_models import actalker_choices, actalker_models
from ..runtime.fantasytalking_models import AUTOMATIC, fantasytalking_models, wan_choices, wan_models
from ..runtime.host import host
from ..runtime.keypoint_diffusion_models import keypoint_diffusion_models, model_choices
from ..runtime.renderer_models import liveportrait_models
from ..runtime.wan_low_rank import with_low_rank_file
from .work import cancellable, progress_of

POCKET = "pocket"
"""The small model that comes with this package, in every system that has one."""


def full_choice(name: str, choices: Iterable[str]) -> str:
    """Return the choice that a name means, in any case and without what is in brackets: "pocket", "kdtalker".

    Raises ValueError, listing them, for a name that means none.
    """
    choices = list(choices)
    for choice in choices:
        if name.casefold() in (choice.casefold(), choice.partition(" (")[0].casefold()):
            return choice
    raise ValueError(f"there is no model {name!r}; here are: {', '.join(choices)}")


@cancellable()
def load_keypoint_diffusion(
    model: str = POCKET,
    *,
    precision: str = "auto",
    compiled: bool = False,
    download: bool = False,
    progress: ProgressCallback | None = None,
) -> KeypointDiffusionModels:
    """Return a model that turns speech into motion: "pocket", "KDTalker", or the file of one trained here.

    precision, compiled: of KDTalker's denoiser, see `keypoint_diffusion_models`. Raises as this module says, and
    ValueError for another name.
    """
    choice = full_choice(model, model_choices())
    shown = progress_of(progress).update
    return keypoint_diffusion_models(choice, precision, compiled, download, shown)


@cancellable()
def load_liveportrait(
    *,
    precision: str = "auto",
    compiled: bool = False,
    download: bool = False,
    progress: ProgressCallback | None = None,
) -> RendererModels:
    """Return LivePortrait as a renderer; without a renderer the embedded mesh renderer draws.

    precision, compiled: see `liveportrait_models`. Raises as this module says.
    """
    return liveportrait_models(precision, compiled, download, progress_of(progress).update)


@cancellable()
def load_actalker(
    model: str = POCKET,
    *,
    precision: str = "auto",
    download: bool = False,
    progress: ProgressCallback | None = None,
) -> ACTalkerModels:
    """Return an ACTalker: "pocket", which knows made heads only, "ACTalker", or the file of one trained here.

    precision: see `actalker_models`. Raises as this module says, and ValueError for another name.
    """
    choice = full_choice(model, actalker_choices())
    return actalker_models(choice, precision, download, progress_of(progress).update)


@cancellable()
def load_fantasytalking(
    model: str = POCKET,
    *,
    weights: str = AUTOMATIC,
    transformer_file: str | os.PathLike[str] = "",
    precision: str = "auto",
    attention: str = AUTOMATIC_ATTENTION,
    memory: str = AUTOMATIC_MEMORY,
    eight_bit_weights: bool = False,
    loras: Mapping[str | os.PathLike[str], float] = MappingProxyType({}),
    download: bool = False,
    progress: ProgressCallback | None = None,
) -> FantasyTalkingModels:
    """Return a FantasyTalking on a Wan: "pocket", which knows made heads only, "Wan 2.1 I2V 14B", or a trained file.

    weights: what FantasyTalking adds, "automatic" takes what belongs to the Wan. transformer_file: another file of the
    published transformer, by its path, or by its name in a diffusion_models folder. precision, attention, memory,
    eight_bit_weights: see `wan_models`. loras: strength by file, merged into the transformer when it is loaded; each
    a path, or a name in a loras folder. Raises as this module says, and ValueError for another name, or a LoRA that
    does not fit.
    """
    shown = progress_of(progress).update
    if not isinstance(loras, Mapping):
        raise TypeError(
            f"loras is a {type(loras).__name__}, expected the strength of each file: {{file: 1.0}}"
        )
    choice, file = full_choice(model, wan_choices()), os.fspath(transformer_file)
    settings = (precision, attention, file, download, shown, memory, eight_bit_weights)
    named = {os.fspath(lora): strength for lora, strength in loras.items()}
    with _named_by_user(file, *named):
        wan = wan_models(choice, *settings)
        for lora, strength in named.items():
            wan = with_low_rank_file(wan, lora, strength)
    return fantasytalking_models(wan, weights, download, shown)


def _named_by_user(*files: str) -> AbstractContextManager[None]:
    """Let files that a script names be read wherever they lie; ComfyUI keeps to its own folders."""
    paths = [Path(file).expanduser() for file in files if file]
    return nullcontext() if host().in_comfyui or not paths else host().using_files(paths)
