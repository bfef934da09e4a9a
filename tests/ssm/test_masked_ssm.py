"""The masked state-space layers: what reaches which tokens, weights between 0 and 1, and work that is left out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.ssm import masked_ssm
from talking_portrait.core_models.ssm.masked_ssm import (
    STEP_RANGE,
    BidirectionalScan,
    BranchSignal,
    JointMaskedSSMLayer,
    MaskedSSMLayer,
    RegionPass,
    inverse_softplus,
)
from talking_portrait.core_models.ssm.region_tokens import pasted
from torch.nn import functional

CHANNELS, CONDITIONS = 8, 6
FRAMES, COUNT = 3, 12
MOUTH, REST = torch.arange(7, 11), torch.tensor([0, 1, 2, 3, 5])
NEITHER = torch.tensor([4, 6, 11])
EMPTY = torch.zeros(0, dtype=torch.int64)


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().requires_grad_(False)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def layer():
    return seeded(lambda: MaskedSSMLayer(CHANNELS, CONDITIONS))


@pytest.fixture(scope="module")
def inputs():
    """Tokens (frames, count, channels), identity, and tokens of sound and motion."""
    return (
        normal(FRAMES, COUNT, CHANNELS, seed=1),
        normal(FRAMES, 1, CONDITIONS, seed=2),
        normal(FRAMES, 4, CONDITIONS, seed=3),
        normal(FRAMES, 1, CONDITIONS, seed=4),
    )


def run(layer, inputs, audio=(), motion=(), **changed):
    """The layer's output with passes of both signals, some of the inputs changed."""
    tokens, identity, heard, moved = inputs
    heard, moved = changed.get("heard", heard), changed.get("moved", moved)
    return layer(tokens, identity, BranchSignal(heard, tuple(audio)), BranchSignal(moved, tuple(motion)))


def before_norm(layer, inputs, audio=(), motion=()):
    """The sum of both branches, which the layer normalises."""
    seen = []
    hook = layer.out_norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    run(layer, inputs, audio, motion)
    hook.remove()
    return seen[0]


def always_scanned(layer, inputs, audio, motion):
    """The layer with nothing left out: every branch scans, be its selection empty."""
    tokens, identity, *signals = inputs
    parts = []
    for project_in, project, unit, signal, selected in (
        (layer.in_proj1, layer.audio_proj, layer.audio_unit, signals[0], audio),
        (layer.in_proj2, layer.exp_proj, layer.exp_unit, signals[1], motion),
    ):
        entered = project_in(tokens)
        control = [functional.silu(layer.id_proj(identity)), functional.silu(project(signal))]
        scanned = unit(torch.cat([entered[:, selected], *control], dim=1))
        parts.append(pasted(entered, selected, scanned[:, : len(selected)]))
    return layer.out_proj(layer.out_norm(sum(parts)))


class TestBidirectionalScan:
    def test_is_the_same_from_either_end_when_its_directions_change_places(self):
        scan = seeded(lambda: BidirectionalScan(6, 2, 4))
        turned = seeded(lambda: BidirectionalScan(6, 2, 4))
        halves = {"A_logs", "Ds"}  # both directions in one dimension
        state = {
            name: value.unflatten(0, (2, -1)).flip(0).flatten(0, 1) if name in halves else value.flip(0)
            for name, value in scan.state_dict().items()
        }
        turned.load_state_dict(state)
        sequence = normal(2, 9, 6)
        torch.testing.assert_close(turned(sequence.flip(1)), scan(sequence).flip(1))

    def test_brings_the_last_token_to_the_first_and_back(self):
        scan, sequence = seeded(lambda: BidirectionalScan(6, 2)), normal(1, 9, 6)
        for changed, looked_at in ((0, 8), (8, 0)):
            other = sequence.clone()
            other[:, changed] += 1
            assert (scan(other) - scan(sequence))[:, looked_at].abs().max() > 1e-6

    def test_keeps_shape_and_type(self):
        scan = seeded(lambda: BidirectionalScan(6, 2)).to(torch.bfloat16)
        found = scan(normal(2, 1, 6).to(torch.bfloat16))
        assert found.shape == (2, 1, 6)
        assert found.dtype == torch.bfloat16

    def test_begins_with_steps_in_the_range_and_decays_of_whole_numbers(self):
        scan = seeded(lambda: BidirectionalScan(64, 4, 5))
        steps = functional.softplus(scan.dt_projs_bias)
        assert steps.min() >= STEP_RANGE[0] * 0.999
        assert steps.max() <= STEP_RANGE[1] * 1.001
        torch.testing.assert_close(scan.A_logs.exp(), torch.arange(1.0, 6).expand(128, 5))

    @given(st.floats(1e-4, 30))
    def test_inverse_softplus_inverts(self, value):
        value = torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(functional.softplus(inverse_softplus(value)), value)


