"""What memory a device can give: of Linux, of an accelerator, of ComfyUI."""

import sys
import types
from dataclasses import replace

import pytest
import torch
from talking_portrait.core_models.low_rank_file import LowRankFile
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.runtime import device_memory as device_memory_module
from talking_portrait.runtime.device_memory import bytes_for, is_other_form, make_room
from talking_portrait.runtime.host import host
from talking_portrait.runtime.model_cache import ModelCache, device_memory, model_cache

HERE, OTHER = ModelHandle("actalker_pocket", "here"), ModelHandle("pocket", "there")


@pytest.fixture
def loaded(monkeypatch):
    """What lies on the device of models in memory, by handle."""
    found = {}
    monkeypatch.setattr(model_cache(), "bytes_on_device", lambda: found)
    return found


def test_linux_says_what_programs_can_get(monkeypatch, tmp_path, loaded):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    2000 kB\n")
    monkeypatch.setattr(device_memory_module, "MEMORY_INFORMATION", tmp_path / "meminfo")
    monkeypatch.setattr(host(), "device", lambda requested="auto": torch.device("cpu"))
    assert bytes_for((HERE,)) == 2000 * 1024
    on_cpu = ModelHandle("actalker_pocket", "here", device="cpu")
    loaded.update({on_cpu: 50, ModelHandle("pocket", "there", device="cpu"): 7})
    assert bytes_for((HERE,)) == 2000 * 1024 + 50  # what is loaded of it is counted again


@pytest.mark.parametrize("text", [None, "nothing of the kind\n"])
def test_elsewhere_it_is_all_of_the_main_memory(monkeypatch, tmp_path, loaded, text):
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(device_memory_module, "MEMORY_INFORMATION", tmp_path / "meminfo")
    monkeypatch.setattr(host(), "device", lambda requested="auto": torch.device("cpu"))
    assert bytes_for((HERE, OTHER)) == device_memory("cpu")


def test_an_accelerators_unused_reserve_is_free_too(monkeypatch, loaded):
    monkeypatch.setattr(host(), "device", lambda requested="auto": torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 60)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 40)
    loaded[ModelHandle("actalker_pocket", "here", device="cuda:0")] = 30
    assert bytes_for((HERE,)) == 100 + 20 + 30
    loaded[ModelHandle("actalker_pocket", "here", "float16", device="cuda:0")] = 7  # another model
    assert bytes_for((HERE,)) == 100 + 20 + 30
    merged = replace(HERE, device="cuda:0", low_rank_files=(LowRankFile("style"),))
    loaded[merged] = 5  # leaves before the clip
    assert bytes_for((HERE,)) == 100 + 20 + 30 + 5
    assert is_other_form(merged, HERE)


def test_blocks_in_main_memory_are_not_free_on_an_accelerator(monkeypatch):
    """An offloaded model holds nothing there but what lies between its blocks."""
    monkeypatch.setattr(host(), "device", lambda requested="auto": torch.device("meta"))
    monkeypatch.setattr(device_memory_module, "device_memory", lambda device: 10**6)
    monkeypatch.setattr(device_memory_module, "model_cache", lambda: cache)
    cache = ModelCache(host(), budget_bytes=10**6)
    sizes = torch.nn.Linear(10, 10, bias=False), torch.nn.Linear(10, 5, bias=False)
    given = replace(HERE, cpu_offload=True)
    with cache.use(given, lambda _: torch.nn.Sequential(*sizes), lambda network: [network[0]]):
        pass
    assert cache.loaded_bytes() == {replace(given, device="meta"): 4 * 150}
    assert bytes_for((HERE,)) == 10**6 + 4 * 50


def test_comfyui_counts_what_it_can_unload_and_is_asked_to(monkeypatch, loaded):
    asked = []
    management = types.ModuleType("comfy.model_management")
    management.get_total_memory = lambda device: 1000
    management.extra_reserved_memory = lambda: 100
    management.current_loaded_models = []
    management.free_memory = lambda wanted, device, keep_loaded: asked.append((wanted, str(device)))
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    in_comfyui = types.SimpleNamespace(
        in_comfyui=True, device=lambda requested="auto": torch.device("cuda:0")
    )
    monkeypatch.setattr(device_memory_module, "host", lambda: in_comfyui)
    assert bytes_for((HERE,)) == 900
    make_room("cuda:0", 500)
    make_room("cpu", 500)
    assert asked == [(500, "cuda:0")]


def test_comfyui_keeps_what_is_there_already_and_frees_only_the_rest(monkeypatch, loaded):
    asked = []
    ours, others = types.SimpleNamespace(model="ours"), types.SimpleNamespace(model="others")
    management = types.ModuleType("comfy.model_management")
    management.current_loaded_models = [others, ours]
    management.free_memory = lambda wanted, device, keep_loaded: asked.append((wanted, keep_loaded))
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    monkeypatch.setattr(device_memory_module, "host", lambda: types.SimpleNamespace(in_comfyui=True))
    here = replace(HERE, device="cuda:0")
    loaded.update({here: 300, replace(OTHER, device="cuda:0"): 40, replace(HERE, device="cuda:1"): 5})
    patchers = {here: "ours", replace(OTHER, device="cuda:0"): "others"}
    monkeypatch.setattr(
        model_cache(), "patchers", lambda wanted: [one for h, one in patchers.items() if wanted(h)]
    )
    make_room("cuda:0", 500, (HERE,))
    make_room("cuda:0", 200, (HERE,))
    assert asked == [(200, [ours]), (0, [ours])]


def test_nothing_is_unloaded_standalone(monkeypatch):
    monkeypatch.delitem(sys.modules, "comfy.model_management", raising=False)
    make_room("cuda:0", 10**12)
