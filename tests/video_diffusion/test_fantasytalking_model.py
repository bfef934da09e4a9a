"""FantasyTalking's network as a whole: what each condition does, gradients, bad input."""

import copy
from dataclasses import replace

import pytest
import torch
from talking_portrait.core_models.video_diffusion.actalker.portrait_encoder import PortraitEncoderParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.intensity_network import IntensityParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.model import (
    ClipDefaults,
    DenoiserConditions,
    FantasyTalkingModel,
    FantasyTalkingParameters,
)
from talking_portrait.core_models.video_diffusion.wan.transformer import new_wan_transformer

from .fantasytalking_models import (
    FRAMES,
    RELEASE_LIKE,
    SMALL_MODEL,
    SMALL_WAN,
    WINDOW,
    evaluated,
    new_inputs,
    new_model,
)

BRANCHES = ("audio", "identity", "intensity")


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture(scope="module")
def inputs():
    return new_inputs()


@pytest.mark.parametrize("name", ["text", "picture", "image", *BRANCHES])
def test_each_condition_counts(model, inputs, name):
    found = evaluated(model, inputs)
    assert found.dtype == torch.float32
    assert found.shape == inputs[0].shape
    swapped = {name: getattr(inputs[2], name).flip(0)}
    assert not torch.allclose(evaluated(model, inputs, **swapped), found, atol=1e-4)


def test_a_fresh_model_is_wan_alone(inputs):
    fresh = new_model(trained=False)
    latents, timesteps, c = inputs
    wan = copy.deepcopy(fresh.transformer)
    text = torch.nn.functional.pad(c.text, (0, 0, 0, SMALL_WAN.text_length - c.text.shape[1]))
    for block in wan.blocks:
        block.attn2.processor.shared.current = replace(block.attn2.processor.shared.current, picture_tokens=6)
    with torch.no_grad():
        alone = wan(torch.cat([latents, c.image], dim=1), timesteps, text, c.picture, return_dict=False)[0]
    assert torch.equal(evaluated(fresh, inputs), alone)


@pytest.mark.parametrize("name", BRANCHES)
def test_a_fresh_branch_is_as_absent(inputs, name):
    fresh = new_model(trained=False)
    assert torch.equal(evaluated(fresh, inputs), evaluated(fresh, inputs, **{name: None}))


@pytest.mark.parametrize("clip_level", [False, True])
def test_audio_scale_0_is_no_sound(model, clip_level):
    inputs = new_inputs(clip_level=clip_level)
    silent = evaluated(model, inputs, audio=None)
    assert torch.equal(evaluated(model, inputs, audio_scale=torch.zeros(2)), silent)
    mixed = evaluated(model, inputs, audio_scale=torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed[0], silent[0])
    torch.testing.assert_close(mixed[1], evaluated(model, inputs)[1])


def test_identity_scale_0_is_no_identity(model, inputs):
    assert torch.equal(evaluated(model, inputs, identity_scale=0.0), evaluated(model, inputs, identity=None))


def test_sound_outside_of_the_clip_is_silence(model, inputs):
    found = evaluated(model, inputs, audio_lengths=torch.zeros(2, FRAMES, dtype=torch.int64))
    assert torch.equal(found, evaluated(model, inputs, audio=None))
    partly = evaluated(model, inputs, audio_lengths=torch.tensor([[0, WINDOW, 2], [1, 0, 0]]))
    assert torch.isfinite(partly).all()


def test_streams_do_not_see_each_other(model, inputs):
    latents, timesteps, conditions = inputs
    both = evaluated(model, inputs)
    for stream in range(2):
        alone = {
            name: value[stream : stream + 1] if isinstance(value, torch.Tensor) else value
            for name, value in vars(conditions).items()
        }
        found = evaluated(
            model,
            (
                latents[stream : stream + 1],
                timesteps[stream : stream + 1],
                DenoiserConditions(**alone),
            ),
        )
        torch.testing.assert_close(found, both[stream : stream + 1], atol=1e-5, rtol=1e-4)


def test_a_prompt_is_padded_with_zeros_to_wans_length(model, inputs):
    text = inputs[2].text
    lacking = SMALL_WAN.text_length - text.shape[1]
    padded = torch.nn.functional.pad(text, (0, 0, 0, lacking))
    assert torch.equal(evaluated(model, inputs, text=padded), evaluated(model, inputs))


def test_without_picture_tokens_a_prompt_has_any_length():
    parameters = replace(SMALL_MODEL, wan=replace(SMALL_WAN, image_dim=None))
    model, inputs = new_model(parameters), new_inputs(parameters)
    text = inputs[2].text
    longer = torch.cat([text, torch.zeros(2, 600, text.shape[2])], dim=1)
    assert torch.isfinite(evaluated(model, inputs, text=longer)).all()
    assert not torch.allclose(
        evaluated(model, inputs, text=longer), evaluated(model, inputs), atol=1e-6
    )  # padding is attended to, so none was added to the shorter one