class TestRegions:
    """Both gates open, each with its own region."""

    def test_motion_does_not_reach_tokens_outside_its_region(self, layer, inputs):
        passes = {"audio": [RegionPass(MOUTH)], "motion": [RegionPass(REST)]}
        change = run(layer, inputs, **passes) - run(layer, inputs, **passes, moved=inputs[3] + 1)
        outside = torch.cat([MOUTH, NEITHER])
        assert not change[:, outside].any()
        assert change[:, REST].abs().amax((0, 2)).min() > 1e-6

    def test_sound_does_not_reach_tokens_outside_its_region(self, layer, inputs):
        passes = {"audio": [RegionPass(MOUTH)], "motion": [RegionPass(REST)]}
        change = run(layer, inputs, **passes) - run(layer, inputs, **passes, heard=inputs[2] + 1)
        outside = torch.cat([REST, NEITHER])
        assert not change[:, outside].any()
        assert change[:, MOUTH].abs().amax((0, 2)).min() > 1e-6

    def test_both_reach_every_token_without_regions(self, layer, inputs):
        everywhere = [RegionPass(torch.arange(COUNT))]
        one = run(layer, inputs, everywhere, everywhere)
        for changed in ({"heard": inputs[2] + 1}, {"moved": inputs[3] + 1}):
            change = one - run(layer, inputs, everywhere, everywhere, **changed)
            assert change.abs().amax((0, 2)).min() > 1e-6

    def test_frames_do_not_reach_each_other(self, layer, inputs):
        heard = inputs[2].clone()
        heard[1] += 1
        passes = {"audio": [RegionPass(MOUTH)], "motion": [RegionPass(REST)]}
        change = run(layer, inputs, **passes) - run(layer, inputs, **passes, heard=heard)
        assert not change[[0, 2]].any()
        assert change[1].any()


class TestClosed:
    @pytest.mark.parametrize("build", [MaskedSSMLayer, JointMaskedSSMLayer])
    def test_signal_without_a_region_changes_nothing(self, build, inputs):
        layer = with_random_output(build)
        other = {"heard": inputs[2] * 9, "moved": inputs[3] - 7}
        assert torch.equal(run(layer, inputs), run(layer, inputs, **other))
        empty = [RegionPass(EMPTY)]
        assert torch.equal(run(layer, inputs), run(layer, inputs, empty, empty, **other))

    def test_layer_still_mixes_the_channels_of_each_token(self, layer, inputs):
        entered = layer.in_proj1(inputs[0]) + layer.in_proj2(inputs[0])
        assert torch.equal(run(layer, inputs), layer.out_proj(layer.out_norm(entered)))

    @pytest.mark.parametrize(
        ("audio", "motion"), [(EMPTY, EMPTY), (MOUTH, EMPTY), (EMPTY, REST), (MOUTH, REST)]
    )
    def test_scans_left_out_are_exact(self, layer, inputs, audio, motion):
        found = run(layer, inputs, [RegionPass(audio)], [RegionPass(motion)])
        assert torch.equal(found, always_scanned(layer, inputs, audio, motion))


class TestWeights:
    """Weights between 0 and 1 are new: the release has the ends only."""

    def weighted(self, value, selected=MOUTH):
        return [RegionPass(selected, torch.tensor(value).view(-1, 1, 1))]

    def test_0_is_closed(self, layer, inputs):
        assert torch.equal(run(layer, inputs, self.weighted(0.0)), run(layer, inputs))

    def test_1_is_open(self, layer, inputs):
        torch.testing.assert_close(
            run(layer, inputs, self.weighted(1.0)), run(layer, inputs, [RegionPass(MOUTH)])
        )

    @given(weight=st.floats(0, 1))
    @settings(deadline=None, max_examples=20)
    def test_change_of_the_branch_grows_evenly(self, layer, inputs, weight):
        closed = before_norm(layer, inputs)
        whole = before_norm(layer, inputs, [RegionPass(MOUTH)]) - closed
        part = before_norm(layer, inputs, self.weighted(weight)) - closed
        assert whole.abs().max() > 0.01
        torch.testing.assert_close(part, weight * whole, atol=1e-5, rtol=1e-5)

    @given(weight=st.floats(0, 1))
    @settings(deadline=None, max_examples=20)
    def test_that_add_up_to_1_over_the_same_tokens_are_one_pass(self, layer, inputs, weight):
        parts = self.weighted(weight) + self.weighted(1 - weight)
        torch.testing.assert_close(
            run(layer, inputs, parts), run(layer, inputs, [RegionPass(MOUTH)]), atol=1e-5, rtol=1e-5
        )

    def test_of_a_frame_act_on_it_alone(self, layer, inputs):
        found = run(layer, inputs, self.weighted([0.0, 1.0, 0.5]))
        closed, opened = run(layer, inputs), run(layer, inputs, [RegionPass(MOUTH)])
        half = run(layer, inputs, self.weighted(0.5))
        assert torch.equal(found[0], closed[0])
        torch.testing.assert_close(found[1], opened[1])
        torch.testing.assert_close(found[2], half[2])
        assert (found[2] - closed[2]).abs().max() > 1e-4

    def test_of_one_region_leave_another_as_it_is(self, layer, inputs):
        both = run(layer, inputs, self.weighted(0.3) + self.weighted(1.0, REST))
        alone = run(layer, inputs, self.weighted(1.0, REST))
        torch.testing.assert_close(both[:, REST], alone[:, REST])


