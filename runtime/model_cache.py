"""One copy of a model in memory per (weights, dtype, device), shared by all nodes.

Standalone, the least recently used goes first when a byte budget is exceeded. In ComfyUI every network sits in a
ModelPatcher and goes through load_models_gpu, so that ComfyUI decides what is on the device. A model is never
evicted while it is in use.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core_models.types import ModelHandle
from .host import Host, host

logger = logging.getLogger(__name__)

BUDGET_VARIABLE = "TALKING_PORTRAIT_VRAM_GB"
"""Environment variable: how many gigabytes (10^9 bytes) of models the cache keeps."""

DEVICE_SHARE = 0.8
"""Default budget on an accelerator, as a share of its memory; the rest is for activations."""
MAIN_MEMORY_SHARE = 0.5
"""Default budget on the CPU, as a share of main memory."""

ModelLoader = Callable[[ModelHandle], Any]
"""Builds the model behind a handle: a torch module on the CPU, or any other object (such as a LiteRT runner)."""


@functools.cache
def model_cache() -> ModelCache:
    """Return the cache that all nodes of this process share."""
    return ModelCache(host())


class ModelCache:
    """Models by handle, least recently used first. Safe to use from several threads."""

    def __init__(self, owner: Host, budget_bytes: int | None = None) -> None:
        """budget_bytes: None takes it from TALKING_PORTRAIT_VRAM_GB, else from the device when first needed."""
        self._host = owner
        self._budget = budget_bytes if budget_bytes is not None else budget_from_environment()
        self._entries: OrderedDict[ModelHandle, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, handle: ModelHandle, loader: ModelLoader) -> Iterator[Any]:
        """Give the model inside a `with`: loaded at most once, on its device, kept while it is in use.

        loader is called with the handle whose device is no longer "auto"; networks it returns are set to
        evaluation and moved to the handle's dtype and device. Whatever it raises is passed on.
        """
        handle = replace(handle, device=str(self._host.device(handle.device)))
        entry = self._claim(handle)
        try:
            with entry.loading:
                if not entry.loaded:
                    self._make_room(_file_bytes(handle), handle)
                    entry.load(loader(handle), handle, self._host)
            self._make_room(0, handle)
            yield entry.on_device()
        finally:
            self._release(handle, entry)

    def loaded_bytes(self) -> dict[ModelHandle, int]:
        """Return the size in bytes of every model in memory, least recently used first."""
        with self._lock:
            return {handle: entry.bytes for handle, entry in self._entries.items() if entry.loaded}

    def clear(self) -> None:
        """Forget every model that is not in use."""
        with self._lock:
            for handle in [handle for handle, entry in self._entries.items() if not entry.users]:
                del self._entries[handle]

    def _claim(self, handle: ModelHandle) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(handle, _Entry())
            entry.users += 1
            self._entries.move_to_end(handle)
            return entry

    def _release(self, handle: ModelHandle, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            if not entry.users and not entry.loaded:
                self._entries.pop(handle, None)

    def _make_room(self, wanted: int, newcomer: ModelHandle) -> None:
        """Evict idle models on the newcomer's device until what stays, and `wanted` bytes, fit the budget."""
        budget = self._budget if self._budget is not None else self._default_budget(newcomer.device)
        if budget is None:
            return
        with self._lock:
            here = {h: e for h, e in self._entries.items() if h.device == newcomer.device and e.loaded}
            excess = sum(entry.bytes for entry in here.values()) + wanted - budget
            for handle, entry in here.items():
                if excess <= 0:
                    return
                if not entry.users:
                    del self._entries[handle]
                    excess -= entry.bytes
                    logger.info("%s left memory (%.2f GB)", handle.name, entry.bytes / 1e9)
            names = ", ".join(handle.name for handle, entry in here.items() if entry.users)
        if excess > 0:
            logger.warning(
                "%s needs %.2f GB more than the budget of %.2f GB (in use: %s); %s sets the budget",
                *(newcomer.name, excess / 1e9, budget / 1e9, names or "nothing else", BUDGET_VARIABLE),
            )

    def _default_budget(self, device: str) -> int | None:
        """ComfyUI looks after memory itself; standalone, a share of what the device has."""
        return None if self._host.in_comfyui else default_budget(device)


class _Entry:
    """One model in the cache, or on its way there."""

    def __init__(self) -> None:
        self.loading = threading.Lock()
        self.loaded = False
        self.users = 0
        self.bytes = 0
        self._model: Any = None
        self._patcher: Any = None

    def load(self, model: Any, handle: ModelHandle, owner: Host) -> None:
        if _is_network(model):
            model = _prepared(model, handle, owner)
            self.bytes = _network_bytes(model)
            self._patcher = _patcher(model, handle) if owner.in_comfyui else None
        else:
            self.bytes = _file_bytes(handle)
        self._model = model
        self.loaded = True

    def on_device(self) -> Any:
        if self._patcher is not None:
            sys.modules["comfy.model_management"].load_models_gpu([self._patcher])
        return self._model


def _is_network(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _prepared(network: Any, handle: ModelHandle, owner: Host) -> Any:
    """Return the network in the handle's dtype; standalone on its device too (in ComfyUI the patcher moves it)."""
    import torch

    network = network.eval().requires_grad_(False).to(getattr(torch, handle.dtype))
    return network if owner.in_comfyui else network.to(handle.device)


def _patcher(network: Any, handle: ModelHandle) -> Any:
    import torch

    management = sys.modules["comfy.model_management"]
    patcher_class = sys.modules["comfy.model_patcher"].ModelPatcher
    return patcher_class(
        network, load_device=torch.device(handle.device), offload_device=management.unet_offload_device()
    )


def _network_bytes(network: Any) -> int:
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _file_bytes(handle: ModelHandle) -> int:
    path = Path(handle.path)
    return path.stat().st_size if path.is_file() else 0


def budget_from_environment() -> int | None:
    """Return the bytes TALKING_PORTRAIT_VRAM_GB allows, None when it is not set.

    Raises ValueError when it is not a number above 0.
    """
    text = os.environ.get(BUDGET_VARIABLE, "").strip()
    if not text:
        return None
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise ValueError(f"{BUDGET_VARIABLE} is {text!r}, expected a number of gigabytes above 0, such as 8")
    return int(gigabytes * 1e9)


def default_budget(device: str) -> int | None:
    """Return the bytes of models that a device may hold, None where its memory cannot be told."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory * DEVICE_SHARE)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * MAIN_MEMORY_SHARE)
    return None
