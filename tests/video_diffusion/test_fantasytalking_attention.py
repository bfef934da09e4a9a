"""Attention to sound and identity: masks, scales, zero starts, shared controls, kept keys and values."""

import copy

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_attention import (
    ControlledCrossAttention,
    Controls,
    SharedControls,
    frame_attention,
    masked_attention,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.constant_keys import AUDIO, KeyValueCache

HEADS, WIDTH, AUDIO_WIDTH, IDENTITY_WIDTH = 2, 8, 6, 5
FRAMES, WINDOW, TOKENS = 3, 4, 5


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def written_out(query, key, value, heads):
    """Softmax attention, one head and one query after the other."""
    result = torch.zeros_like(query)
    for row in range(len(query)):
        for head in range(heads):
            part = slice(head * WIDTH // heads, (head + 1) * WIDTH // heads)
            for place, one in enumerate(query[row, :, part]):
                logits = key[row, :, part] @ one / (WIDTH // heads) ** 0.5
                result[row, place, part] = logits.softmax(0) @ value[row, :, part]
    return result


class TestMaskedAttention:
    query, key, value = drawn(2, 6, WIDTH), drawn(2, 4, WIDTH, seed=1), drawn(2, 4, WIDTH, seed=2)

    def test_it_is_softmax_attention(self):
        found = masked_attention(self.query, self.key, self.value, HEADS)
        torch.testing.assert_close(found, written_out(self.query, self.key, self.value, HEADS))

    def test_tokens_behind_the_length_do_not_count(self):
        found = masked_attention(self.query, self.key, self.value, HEADS, torch.tensor([3, 1]))
        for row, length in enumerate((3, 1)):
            alone = (x[row : row + 1, :length] for x in (self.key, self.value))
            torch.testing.assert_close(
                found[row : row + 1], masked_attention(self.query[row : row + 1], *alone, HEADS)
            )

    def test_full_lengths_are_no_mask(self):
        found = masked_attention(self.query, self.key, self.value, HEADS, torch.tensor([4, 4]))
        torch.testing.assert_close(found, masked_attention(self.query, self.key, self.value, HEADS))

    def test_a_row_without_tokens_gives_zeros_and_finite_gradients(self):
        query = self.query.clone().requires_grad_()
        found = masked_attention(query, self.key, self.value, HEADS, torch.tensor([0, 2]))
        assert not found[0].any()
        found.sum().backward()
        assert torch.isfinite(query.grad).all()
        assert not query.grad[0].any()

    def test_zero_padding_dilutes_only_where_it_is_not_masked(self):
        key, value = self.key.clone(), self.value.clone()
        key[:, 2:], value[:, 2:] = 0, 0
        masked = masked_attention(self.query, key, value, HEADS, torch.tensor([2, 2]))
        diluted = masked_attention(self.query, key, value, HEADS)
        assert not torch.allclose(masked, diluted, atol=1e-3)
        assert diluted.abs().mean() < masked.abs().mean()


class TestFrameAttention:
    query = drawn(2, FRAMES * TOKENS, WIDTH)
    key, value = drawn(2, FRAMES, WINDOW, WIDTH, seed=1), drawn(2, FRAMES, WINDOW, WIDTH, seed=2)

    def test_each_frame_sees_its_own_window(self):
        lengths = torch.tensor([[1, 4, 2], [3, 0, 4]])
        found = frame_attention(self.query, self.key, self.value, HEADS, lengths)
        for frame in range(FRAMES):
            tokens = slice(frame * TOKENS, (frame + 1) * TOKENS)
            alone = masked_attention(
                self.query[:, tokens], self.key[:, frame], self.value[:, frame], HEADS, lengths[:, frame]
            )
            torch.testing.assert_close(found[:, tokens], alone)

    def test_another_window_changes_no_other_frame(self):
        value = self.value.clone()
        value[:, 1] += 1
        before = frame_attention(self.query, self.key, self.value, HEADS)
        after = frame_attention(self.query, self.key, value, HEADS)
        changed = (before != after).any(-1).unflatten(1, (FRAMES, TOKENS)).any(-1).any(0)
        assert changed.tolist() == [False, True, False]


@pytest.fixture
def attention():
    """An attention of a block with all that can be attended to, of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = WanAttention(
            WIDTH,
            HEADS,
            WIDTH // HEADS,
            1e-6,
            added_kv_proj_dim=WIDTH,
            cross_attention_dim_head=WIDTH // HEADS,
        )
        shared = SharedControls()
        made.set_processor(ControlledCrossAttention(WIDTH, AUDIO_WIDTH, shared, IDENTITY_WIDTH, block=3))
        for layer in made.processor.children():
            torch.nn.init.normal_(layer.weight)
    return made.eval().requires_grad_(False)


def attended(attention, **controls):
    given = {"picture_tokens": 2} | controls
    with attention.processor.shared.holding(Controls(**given)):
        return attention(drawn(2, FRAMES * TOKENS, WIDTH), drawn(2, 7, WIDTH, seed=1), None, None)


AUDIO_WINDOWS = drawn(2, FRAMES, WINDOW, AUDIO_WIDTH, seed=3)
IDENTITIES = drawn(2, 3, IDENTITY_WIDTH, seed=4)


def test_without_controls_it_is_diffusers_own_attention(attention):
    hidden, context = drawn(1, 6, WIDTH), drawn(1, 2 + 512, WIDTH, seed=1)
    ours = attention(hidden, context, None, None)
    attention.set_processor(WanAttnProcessor())
    torch.testing.assert_close(attention(hidden, context, None, None), ours)


def test_sound_is_added_before_the_output_projection_without_its_bias(attention):
    difference = attended(attention, audio=AUDIO_WINDOWS) - attended(attention)
    processor = attention.processor
    query = attention.norm_q(attention.to_q(drawn(2, FRAMES * TOKENS, WIDTH)))
    keys, values = processor.k_proj(AUDIO_WINDOWS), processor.v_proj(AUDIO_WINDOWS)
    heard = frame_attention(query, keys, values, HEADS)
    torch.testing.assert_close(difference, heard @ attention.to_out[0].weight.T, atol=1e-5, rtol=1e-4)


def test_the_effect_of_sound_goes_with_its_scale_for_each_stream(attention):
    plain = attended(attention)
    full = attended(attention, audio=AUDIO_WINDOWS) - plain
    scale = torch.tensor([0.5, 3.0])
    scaled = attended(attention, audio=AUDIO_WINDOWS, audio_scale=scale) - plain
    torch.testing.assert_close(scaled, full * scale[:, None, None], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [None, torch.tensor([[4, 0, 1], [2, 2, 2]])])
def test_scale_0_is_no_sound_to_the_bit(attention, lengths):
    found = attended(
        attention, audio=AUDIO_WINDOWS, audio_lengths=lengths, audio_scale=torch.tensor([0.0, 1.0])
    )
    plain = attended(attention)
    assert torch.equal(found[0], plain[0])
    assert not torch.equal(found[1], plain[1])


def test_silent_frames_are_as_without_sound(attention):
    lengths = torch.tensor([[0, 4, 4], [4, 4, 0]])
    found = attended(attention, audio=AUDIO_WINDOWS, audio_lengths=lengths)
    same = (found == attended(attention)).all(-1).unflatten(1, (FRAMES, TOKENS)).all(-1)
    assert same.tolist() == [[True, False, False], [False, False, True]]
    assert torch.isfinite(found).all()


def test_all_frames_hear_sound_at_clip_level(attention):
    sound = drawn(2, 9, AUDIO_WIDTH, seed=5)
    longer = torch.cat([sound, drawn(2, 4, AUDIO_WIDTH, seed=6)], dim=1)
    found = attended(attention, audio=longer, audio_lengths=torch.tensor([9, 9]))
    torch.testing.assert_close(found, attended(attention, audio=sound))
    changed = (found != attended(attention)).any(-1).unflatten(1, (FRAMES, TOKENS)).any(-1)
    assert changed.all()


def test_identity_is_added_with_its_weight(attention):
    plain = attended(attention)
    full = attended(attention, identity=IDENTITIES) - plain
    half = attended(attention, identity=IDENTITIES, identity_scale=0.5) - plain
    assert full.abs().max() > 1e-2
    torch.testing.assert_close(half, full / 2, atol=1e-5, rtol=1e-4)


def test_identity_and_sound_add_up(attention):
    plain = attended(attention)
    each = [
        attended(attention, **one) - plain for one in ({"audio": AUDIO_WINDOWS}, {"identity": IDENTITIES})
    ]
    both = attended(attention, audio=AUDIO_WINDOWS, identity=IDENTITIES) - plain
    torch.testing.assert_close(both, sum(each), atol=1e-5, rtol=1e-4)


def test_a_fresh_processor_changes_nothing(attention):
    plain = attended(attention)
    fresh = ControlledCrossAttention(WIDTH, AUDIO_WIDTH, attention.processor.shared, IDENTITY_WIDTH)
    attention.set_processor(fresh)
    assert torch.equal(attended(attention, audio=AUDIO_WINDOWS, identity=IDENTITIES), plain)
    assert not any(layer.weight.any() for layer in (fresh.k_proj, fresh.v_proj, fresh.identity_v_proj))
    assert fresh.identity_k_proj.weight.any()


def test_keys_of_sound_are_not_normalised(attention):
    once = attended(attention, audio=AUDIO_WINDOWS)
    attention.processor.k_proj.weight.mul_(5)
    assert not torch.allclose(attended(attention, audio=AUDIO_WINDOWS), once, atol=1e-3)


def test_sound_and_split_tokens_are_refused_together(attention):
    attention.processor._parallel_config = object()
    with pytest.raises(ValueError, match="split over devices"):
        attended(attention, audio=AUDIO_WINDOWS)


def test_controls_are_gone_after_an_error(attention):
    shared = attention.processor.shared
    before = shared.current
    with pytest.raises(RuntimeError):
        attended(attention, audio=drawn(2, FRAMES, WINDOW, AUDIO_WIDTH + 1))
    assert shared.current is before


def test_controls_nest():
    shared, outer, inner = SharedControls(), Controls(picture_tokens=1), Controls(picture_tokens=2)
    with shared.holding(outer):
        with shared.holding(inner):
            assert shared.current is inner
        assert shared.current is outer


def test_copies_share_among_themselves_only(attention):
    copied = copy.deepcopy(attention)
    assert copied.processor.shared is not attention.processor.shared


class TestKeyValueCache:
    owner = object()

    @pytest.fixture(autouse=True)
    def without_gradients(self):
        with torch.no_grad():
            yield

    def test_equal_conditions_meet_again_and_others_do_not(self):
        cache, condition = KeyValueCache(), drawn(1, 3, 2)
        kept = cache.of_condition(self.owner, AUDIO, condition)
        assert cache.of_condition(self.owner, AUDIO, condition.clone()) is kept
        for other in (condition + 1e-6, condition[:, :2], condition.double()):
            assert cache.of_condition(self.owner, AUDIO, other) is not kept
        assert cache.of_condition(object(), AUDIO, condition) is not kept
        assert cache.of_condition(self.owner, "text", condition) is not kept

    def test_a_condition_changed_in_place_is_another(self):
        cache, condition = KeyValueCache(), drawn(1, 3, 2)
        kept = cache.of_condition(self.owner, AUDIO, condition)
        condition[0, 0, 0] += 1
        assert cache.of_condition(self.owner, AUDIO, condition) is not kept

    def test_beyond_its_capacity_nothing_is_kept_and_the_first_stay(self):
        cache = KeyValueCache(2)
        first, second, third = (drawn(1, seed=seed) for seed in range(3))
        kept = [cache.of_condition(self.owner, AUDIO, one) for one in (first, second)]
        assert cache.of_condition(self.owner, AUDIO, third) is None
        assert cache.of_condition(self.owner, AUDIO, first) is kept[0]
        cache.clear()
        assert cache.of_condition(self.owner, AUDIO, third) is not None

    def test_it_refuses_gradients_and_no_capacity(self):
        with torch.enable_grad(), pytest.raises(RuntimeError, match="without gradients"):
            KeyValueCache().of_condition(self.owner, AUDIO, drawn(1))
        with pytest.raises(ValueError, match="capacity is 0"):
            KeyValueCache(0)