def with_random_output(build):
    """A layer as after some training: the joint one's output is no longer zero."""

    def made():
        layer = build(CHANNELS, CONDITIONS)
        if isinstance(layer, JointMaskedSSMLayer):
            torch.nn.init.normal_(layer.out_proj[-1].weight)
        return layer

    return seeded(made)


@pytest.fixture(scope="module")
def joined(inputs):
    """The same inputs as one clip, and the passes of both regions over its frames."""
    tokens, identity, heard, moved = inputs
    clip = tuple(part.flatten(0, 1)[None] for part in (tokens, heard, moved))
    over_frames = [(COUNT * torch.arange(FRAMES)[:, None] + selected).flatten() for selected in (MOUTH, REST)]
    return (clip[0], identity[:1], *clip[1:]), over_frames


class TestJoint:
    """The paper's form: one sequence of all frames' tokens, with a residual."""

    def test_fresh_is_the_identity(self, joined):
        clip, (mouth, rest) = joined
        layer = seeded(lambda: JointMaskedSSMLayer(CHANNELS, CONDITIONS))
        assert torch.equal(run(layer, clip, [RegionPass(mouth)], [RegionPass(rest)]), clip[0])

    def test_sound_of_one_frame_reaches_the_others_within_its_region(self, joined):
        clip, (mouth, rest) = joined
        layer = with_random_output(JointMaskedSSMLayer)
        heard = clip[2].clone()
        heard[:, 4:8] += 1  # of the second frame
        passes = {"audio": [RegionPass(mouth)], "motion": [RegionPass(rest)]}
        change = run(layer, clip, **passes) - run(layer, clip, **passes, heard=heard)
        change = change.unflatten(1, (FRAMES, COUNT))[0]
        assert change[:, MOUTH].abs().amax((1, 2)).min() > 1e-6
        assert not change[:, torch.cat([REST, NEITHER])].any()

    def test_frames_reach_each_other_through_their_tokens(self, joined):
        clip, (mouth, _) = joined
        layer = with_random_output(JointMaskedSSMLayer)
        tokens = clip[0].clone()
        tokens[:, int(mouth[0])] += 1
        other = (tokens, *clip[1:])
        change = run(layer, clip, [RegionPass(mouth)]) - run(layer, other, [RegionPass(mouth)])
        assert change[:, int(mouth[-1])].abs().max() > 1e-7


@pytest.mark.parametrize("build", [MaskedSSMLayer, JointMaskedSSMLayer])
def test_gradients_reach_every_parameter(build, inputs):
    layer = with_random_output(build).requires_grad_(True)
    run(layer, inputs, [RegionPass(MOUTH)], [RegionPass(REST)]).square().sum().backward()
    without = [
        name
        for name, parameter in layer.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_input_is_left_as_it_was(layer, inputs):
    copies = [part.clone() for part in inputs]
    weights = torch.tensor([0.5, 0.2, 1.0]).view(-1, 1, 1)
    run(layer, inputs, [RegionPass(MOUTH), RegionPass(REST, weights)], [RegionPass(REST)])
    assert all(torch.equal(part, copy) for part, copy in zip(inputs, copies, strict=True))


def test_rows_beyond_what_is_scanned_together_come_after_and_are_the_same(monkeypatch):
    unit, sequence = (
        BidirectionalScan(8, 2),
        torch.randn(5, 11, 8, generator=torch.Generator().manual_seed(3)),
    )
    together = unit(sequence)
    monkeypatch.setattr(masked_ssm, "SCANNED_NUMBERS", 2 * 2 * 11 * 8)
    assert masked_ssm.rows_at_once(11, 8) == 2
    assert torch.allclose(unit(sequence), together, atol=1e-6)
    assert masked_ssm.rows_at_once(10**6, 10**3) == 1
