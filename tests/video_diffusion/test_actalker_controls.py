"""Controls on the tokens of a level, and the cross-attention with its two adapters."""

import dataclasses

import pytest
import torch
from diffusers.models.attention_processor import Attention
from talking_portrait.core_models.ssm.masked_ssm import BranchSignal, RegionPass
from talking_portrait.core_models.video_diffusion.actalker.control_attention import (
    ADAPTER_SCALE,
    AttentionContext,
    ControlAttention,
    SignalContext,
    attended,
)
from talking_portrait.core_models.video_diffusion.actalker.controlled_transformer import over_frames
from talking_portrait.core_models.video_diffusion.actalker.controls import PlacedControls, Region
from torch import nn
from torch.nn import functional

from .actalker_networks import EYES, MOUTH, WIDTH, controls, normal, rows

HIDDEN, HEADS = 12, 3


@pytest.fixture(scope="module")
def attention():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Attention(HIDDEN, WIDTH, heads=HEADS, dim_head=HIDDEN // HEADS)
        made.set_processor(ControlAttention(HIDDEN, WIDTH))
    return made.eval().requires_grad_(False)


def projections():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(WIDTH, HIDDEN), nn.Linear(WIDTH, HIDDEN)


def plain_attention(queries, tokens, to_k, to_v):
    """Softmax attention written out."""
    heads = (
        part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (queries, to_k(tokens), to_v(tokens))
    )
    q, k, v = heads
    weights = (q @ k.mT / (HIDDEN // HEADS) ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class TestAttended:
    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_is_softmax_attention_with_and_without_the_single_tokens_shortcut(self, count):
        to_k, to_v = projections()
        queries, tokens = normal(2, 7, HIDDEN), normal(2, count, WIDTH, seed=1)
        found = attended(queries, tokens, to_k, to_v, HEADS).expand(-1, 7, -1)
        torch.testing.assert_close(found, plain_attention(queries, tokens, to_k, to_v))

    def test_single_tokens_shortcut_equals_torchs_attention(self):
        to_k, to_v = projections()
        queries, tokens = normal(2, 7, HIDDEN), normal(2, 1, WIDTH, seed=1)
        heads = [
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (queries, to_k(tokens), to_v(tokens))
        ]
        expected = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attended(queries, tokens, to_k, to_v, HEADS).expand(-1, 7, -1), expected)


class TestControlAttention:
    hidden, identity = normal(2, 7, HIDDEN, seed=2), normal(2, 1, WIDTH, seed=3)
    heard, moved = normal(2, 5, WIDTH, seed=4), normal(2, 1, WIDTH, seed=5)

    def run(self, attention, *signals, hidden=None):
        hidden = self.hidden if hidden is None else hidden
        return attention(hidden, encoder_hidden_states=AttentionContext(self.identity, signals))

    def test_adds_each_signal_scaled_and_weighted(self, attention):
        adapters, weight = attention.processor, normal(7, 1, seed=6)
        queries = attention.to_q(self.hidden)
        expected = plain_attention(queries, self.identity, attention.to_k, attention.to_v)
        for index, (tokens, factor) in enumerate(((self.heard, weight), (self.moved, 0.5))):
            found = plain_attention(queries, tokens, adapters.to_k_ip[index], adapters.to_v_ip[index])
            expected = expected + ADAPTER_SCALE * factor * found
        given = (SignalContext(self.heard, weight), SignalContext(self.moved, 0.5))
        torch.testing.assert_close(self.run(attention, *given), attention.to_out[0](expected))

    def test_closed_signals_equal_those_of_weight_zero(self, attention):
        zero = self.run(
            attention, SignalContext(self.heard, 0.0), SignalContext(self.moved, torch.zeros(7, 1))
        )
        torch.testing.assert_close(self.run(attention, None, None), zero, rtol=0, atol=0)

    def test_without_signals_gives_every_query_the_identity(self, attention):
        found = self.run(attention, None, None)
        assert torch.equal(found, found[:, :1].expand_as(found))
        assert torch.equal(found, self.run(attention, None, None, hidden=self.hidden + 1))

    def test_zero_outside_a_region_stays_zero(self, attention):
        weight = torch.tensor([0.0, 0, 0, 1, 1, 1, 1])[:, None]
        found = self.run(attention, SignalContext(self.heard, weight), None)
        closed = self.run(attention, None, None)
        assert torch.equal(found[:, :3], closed[:, :3])
        assert (found - closed)[:, 3:].abs().amax((0, 2)).min() > 1e-4

    def test_grows_evenly_with_the_weight(self, attention):
        closed, half, whole = (
            self.run(attention, SignalContext(self.heard, weight), None) for weight in (0.0, 0.5, 1.0)
        )
        torch.testing.assert_close(half - closed, (whole - closed) / 2, atol=1e-6, rtol=1e-5)

    def test_takes_queries_of_a_context_in_several_rows(self, attention):
        """As the temporal attention has them: (B x tokens, F)."""
        hidden, signals = normal(6, 7, HIDDEN, seed=8), (SignalContext(self.heard), SignalContext(self.moved))
        found = self.run(attention, *signals, hidden=hidden)
        expected = self.run(attention, *signals, hidden=hidden.reshape(2, 21, HIDDEN))
        assert torch.equal(found, expected.reshape(hidden.shape))


class TestUNetControls:
    def test_of_different_frames_are_refused(self):
        with pytest.raises(ValueError, match=r"identity, audio and motion have shapes"):
            controls(heard=normal(1, 4, 5, WIDTH))

    def test_of_frames_without_a_token_axis_are_refused(self):
        good = controls()
        with pytest.raises(ValueError, match=r"expected \(B, F, tokens, width\)"):
            dataclasses.replace(good, identity=good.identity[:, :, 0])

    @pytest.mark.parametrize("shape", [(2,), (1, 3), ()])
    def test_with_weights_of_other_frames_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"expected \(3,\), one for each frame"):
            controls(audio=[Region(rows(0, 4), torch.ones(shape))])


class TestPlacing:
    def test_a_closed_signal_has_no_context_and_no_pass(self):
        level = PlacedControls(controls(motion=EYES)).at(8, 8)
        assert level.spatial.signals[0] is level.temporal.signals[0] is None
        assert level.spatial.signals[1] is not None
        assert not level.branches[0].passes

    def test_is_done_once_for_each_level(self):
        placed = PlacedControls(controls(MOUTH, EYES))
        assert placed.at(8, 8) is placed.at(8, 8)
        assert placed.at(4, 4) is not placed.at(8, 8)
        assert placed.at(2, 8) is not placed.at(4, 4)
        assert PlacedControls(placed.controls).levels == {}

    @pytest.mark.parametrize("side", [8, 4, 2])
    def test_regions_select_their_rows_at_every_level(self, side):
        level = PlacedControls(controls(MOUTH, EYES)).at(side, side)
        audio, motion = (branch.passes[0] for branch in level.branches)
        half = side * side // 2
        assert audio.selected.tolist() == list(range(half, 2 * half))
        assert motion.selected.tolist() == list(range(half))
        weight = level.spatial.signals[0].weight
        assert torch.equal(weight.flatten(), (torch.arange(side * side) >= half).float())

    def test_temporal_attention_sees_the_mean_of_the_frames_and_no_mask(self):
        steering = controls(MOUTH, EYES, batch=2)
        level = PlacedControls(steering).at(4, 4)
        torch.testing.assert_close(level.temporal.identity, steering.identity.mean(1))
        torch.testing.assert_close(level.temporal.signals[0].tokens, steering.audio.tokens.mean(1))
        assert level.temporal.signals[0].weight == 1

    def test_weights_of_frames_reach_layer_and_both_attentions(self):
        weight = torch.tensor([0.0, 0.5, 1.0])
        level = PlacedControls(controls([Region(rows(4, 8), weight)], batch=2)).at(4, 4)
        branch, spatial, temporal = level.branches[0], level.spatial.signals[0], level.temporal.signals[0]
        assert branch.passes[0].weight.flatten().tolist() == [0, 0.5, 1] * 2
        assert spatial.weight.shape == (6, 16, 1)
        assert spatial.weight[4].flatten().tolist() == [0.0] * 8 + [0.5] * 8
        assert temporal.weight.shape == (2, 16 * 3, 1)  # queries: tokens, and within them frames
        assert temporal.weight[1, :6].flatten().tolist() == [0, 0.5, 1, 0, 0.5, 1]

    def test_frames_with_a_shut_gate_are_not_in_the_temporal_mean(self):
        weight = torch.tensor([1.0, 1.0, 0.0, 0.0])
        heard = normal(2, 4, 5, WIDTH, seed=1)
        other = torch.cat([heard[:, :2], normal(2, 2, 5, WIDTH, seed=20)], dim=1)
        levels = [
            PlacedControls(controls([Region(rows(4, 8), weight)], batch=2, frames=4, heard=tokens)).at(4, 4)
            for tokens in (heard, other)
        ]
        first, second = (level.temporal.signals[0].tokens for level in levels)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, heard[:, :2].mean(1))
        first, second = (level.spatial.signals[0].tokens for level in levels)
        assert torch.equal(first, second)

    @pytest.mark.parametrize("gate", [1.0, 0.5, 1e-30])
    def test_a_constant_gate_gives_the_plain_temporal_mean(self, gate):
        steering = controls([Region(rows(4, 8), torch.full((3,), gate))], batch=2)
        tokens = PlacedControls(steering).at(4, 4).temporal.signals[0].tokens
        torch.testing.assert_close(tokens, steering.audio.tokens.mean(1))

    def test_frames_count_in_the_temporal_mean_by_the_weights_of_all_regions(self):
        parts = [
            Region(rows(4, 8), torch.tensor([0.5, 0.25, 0.0])),
            Region(rows(0, 8), torch.tensor([0.5, 0.0, 0.25])),
        ]
        steering = controls(parts)
        tokens = PlacedControls(steering).at(4, 4).temporal.signals[0].tokens
        expected = (4 * steering.audio.tokens[:, 0] + steering.audio.tokens[:, 1:].sum(1)) / 6
        torch.testing.assert_close(tokens, expected)

    def test_a_signal_shut_throughout_leaves_no_nan(self):
        level = PlacedControls(controls([Region(rows(4, 8), torch.zeros(3))])).at(4, 4)
        for context in (level.spatial.signals[0], level.temporal.signals[0]):
            assert not context.tokens.any()
            assert not context.weight.any()

    def test_a_wide_picture_keeps_its_grid_at_the_coarsest_level(self):
        """7 x 18 tokens: found from their number they would be 6 x 21."""
        mask = torch.zeros(448, 1152)
        mask[4 * 64 :, 9 * 64 :] = 1
        level = PlacedControls(controls([Region(mask)])).at(7, 18)
        cells = torch.zeros(7, 18)
        cells[4:, 9:] = 1
        assert torch.equal(level.spatial.signals[0].weight.view(7, 18), cells)
        assert torch.equal(level.branches[0].passes[0].selected, cells.flatten().nonzero().flatten())

    def test_parts_of_one_region_count_as_the_whole(self):
        share = torch.tensor([0.2, 0.7, 1.0])
        parts = [Region(rows(4, 8), share), Region(rows(4, 8), 1 - share)]
        level, whole = (PlacedControls(controls(given)).at(4, 4) for given in (parts, MOUTH))
        torch.testing.assert_close(
            level.spatial.signals[0].weight, whole.spatial.signals[0].weight.expand(3, -1, -1)
        )
        torch.testing.assert_close(level.temporal.signals[0].weight, torch.ones(1, 48, 1))


class TestOverFrames:
    def test_joins_tokens_and_counts_on_through_the_frames(self):
        weight = torch.tensor([0.0, 0.5, 1.0]).repeat(2)[:, None, None]
        signal = BranchSignal(normal(6, 5, WIDTH), (RegionPass(torch.tensor([1, 3]), weight),))
        joined = over_frames(signal, frames=3, count=4)
        assert torch.equal(joined.tokens, signal.tokens.reshape(2, 15, WIDTH))
        assert joined.passes[0].selected.tolist() == [1, 3, 5, 7, 9, 11]
        assert joined.passes[0].weight.shape == (2, 6, 1)
        assert joined.passes[0].weight[1].flatten().tolist() == [0, 0, 0.5, 0.5, 1, 1]

    def test_keeps_a_closed_signal_closed(self):
        assert over_frames(BranchSignal(normal(3, 5, WIDTH)), frames=3, count=4).passes == ()
