"""Memory of the model cache: more than the device has, memory that runs out, one copy for two loaders."""

import gc
import sys
import types

import pytest
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.runtime import model_cache as module_under_test
from talking_portrait.runtime.host import StandaloneHost
from talking_portrait.runtime.model_cache import ModelCache, NotEnoughMemoryError

torch = pytest.importorskip("torch")


def network(_handle):
    """A network of 1000 bytes."""
    return torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(250))])


def handle(name, path="/nowhere", **changes):
    return ModelHandle(name, str(path), device="cpu", **changes)


def names(cache):
    return [entry.name for entry in cache.loaded_bytes()]


@pytest.fixture
def small_device(monkeypatch):
    monkeypatch.setattr(module_under_test, "device_memory", lambda device: 1800)


def test_more_than_the_device_has(small_device, tmp_path):
    path = tmp_path / "b.safetensors"
    path.write_bytes(bytes(1000))
    cache = ModelCache(StandaloneHost(), budget_bytes=10**6)
    with (
        cache.use(handle("a"), network),
        pytest.raises(NotEnoughMemoryError) as error,
        cache.use(handle("b", path), network),
    ):
        pass
    message = str(error.value)
    for part in (
        "b (",
        "a (",
        "cpu, which has",
        "float16",
        "cpu_offload",
        "TALKING_PORTRAIT_DEVICE",
        "VRAM_GB",
    ):
        assert part in message
    assert names(cache) == ["a"]


def test_idle_models_make_room(small_device, tmp_path):
    path = tmp_path / "b.safetensors"
    path.write_bytes(bytes(1000))
    cache = ModelCache(StandaloneHost(), budget_bytes=1800)
    with cache.use(handle("a"), network):
        pass
    with cache.use(handle("b", path), network):
        assert names(cache) == ["b"]


def test_memory_that_runs_out_is_tried_again_without_idle_models():
    cache = ModelCache(StandaloneHost(), budget_bytes=10**6)
    with cache.use(handle("idle"), network):
        pass
    attempts = []

    def loader(wanted):
        attempts.append(names(cache))
        if len(attempts) == 1:
            raise torch.OutOfMemoryError("out of memory")
        return network(wanted)

    with cache.use(handle("a"), loader):
        assert attempts == [["idle"], []]


def test_memory_that_stays_short_names_the_models():
    cache = ModelCache(StandaloneHost(), budget_bytes=10**6)

    def loader(_handle):
        raise torch.OutOfMemoryError("out of memory")

    with (
        cache.use(handle("busy"), network),
        pytest.raises(NotEnoughMemoryError, match=r"big .*does not fit.*in use there: busy"),
        cache.use(handle("big"), loader),
    ):
        pass
    assert names(cache) == ["busy"]


def test_two_loader_nodes_cost_one_copy():
    """The same row twice in one graph: handles are equal, so the cache holds it once."""
    from talking_portrait.core_models.keypoint_diffusion.loading import EMBEDDED_POCKET, load_pocket
    from talking_portrait.nodes.keypoint_diffusion import LoadKeypointDiffusion

    if not EMBEDDED_POCKET.is_file():
        pytest.skip("the embedded weights are not here")
    cache = ModelCache(StandaloneHost())
    first, second = (LoadKeypointDiffusion().load("pocket (embedded)")[0].denoiser for _ in range(2))
    assert first is not second
    with (
        cache.use(first, lambda wanted: load_pocket(wanted.path)) as one,
        cache.use(second, lambda wanted: load_pocket(wanted.path)) as two,
    ):
        assert one is two
        size = sum(value.nbytes for value in (*one.parameters(), *one.buffers()))
    assert list(cache.loaded_bytes().values()) == [size]


def test_offloading_needs_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match="pip install accelerate"):
        module_under_test._offloaded(network(None), "cuda:0")


