"""How much memory a device can give to what is about to run, and making ComfyUI give it."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from ..core_models.types import ModelHandle
from .host import host
from .model_cache import device_memory, model_cache

MEMORY_INFORMATION = Path("/proc/meminfo")
"""Where Linux says how much main memory programs can still get."""


def bytes_for(handles: Collection[ModelHandle]) -> int | None:
    """Return the bytes that models of one device, and what they compute, can have there; None where it cannot be told.

    Those that are loaded already count as free, and so does in ComfyUI whatever it can unload.
    """
    device = str(host().device(next(iter(handles)).device))
    free = _free_bytes(device)
    if free is None or (host().in_comfyui and device.startswith("cuda")):
        return free
    wanted = {(handle.name, handle.path) for handle in handles}
    loaded = model_cache().loaded_bytes().items()
    return free + sum(size for h, size in loaded if h.device == device and (h.name, h.path) in wanted)


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


def make_room(device: str, wanted: int) -> None:
    """Have ComfyUI unload what else is on an accelerator until so many bytes are free; nothing elsewhere."""
    if not host().in_comfyui or not device.startswith("cuda"):
        return
    import torch

    sys.modules["comfy.model_management"].free_memory(wanted, torch.device(device))
