"""Blocks streamed to a device: the network's results to the bit, two places, and copies that wait for each other."""

import gc
from itertools import pairwise

import pytest
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.runtime import block_streaming
from talking_portrait.runtime import model_cache as module_with_cache
from talking_portrait.runtime.host import StandaloneHost
from talking_portrait.runtime.model_cache import ModelCache

torch = pytest.importorskip("torch")

from talking_portrait.core_models.video_diffusion.wan.float8_linear import store_in_float8  # noqa: E402
from talking_portrait.runtime.block_streaming import ALIGNMENT, stream_by_block  # noqa: E402


class PretendedDevice:
    """A device whose copies happen as late as they may: when something computed waits for them."""

    def __init__(self):
        self.places, self.pending, self.log = [], [], []
        self.freed_by, self.used, self.finished = {}, None, 0

    def place(self, size):
        self.places.append(torch.zeros(size, dtype=torch.uint8))
        return self.places[-1]

    def copy(self, target, source, after):
        assert after == self.freed_by.get(id(target)), "a place is overwritten while its block computes"
        self.log.append("copy")
        self.pending.append((target, source))
        return self.pending[-1]

    def let_compute_wait(self, mark):
        while self.pending:  # copies come in order
            target, source = done = self.pending.pop(0)
            target[: len(source)].copy_(source)
            if done is mark:
                break
        self.used = mark[0]
        self.log.append("compute")

    def computed(self):
        self.finished += 1
        self.freed_by[id(self.used)] = self.finished
        return self.finished


class Stack(torch.nn.Module):
    """Layers of several sizes with buffers, and a scale that belongs to none."""

    def __init__(self, order=None):
        super().__init__()
        torch.manual_seed(0)
        sizes = [3, 8, 5, 5, 2]
        pairs = pairwise(sizes)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(one, two), torch.nn.BatchNorm1d(two)) for one, two in pairs
        )
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        for block in self.blocks:
            x = block(x * self.scale)
        return x


def stack():
    return Stack().eval().requires_grad_(False)


def test_results_are_the_networks_to_the_bit_however_often_it_is_called():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    network, device = stack(), PretendedDevice()
    stream_by_block(network, network.blocks, "cpu", device)
    for scale in (1.0, 2.0, 3.0):
        assert torch.equal(network(scale * x), stack()(scale * x))


def test_the_next_block_is_under_way_before_a_block_computes_and_each_is_copied_once():
    network, device = stack(), PretendedDevice()
    stream_by_block(network, network.blocks, "cpu", device)
    network(torch.ones(1, 3))
    assert device.log == ["copy", "compute", *["copy", "compute"] * 3, "copy"]
    network(torch.ones(1, 3))
    assert device.log.count("copy") == 1 + 2 * len(network.blocks)


def test_the_device_holds_two_places_of_the_largest_block():
    network, device = stack(), PretendedDevice()
    stream_by_block(network, network.blocks, "cpu", device)
    assert len({len(place) for place in device.places}) == 1
    assert len(device.places) == 2


def test_between_calls_weights_are_those_in_main_memory():
    network, device = stack(), PretendedDevice()
    before = {name: value.clone() for name, value in stack().state_dict().items()}
    stream_by_block(network, network.blocks, "cpu", device)
    network(torch.ones(1, 3))
    held = [place.untyped_storage().data_ptr() for place in device.places]
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.untyped_storage().data_ptr() not in held


def test_another_order_and_a_call_that_fails_do_no_harm():
    network, device = stack(), PretendedDevice()
    stream_by_block(network, network.blocks, "cpu", device)
    with pytest.raises(RuntimeError):
        network(torch.ones(1, 4))
    third = torch.ones(2, 5)
    assert torch.equal(network.blocks[2](third), stack().blocks[2](third))
    assert torch.equal(network.blocks[2](third), stack().blocks[2](third))
    x = torch.ones(2, 3)
    assert torch.equal(network(x), stack()(x))


def test_weights_that_are_trained_are_refused():
    network = Stack()
    with pytest.raises(RuntimeError, match="frozen"):
        stream_by_block(network, network.blocks, "cpu", PretendedDevice())


def test_after_a_pass_the_order_of_the_calls_is_known():
    network, device = stack(), PretendedDevice()
    network.forward = lambda x: [network.blocks[number](x[number]) for number in (2, 0, 3, 1)]
    stream_by_block(network, network.blocks, "cpu", device)
    inputs = [torch.ones(1, block[0].in_features) for block in network.blocks]
    counts = []
    for _ in range(3):
        before = device.log.count("copy")
        network(inputs)
        counts.append(device.log.count("copy") - before)
    assert counts[0] > counts[1] >= counts[2] == len(network.blocks)


