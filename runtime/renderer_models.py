"""LivePortrait's files on this machine as model handles, and its networks from the shared cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core_models.types import LIVEPORTRAIT_RENDERER, ModelHandle, RendererModels
from .host import host
from .model_cache import model_cache
from .weight_files import found_files

if TYPE_CHECKING:
    from ..core_models.motion.motion_extractor import MotionExtractor
    from ..core_models.rendering.liveportrait.keypoint_renderer import KeypointNetworks
    from ..core_models.rendering.liveportrait.retargeting import RetargetingNetworks

LIVEPORTRAIT_ROWS: dict[str, tuple[str, ...]] = {
    part: (f"liveportrait_{part}", f"liveportrait_{part}_pth")
    for part in (
        "appearance_feature_extractor",
        "motion_extractor",
        "warping_module",
        "spade_generator",
        "stitching_retargeting_module",
    )
}
"""Part -> the manifest rows that will do, the first of which is the one that is fetched."""
SYSTEM = "liveportrait"
"""What to fetch to have all of them."""

_LOADER = "Load LivePortrait"
_ADVICE = f"To go on without them, choose the mesh renderer in {_LOADER}"
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
COMPILED = "liveportrait_frame_generator_compiled"
FRAME_GENERATOR = "liveportrait_frame_generator"


def liveportrait_models(
    precision: str = "auto",
    compile_networks: bool = False,
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RendererModels:
    """Return handles of LivePortrait's networks.

    precision: of warping and generating frames; "auto" is float16 on CUDA and
    float32 elsewhere. compile_networks: let torch.compile work on them
    first, on a graphics card. download: fetch what is missing.
    Raises WeightNotFoundError (an OSError) that lists every missing file and the command that fetches them.
    """
    paths = _found_paths(download, progress)
    small = {"dtype": "float32"}
    return RendererModels(
        kind=LIVEPORTRAIT_RENDERER,
        appearance=_handle("appearance_feature_extractor", paths, **small),
        motion_extractor=_handle("motion_extractor", paths, **small),
        frame_generator=ModelHandle(
            name=COMPILED if compile_networks else FRAME_GENERATOR,
            path=str(paths["warping_module"]),
            further_paths=(str(paths["spade_generator"]),),
            dtype=chosen_precision(precision),
        ),
        retargeting=_handle("stitching_retargeting_module", paths, **small),
    )


def chosen_precision(precision: str) -> str:
    """Return the dtype's name that "auto" means on this host's device; others as they are."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    return "float16" if host().device().type == "cuda" else "float32"


def _handle(part: str, paths: dict[str, Path], dtype: str) -> ModelHandle:
    return ModelHandle(name=f"liveportrait_{part}", path=str(paths[part]), dtype=dtype)


def motion_extractor_handle(
    download: bool = False, progress: Callable[[int, int], None] | None = None
) -> ModelHandle:
    """Return the handle of the motion extractor alone, for what needs no other network. Raises as above."""
    part = "motion_extractor"
    rows, advice = {part: LIVEPORTRAIT_ROWS[part]}, "Commands fetch it with --download"
    paths = found_files(rows, SYSTEM, _LOADER, advice, download, progress)
    return _handle(part, paths, "float32")


def _found_paths(download: bool, progress: Callable[[int, int], None] | None) -> dict[str, Path]:
    return found_files(LIVEPORTRAIT_ROWS, SYSTEM, _LOADER, _ADVICE, download, progress)


def require_liveportrait(models: RendererModels | None, wanted_for: str) -> RendererModels:
    """Return the models. Raises ValueError unless they are LivePortrait's."""
    if models is None or models.kind != LIVEPORTRAIT_RENDERER:
        raise ValueError(
            f"{wanted_for} needs LivePortrait: connect a Load LivePortrait node and choose it there"
        )
    return models


@contextmanager
def motion_extractor(models: RendererModels | ModelHandle) -> Iterator[MotionExtractor]:
    """Give the motion extractor, of LivePortrait's models or by its handle, from the shared cache, in a `with`."""
    from ..core_models.rendering.liveportrait.loading import load_motion_extractor

    handle = models
    if not isinstance(handle, ModelHandle):
        handle = require_liveportrait(models, "reading implicit keypoints").motion_extractor
    with model_cache().use(handle, lambda wanted: load_motion_extractor(wanted.path)) as network:
        yield network


@contextmanager
def retargeting_networks(models: RendererModels) -> Iterator[RetargetingNetworks]:
    """Give the stitching, eye and lip networks from the shared cache, for use in a `with`."""
    from ..core_models.rendering.liveportrait.loading import load_retargeting_networks

    handle = require_liveportrait(models, "stitching").retargeting
    with model_cache().use(handle, lambda wanted: load_retargeting_networks(wanted.path)) as networks:
        yield networks


@contextmanager
def keypoint_networks(models: RendererModels) -> Iterator[KeypointNetworks]:
    """Give all networks that rendering needs from the shared cache, for use in a `with`."""
    from ..core_models.rendering.liveportrait.keypoint_renderer import KeypointNetworks
    from ..core_models.rendering.liveportrait.loading import load_appearance_extractor

    models = require_liveportrait(models, "rendering implicit keypoints")
    cache = model_cache()
    with ExitStack() as stack:
        yield KeypointNetworks(
            appearance=stack.enter_context(
                cache.use(models.appearance, lambda wanted: load_appearance_extractor(wanted.path))
            ),
            motion_extractor=stack.enter_context(motion_extractor(models)),
            frame_generator=stack.enter_context(cache.use(models.frame_generator, _frame_generator)),
        )


def _frame_generator(handle: ModelHandle) -> Any:
    from ..core_models.rendering.liveportrait.frame_generator import FrameGenerator, default_method
    from ..core_models.rendering.liveportrait.loading import load_generator, load_warping_module

    method = default_method(handle.device, handle.dtype)
    return FrameGenerator(
        load_warping_module(handle.path),
        load_generator(handle.further_paths[0]),
        precision=handle.dtype,
        method=method,
        compiled=handle.name == COMPILED and method == "direct",
    )
