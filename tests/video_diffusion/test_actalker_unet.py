"""ACTalker's UNet at small sizes: gates, weights, forms of the layer, sizes, gradients, and what is refused."""

import dataclasses

import pytest
import torch
from talking_portrait.core_models.ssm.masked_ssm import JointMaskedSSMLayer, MaskedSSMLayer
from talking_portrait.core_models.video_diffusion.actalker.controlled_transformer import (
    JOINT,
    LAYERS,
    NO_LAYER,
    PER_FRAME,
    ControlledTransformer,
)
from talking_portrait.core_models.video_diffusion.actalker.controls import PlacedControls, Region
from talking_portrait.core_models.video_diffusion.actalker.unet import UNetParameters

from .actalker_networks import EYES, MOUTH, SMALL, WIDTH, controls, new_unet, normal, rows, run

FORMS = sorted(LAYERS)
OTHER = {"heard": normal(1, 3, 5, WIDTH, seed=90), "moved": normal(1, 3, 1, WIDTH, seed=91)}


@pytest.fixture(scope="module", params=FORMS)
def unet(request):
    """The small UNet in every form, its zero-initialised outputs filled as after some training."""
    made = new_unet(dataclasses.replace(SMALL, layer=request.param))
    random = torch.Generator().manual_seed(1)
    for layer in made.modules():
        if isinstance(layer, JointMaskedSSMLayer):
            torch.nn.init.normal_(layer.out_proj[-1].weight, generator=random)
    return made


class TestGates:
    def test_open_ones_let_their_signal_through(self, unet):
        found = run(unet, controls(MOUTH, EYES))
        for name, value in OTHER.items():
            assert (found - run(unet, controls(MOUTH, EYES, **{name: value}))).abs().max() > 1e-5

    def test_closed_ones_shut_their_signal_out(self, unet):
        assert torch.equal(run(unet, controls()), run(unet, controls(**OTHER)))
        for regions, closed in (({"audio": MOUTH}, "moved"), ({"motion": EYES}, "heard")):
            found = run(unet, controls(**regions))
            assert torch.equal(found, run(unet, controls(**regions, **{closed: OTHER[closed]})))

    @pytest.mark.parametrize("closed", ["audio", "motion"])
    def test_closed_ones_equal_the_releases_gate_of_zero(self, unet, closed):
        """The release multiplies the tokens by 0 and empties the mask."""
        opened = {"audio": MOUTH, "motion": EYES}
        released = opened | {closed: [Region(torch.zeros(64, 64))]}
        name = {"audio": "heard", "motion": "moved"}[closed]
        silent = {name: torch.zeros_like(OTHER[name])}
        found = run(unet, controls(**opened | {closed: ()}))
        torch.testing.assert_close(found, run(unet, controls(**released, **silent)), rtol=0, atol=1e-6)


