"""FantasyTalking's network in half precision and in 8 bits, and with keys and values kept from step to step."""

import copy
from dataclasses import replace

import pytest
import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_attention import (
    ControlledCrossAttention,
    SharedControls,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.constant_keys import KeyValueCache
from talking_portrait.core_models.video_diffusion.fantasytalking.loading import in_precision
from talking_portrait.core_models.video_diffusion.wan.float8_linear import store_in_float8
from talking_portrait.core_models.video_diffusion.wan.transformer import WanParameters, new_wan_transformer

from .fantasytalking_models import RELEASE_LIKE, evaluated, new_inputs, new_model


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture(scope="module")
def inputs():
    return new_inputs()


@pytest.fixture(scope="module")
def deeper():
    """Eight blocks, as wide as it takes for rounding to show; well scaled weights; and its inputs."""
    wan = WanParameters(
        num_attention_heads=4,
        attention_head_dim=32,
        text_dim=32,
        freq_dim=64,
        ffn_dim=256,
        num_layers=8,
        image_dim=32,
        text_length=64,
    )
    parameters = replace(RELEASE_LIKE, wan=wan)
    model = new_model(parameters)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                fan_in = value[0].numel()
                value.copy_(torch.randn(value.shape, generator=generator) / fan_in**0.5)
    return model, new_inputs(parameters, batch=1)


class TestPrecision:
    def test_half_precision_keeps_a_float32_residual_and_so_half_the_error(self, deeper):
        model, inputs = deeper
        exact = evaluated(model, inputs)
        half = copy.deepcopy(model)
        half.load_state_dict(in_precision(model.state_dict(), torch.bfloat16), assign=True)
        assert half.computing_dtype == torch.bfloat16
        error = (evaluated(half, inputs) - exact).square().mean().sqrt()
        assert 0 < error < 0.75 * self.error_of_diffusers(model, inputs, exact)
        assert error < 0.01 * exact.std()

    def error_of_diffusers(self, model, inputs, exact):
        """RMS error of diffusers' own bfloat16, without sound, which is a small part."""
        latents, timesteps, c = inputs
        plain = new_wan_transformer(model.parameters_used.wan).eval().requires_grad_(False)
        state = {
            name: value for name, value in model.transformer.state_dict().items() if "processor" not in name
        }
        plain.load_state_dict(state)
        kinds = {}
        for name, module in plain.named_children():
            kinds[name] = module.to(torch.bfloat16) if name != "rope" else module
        plain.scale_shift_table.data = plain.scale_shift_table.data.bfloat16()
        for block in plain.blocks:
            block.attn2.set_processor(new_processor(model))
        text = torch.nn.functional.pad(c.text, (0, 0, 0, 64 - c.text.shape[1]))
        given = torch.cat([latents, c.image], dim=1).bfloat16()
        with torch.no_grad():
            found = plain(given, timesteps, text.bfloat16(), c.picture.bfloat16(), return_dict=False)[0]
        silent = evaluated(model, inputs, audio=None)
        return (found.float() - silent).square().mean().sqrt()

    def test_blocks_add_to_float32(self, deeper):
        model, inputs = deeper
        half = copy.deepcopy(model)
        half.load_state_dict(in_precision(model.state_dict(), torch.bfloat16), assign=True)
        seen = {}
        for name in ("blocks.0", "blocks.7", "proj_out", "condition_embedder.time_proj"):
            half.transformer.get_submodule(name).register_forward_hook(
                lambda module, given, output, name=name: seen.__setitem__(name, output.dtype)
            )
        half.transformer.blocks[0].ffn.register_forward_hook(
            lambda module, given, output: seen.__setitem__("ffn", output.dtype)
        )
        evaluated(half, inputs)
        assert seen.pop("ffn") == torch.bfloat16
        assert set(seen.values()) == {torch.float32}

    def test_autocast_of_the_caller_is_used_with_float32_weights(self, deeper):
        model, inputs = deeper
        exact = evaluated(model, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            found = evaluated(model, inputs)
        assert found.dtype == torch.float32
        assert 0 < (found - exact).abs().max() < 0.1

    def test_weights_in_8_bits_compute_nearly_the_same(self, deeper):
        model, inputs = deeper
        exact = evaluated(model, inputs)
        packed = copy.deepcopy(model)
        store_in_float8(packed.transformer.blocks, torch.float32)
        assert packed.computing_dtype == torch.float32
        kinds = {value.dtype for name, value in packed.state_dict().items() if name.endswith("to_q.weight")}
        assert kinds == {torch.float8_e4m3fn}
        assert packed.transformer.proj_out.weight.dtype == torch.float32
        error = (evaluated(packed, inputs) - exact).square().mean().sqrt()
        assert 0 < error < 0.1 * exact.std()


def new_processor(model):
    """A processor like the model's, that hears nothing and knows the number of picture tokens."""
    made = ControlledCrossAttention(
        model.parameters_used.wan.width, model.parameters_used.audio.width, SharedControls()
    )
    made.shared.current = replace(made.shared.current, picture_tokens=6)
    return made


class TestKeptKeys:
    def test_results_are_the_same_to_the_bit(self, model, inputs):
        cache = KeyValueCache()
        latents, _, conditions = inputs
        for step in (900.0, 500.0, 100.0):
            given = (latents * step / 900, torch.full((2,), step), conditions)
            assert torch.equal(evaluated(model, given, cache), evaluated(model, given))

    def test_layers_of_conditions_run_once(self, model, inputs):
        calls = []
        block = copy.deepcopy(model)
        for layer in (
            block.transformer.blocks[0].attn2.to_k,
            block.transformer.blocks[0].attn2.add_v_proj,
            block.transformer.blocks[1].attn2.processor.k_proj,
            block.transformer.blocks[1].attn2.processor.identity_v_proj,
        ):
            layer.register_forward_hook(lambda module, given, output: calls.append(module))
        cache = KeyValueCache()
        for _ in range(3):
            evaluated(block, inputs, cache)
        assert len(calls) == 4

    @pytest.mark.parametrize("name", ["text", "picture", "audio", "identity"])
    def test_a_changed_condition_is_never_answered_with_the_old_one(self, model, inputs, name):
        cache = KeyValueCache()
        evaluated(model, inputs, cache)
        changed = getattr(inputs[2], name).clone()
        changed[0, 0] += 1
        found = evaluated(model, inputs, cache, **{name: changed})
        assert torch.equal(found, evaluated(model, inputs, **{name: changed}))
        changed[1, 0] -= 2  # the very tensor that was given before
        found = evaluated(model, inputs, cache, **{name: changed})
        assert torch.equal(found, evaluated(model, inputs, **{name: changed}))

    def test_scales_and_lengths_are_free_to_change(self, model, inputs):
        cache = KeyValueCache()
        for scale in (1.0, 0.5, 0.0, 2.0):
            given = {
                "audio_scale": torch.tensor([scale, 1.0]),
                "audio_lengths": torch.tensor([[2, 3, 1 + int(scale)], [5, 0, 2]]),
                "identity_scale": scale,
            }
            assert torch.equal(evaluated(model, inputs, cache, **given), evaluated(model, inputs, **given))

    def test_another_model_makes_its_own(self, model, inputs):
        cache, other = KeyValueCache(), new_model(seed=7)
        evaluated(model, inputs, cache)
        assert torch.equal(evaluated(other, inputs, cache), evaluated(other, inputs))
