"""The model cache: one copy, the least recently used goes first, nothing in use is evicted."""

import sys
import threading
import types

import pytest
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.runtime.host import StandaloneHost
from talking_portrait.runtime.model_cache import (
    ModelCache,
    budget_from_environment,
    default_budget,
    model_cache,
)

torch = pytest.importorskip("torch")

KILOBYTE_OF_FLOATS = 250


def network(_handle):
    """A network of 1000 bytes."""
    return torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(KILOBYTE_OF_FLOATS))])


def handle(name, **changes):
    return ModelHandle(name, f"/nowhere/{name}", device="cpu", **changes)


@pytest.fixture
def cache():
    """A cache with room for two networks and a half."""
    return ModelCache(StandaloneHost(), budget_bytes=2500)


def used(cache, *names):
    for name in names:
        with cache.use(handle(name), network):
            pass


def names(cache):
    return [entry.name for entry in cache.loaded_bytes()]


def test_process_has_one_cache():
    assert model_cache() is model_cache()


def test_model_is_loaded_once(cache):
    calls = []

    def loader(wanted):
        calls.append(wanted)
        return network(wanted)

    with cache.use(handle("a"), loader) as first, cache.use(handle("a"), loader) as second:
        assert first is second
    with cache.use(ModelHandle("a", "/nowhere/a", device="auto"), loader) as third:
        assert (third is first) == (StandaloneHost().device().type == "cpu")
    assert calls[0] == handle("a")
    assert cache.loaded_bytes()[handle("a")] == 1000


def test_networks_are_ready_for_inference_in_the_dtype_asked_for(cache):
    def loader(_handle):
        return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())

    with cache.use(handle("a", dtype="float16"), loader) as module:
        assert module[0].weight.dtype == torch.float16
        assert not module.training
        assert not module[0].weight.requires_grad


def test_least_recently_used_goes_first(cache):
    used(cache, "a", "b", "a", "c")
    assert names(cache) == ["a", "c"]


def test_models_in_use_stay(cache):
    with cache.use(handle("a"), network), cache.use(handle("b"), network), cache.use(handle("c"), network):
        assert names(cache) == ["a", "b", "c"]
    used(cache, "d")
    assert names(cache) == ["c", "d"]


def test_over_the_budget_says_who_and_how_to_change_it(cache, caplog):
    with cache.use(handle("a"), network), cache.use(handle("b"), network), cache.use(handle("c"), network):
        pass
    assert "in use: a, b, c" in caplog.text
    assert "TALKING_PORTRAIT_VRAM_GB" in caplog.text


def test_dtypes_are_different_models(cache):
    with cache.use(handle("a"), network), cache.use(handle("a", dtype="float16"), network):
        assert sorted(cache.loaded_bytes().values()) == [500, 1000]


def test_other_objects_count_as_their_file(cache, tmp_path):
    path = tmp_path / "x.task"
    path.write_bytes(bytes(700))
    wanted = ModelHandle("x", str(path), device="cpu")
    with cache.use(wanted, lambda asked: asked.path) as runner:
        assert runner == str(path)
    assert cache.loaded_bytes() == {wanted: 700}


def test_loader_that_fails_leaves_nothing_and_may_be_tried_again(cache):
    def fail(_handle):
        raise ValueError("keys are missing")

    with pytest.raises(ValueError, match="keys are missing"), cache.use(handle("a"), fail):
        pass
    assert names(cache) == []
    used(cache, "a")
    assert names(cache) == ["a"]


def test_error_while_in_use_gives_the_model_back(cache):
    with pytest.raises(KeyError), cache.use(handle("a"), network):
        raise KeyError
    cache.clear()
    assert names(cache) == []


def test_clear_keeps_what_is_in_use(cache):
    used(cache, "a")
    with cache.use(handle("b"), network):
        cache.clear()
        assert names(cache) == ["b"]


def test_many_threads_load_once(cache):
    barrier = threading.Barrier(8)
    calls, seen = [], []

    def loader(wanted):
        calls.append(wanted)
        return network(wanted)

    def work():
        barrier.wait()
        for _ in range(20):
            with cache.use(handle("a"), loader) as module:
                seen.append(module)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(seen) == 160
    assert all(module is seen[0] for module in seen)


def test_different_models_load_side_by_side(cache):
    """Each loader waits for the other: one lock for all would never end."""
    barrier = threading.Barrier(2, timeout=10)

    def loader(wanted):
        barrier.wait()
        return network(wanted)

    threads = [threading.Thread(target=lambda n=n: cache.use(handle(n), loader).__enter__()) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert sorted(names(cache)) == ["a", "b"]


@pytest.mark.parametrize(("text", "expected"), [("", None), ("8", 8_000_000_000), ("0.5", 500_000_000)])
def test_budget(monkeypatch, text, expected):
    monkeypatch.setenv("TALKING_PORTRAIT_VRAM_GB", text)
    assert budget_from_environment() == expected


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan", "inf"])
def test_bad_budget(monkeypatch, text):
    monkeypatch.setenv("TALKING_PORTRAIT_VRAM_GB", text)
    with pytest.raises(ValueError, match="TALKING_PORTRAIT_VRAM_GB is"):
        budget_from_environment()


def test_default_budget_is_some_of_main_memory():
    budget = default_budget("cpu")
    assert budget is None or 10**8 < budget < 10**14


class ComfyUIHostDouble:
    in_comfyui = True

    def device(self, requested="auto"):
        return torch.device("cpu" if requested == "auto" else requested)


def test_in_comfyui_networks_go_through_its_memory_management(monkeypatch):
    loaded = []

    class ModelPatcher:
        def __init__(self, model, load_device, offload_device):
            self.model, self.devices = model, (load_device, offload_device)

    management = types.ModuleType("comfy.model_management")
    management.load_models_gpu = lambda patchers, force_full_load: loaded.extend(patchers)
    management.unet_offload_device = lambda: torch.device("cpu")
    patching = types.ModuleType("comfy.model_patcher")
    patching.ModelPatcher = ModelPatcher
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    monkeypatch.setitem(sys.modules, "comfy.model_patcher", patching)
    cache = ModelCache(ComfyUIHostDouble())
    wire = handle("a")
    with cache.use(wire, network) as module:
        pass
    with cache.use(wire, network):
        pass
    assert [patcher.model for patcher in loaded] == [module, module]
    assert loaded[0] is loaded[1]


def test_comfyui_can_write_the_device_onto_every_network():
    """It does when it loads one, and diffusers' networks have a property there."""
    from talking_portrait.runtime.model_cache import _patchable

    class OfDiffusers(torch.nn.Linear):
        @property
        def device(self):
            return self.weight.device

    plain, closed = torch.nn.Linear(1, 1), OfDiffusers(1, 1)
    assert _patchable(plain) is plain
    around = _patchable(closed)
    around.device = torch.device("cpu")
    around.to(torch.float16)
    assert closed.weight.dtype == torch.float16
    assert [*around.parameters()] == [*closed.parameters()]