class TestWeights:
    @staticmethod
    def weighted(*values):
        return [Region(region.mask, torch.tensor(values)) for region in MOUTH]

    def test_0_is_closed(self, unet):
        closed = run(unet, controls(motion=EYES))
        found = run(unet, controls(self.weighted(0.0, 0.0, 0.0), EYES))
        torch.testing.assert_close(found, closed, rtol=0, atol=1e-6)

    def test_1_is_open(self, unet):
        found = run(unet, controls(self.weighted(1.0, 1.0, 1.0), EYES))
        torch.testing.assert_close(found, run(unet, controls(MOUTH, EYES)), rtol=1e-4, atol=1e-5)

    def test_sound_of_frames_with_a_shut_gate_is_not_heard_anywhere(self, unet):
        heard = controls().audio.tokens
        other = torch.cat([heard[:, :2], heard[:, 2:] + 1], dim=1)
        regions = self.weighted(1.0, 0.5, 0.0)
        found, same = (run(unet, controls(regions, EYES, heard=tokens)) for tokens in (heard, other))
        assert torch.equal(found, same)
        opened, changed = (run(unet, controls(MOUTH, EYES, heard=tokens)) for tokens in (heard, other))
        assert (opened - changed).abs().amax((0, 2, 3, 4)).min() > 1e-6

    def test_between_lead_from_one_to_the_other(self, unet):
        closed = run(unet, controls(motion=EYES))
        changes = [
            (run(unet, controls(self.weighted(*[weight] * 3), EYES)) - closed).norm().item()
            for weight in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
        assert changes == sorted(changes)
        assert changes[1] > 0


class TestForms:
    def test_have_their_layer_wherever_the_released_network_has_it(self, unet):
        form = unet.parameters_used.layer
        layers = [name for name, module in unet.named_modules() if name.endswith("mamba_blocks.0")]
        places = ["down_blocks.0.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1"]
        assert layers == ([] if form == NO_LAYER else [f"{place}.mamba_blocks.0" for place in places])
        kinds = {type(unet.get_submodule(name)) for name in layers}
        assert kinds == ({LAYERS[form]} if layers else set())

    def test_published_has_fifteen(self):
        with torch.device("meta"):
            published = new_unet(UNetParameters())
        assert sum(isinstance(module, MaskedSSMLayer) for module in published.modules()) == 15

    def test_fresh_joint_layers_leave_the_network_without_them_as_it_was(self):
        joint = new_unet(dataclasses.replace(SMALL, layer=JOINT))
        without = new_unet(dataclasses.replace(SMALL, layer=NO_LAYER))
        without.load_state_dict(
            {key: value for key, value in joint.state_dict().items() if "mamba_blocks" not in key}
        )
        steering = controls(MOUTH, EYES)
        assert torch.equal(run(joint, steering), run(without, steering))

    @pytest.mark.parametrize(("form", "reached"), [(PER_FRAME, False), (JOINT, True)])
    def test_sound_of_a_frame_reaches_others_in_the_joint_layer_alone(self, form, reached):
        transformer = controlled_transformer(form)
        heard = controls().audio.tokens.clone()
        heard[:, 1] += 1
        changes = [
            mixed(transformer, controls(MOUTH, EYES, heard=tokens))
            for tokens in (controls().audio.tokens, heard)
        ]
        change = (changes[0] - changes[1]).abs().amax((1, 2))
        assert change[1] > 1e-6
        assert (change[[0, 2]] > 1e-7).tolist() == [reached, reached]

    def test_weights_of_frames_act_on_their_frame_in_either_layer(self):
        weight = torch.tensor([1.0, 0.0, 1.0])
        for form in (PER_FRAME, JOINT):
            transformer = controlled_transformer(form)
            silent = controls().audio.tokens * weight[:, None, None]
            found = mixed(transformer, controls([Region(MOUTH[0].mask, weight)]))
            closed, opened = (mixed(transformer, controls(audio, heard=silent)) for audio in ((), MOUTH))
            torch.testing.assert_close(found[1], closed[1])
            torch.testing.assert_close(found[[0, 2]], opened[[0, 2]])
            assert (found[0] - closed[0]).abs().max() > 1e-5


def controlled_transformer(form):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = ControlledTransformer(2, 16, 32, WIDTH, form).eval().requires_grad_(False)
        if form == JOINT:
            torch.nn.init.normal_(made.mamba_blocks[0].out_proj[-1].weight)
    return made


def mixed(transformer, steering):
    """The layer's output (frames, tokens, channels): before time is attended to, so frames meet in it alone."""
    level = PlacedControls(steering).at(8, 8)
    return transformer._controlled(normal(3, 64, 32, seed=5), level, frames=3)


class TestSizes:
    @pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 7), (5, 12), (3, 3)])
    def test_of_latents_come_back_odd_ones_too(self, unet, height, width):
        regions = [Region(rows(1, 3, height, width))]
        found = run(unet, controls(regions, regions), height, width)
        assert found.shape == (1, 3, 4, height, width)
        assert found.isfinite().all()

    @pytest.mark.parametrize("form", FORMS)
    def test_of_three_levels_run(self, form):
        parameters = dataclasses.replace(SMALL, channels=(32, 32, 32), heads=(2, 2, 2), layer=form)
        found = run(new_unet(parameters), controls(MOUTH, EYES, frames=2))
        assert found.shape == (1, 2, 4, 8, 8)
        assert found.isfinite().all()

    def test_one_frame_runs(self, unet):
        assert run(unet, controls(MOUTH, EYES, frames=1)).isfinite().all()

    def test_clips_of_one_batch_do_not_touch(self, unet):
        batch = run(unet, controls(MOUTH, EYES, batch=2))
        steering = controls(MOUTH, EYES, batch=2)
        louder = steering.audio.tokens * torch.tensor([1.0, 2]).view(2, 1, 1, 1)
        changed = controls(MOUTH, EYES, batch=2, heard=louder)
        change = (batch - run(unet, changed)).abs().amax((1, 2, 3, 4))
        assert change[0] < 1e-6
        assert change[1] > 1e-5

    def test_time_conditions_are_those_of_their_clip(self, unet):
        steering, latents = controls(MOUTH, EYES, batch=2), normal(2, 3, 8, 8, 8, seed=7)
        times, levels = torch.tensor([[12.5, 12, 20], [25, 90, 3]]), torch.tensor([0.4, -0.9])
        both = unet(latents, levels, steering, times)
        for one in (slice(0, 1), slice(1, 2)):
            alone = unet(latents[one], levels[one], of_clip(steering, one), times[one])
            torch.testing.assert_close(both[one], alone, rtol=1e-4, atol=1e-5)

    def test_pose_counts_and_may_be_left_out(self, unet):
        steering = controls(MOUTH, EYES)
        assert (run(unet, steering) - run(unet, steering, posed=False)).abs().max() > 1e-4

    def test_half_precision_runs_and_agrees_roughly(self):
        unet, steering = new_unet(), controls(MOUTH, EYES)
        found = run(unet, steering)
        half = run_in(torch.bfloat16, new_unet(), steering)
        assert half.dtype == torch.bfloat16
        assert (half.float() - found).abs().max() < 0.1 * found.abs().max()