def test_weights_in_eight_bits_are_streamed_too():
    network, device = stack(), PretendedDevice()
    for block in network.blocks:
        store_in_float8(block, torch.float32)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    expected = network(x)
    stream_by_block(network, network.blocks, "cpu", device)
    assert torch.equal(network(x), expected)


class TestTheFastestWay:
    @pytest.fixture
    def ways(self, monkeypatch):
        """Which way was taken."""
        taken = []
        for name, held in (("stream_by_block", 7), ("offload_by_block", None)):
            monkeypatch.setattr(
                block_streaming, name, lambda *_, name=name, held=held: taken.append(name) or held
            )
        return taken

    def keep(self, device):
        network = stack()
        return block_streaming.keep_blocks_in_main_memory(network, network.blocks, device)

    def test_is_streaming_for_cuda(self, ways, monkeypatch):
        asked = []
        monkeypatch.setattr(block_streaming, "_can_lock_pages", lambda size: asked.append(size) or True)
        assert self.keep("cuda:0") == 7
        assert ways == ["stream_by_block"]
        (largest,) = asked
        assert (
            largest == 7 * ALIGNMENT
        )  # a linear layer's two weights, a norm's two, its mean, variance and count

    def test_is_the_other_one_elsewhere(self, ways):
        assert self.keep("mps") == 0
        assert ways == ["offload_by_block"]

    def test_is_the_other_one_with_a_warning_where_no_memory_can_be_locked(self, ways, caplog):
        assert self.keep("cuda:0") == 0
        assert ways == ["offload_by_block"]
        assert "cannot be page-locked" in caplog.text


class PretendedRuntime:
    """CUDA's, which locks `room` bytes and no more."""

    def __init__(self, room):
        self.room, self.locked = room, {}

    def cudaHostRegister(self, address, size, flags):
        if size > self.room - sum(self.locked.values()):
            return 2
        self.locked[address] = size
        return 0

    def cudaHostUnregister(self, address):
        return self.locked.pop(address)


@pytest.fixture
def runtime(monkeypatch):
    def have(room):
        found = PretendedRuntime(room)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "cudart", lambda: found)
        return found

    return have


def test_memory_is_locked_as_long_as_the_network_lives(runtime, caplog):
    found, network = runtime(10**9), stack()
    held = stream_by_block(network, network.blocks, "cpu", PretendedDevice())
    assert len(found.locked) == len(network.blocks)
    assert held == 2 * max(found.locked.values())
    assert not caplog.text
    del network
    gc.collect()
    assert not found.locked


def test_what_cannot_be_locked_is_said_once_and_streamed_all_the_same(runtime, caplog):
    found, network, x = runtime(2 * 7 * ALIGNMENT), stack(), torch.ones(1, 3)
    stream_by_block(network, network.blocks, "cpu", PretendedDevice())
    assert 0 < len(found.locked) < len(network.blocks)
    assert len(caplog.records) == 1
    assert "could not be page-locked" in caplog.text
    assert torch.equal(network(x), stack()(x))


def test_whether_memory_can_be_locked_is_tried_and_given_back(runtime):
    found = runtime(1000)
    assert block_streaming._can_lock_pages(1000)
    assert not block_streaming._can_lock_pages(1001)
    assert not found.locked


def test_the_cache_counts_the_places_as_the_models(monkeypatch):
    monkeypatch.setattr(module_with_cache, "keep_blocks_in_main_memory", lambda *_: 50)
    cache = ModelCache(StandaloneHost(), budget_bytes=10**6)
    given = ModelHandle("a", "/nowhere", device="meta", cpu_offload=True)
    with cache.use(given, lambda _: stack(), lambda network: network.blocks):
        pass
    assert cache.bytes_on_device() == {given: 50}


def test_what_waits_in_main_memory_is_not_within_the_budget_of_a_device():
    cache = ModelCache(StandaloneHost(), budget_bytes=200)
    streamed = ModelHandle("a", "/nowhere", device="meta", cpu_offload=True)
    whole = ModelHandle("b", "/nowhere", device="meta")
    for given in (streamed, whole, streamed):
        with cache.use(
            given, lambda _: torch.nn.Sequential(torch.nn.Linear(6, 6)), lambda network: list(network)
        ):
            pass
    assert set(cache.loaded_bytes()) == {streamed, whole}
