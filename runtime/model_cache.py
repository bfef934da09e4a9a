"""One copy of a model in memory per (weights, dtype, device), shared by all nodes.

Standalone, the least recently used goes first when a byte budget is exceeded. In ComfyUI every network sits in a
ModelPatcher and goes through load_models_gpu, so that ComfyUI decides what is on the device. A model is never
evicted while it is in use. There, a model leaves main memory too once no graph holds its handle any more.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core_models.types import ModelHandle
from .block_streaming import keep_blocks_in_main_memory
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
BlocksOfNetwork = Callable[[Any], "list[Any]"]
"""Returns the modules of a network that are to visit the device one at a time under cpu_offload."""


class NotEnoughMemoryError(RuntimeError):
    """Models in use together need more than the device has; the message names them and what can be changed."""


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
        self._holders: Counter[ModelHandle] = Counter()
        self._watched: weakref.WeakValueDictionary[int, ModelHandle] = weakref.WeakValueDictionary()
        self._offloaded: dict[int, ModelHandle] = {}
        # Reentrant: the garbage collector may end a handle's life while this thread holds the lock.
        self._lock = threading.RLock()

    @contextmanager
    def use(
        self, handle: ModelHandle, loader: ModelLoader, blocks: BlocksOfNetwork | None = None
    ) -> Iterator[Any]:
        """Give the model inside a `with`: loaded at most once, on its device, kept while it is in use.

        loader is called with the handle whose device is no longer "auto"; networks it returns are set to
        evaluation and moved to the handle's dtype and device. Whatever it raises is passed on.
        blocks: what visits the device as a whole under cpu_offload; None is each layer by itself.
        Raises NotEnoughMemoryError when what is in use, and this, is more than the device has.
        """
        given, handle = handle, replace(handle, device=str(self._host.device(handle.device)))
        self._watch(given, handle)
        entry = self._claim(handle)
        try:
            with entry.loading:
                if not entry.loaded:
                    self._make_room(0 if _is_offloaded(handle) else _file_bytes(handle), handle)
                    self._require_memory(_file_bytes(handle), handle)
                    self._within_memory(
                        handle, lambda: entry.load(loader(handle), handle, self._host, blocks)
                    )
            self._make_room(0, handle)
            yield self._within_memory(handle, entry.on_device)
        finally:
            self._release(handle, entry)

    def loaded_bytes(self) -> dict[ModelHandle, int]:
        """Return the size in bytes of every model in memory, least recently used first."""
        with self._lock:
            return {handle: entry.bytes for handle, entry in self._entries.items() if entry.loaded}

    def bytes_on_device(self) -> dict[ModelHandle, int]:
        """Return how many bytes of every model in memory lie on its handle's device.

        Of those under cpu_offload that is what stays there, and of ComfyUI's what it has not unloaded.
        """
        with self._lock:
            return {h: entry.bytes_on(h.device) for h, entry in self._entries.items() if entry.loaded}

    def clear(self, device: str | None = None) -> None:
        """Forget every model that is not in use, of all devices or of one: for when memory is short."""
        self.forget(lambda handle: device in (None, handle.device))

    def forget(self, unwanted: Callable[[ModelHandle], bool]) -> int:
        """Forget the models not in use whose handles, with the device they are on, are unwanted; return how many."""
        with self._lock:
            idle = [h for h, entry in self._entries.items() if not entry.users and unwanted(h)]
            for handle in idle:
                del self._entries[handle]
        if idle:
            gc.collect()  # networks whose hooks refer to them go in no other way
        return len(idle)

    def patchers(self, wanted: Callable[[ModelHandle], bool]) -> list[Any]:
        """Return ComfyUI's patchers of the networks whose handles, with the device they are on, are wanted."""
        with self._lock:
            entries = [entry for handle, entry in self._entries.items() if wanted(handle)]
        return [entry.patcher for entry in entries if entry.patcher is not None]

    def offloaded_handle(self, given: ModelHandle) -> ModelHandle:
        """Return the handle of the same model under cpu_offload: one object, for as long as the given one lives.

        So a model that a graph holds by the given object stays in memory in this form too.
        """
        with self._lock:
            if id(given) not in self._offloaded:
                self._offloaded[id(given)] = replace(given, cpu_offload=True)
                weakref.finalize(given, self._offloaded.pop, id(given), None).atexit = False
            return self._offloaded[id(given)]

    def _watch(self, given: ModelHandle, handle: ModelHandle) -> None:
        """In ComfyUI, forget a model when the last handle object a graph keeps for it is gone."""
        if not self._host.in_comfyui:
            return
        with self._lock:
            if self._watched.get(id(given)) is given:
                return
            self._watched[id(given)] = given
            self._holders[handle] += 1
            weakref.finalize(given, self._handle_gone, handle).atexit = False

    def _handle_gone(self, handle: ModelHandle) -> None:
        with self._lock:
            self._holders[handle] -= 1
            if self._holders[handle] > 0:
                return
            del self._holders[handle]
            entry = self._entries.get(handle)
            if entry is not None and not entry.users:
                del self._entries[handle]

    def _require_memory(self, wanted: int, newcomer: ModelHandle) -> None:
        """Raise NotEnoughMemoryError when what is in use, and `wanted` bytes, is more than the device has."""
        capacity = None if self._host.in_comfyui or newcomer.cpu_offload else device_memory(newcomer.device)
        if capacity is None:
            return
        used = sum(entry.budgeted_bytes(h) for h, entry in self._in_use(newcomer.device).items())
        if used + wanted > capacity:
            raise NotEnoughMemoryError(self._memory_message(newcomer, wanted, capacity))

    def _within_memory(self, handle: ModelHandle, work: Callable[[], Any]) -> Any:
        """Do the work; when the device's memory runs out, forget idle models and do it once more."""
        torch = sys.modules.get("torch")
        short = (torch.OutOfMemoryError,) if hasattr(torch, "OutOfMemoryError") else ()
        try:
            return work()
        except short:
            logger.info("memory of %s ran out; idle models leave it", handle.device)
        self.clear(handle.device)
        if handle.device.startswith("cuda"):
            torch.cuda.empty_cache()
        try:
            return work()
        except short as error:
            message = self._memory_message(handle, _file_bytes(handle), device_memory(handle.device))
            raise NotEnoughMemoryError(message) from error

    def _in_use(self, device: str) -> dict[ModelHandle, _Entry]:
        with self._lock:
            return {h: e for h, e in self._entries.items() if h.device == device and e.loaded and e.users}

    def _memory_message(self, newcomer: ModelHandle, wanted: int, capacity: int | None) -> str:
        used = [f"{h.name} ({e.bytes / 1e9:.2f} GB)" for h, e in self._in_use(newcomer.device).items()]
        size = "" if capacity is None else f", which has {capacity / 1e9:.2f} GB"
        return (
            f"{newcomer.name} ({wanted / 1e9:.2f} GB, {newcomer.dtype}) does not fit on {newcomer.device}{size}; "
            f"in use there: {', '.join(used) or 'nothing'}. Choose a smaller dtype in the loader (float16 or "
            "bfloat16), switch on cpu_offload, choose another device (TALKING_PORTRAIT_DEVICE), or close other "
            f"programs that use it; {BUDGET_VARIABLE} sets how much idle models may keep"
        )

    def _claim(self, handle: ModelHandle) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(handle, _Entry())
            entry.users += 1
            self._entries.move_to_end(handle)
            return entry

    def _release(self, handle: ModelHandle, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            unheld = self._host.in_comfyui and not self._holders[handle]
            if not entry.users and (unheld or not entry.loaded):
                self._entries.pop(handle, None)

    def _make_room(self, wanted: int, newcomer: ModelHandle) -> None:
        """Evict idle models on the newcomer's device until what stays, and `wanted` bytes, fit the budget."""
        budget = self._budget if self._budget is not None else self._default_budget(newcomer.device)
        if budget is None:
            return
        with self._lock:
            here = {h: e for h, e in self._entries.items() if h.device == newcomer.device and e.loaded}
            sizes = {h: e.budgeted_bytes(h) for h, e in here.items()}
            excess = sum(sizes.values()) + wanted - budget
            for handle, entry in here.items():
                if excess <= 0:
                    return
                if not entry.users and sizes[handle]:
                    del self._entries[handle]
                    excess -= sizes[handle]
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
        self.bytes = self.visited = 0
        self.patcher: Any = None
        self._model: Any = None

    def load(self, model: Any, handle: ModelHandle, owner: Host, blocks: BlocksOfNetwork | None) -> None:
        if _is_network(model):
            model, self.visited = _prepared(model, handle, owner, blocks)
            self.bytes = _bytes_of(_tensors(model))
            managed = owner.in_comfyui and not _is_offloaded(handle)
            self.patcher = _patcher(model, handle) if managed else None
        else:
            self.bytes = _file_bytes(handle)
        self._model = model
        self.loaded = True

    def on_device(self) -> Any:
        if self.patcher is not None:
            # Whole: ComfyUI can leave parts behind only in networks made of its own layers.
            sys.modules["comfy.model_management"].load_models_gpu([self.patcher], force_full_load=True)
        return self._model

    def budgeted_bytes(self, handle: ModelHandle) -> int:
        """Return the bytes that count against the device's budget: what waits elsewhere does not."""
        return self.bytes_on(handle.device) if _is_offloaded(handle) else self.bytes

    def bytes_on(self, device: str) -> int:
        if not _is_network(self._model):
            return self.bytes
        return self.visited + _bytes_of(one for one in _tensors(self._model) if _lies_on(one, device))


def _is_network(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _prepared(
    network: Any, handle: ModelHandle, owner: Host, blocks: BlocksOfNetwork | None
) -> tuple[Any, int]:
    """Return the network in the handle's dtype, unless it was loaded in several that are to stay (`keeps_its_dtypes`).

    Also the bytes on the device beside its weights. Standalone it is there too; in ComfyUI the patcher moves it.
    """
    import torch

    network = network.eval().requires_grad_(False)
    dtype = getattr(torch, handle.dtype)
    if not getattr(network, "keeps_its_dtypes", False) and _differs(network, dtype):
        network = network.to(dtype)
    if _is_offloaded(handle):
        if blocks is not None:
            return network, keep_blocks_in_main_memory(network, blocks(network), handle.device)
        return _offloaded(network, handle.device), 0
    return network if owner.in_comfyui else network.to(handle.device), 0


def _differs(network: Any, dtype: Any) -> bool:
    return any(tensor.is_floating_point() and tensor.dtype != dtype for tensor in _tensors(network))


def _is_offloaded(handle: ModelHandle) -> bool:
    return handle.cpu_offload and handle.device != "cpu"


def _offloaded(network: Any, device: str) -> Any:
    """Return the network with hooks that bring each layer to the device while it computes."""
    try:
        from accelerate import cpu_offload
    except ImportError as error:
        raise ImportError("cpu_offload needs the package accelerate: pip install accelerate") from error
    cpu_offload(network, execution_device=device)
    return network


def _patcher(network: Any, handle: ModelHandle) -> Any:
    import torch

    management = sys.modules["comfy.model_management"]
    patcher_class = sys.modules["comfy.model_patcher"].ModelPatcher
    return patcher_class(
        _patchable(network),
        load_device=torch.device(handle.device),
        offload_device=management.unet_offload_device(),
    )


def _patchable(network: Any) -> Any:
    """Return the network, or a plain one around it where its `device` cannot be set, which ComfyUI does.

    diffusers' networks have it as a property. What moves the one around it moves the network.
    """
    import torch

    if not isinstance(getattr(type(network), "device", None), property):
        return network
    around = torch.nn.Module()
    around.network = network
    return around


def _tensors(network: Any) -> list[Any]:
    return [*network.parameters(), *network.buffers()]


def _bytes_of(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _lies_on(tensor: Any, device: str) -> bool:
    """Return whether a tensor is there; a device without a number is any of its kind."""
    kind, _, number = device.partition(":")
    return tensor.device.type == kind and (not number or tensor.device.index == int(number))


def _file_bytes(handle: ModelHandle) -> int:
    paths = [Path(path) for path in (handle.path, *handle.further_paths)]
    return sum(path.stat().st_size for path in paths if path.is_file())


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
    """Return the bytes of models that a device may keep, None where its memory cannot be told."""
    memory = device_memory(device)
    share = DEVICE_SHARE if device.startswith("cuda") else MAIN_MEMORY_SHARE
    return None if memory is None else int(memory * share)


def device_memory(device: str) -> int | None:
    """Return the bytes of memory of a device (main memory for all but CUDA), None where it cannot be told."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
