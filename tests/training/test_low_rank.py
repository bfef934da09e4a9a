"""Additions of low rank: they change nothing at first, learn alone, and merge into ordinary layers."""

from copy import deepcopy

import pytest
import torch
from talking_portrait.training import low_rank as made
from torch import nn


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh()))


def adapted(rank: int = 2) -> nn.Module:
    return made.add_low_rank(network(), lambda name: name == "1.0", rank)


def trained(module: nn.Module) -> nn.Module:
    nn.init.normal_(module[1][0].low_rank_up)
    return module


X = torch.linspace(-1, 1, 12).reshape(2, 6)


def test_fresh_ones_change_nothing():
    plain, fresh = network(), adapted()
    torch.testing.assert_close(fresh(X), plain(X))
    assert set(fresh.state_dict()) - set(plain.state_dict()) == {"1.0.low_rank_down", "1.0.low_rank_up"}
    assert all(name.endswith(made.ADDED_KEYS) for name in set(fresh.state_dict()) - set(plain.state_dict()))


def test_they_add_a_product_of_their_rank():
    module, plain = trained(adapted()), network()
    layer = module[1][0]
    added = layer.low_rank_up @ layer.low_rank_down
    assert torch.linalg.matrix_rank(added) == 2
    hidden = plain[0](X)
    torch.testing.assert_close(module(X), torch.tanh(plain[1][0](hidden) + hidden @ added.T))


def test_merged_it_is_an_ordinary_network_that_computes_the_same():
    module = trained(adapted())
    expected = module(X)
    merged = made.merge_low_rank(deepcopy(module))
    torch.testing.assert_close(merged(X), expected)
    assert set(merged.state_dict()) == set(network().state_dict())
    assert type(merged[1][0]) is nn.Linear
    torch.testing.assert_close(module(X), expected)


def test_it_learns_though_it_begins_at_0():
    module = adapted()
    module(X).sum().backward()
    assert module[1][0].low_rank_up.grad.any()
    assert not module[1][0].low_rank_down.grad.any()


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_does_not_fit(rank):
    with pytest.raises(ValueError, match=f"rank is {rank}, expected 1 to 4 for a layer of 5 to 4"):
        adapted(rank)


def test_layers_that_cannot_have_them():
    with pytest.raises(ValueError, match="no layer is chosen"):
        made.add_low_rank(network(), lambda name: False, 1)
    with pytest.raises(ValueError, match=r"1\.1 is a Tanh"):
        made.add_low_rank(network(), lambda name: name == "1.1", 1)
