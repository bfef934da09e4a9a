"""Guidance streams that share the first block's self-attention: the same to the bit, and only if they begin alike."""

import copy
from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from talking_portrait.core_models.video_diffusion.fantasytalking.memory_sizes import (
    WindowSize,
    shared_beginning_bytes,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
from talking_portrait.core_models.video_diffusion.fantasytalking.sampler import sample_latents
from talking_portrait.core_models.video_diffusion.fantasytalking.shared_beginning import SharedBeginning
from talking_portrait.core_models.video_diffusion.wan.float8_linear import store_in_float8
from talking_portrait.core_models.video_diffusion.wan.transformer import kept_in_float32
from talking_portrait.runtime.block_offload import offload_by_block
from talking_portrait.runtime.block_streaming import stream_by_block

from ..runtime.test_block_streaming import PretendedDevice
from .fantasytalking_models import SMALL_MODEL, evaluated, new_inputs, new_model
from .fantasytalking_sampling import QUICK, KnowingNetwork, clip, drawn, guided, sampled, small_conditions

LATENTS = 5
THREE_STREAMS = replace(QUICK, steps=3, window=3, overlap=0, guidance=guided(5, 4.5))
"""Of two windows."""
ONE_WINDOW = replace(THREE_STREAMS, window=LATENTS)
STEPS_AND_WINDOWS = 6


@pytest.fixture
def model():
    return new_model()


@pytest.fixture(scope="module")
def inputs():
    return new_inputs(batch=1)


def sampled_clip(model, options=THREE_STREAMS):
    """A clip with sound, identity and an intensity that changes over it."""
    conditions = replace(
        small_conditions(LATENTS, options.window),
        intensity=torch.linspace(0, 1, 2 * LATENTS).view(LATENTS, 2),
    )
    noise = drawn(1, SMALL_MODEL.wan.out_channels, LATENTS, 4, 6, seed=7)
    return sample_latents(model, conditions, noise, options)


def sampled_apart(model, options=THREE_STREAMS):
    """The same by a network to which nobody says what its streams share."""
    forward = model.forward
    model.forward = lambda *given, beginning=None, **kept: forward(*given, **kept)
    try:
        return sampled_clip(model, options)
    finally:
        del model.forward


def counted_rows(attention):
    """Rows of each call of a self-attention from now on."""
    rows = []
    attention.to_q.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    return rows


class TestClips:
    @pytest.mark.parametrize("options", [THREE_STREAMS, replace(ONE_WINDOW, guidance=guided(5, 5))])
    @pytest.mark.parametrize("keys_kept", [False, True])
    def test_are_the_same_to_the_bit(self, model, options, keys_kept):
        options = replace(options, keys_kept=keys_kept)
        assert torch.equal(sampled_clip(model, options), sampled_apart(model, options))

    @pytest.mark.parametrize("at_once", [2, 3])
    def test_of_streams_in_a_batch_are_the_same_but_for_rounding(self, model, at_once):
        options = replace(THREE_STREAMS, streams_at_once=at_once)
        apart = sampled_apart(model, options)
        torch.testing.assert_close(sampled_clip(model, options), apart, atol=1e-3, rtol=0)

    def test_keep_as_many_bytes_as_the_plan_counts(self, model, inputs):
        beginning, (latents, timesteps, conditions) = SharedBeginning(), inputs
        with torch.no_grad():
            model(latents, timesteps, conditions, beginning=beginning)
        counted = shared_beginning_bytes(SMALL_MODEL, WindowSize(*latents.shape[2:]), 4)
        assert beginning.attention().nbytes == counted

    @pytest.mark.parametrize("at_once", [1, 2, 3])
    def test_take_one_row_a_step_and_window(self, model, at_once):
        first, second = (counted_rows(block.attn1) for block in model.transformer.blocks)
        sampled_clip(model, replace(THREE_STREAMS, streams_at_once=at_once))
        assert first == [1] * STEPS_AND_WINDOWS
        assert sum(second) == 3 * STEPS_AND_WINDOWS

    def test_hand_a_beginning_of_its_own_to_the_streams_of_each_step_and_window(self):
        given = []

        class Recording(KnowingNetwork):
            def forward(self, latents, timesteps, conditions, beginning=None):
                given.append(beginning)
                return latents

        def recorded(latents, *scales, at_once=1):
            given.clear()
            options = replace(QUICK, guidance=guided(*scales), streams_at_once=at_once)
            sampled(Recording(None), clip(latents), latents, options)
            return given

        assert recorded(5, 1, 1) == [None, None]
        two_windows = recorded(6, 5, 5)
        assert len(set(map(id, two_windows))) == 4
        assert all(
            one is other and one.keeps for one, other in zip(two_windows[::2], two_windows[1::2], strict=True)
        )
        assert [one.keeps for one in recorded(5, 5, 5, at_once=2)] == [False, False]

    def test_with_the_first_block_cache_are_the_same_to_the_bit(self, model):
        for threshold in (1e-9, 0.9):
            options = replace(ONE_WINDOW, steps=4, first_block_cache=threshold)
            assert torch.equal(sampled_clip(model, options), sampled_apart(model, options))

    @pytest.mark.parametrize("store", [store_in_float8, None])
    def test_in_half_precision_and_in_8_bits_are_the_same_to_the_bit(self, model, store):
        for name, value in model.transformer.named_parameters():
            value.data = value.data if kept_in_float32(name) else value.data.bfloat16()
        if store is not None:
            store(model.transformer.blocks, torch.bfloat16)
        assert model.computing_dtype == torch.bfloat16
        assert torch.equal(sampled_clip(model), sampled_apart(model))

    @pytest.mark.parametrize("streamed", [True, False])
    def test_of_blocks_that_visit_the_device_are_the_same_to_the_bit(self, model, streamed):
        expected = sampled_apart(new_model())
        if streamed:
            stream_by_block(model, model.transformer.blocks, "cpu", PretendedDevice())
        else:
            offload_by_block(model, model.transformer.blocks, "cpu")
        rows = counted_rows(model.transformer.blocks[0].attn1)
        assert torch.equal(sampled_clip(model), expected)
        assert torch.equal(sampled_clip(model), expected)
        assert rows == 2 * [1] * STEPS_AND_WINDOWS

    def test_of_checkpointed_blocks_are_the_same_to_the_bit(self, model):
        model.enable_gradient_checkpointing()
        assert torch.equal(sampled_clip(model), sampled_apart(new_model()))

    def test_of_compiled_blocks_are_never_of_another_step(self, model):
        expected = sampled_apart(model)
        rows = counted_rows(model.transformer.blocks[0].attn1)
        torch.compiler.reset()
        for block in model.transformer.blocks:
            block.compile(backend="eager")
        for _ in range(2):
            torch.testing.assert_close(sampled_clip(model), expected)
        assert rows == 2 * [1] * STEPS_AND_WINDOWS
        torch.compiler.reset()

    def test_in_training_mode_share_nothing(self, model):
        rows = counted_rows(model.transformer.blocks[0].attn1)
        sampled_clip(model.train())
        assert len(rows) == 3 * STEPS_AND_WINDOWS


def evaluated_with(model, beginning, inputs, **changed):
    latents, timesteps, conditions = inputs
    with torch.no_grad():
        return model(latents, timesteps, replace(conditions, **changed), beginning=beginning)


class TestBeginning:
    def test_is_shared_by_whatever_text_picture_sound_and_identity(self, model, inputs):
        beginning, rows = SharedBeginning(), counted_rows(model.transformer.blocks[0].attn1)
        evaluated_with(model, beginning, inputs)
        for name in ("text", "picture", "audio", "identity"):
            changed = {name: getattr(inputs[2], name) + 1}
            found = evaluated_with(model, beginning, inputs, **changed)
            assert len(rows) == 1
            assert torch.equal(found, evaluated(model, inputs, **changed))
            rows.pop()

    @pytest.mark.parametrize("name", ["latents", "timesteps", "image", "intensity", "no intensity", "rows"])
    def test_is_never_that_of_other_inputs(self, model, inputs, name):
        latents, timesteps, c = inputs
        changed = {
            "latents": (latents + 1e-6, timesteps, c),
            "timesteps": (latents, timesteps - 1e-3, c),
            "image": (latents, timesteps, replace(c, image=c.image.flip(2))),
            "intensity": (latents, timesteps, replace(c, intensity=c.intensity.flip(1))),
            "no intensity": (latents, timesteps, replace(c, intensity=None)),
            "rows": (latents[..., :2, :], timesteps, replace(c, image=c.image[..., :2, :])),
        }[name]
        beginning = SharedBeginning()
        evaluated_with(model, beginning, inputs)
        assert torch.equal(evaluated_with(model, beginning, changed), evaluated(model, changed))
        assert torch.equal(evaluated_with(model, beginning, inputs), evaluated(model, inputs))

    def test_is_never_that_of_tensors_changed_in_place(self, model):
        inputs, beginning = new_inputs(batch=1), SharedBeginning()
        evaluated_with(model, beginning, inputs)
        inputs[0][0, 0] += 1
        assert torch.equal(evaluated_with(model, beginning, inputs), evaluated(model, inputs))

    def test_is_never_that_of_a_batch_whose_streams_differ(self, model):
        inputs, beginning = new_inputs(batch=2), SharedBeginning()
        rows = counted_rows(model.transformer.blocks[0].attn1)
        assert torch.equal(evaluated_with(model, beginning, inputs), evaluated(model, inputs))
        assert rows == [2, 2]
        assert beginning.attention() is None

    def test_is_never_that_of_another_network(self, model, inputs):
        other, beginning = new_model(seed=7), SharedBeginning()
        evaluated_with(model, beginning, inputs)
        assert torch.equal(evaluated_with(other, beginning, inputs), evaluated(other, inputs))

    def test_of_one_evaluation_keeps_nothing(self, model, inputs):
        latents, timesteps, c = inputs
        twice = {
            name: v.expand(2, *v.shape[1:]) for name, v in vars(c).items() if isinstance(v, torch.Tensor)
        }
        both = (latents.expand(2, -1, -1, -1, -1), timesteps.expand(2), replace(c, **twice))
        beginning, rows = SharedBeginning(keeps=False), counted_rows(model.transformer.blocks[0].attn1)
        torch.testing.assert_close(evaluated_with(model, beginning, both), evaluated(model, both))
        assert rows == [1, 2]
        assert beginning.attention() is None

    def test_is_refused_where_gradients_are_recorded(self, model, inputs):
        latents, timesteps, conditions = inputs
        with pytest.raises(RuntimeError, match=r"only without gradients: use torch\.no_grad"):
            model(latents, timesteps, conditions, beginning=SharedBeginning())
        assert model.shared.current.beginning is None

    def test_is_forgotten_by_the_network_after_an_evaluation_and_after_an_error(self, model, inputs):
        evaluated_with(model, SharedBeginning(), inputs)
        assert model.shared.current.beginning is None
        model.transformer.proj_out.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluated_with(model, SharedBeginning(), inputs)
        assert model.shared.current.beginning is None


class TestProcessor:
    def test_hands_on_what_computes_attention(self, model):
        processor = model.transformer.blocks[0].attn1.processor
        model.transformer.set_attention_backend("native")
        assert processor.ordinary._attention_backend == AttentionBackendName.NATIVE
        model.transformer.reset_attention_backend()
        assert processor._attention_backend is processor.ordinary._attention_backend is None
        processor._parallel_config = "split"
        assert processor.ordinary._parallel_config == processor._parallel_config == "split"

    def test_is_that_of_the_first_block_alone(self, model):
        kinds = [type(block.attn1.processor).__name__ for block in model.transformer.blocks]
        assert kinds == ["SharingSelfAttention", "WanAttnProcessor"]

    def test_is_not_put_around_itself(self, model):
        again = FantasyTalkingModel(SMALL_MODEL, model.transformer)
        processor = again.transformer.blocks[0].attn1.processor
        assert processor.shared is again.shared
        assert type(processor.ordinary).__name__ == "WanAttnProcessor"

    def test_of_a_copy_asks_the_copys_controls(self, model):
        copied = copy.deepcopy(model)
        assert copied.transformer.blocks[0].attn1.processor.shared is copied.shared
