"""Sound in the cross-attention of a Wan under its original names: the same as ours, and each element by itself."""

from types import SimpleNamespace

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_attention import (
    ControlledCrossAttention,
    Controls,
    SharedControls,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.core_attention import (
    HeardSound,
    SoundBranch,
    SoundProjections,
    cross_attention_with_sound,
    sound_attention,
    stream_scales,
)

WIDTH, HEADS, AUDIO_WIDTH, PICTURES, TEXT = 24, 2, 9, 4, 5
FRAMES, PLACES, WINDOW = 3, 6, 5


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_attention(query, key, value, heads, transformer_options):
    split = (rows.unflatten(-1, (heads, -1)).transpose(1, 2) for rows in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


@pytest.fixture
def parts():
    """Our attention, the same weights under the original names, and the projections of sound."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        ours = WanAttention(WIDTH, HEADS, WIDTH // HEADS, added_kv_proj_dim=WIDTH)
        ours.set_processor(ControlledCrossAttention(WIDTH, AUDIO_WIDTH, SharedControls()))
        projections = SoundProjections(WIDTH, AUDIO_WIDTH)
    for layer in ("k_proj", "v_proj"):
        getattr(ours.processor, layer).load_state_dict(getattr(projections, layer).state_dict())
    original = SimpleNamespace(
        num_heads=HEADS,
        **{"q": ours.to_q, "k": ours.to_k, "v": ours.to_v, "o": ours.to_out[0]},
        **{"norm_q": ours.norm_q, "norm_k": ours.norm_k, "k_img": ours.add_k_proj},
        **{"v_img": ours.add_v_proj, "norm_k_img": ours.norm_added_k},
    )
    return ours.eval().requires_grad_(False), original, projections.requires_grad_(False)


def inputs(batch=2):
    return drawn(batch, FRAMES * PLACES, WIDTH), drawn(batch, PICTURES + TEXT, WIDTH, seed=1)


def given(original, projections, x, context, heard):
    return cross_attention_with_sound(original, projections, x, context, PICTURES, heard, plain_attention, {})


@pytest.mark.parametrize("by_frame", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_equals_our_own_cross_attention(parts, by_frame, masked):
    ours, original, projections = parts
    x, context = inputs()
    tokens = drawn(FRAMES, WINDOW, AUDIO_WIDTH, seed=2) if by_frame else drawn(7, AUDIO_WIDTH, seed=2)
    lengths = torch.tensor([2, WINDOW, 0] if by_frame else [4]) if masked else None
    scales = torch.tensor([0.5, 1.5])
    controls = Controls(
        picture_tokens=PICTURES,
        audio=tokens.expand(2, *tokens.shape),
        audio_lengths=None if lengths is None else lengths.expand(2, -1) if by_frame else lengths.expand(2),
        audio_scale=scales,
    )
    with ours.processor.shared.holding(controls):
        expected = ours(x, context, None, None)
    found = given(original, projections, x, context, HeardSound(tokens, scales, lengths, PLACES))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_no_sound_and_scale_zero_are_the_same(parts):
    _, original, projections = parts
    x, context = inputs()
    heard = HeardSound(drawn(FRAMES, WINDOW, AUDIO_WIDTH), torch.zeros(2))
    quiet = given(original, projections, x, context, None)
    torch.testing.assert_close(given(original, projections, x, context, heard), quiet, rtol=0, atol=1e-6)


def test_an_element_hears_as_it_does_alone(parts):
    _, original, projections = parts
    x, context = inputs()
    tokens, scales = drawn(FRAMES, WINDOW, AUDIO_WIDTH), torch.tensor([0.0, 2.0])
    both = given(original, projections, x, context, HeardSound(tokens, scales))
    for row in range(2):
        one = slice(row, row + 1)
        alone = given(original, projections, x[one], context[one], HeardSound(tokens, scales[one]))
        torch.testing.assert_close(both[one], alone, rtol=1e-5, atol=1e-6)


def test_a_frame_hears_its_own_window_only(parts):
    _, _, projections = parts
    query, tokens = drawn(1, FRAMES * PLACES, WIDTH), drawn(FRAMES, WINDOW, AUDIO_WIDTH)
    changed = tokens.clone()
    changed[1] += 1
    first, second = (
        sound_attention(query, projections, HeardSound(value, torch.ones(1)), HEADS)
        for value in (tokens, changed)
    )
    differs = (first - second).abs().amax(dim=(0, 2)).reshape(FRAMES, PLACES)
    assert (differs[1] > 1e-4).all()
    assert not differs[[0, 2]].any()


@pytest.mark.parametrize(("tokens", "places"), [(FRAMES * PLACES + PLACES, PLACES), (17, None)])
def test_tokens_of_other_frames_are_refused(parts, tokens, places):
    _, _, projections = parts
    heard = HeardSound(drawn(FRAMES, WINDOW, AUDIO_WIDTH), torch.ones(1), places=places)
    with pytest.raises(ValueError, match=f"{tokens} tokens of video.*reference latent"):
        sound_attention(drawn(1, tokens, WIDTH), projections, heard, HEADS)


def test_sound_takes_the_precision_of_the_network(parts):
    _, _, projections = parts
    heard = HeardSound(drawn(FRAMES, WINDOW, AUDIO_WIDTH), torch.ones(1))
    found = sound_attention(drawn(1, FRAMES * PLACES, WIDTH).bfloat16(), projections.bfloat16(), heard, HEADS)
    assert found.dtype == torch.bfloat16


def test_a_branch_has_layers_of_the_class_it_is_given():
    class OwnLinear(torch.nn.Linear):
        pass

    branch = SoundBranch(2, WIDTH, AUDIO_WIDTH, OwnLinear)
    assert sum(isinstance(module, OwnLinear) for module in branch.modules()) == 4
    assert set(branch.state_dict()) == {f"blocks.{n}.{part}_proj.weight" for n in range(2) for part in "kv"}


class TestStreamScales:
    def test_all_hear_where_nobody_says_otherwise(self):
        assert stream_scales(3, 0.5).tolist() == [0.5, 0.5, 0.5]
        assert stream_scales(2, 1.0, None, (1, 0)).tolist() == [1.0, 1.0]

    def test_equal_parts_of_a_batch_belong_to_the_streams_in_order(self):
        assert stream_scales(4, 2.0, (False, True), (1, 0)).tolist() == [2.0, 2.0, 0.0, 0.0]
        assert stream_scales(1, 2.0, (False, False, True), (2,)).tolist() == [2.0]

    @pytest.mark.parametrize(("batch", "streams"), [(3, (0, 1)), (2, None), (2, (0, 2)), (2, ())])
    def test_a_batch_that_cannot_be_told_apart_is_refused(self, batch, streams):
        with pytest.raises(ValueError, match=f"batch of {batch} cannot be told apart"):
            stream_scales(batch, 1.0, (False, True), streams)