def test_offloaded_models_get_accelerates_hooks(monkeypatch):
    calls = []
    accelerate = types.ModuleType("accelerate")
    accelerate.cpu_offload = lambda model, execution_device: calls.append((model, execution_device))
    monkeypatch.setitem(sys.modules, "accelerate", accelerate)
    cache = ModelCache(StandaloneHost(), budget_bytes=10**6)
    with cache.use(ModelHandle("a", "/nowhere", device="meta", cpu_offload=True), network) as model:
        assert calls == [(model, "meta")]
        assert next(model.parameters()).device.type == "cpu"


def test_on_the_cpu_there_is_nothing_to_offload():
    cache = ModelCache(StandaloneHost(), budget_bytes=10**6)
    with cache.use(handle("a", cpu_offload=True), network) as model:
        assert next(model.parameters()).device.type == "cpu"


class ComfyUIHostDouble:
    in_comfyui = True

    def device(self, requested="auto"):
        return torch.device("cpu" if requested == "auto" else requested)


@pytest.fixture
def comfyui_cache(monkeypatch):
    management = types.ModuleType("comfy.model_management")
    management.load_models_gpu = lambda patchers, force_full_load: None
    management.unet_offload_device = lambda: torch.device("cpu")
    patching = types.ModuleType("comfy.model_patcher")
    patching.ModelPatcher = lambda model, load_device, offload_device: model
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    monkeypatch.setitem(sys.modules, "comfy.model_patcher", patching)
    return ModelCache(ComfyUIHostDouble())


def test_in_comfyui_a_model_goes_with_the_last_handle(comfyui_cache):
    """ComfyUI's /free drops the outputs of nodes, handles among them: the weights leave main memory."""
    first, second = handle("a"), handle("a")
    for wire in (first, second, first):
        with comfyui_cache.use(wire, network):
            pass
    assert names(comfyui_cache) == ["a"]
    del first, wire
    gc.collect()
    assert names(comfyui_cache) == ["a"]
    del second
    gc.collect()
    assert names(comfyui_cache) == []


def test_in_comfyui_a_model_in_use_outlives_its_handle(comfyui_cache):
    wire = handle("a")
    with comfyui_cache.use(wire, network):
        del wire
        gc.collect()
        assert names(comfyui_cache) == ["a"]
    gc.collect()
    assert names(comfyui_cache) == []


def test_in_comfyui_the_offloaded_form_stays_as_long_as_the_graphs_handle(comfyui_cache):
    """What a clip derives from a wire's handle ends with the clip; the wire goes on to the next."""
    wire, loads = handle("a"), []

    def loader(wanted):
        loads.append(wanted)
        return network(wanted)

    for _ in range(2):
        with comfyui_cache.use(comfyui_cache.offloaded_handle(wire), loader):
            pass
        gc.collect()
    assert loads == [handle("a", cpu_offload=True)]
    assert list(comfyui_cache.loaded_bytes()) == loads
    del wire
    gc.collect()
    assert names(comfyui_cache) == []


def test_equal_handles_of_two_wires_have_a_form_each(comfyui_cache):
    first, second = handle("a"), handle("a")
    with comfyui_cache.use(comfyui_cache.offloaded_handle(first), network):
        pass
    with comfyui_cache.use(comfyui_cache.offloaded_handle(second), network):
        pass
    del first
    gc.collect()
    assert names(comfyui_cache) == ["a"]


def test_what_is_unwanted_and_idle_is_forgotten():
    cache = ModelCache(StandaloneHost(), budget_bytes=10**6)
    for name in "abc":
        with cache.use(handle(name), network):
            pass
    with cache.use(handle("b"), network):
        assert cache.forget(lambda given: given.name in "ab") == 1
    assert names(cache) == ["c", "b"]


def test_patchers_are_found_by_handle(comfyui_cache):
    wires = handle("a"), handle("b")
    for wire in wires:
        with comfyui_cache.use(wire, network):
            pass
    with comfyui_cache.use(wires[0], network) as model:
        assert comfyui_cache.patchers(lambda given: given.name == "a") == [model]
