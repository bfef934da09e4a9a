"""How FantasyTalking's clips fit into memory: what is streamed to the device, how many streams at once, tiles."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core_models.wan_types import (
    CARD_MEMORY,
    EVERYTHING_ON_CARD,
    WAN_POCKET,
    FantasyTalkingModels,
    WanModels,
)
from .device_memory import (
    available_main_memory,
    bytes_for,
    bytes_in_main_memory,
    forget_idle,
    in_any_form,
    in_form,
    is_other_form,
    make_room,
)
from .host import host
from .model_cache import model_cache

if TYPE_CHECKING:
    from torch import Tensor

    from ..core_models.types import ModelHandle
    from ..core_models.video_diffusion.fantasytalking.memory_plan import PlannedModel, Room, SceneSize
    from ..core_models.video_diffusion.fantasytalking.parameters import FantasyTalkingParameters

logger = logging.getLogger(__name__)

AUTOMATIC = "automatic"
STREAM_CHOICES = (AUTOMATIC, "1", "2", "3")
WHOLE_FRAMES, RELEASED_TILING = "off", "release"
TILINGS = (AUTOMATIC, WHOLE_FRAMES, RELEASED_TILING)
"""How frames are decoded: whole, or in the tiles of the release, which need less memory and differ slightly; automatic
is whole where that fits."""
PIXEL_BYTES = 12
"""Of a decoded frame: three colours in float32."""
FLOAT8_NAMES = ("F8_E4M3", "F8_E5M2")
"""What safetensors files call 8 bits."""


def streams_at_once(choice: str) -> int | None:
    """Return how many guidance streams are evaluated together, None for what is fastest of what fits.

    Raises ValueError for another choice.
    """
    if choice not in STREAM_CHOICES:
        raise ValueError(f"streams_at_once is {choice!r}; choose one of {', '.join(STREAM_CHOICES)}")
    return None if choice == AUTOMATIC else int(choice)


def planned_scene(
    models: FantasyTalkingModels,
    parameters: FantasyTalkingParameters,
    size: SceneSize,
    streams: int | None,
    evaluated: int,
    keys_kept: bool = False,
) -> tuple[FantasyTalkingModels, int]:
    """Return the models, streamed by block if they must be, and how many guidance streams are evaluated at once.

    streams: so many, and no other number; None for what is fastest. evaluated: streams of a step. The plan and what it
    needs are logged first; then what the clip does not need leaves the device. Raises ValueError, with what to change,
    for a clip that cannot fit.
    """
    from ..core_models.video_diffusion.fantasytalking.memory_plan import plan_for

    room = _room(models)
    if room is None:
        return models, streams or (evaluated if models.wan.kind == WAN_POCKET else 1)
    plan = plan_for(planned_model(models, parameters, keys_kept), size, room, streams, evaluated)
    logger.info("memory (%s): %s", models.wan.memory, plan.describe())
    wan = models.wan
    planned = replace(
        models,
        adapter=in_form(models.adapter, plan.streamed),
        wan=replace(
            wan,
            text_encoder=_in_form(wan.text_encoder, plan.text_streamed),
            clip_vision=_in_form(wan.clip_vision, plan.clip_streamed),
        ),
    )
    device = str(host().device(models.adapter.device))
    forget_idle(device, lambda handle: is_other_form(handle, planned.adapter))
    make_room(device, plan.needed_bytes, (planned.adapter, wan.autoencoder))
    return planned, plan.streams_at_once


def _in_form(handle: ModelHandle | None, by_block: bool) -> ModelHandle | None:
    return None if handle is None else in_form(handle, by_block)


def _room(models: FantasyTalkingModels) -> Room | None:
    """Return what a clip may use: what is free, and no more than the level says. None where it cannot be told."""
    from ..core_models.video_diffusion.fantasytalking.memory_plan import Room

    device, wan = str(host().device(models.adapter.device)), models.wan
    free = bytes_for([one for one in (models.adapter, *_networks(wan)) if one is not None])
    if free is None:
        return None
    if device == "cpu":
        return Room(free, None, may_stream=False)
    may_stream = wan.memory != EVERYTHING_ON_CARD
    return Room(min(free, CARD_MEMORY.get(wan.memory, free)), _main_memory(models), may_stream)


def _networks(wan: WanModels) -> tuple[ModelHandle | None, ...]:
    return wan.autoencoder, wan.text_encoder, wan.clip_vision


def _main_memory(models: FantasyTalkingModels) -> int | None:
    """Return the main memory that the model's blocks can have; what they have already counts."""
    free = available_main_memory()
    return None if free is None else free + bytes_in_main_memory((models.adapter,))


def planned_model(
    models: FantasyTalkingModels, parameters: FantasyTalkingParameters, keys_kept: bool = False
) -> PlannedModel:
    """Return what is planned for: sizes and how weights are stored. Networks whose files are not there do not count."""
    from ..core_models.video_diffusion.fantasytalking.memory_plan import PlannedModel
    from ..core_models.video_diffusion.fantasytalking.memory_sizes import (
        AS_COMPUTED,
        EIGHT_BIT_FILE,
        EIGHT_BITS,
    )
    from ..core_models.video_diffusion.wan.autoencoder import wan_autoencoder_parameters

    wan, adapter = models.wan, models.adapter
    storage = EIGHT_BITS if adapter.eight_bits else AS_COMPUTED
    if storage == AS_COMPUTED and any(map(holds_float8, _files(wan.transformer))):
        storage = EIGHT_BIT_FILE
    return PlannedModel(
        parameters,
        wan_autoencoder_parameters(wan.autoencoder.path),
        adapter.dtype,
        storage,
        keys_kept,
        text_encoder=_is_here(wan.text_encoder),
        clip_vision=_is_here(wan.clip_vision),
        eight_bit_text=any(map(holds_float8, _files(wan.text_encoder))),
        merged=bool(adapter.low_rank_files),
    )


