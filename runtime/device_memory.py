"""How much memory a device can give to what is about to run, and making it give that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from ..core_models.types import ModelHandle
from .host import host
from .model_cache import device_memory, model_cache

MEMORY_INFORMATION = Path("/proc/meminfo")
"""Where Linux says how much main memory programs can still get."""


def bytes_for(handles: Collection[ModelHandle]) -> int | None:
    """Return the bytes that models of one device, and what they compute, can have there; None where it cannot be told.

    What lies there of them already counts as free, and so does in ComfyUI whatever it can unload.
    """
    device = str(host().device(next(iter(handles)).device))
    free = _free_bytes(device)
    if free is None or (host().in_comfyui and device.startswith("cuda")):
        return free
    return free + _bytes_there(device, handles)


def _bytes_there(device: str, handles: Collection[ModelHandle]) -> int:
    wanted = in_any_form(device, handles)
    return sum(size for handle, size in model_cache().bytes_on_device().items() if wanted(handle))


def in_any_form(device: str, handles: Collection[ModelHandle]) -> Callable[[ModelHandle], bool]:
    """Return whether a handle of the cache is one of these models on a device, whole or under cpu_offload, and with
    whatever LoRAs."""
    known = {_plain(handle) for handle in handles}
    return lambda handle: handle.device == device and _plain(handle) in known


def _plain(handle: ModelHandle) -> ModelHandle:
    """Return the handle that all forms of a model have in common."""
    return replace(handle, device="", cpu_offload=False, low_rank_files=())


def in_form(handle: ModelHandle, by_block: bool) -> ModelHandle:
    """Return the handle of the same model with its blocks in main memory, or the handle itself."""
    return model_cache().offloaded_handle(handle) if by_block and not handle.cpu_offload else handle


def is_other_form(handle: ModelHandle, model: ModelHandle) -> bool:
    """Return whether a handle of the cache is the same model, but whole where this one is offloaded, or the reverse, or
    with other LoRAs."""
    return _plain(handle) == _plain(model) and handle != replace(model, device=handle.device)


def available_main_memory() -> int | None:
    """Return the bytes of main memory that programs can still get, None where it cannot be told."""
    return _available_main_memory()


def bytes_in_main_memory(handles: Collection[ModelHandle]) -> int:
    """Return the bytes of main memory that these models, with whatever LoRAs, hold there while their blocks wait for a
    device."""
    cache, known = model_cache(), {_plain(handle) for handle in handles}
    on_device = cache.bytes_on_device()
    return sum(
        max(size - on_device.get(handle, 0), 0)
        for handle, size in cache.loaded_bytes().items()
        if handle.cpu_offload and _plain(handle) in known
    )


def forget_idle(device: str, unwanted: Callable[[ModelHandle], bool]) -> None:
    """Drop the models that are not in use and unwanted from memory, so that the device can give theirs to others."""
    if model_cache().forget(unwanted) and device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def _free_bytes(device: str) -> int | None:
    if device.startswith("cuda"):
        import torch

        if host().in_comfyui:
            management = sys.modules["comfy.model_management"]
            return management.get_total_memory(torch.device(device)) - management.extra_reserved_memory()
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return _available_main_memory() if device == "cpu" else device_memory(device)


def _available_main_memory() -> int | None:
    """Return what Linux could give to programs, elsewhere all there is."""
    try:
        lines = MEMORY_INFORMATION.read_text().splitlines()
    except OSError:
        return device_memory("cpu")
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else device_memory("cpu")


def make_room(device: str, wanted: int, handles: Collection[ModelHandle] = ()) -> None:
    """Have ComfyUI unload what else is on an accelerator until so many bytes can be had; nothing elsewhere.

    handles: models whose weights are among the bytes: what lies there of them stays, and is not asked for again.
    """
    if not host().in_comfyui or not device.startswith("cuda"):
        return
    import torch

    management = sys.modules["comfy.model_management"]
    ours = model_cache().patchers(in_any_form(device, handles))
    staying = [held for held in management.current_loaded_models if any(held.model is one for one in ours)]
    missing = max(wanted - _bytes_there(device, handles), 0)
    management.free_memory(missing, torch.device(device), keep_loaded=staying)
