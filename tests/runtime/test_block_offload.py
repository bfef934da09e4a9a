"""Offload by block: blocks visit the device for each call, results stay the same to the bit."""

import pytest
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.runtime.host import StandaloneHost
from talking_portrait.runtime.model_cache import ModelCache

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from talking_portrait.core_models.video_diffusion.actalker.memory_plan import offloadable_blocks  # noqa: E402
from talking_portrait.runtime import block_offload  # noqa: E402
from talking_portrait.runtime.block_offload import offload_by_block  # noqa: E402

from ..video_diffusion.actalker_networks import EYES, MOUTH, controls, new_unet, run  # noqa: E402


class Chain(torch.nn.Module):
    """Two layers with a buffer, and a scale between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.BatchNorm1d(3) for _ in range(2))
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.second(self.scale * self.first(x))


def chain(*_):
    return Chain().eval().requires_grad_(False)


def kinds(module):
    return {value.device.type for value in (*module.parameters(), *module.buffers())}


def copy_of(tensor, device):
    """What arrives on a device that is really the CPU."""
    made = tensor.clone()
    return torch.nn.Parameter(made, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else made


def test_offload_changes_no_bit_and_brings_every_weight_once(monkeypatch):
    expected = run(new_unet(), controls(MOUTH, EYES))
    arrived = []

    def recorded(tensor, device):
        arrived.append(tensor)
        return copy_of(tensor, device)

    monkeypatch.setattr(block_offload, "_moved", recorded)
    unet = new_unet()
    blocks = offloadable_blocks(unet)
    offload_by_block(unet, blocks, "pretended")
    arrived.clear()
    before = dict(unet.named_parameters())
    assert torch.equal(run(unet, controls(MOUTH, EYES)), expected)
    weights = [value for block in blocks for value in (*block.parameters(), *block.buffers())]
    assert sorted(map(id, arrived)) == sorted(map(id, weights))
    assert all(value is before[name] for name, value in unet.named_parameters())


def test_one_block_is_on_the_device_at_a_time():
    network = chain()
    offload_by_block(network, [network.first, network.second], "meta")
    assert network.scale.device.type == "meta"
    assert kinds(network.first) == kinds(network.second) == {"cpu"}
    seen = []
    for one, other in ((network.first, network.second), (network.second, network.first)):
        one.register_forward_pre_hook(
            lambda *_, one=one, other=other: seen.append((kinds(one), kinds(other)))
        )
    assert network(torch.ones(2, 3, device="meta")).device.type == "meta"
    assert seen == [({"meta"}, {"cpu"})] * 2
    assert kinds(network.first) == kinds(network.second) == {"cpu"}


def test_the_device_of_a_network_is_where_it_computes():
    unet = new_unet()
    offload_by_block(unet, offloadable_blocks(unet), "meta")
    assert next(unet.parameters()).device.type == "meta"


def test_after_an_error_the_weights_are_back():
    network = chain()
    offload_by_block(network, [network.first], "meta")
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        network.first(torch.ones(3, device="meta"))
    assert kinds(network.first) == {"cpu"}


def test_blocks_that_are_none():
    network = chain()
    with pytest.raises(ValueError, match="not a part of the network"):
        offload_by_block(network, [torch.nn.Linear(1, 1)], "meta")
    with pytest.raises(ValueError, match="shares modules"):
        offload_by_block(network, [network.first, network.first], "meta")
    with pytest.raises(RuntimeError, match="requires_grad_"):
        offload_by_block(network.requires_grad_(True), [network.first], "meta")


def test_the_cache_offloads_the_blocks_it_is_given():
    cache = ModelCache(StandaloneHost(), budget_bytes=10**6)
    handle = ModelHandle("a", "/nowhere", device="meta", cpu_offload=True)
    with cache.use(handle, chain, lambda network: [network.first]) as network:
        assert kinds(network.first) == {"cpu"}
        assert kinds(network.second) == {"meta"}
    on_the_cpu = ModelHandle("a", "/nowhere", device="cpu", cpu_offload=True)
    with cache.use(on_the_cpu, chain, lambda network: [network.first]) as network:
        assert not network.first._forward_pre_hooks