def _files(handle: ModelHandle | None) -> tuple[str, ...]:
    return () if handle is None else (handle.path, *handle.further_paths)


def _is_here(handle: ModelHandle | None) -> bool:
    return handle is not None and Path(handle.path).is_file()


def holds_float8(path: str) -> bool:
    """Return whether a safetensors file holds weights in 8 bits; no other file does, as far as is known unread."""
    from safetensors import SafetensorError, safe_open

    if not path.endswith(".safetensors") or not Path(path).is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return any(file.get_slice(name).get_dtype() in FLOAT8_NAMES for name in names)
    except SafetensorError:
        return False  # loading it says what is wrong


def make_main_memory_room(handle: ModelHandle) -> None:
    """Forget idle models whose blocks wait in main memory where there is too little of it to load another model."""
    free = available_main_memory()
    wanted = sum(
        Path(path).stat().st_size for path in (handle.path, *handle.further_paths) if Path(path).is_file()
    )
    if free is None or wanted <= free:
        return
    logger.info("%s needs main memory: idle models leave it", handle.name)
    model_cache().forget(lambda held: held.cpu_offload)


def require_room_for_frames(frames: int, height: int, width: int) -> None:
    """Raise ValueError, with what to change, where a clip's decoded frames are more than main memory can hold.

    They are (frames, height, width, 3) float32, in pixels. Nothing is refused where free memory cannot be told.
    """
    from ..core_models.video_diffusion.memory_sizes import gigabytes

    wanted, free = frames * height * width * PIXEL_BYTES, available_main_memory()
    if free is not None and wanted > free:
        raise ValueError(
            f"{frames} frames of {width}x{height} take {gigabytes(wanted)} of main memory when they are decoded, and "
            f"{gigabytes(free)} are free, enough for {free // (height * width * PIXEL_BYTES)}: choose fewer frames (a "
            "shorter sound, and join the videos), a smaller image_size, or end other programs"
        )


def planned_tiles(models: FantasyTalkingModels, latents: Tensor, tiling: str) -> bool:
    """Return whether a clip's latents (C, F, h, w) are decoded in tiles: as chosen, else only where whole frames do not
    fit. Where they do not, the transformer leaves memory first if it is not in use. What is chosen is logged.

    Raises ValueError for another choice.
    """
    from ..core_models.video_diffusion.memory_sizes import gigabytes

    if tiling not in TILINGS:
        raise ValueError(f"tiling is {tiling!r}; choose one of {', '.join(TILINGS)}")
    coder = models.wan.autoencoder
    device, (whole, tiled) = str(host().device(coder.device)), _decoding_bytes(coder, latents)
    wanted = tiled if tiling == RELEASED_TILING else whole
    free = _free_for(models.wan, coder)
    if free is not None and wanted > free:
        forget_idle(device, in_any_form(device, (models.adapter,)))
        free = _free_for(models.wan, coder)
    if free is None:
        return tiling == RELEASED_TILING
    in_tiles = tiling == RELEASED_TILING or (tiling == AUTOMATIC and whole > free)
    needed = tiled if in_tiles else whole
    logger.info(
        "decoding %s: %s of %s free%s",
        *("in tiles" if in_tiles else "whole frames", gigabytes(needed), gigabytes(free)),
        "; tiles differ slightly from whole frames" if in_tiles and tiling == AUTOMATIC else "",
    )
    make_room(device, needed, (coder,))
    return in_tiles


def _free_for(wan: WanModels, coder: ModelHandle) -> int | None:
    free = bytes_for((coder,))
    return None if free is None else min(free, CARD_MEMORY.get(wan.memory, free))


def _decoding_bytes(coder: ModelHandle, latents: Tensor) -> tuple[int, int]:
    """Return the bytes of the autoencoder and of decoding a latent frame, whole and in tiles, with a reserve."""
    import torch

    from ..core_models.video_diffusion.memory_sizes import RESERVE_SHARE
    from ..core_models.video_diffusion.wan.autoencoder import wan_autoencoder_parameters
    from ..core_models.video_diffusion.wan.memory_sizes import (
        decoding_bytes,
        tiled_decoding_bytes,
        wan_autoencoder_count,
    )
    from ..core_models.video_diffusion.wan.tiled_decoding import RELEASED_TILES

    parameters, numbers = wan_autoencoder_parameters(coder.path), getattr(torch, coder.dtype).itemsize
    sides = [side * parameters.pixels_per_latent for side in latents.shape[-2:]]
    weights = wan_autoencoder_count(parameters) * numbers
    whole = decoding_bytes(parameters, *sides, numbers)
    tiled = tiled_decoding_bytes(parameters, *sides, numbers, RELEASED_TILES)
    return tuple(weights + round((1 + RESERVE_SHARE) * working) for working in (whole, tiled))