def test_projections_of_conditions(model):
    features = torch.randn(13, 1, 6)
    tokens = model.audio_tokens(features)
    assert tokens.shape == (13, 9)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(13), atol=0.5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.audio_tokens(features), tokens)
    assert model.identity_tokens(torch.randn(2, 5)).shape == (2, 3, 11)
    with pytest.raises(ValueError, match="no identity branch"):
        new_model(RELEASE_LIKE).identity_tokens(torch.randn(2, 5))


class TestGradients:
    def graded(self, model, inputs):
        model.requires_grad_(True)
        latents, timesteps, conditions = inputs
        model(latents, timesteps, conditions).square().sum().backward()
        return {name: value.grad for name, value in model.named_parameters()}

    def test_values_learn_before_keys_where_both_begin_at_zero(self, inputs):
        fresh = new_model(trained=False)
        grads = self.graded(fresh, inputs)
        for block in range(SMALL_WAN.num_layers):
            processor = f"transformer.blocks.{block}.attn2.processor"
            assert grads[f"{processor}.v_proj.weight"].any()
            assert not grads[f"{processor}.k_proj.weight"].any()
            assert grads[f"{processor}.identity_v_proj.weight"].any()
        assert grads["intensity.proj_out.weight"].any()
        with torch.no_grad():
            for value in fresh.parameters():
                if value.grad is not None:
                    value -= 0.01 * value.grad
                value.grad = None
        grads = self.graded(fresh, inputs)
        assert grads["transformer.blocks.0.attn2.processor.k_proj.weight"].any()
        assert grads["transformer.blocks.0.attn2.processor.identity_k_proj.weight"].any()
        assert grads["intensity.face.0.weight"].any()

    def test_they_reach_the_encoders_of_conditions(self, inputs):
        model = new_model().requires_grad_(True)
        latents, timesteps, conditions = inputs
        audio = model.audio_tokens(torch.randn(FRAMES * WINDOW, 1, 6)).unflatten(0, (FRAMES, WINDOW))
        identity = model.identity_tokens(torch.randn(2, 5))
        given = replace(conditions, audio=audio.expand(2, -1, -1, -1), identity=identity)
        model(latents, timesteps, given).square().sum().backward()
        for name in ("audio_projection.proj.weight", "identity.spread.weight", "intensity.body.0.weight"):
            assert model.get_parameter(name).grad.any(), name

    def test_checkpointed_blocks_give_the_same(self, inputs):
        wanted = self.graded(new_model(), inputs)
        model = new_model()
        model.enable_gradient_checkpointing()
        found = self.graded(model, inputs)
        for name, value in wanted.items():
            assert (value is None) == (found[name] is None), name
            if value is not None:
                torch.testing.assert_close(found[name], value, msg=name)


def test_controls_are_reset_after_an_evaluation_and_after_an_error(inputs):
    model = new_model()
    plain = model.shared.current
    evaluated(model, inputs)
    assert model.shared.current is plain

    def broken(module, given):
        raise ArithmeticError("broken")

    handle = model.transformer.blocks[1].register_forward_pre_hook(broken)
    with pytest.raises(ArithmeticError):
        evaluated(model, inputs)
    handle.remove()
    assert model.shared.current is plain
    assert torch.equal(evaluated(model, inputs), evaluated(new_model(), inputs))


def test_a_copy_stands_by_itself(model, inputs):
    copied = copy.deepcopy(model)
    assert torch.equal(evaluated(copied, inputs), evaluated(model, inputs))
    for block in copied.transformer.blocks:
        assert block.attn2.processor.shared is copied.shared
    copied.intensity.proj_out.weight.add_(1)
    assert not torch.allclose(evaluated(copied, inputs), evaluated(model, inputs))


def test_fused_projections_of_diffusers_change_nothing(inputs):
    model = new_model()
    wanted = evaluated(model, inputs)
    model.transformer.fuse_qkv_projections()
    torch.testing.assert_close(evaluated(model, inputs), wanted, atol=1e-5, rtol=1e-4)