def of_clip(steering, one):
    """The controls of some clips of a batch."""
    audio, motion = (dataclasses.replace(signal, tokens=signal.tokens[one]) for signal in steering.signals)
    return dataclasses.replace(steering, identity=steering.identity[one], audio=audio, motion=motion)


def run_in(dtype, unet, steering):
    """The UNet and all it is given in another dtype."""
    audio, motion = (
        dataclasses.replace(signal, tokens=signal.tokens.to(dtype)) for signal in steering.signals
    )
    steering = dataclasses.replace(steering, identity=steering.identity.to(dtype), audio=audio, motion=motion)
    pose = normal(1, 3, 32, 8, 8, seed=8).to(dtype)
    return unet.to(dtype)(
        normal(1, 3, 8, 8, 8, seed=7).to(dtype),
        torch.tensor(0.4),
        steering,
        torch.tensor([[12.5, 12, 20]]),
        pose,
    )


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_every_parameter_that_can_matter(form):
    """A single token gets all the attention, so what the attention to it is computed from does not matter."""
    unet = new_unet(dataclasses.replace(SMALL, layer=form)).requires_grad_(True)
    run(unet, controls(MOUTH, EYES)).square().sum().backward()
    without = {name for name, parameter in unet.named_parameters() if parameter.grad is None}
    assert without
    assert all(name.endswith(("attn2.to_k.weight", "to_k_ip.1.weight")) for name in without)
    fresh_output = "mamba_blocks.0" if form == JOINT else "no such name"  # zeros, so nothing passes back yet
    flat = {
        name
        for name, parameter in unet.named_parameters()
        if name not in without and not parameter.grad.any() and fresh_output not in name
    }
    assert not flat


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layer": "mamba"}, "unknown form of the masked SSM layer 'mamba'; known: "),
        ({"heads": (2,)}, "one entry for each of >= 2 levels"),
        ({"channels": (32,), "heads": (2,)}, "one entry for each of >= 2 levels"),
        ({"channels": (32, 48)}, r"channels \[48\] must be multiples of 32"),
        ({"heads": (2, 5)}, r"channels \[32\] must be multiples of 32 and of the heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changed)


def test_input_is_left_as_it_was():
    unet, steering = new_unet(), controls(MOUTH, EYES)
    copies = [part.clone() for part in (steering.identity, steering.audio.tokens, steering.motion.tokens)]
    run(unet, steering)
    assert torch.equal(steering.identity, copies[0])
    assert torch.equal(steering.audio.tokens, copies[1])
    assert torch.equal(steering.motion.tokens, copies[2])
