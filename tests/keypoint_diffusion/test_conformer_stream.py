"""A conformer a few frames at a time: the same as all at once, however it is divided, from a bounded memory."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.keypoint_diffusion.conformer import Conformer, ConformerParameters
from talking_portrait.core_models.keypoint_diffusion.conformer_stream import (
    advance,
    no_memory,
    require_causal,
)

from .takin_ada_models import made, with_made_weights

CAUSAL = ConformerParameters(
    width=8, blocks=2, heads=2, expansion=2, kernel=5, look_ahead=0, look_back=3, causal_convolution=True
)


def conformer(seed=0, **changes) -> Conformer:
    return with_made_weights(Conformer(dataclasses.replace(CAUSAL, **changes)), seed).double()


def in_pieces(network, x, sizes):
    memory, out, first = no_memory(network, len(x)), [], 0
    for size in sizes:
        made_now, memory = advance(network, x[:, first : first + size], memory)
        out.append(made_now)
        first += size
    return torch.cat(out, dim=1), memory


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    look_back=st.integers(0, 6),
    kernel=st.sampled_from([1, 3, 7]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_any_division_gives_the_whole(sizes, look_back, kernel, batch, seed):
    network = conformer(seed, look_back=look_back, kernel=kernel)
    x = made(batch, sum(sizes), 8, seed=seed).double()
    out, _ = in_pieces(network, x, sizes)
    torch.testing.assert_close(out, network(x), atol=1e-9, rtol=1e-9)


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), look_back=st.integers(0, 5))
@settings(deadline=None, max_examples=20)
def test_memory_is_bounded_by_look_back_and_kernel(sizes, look_back):
    network = conformer(look_back=look_back)
    _, memory = in_pieces(network, made(2, sum(sizes), 8).double(), sizes)
    kept = min(look_back, sum(sizes))
    for block in memory:
        assert block.keys.shape == block.values.shape == (2, 2, kept, 4)
        assert block.gated.shape == (2, 4, 8)
        for tensor in (block.keys, block.values, block.gated):
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_what_is_kept_is_what_is_needed():
    """Without the memory the outputs are others; with it they depend on nothing older than the reach behind."""
    network, x = conformer(), made(1, 40, 8).double()
    _, memory = in_pieces(network, x[:, :30], [30])
    after, _ = advance(network, x[:, 30:], memory)
    assert not torch.allclose(advance(network, x[:, 30:], no_memory(network, 1))[0], after, atol=1e-3)
    behind = network.parameters_used.frames_behind
    other = torch.cat([made(1, 30 - behind, 8, seed=5).double(), x[:, 30 - behind : 30]], dim=1)
    _, same = in_pieces(network, other, [30])
    torch.testing.assert_close(
        advance(network, x[:, 30:], same)[0][:, :1], after[:, :1], atol=1e-9, rtol=1e-9
    )


def test_the_memory_given_is_left_as_it_is():
    network, x = conformer(), made(1, 9, 8).double()
    _, memory = in_pieces(network, x[:, :5], [5])
    copies = [(block.keys.clone(), block.values.clone(), block.gated.clone()) for block in memory]
    first, _ = advance(network, x[:, 5:], memory)
    second, _ = advance(network, x[:, 5:], memory)
    assert torch.equal(first, second)
    for block, kept in zip(memory, copies, strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip((block.keys, block.values, block.gated), kept, strict=True)
        )


def test_clips_of_a_batch_do_not_hear_each_other():
    network, x = conformer(), made(2, 8, 8).double()
    together, _ = in_pieces(network, x, [3, 5])
    torch.testing.assert_close(together[1:], in_pieces(network, x[1:], [4, 4])[0], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"look_ahead": 1}, "1 frames ahead"),
        ({"look_ahead": None}, "all frames ahead"),
        ({"look_back": None}, "at all back"),
        ({"causal_convolution": False}, "a centred convolution"),
    ],
)
def test_what_is_not_causal_is_refused_with_advice(changes, words):
    parameters = dataclasses.replace(CAUSAL, **changes)
    with pytest.raises(ValueError, match=words) as caught:
        require_causal(parameters, "motion generator")
    assert "motion generator" in str(caught.value)
    assert "look_ahead 0, a look_back and causal_convolution" in str(caught.value)
    network = Conformer(parameters).eval()
    with pytest.raises(ValueError, match=words):
        advance(network, made(1, 3, 8), no_memory(network, 1))