def test_inputs_are_left_as_they_are(model):
    latents, timesteps, conditions = inputs = new_inputs()
    before = copy.deepcopy(inputs)
    evaluated(model, inputs)
    for name, value in vars(conditions).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(before[2], name))
    assert torch.equal(latents, before[0])
    assert torch.equal(timesteps, before[1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"image": torch.zeros(2, 20, 4, 4, 6)},
            r"image has shape \(2, 20, 4, 4, 6\), expected \(2, 20, 3, 4, 6\)",
        ),
        ({"text": torch.zeros(2, 4, 9)}, r"text has shape \(2, 4, 9\)"),
        ({"text": torch.zeros(2, 8, 8)}, "text has 8 tokens, the network reads 7"),
        ({"picture": None}, "looks at the picture through CLIP"),
        ({"picture": torch.zeros(2, 6, 11)}, r"picture has shape \(2, 6, 11\)"),
        ({"audio": torch.zeros(2, 4, 5, 9)}, r"audio has shape \(2, 4, 5, 9\), expected \(2, 3, any, 9\)"),
        ({"audio": torch.zeros(2, 4, 5)}, r"audio has shape \(2, 4, 5\), expected \(2, any, 9\)"),
        ({"audio": torch.zeros(2, 0, 9)}, "expected at least one token"),
        ({"audio_lengths": torch.zeros(2)}, r"audio_lengths has shape \(2,\), expected \(2, 3\)"),
        ({"audio_scale": torch.ones(1)}, r"audio_scale has shape \(1,\), expected \(2\)"),
        ({"identity": torch.zeros(2, 3, 9)}, r"identity has shape \(2, 3, 9\)"),
        ({"identity_scale": float("nan")}, "identity_scale is nan"),
        ({"intensity": torch.zeros(2)}, r"intensity has shape \(2,\)"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(model, inputs, changed, message):
    with pytest.raises(ValueError, match=message):
        evaluated(model, inputs, **changed)


@pytest.mark.parametrize(
    ("latents", "timesteps", "message"),
    [
        (torch.zeros(2, 15, 3, 4, 6), torch.zeros(2), "expected .B, 16, F, h, w."),
        (
            torch.zeros(2, 16, 3, 5, 6),
            torch.zeros(2),
            "latents are 5 x 6, expected multiples of the patches, 2 x 2",
        ),
        (torch.zeros(2, 16, 3, 4, 6), torch.zeros(1), r"timesteps has shape \(1,\)"),
    ],
)
def test_latents_that_do_not_fit_are_refused(model, inputs, latents, timesteps, message):
    with pytest.raises(ValueError, match=message):
        evaluated(model, (latents, timesteps, inputs[2]))


@pytest.mark.parametrize("name", ["identity", "intensity"])
def test_a_condition_without_its_branch_is_refused(inputs, name):
    model = new_model(RELEASE_LIKE)
    absent = {"identity": None, "intensity": None} | {name: getattr(inputs[2], name)}
    with pytest.raises(ValueError, match=f"no {name}"):
        evaluated(model, inputs, **absent)


def test_picture_tokens_for_a_network_without_them_are_refused():
    parameters = replace(SMALL_MODEL, wan=replace(SMALL_WAN, image_dim=None))
    with pytest.raises(ValueError, match="give no picture tokens"):
        evaluated(new_model(parameters), new_inputs(parameters), picture=torch.zeros(2, 6, 10))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"intensity": IntensityParameters(8, 8, 25)}, "intensity network gives 25 numbers"),
        ({"portrait_encoder": PortraitEncoderParameters((4,), 6)}, "portrait encoder gives 6 features"),
        (
            {"identity": None, "portrait_encoder": PortraitEncoderParameters((4,), 5)},
            "only to an identity branch",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL_MODEL, **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fps": 0.0}, "fps is 0.0"),
        ({"shift": float("inf")}, "shift is inf"),
        ({"steps": 0}, "steps is 0"),
        ({"window": 80}, "window is 80 frames, expected 4 k"),
        ({"window": 1}, "at least 5"),
        ({"prompt_guidance": float("nan")}, "prompt_guidance is nan"),
        ({"size_multiple": 0}, "size_multiple is 0"),
    ],
)
def test_defaults_out_of_range_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(ClipDefaults(), **changed)


def test_defaults_are_the_releases():
    found = FantasyTalkingParameters()
    assert found.wan.width == 5120
    assert (found.audio.channels, found.audio.width) == (768, 2048)
    assert found.identity is None
    assert found.intensity is None
    assert vars(found.defaults) == {
        "fps": 23.0,
        "window": 81,
        "steps": 30,
        "shift": 5.0,
        "prompt_guidance": 5.0,
        "audio_guidance": 5.0,
        "image_size": 512,
        "size_multiple": 16,
    }


def test_a_given_transformer_becomes_part_of_the_model():
    transformer = new_wan_transformer(SMALL_WAN)
    model = FantasyTalkingModel(SMALL_MODEL, transformer)
    assert model.transformer is transformer
    again = FantasyTalkingModel(SMALL_MODEL, transformer)
    assert len(again.transformer.patch_embedding._forward_hooks) == 1
