"""The conformer: attention against the published equation, the block against transformers', masks, reach, sizes."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.keypoint_diffusion.conformer import (
    MOTION_GENERATOR,
    SPEECH_ENCODER,
    Conformer,
    ConformerBlock,
    ConformerParameters,
    RelativeAttention,
    RelativePositions,
    attention_window,
    relative_shift,
)
from torch import nn

SMALL = ConformerParameters(width=16, blocks=2, heads=2, expansion=2, kernel=5)


def made(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_made_weights(module: nn.Module, seed=0, std=0.3) -> nn.Module:
    """Every parameter away from zero, so that no term hides; ready for inference."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        with torch.no_grad():
            value.normal_(std=std, generator=generator)
            if "norm" in name and name.endswith("weight"):
                value.add_(1)
    return module.eval().requires_grad_(False)


def conformer(seed=0, **changes) -> Conformer:
    return with_made_weights(Conformer(dataclasses.replace(SMALL, **changes)), seed)


def naive_attention(attention: RelativeAttention, x, allowed=None):
    """Transformer-XL's A_ij for one pair after another, each term by itself: (a) + (b) + (c) + (d)."""
    batch, length, width = x.shape
    size = width // attention.heads
    out = torch.zeros(batch, length, width)
    for b in range(batch):
        for h in range(attention.heads):
            part = slice(h * size, (h + 1) * size)
            u, v = attention.content_bias[h], attention.position_bias[h]
            for i in range(length):
                query = (attention.query.weight @ x[b, i] + attention.query.bias)[part]
                scores, values = [], []
                for j in range(length):
                    if allowed is not None and not allowed[b, i, j]:
                        continue
                    key = (attention.key.weight @ x[b, j] + attention.key.bias)[part]
                    r = torch.zeros(width)
                    for k in range(0, width, 2):
                        angle = (i - j) / 10000 ** (k / width)
                        r[k], r[k + 1] = math.sin(angle), math.cos(angle)
                    distance_key = (attention.position.weight @ r)[part]
                    terms = query @ key + query @ distance_key + u @ key + v @ distance_key
                    scores.append(terms / math.sqrt(size))
                    values.append((attention.value.weight @ x[b, j] + attention.value.bias)[part])
                out[b, i, part] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return out @ attention.output.weight.T + attention.output.bias


@given(length=st.integers(1, 8), heads=st.sampled_from([1, 2, 4]), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=12)
def test_attention_is_that_of_the_equation(length, heads, seed):
    attention = with_made_weights(RelativeAttention(ConformerParameters(width=8, heads=heads)), seed)
    x, positions = made(2, length, 8, seed=seed), RelativePositions(8)(length)
    torch.testing.assert_close(attention(x, positions), naive_attention(attention, x), atol=1e-5, rtol=1e-4)
    allowed = (made(2, length, length, seed=seed) > 0) | torch.eye(length, dtype=torch.bool)
    expected = naive_attention(attention, x, allowed)
    torch.testing.assert_close(attention(x, positions, allowed[:, None]), expected, atol=1e-5, rtol=1e-4)


@given(length=st.integers(1, 20))
@settings(deadline=None, max_examples=20)
def test_shift_puts_the_distance_where_the_pair_is(length):
    distances = torch.arange(length - 1, -length, -1).expand(2, length, -1)
    index = torch.arange(length)
    assert torch.equal(relative_shift(distances), (index[:, None] - index[None]).expand(2, -1, -1))


def test_block_is_that_of_transformers_where_the_two_have_the_same_parts():
    """FastSpeech2Conformer's, which comes from ESPnet; norm of the convolution off, ReLU in the feed-forward."""
    theirs_module = pytest.importorskip(
        "transformers.models.fastspeech2_conformer.modeling_fastspeech2_conformer"
    )
    from transformers import FastSpeech2ConformerConfig

    config = FastSpeech2ConformerConfig(hidden_size=16, positionwise_conv_kernel_size=1)
    sizes = {"num_attention_heads": 2, "linear_units": 32, "kernel_size": 5, "activation": "silu"}
    rates = dict.fromkeys(("dropout_rate", "attention_dropout_rate", "positional_dropout_rate"), 0.2)
    options = {**sizes, **rates, "normalize_before": False, "concat_after": False}
    theirs = theirs_module.FastSpeech2ConformerEncoderLayer(config, options).eval()
    theirs.conv_module.norm = nn.Identity()
    ours = with_made_weights(ConformerBlock(SMALL))
    ours.convolution.norm = nn.Identity()
    ours.first_feed_forward[1] = ours.second_feed_forward[1] = nn.ReLU()
    names = {
        "first_feed_forward_norm": "ff_macaron_layer_norm",
        "first_feed_forward.0": "feed_forward_macaron.conv1",
        "first_feed_forward.3": "feed_forward_macaron.conv2",
        "attention_norm": "self_attn_layer_norm",
        "attention.query": "self_attn.linear_q",
        "attention.key": "self_attn.linear_k",
        "attention.value": "self_attn.linear_v",
        "attention.output": "self_attn.linear_out",
        "attention.position": "self_attn.linear_pos",
        "attention.content_bias": "self_attn.pos_bias_u",
        "attention.position_bias": "self_attn.pos_bias_v",
        "convolution_norm": "conv_layer_norm",
        "convolution.gate": "conv_module.pointwise_conv1",
        "convolution.depthwise": "conv_module.depthwise_conv",
        "convolution.pointwise": "conv_module.pointwise_conv2",
        "second_feed_forward_norm": "ff_layer_norm",
        "second_feed_forward.0": "feed_forward.conv1",
        "second_feed_forward.3": "feed_forward.conv2",
        "final_norm": "final_layer_norm",
    }
    shapes, state = theirs.state_dict(), {}
    for name, value in ours.state_dict().items():
        module, _, kind = name.rpartition(".")
        key = names[name] if name in names else f"{names[module]}.{kind}"
        state[key] = value.reshape(shapes[key].shape)
    theirs.load_state_dict(state)
    positional = theirs_module.FastSpeech2ConformerRelPositionalEncoding(config, options).eval()
    x = made(3, 9, 16)
    scaled, their_positions = positional(x)
    positions = RelativePositions(16)(9)
    torch.testing.assert_close(positions, their_positions[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scaled, x * math.sqrt(16))
    torch.testing.assert_close(ours(x, positions), theirs(x, their_positions)[0], atol=1e-5, rtol=1e-4)


@given(
    shift=st.integers(1, 9), causal=st.booleans(), look_ahead=st.integers(0, 3), look_back=st.integers(0, 4)
)
@settings(deadline=None, max_examples=15)
def test_later_input_gives_the_same_output_later_away_from_the_ends(shift, causal, look_ahead, look_back):
    network = conformer(look_ahead=look_ahead, look_back=look_back, causal_convolution=causal)
    behind, ahead = network.parameters_used.frames_behind, network.parameters_used.frames_ahead
    shared = 10  # frames of the earlier output that hear no end
    length = behind + shared + ahead
    sound = made(1, shift + length, 16)
    late, early = network(sound[:, :length]), network(sound[:, shift:])
    later, earlier = late[:, behind + shift : behind + shared], early[:, behind : behind + shared - shift]
    torch.testing.assert_close(later, earlier, atol=1e-5, rtol=1e-4)


def test_unbounded_attention_is_the_same_wherever_the_clip_starts():
    """Padding before the clip instead of after: positions are relative, none absolute."""
    network, x = conformer(), made(1, 11, 16)
    led = torch.cat([made(1, 7, 16, seed=1), x], dim=1)
    valid = torch.arange(18)[None] >= 7
    torch.testing.assert_close(network(led, valid)[:, 7:], network(x), atol=1e-5, rtol=1e-4)


@given(
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=4),
    padding=st.integers(0, 9),
    window=st.sampled_from([None, 0, 2]),
    rubbish=st.sampled_from([0.0, 1e4, math.nan, math.inf]),
)
@settings(deadline=None, max_examples=25)
def test_padding_changes_nothing_whatever_it_holds(lengths, padding, window, rubbish):
    network = conformer(look_ahead=window, look_back=window)
    total = max(lengths) + padding
    clips = [made(1, length, 16, seed=index) for index, length in enumerate(lengths)]
    batch = torch.full((len(clips), total, 16), rubbish)
    valid = torch.arange(total)[None] < torch.tensor(lengths)[:, None]
    for index, clip in enumerate(clips):
        batch[index, : clip.shape[1]] = clip
    out = network(batch, valid)
    for index, clip in enumerate(clips):
        torch.testing.assert_close(out[index, : lengths[index]], network(clip)[0], atol=2e-5, rtol=1e-4)
        assert not out[index, lengths[index] :].any()


@given(
    look_ahead=st.integers(0, 3),
    look_back=st.integers(0, 3),
    causal=st.booleans(),
    blocks=st.integers(1, 3),
    kernel=st.sampled_from([1, 3, 5]),
)
@settings(deadline=None, max_examples=20)
def test_output_depends_on_the_documented_frames_and_no_other(look_ahead, look_back, causal, blocks, kernel):
    """By gradients; in double precision, where those at the far end do not vanish."""
    sizes = {"blocks": blocks, "kernel": kernel, "causal_convolution": causal}
    network = conformer(look_ahead=look_ahead, look_back=look_back, **sizes).double()
    p = network.parameters_used
    middle = p.frames_behind
    x = made(1, p.frames_behind + p.frames_ahead + 1 + 3, 16).double()
    x = torch.cat([made(1, 3, 16, seed=1).double(), x], dim=1).requires_grad_()
    network(x)[0, 3 + middle].square().sum().backward()
    heard = x.grad[0].abs().amax(dim=-1) > 0
    expected = torch.zeros(len(heard), dtype=torch.bool)
    expected[3 : 3 + p.frames_behind + p.frames_ahead + 1] = True
    assert torch.equal(heard, expected)


def test_reach_in_frames():
    assert SPEECH_ENCODER.frames_ahead is None
    assert SPEECH_ENCODER.frames_behind is None
    bounded = dataclasses.replace(SPEECH_ENCODER, look_ahead=2, look_back=25)
    assert (bounded.frames_behind, bounded.frames_ahead) == (4 * (25 + 6), 4 * (2 + 6))
    causal = dataclasses.replace(bounded, causal_convolution=True)
    assert (causal.frames_behind, causal.frames_ahead) == (4 * (25 + 12), 4 * 2)


def test_window_of_attention():
    assert attention_window(5, None, None) is None
    assert attention_window(4, 1, 0).int().tolist() == [
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
        [0, 0, 0, 1],
    ]
    assert attention_window(3, None, 1).int().tolist() == [[1, 1, 1], [1, 1, 1], [0, 1, 1]]


def test_one_state_serves_clip_and_stream():
    whole = conformer()
    stream = Conformer(dataclasses.replace(SMALL, look_ahead=2, look_back=3, causal_convolution=True)).eval()
    stream.load_state_dict(whole.state_dict())
    x = made(1, 30, 16)
    assert not torch.allclose(stream(x), whole(x))
    wide = Conformer(dataclasses.replace(SMALL, look_ahead=30, look_back=30)).eval()
    wide.load_state_dict(whole.state_dict())
    torch.testing.assert_close(wide(x), whole(x), atol=1e-5, rtol=1e-4)


def test_pieces_of_a_stream_are_the_clip():
    """Each frame from only what it is documented to hear: the streaming form to come rests on this."""
    network = conformer(look_ahead=1, look_back=3, causal_convolution=True)
    p, x = network.parameters_used, made(1, 60, 16)
    whole = network(x)
    for start in range(0, 60, 8):
        first, last = max(0, start - p.frames_behind), min(60, start + 8 + p.frames_ahead)
        piece = network(x[:, first:last])[:, start - first : start - first + 8]
        torch.testing.assert_close(piece, whole[:, start : start + 8], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("parameters", "width", "blocks"), [(SPEECH_ENCODER, 512, 4), (MOTION_GENERATOR, 1024, 8)]
)
def test_published_sizes(parameters, width, blocks):
    with torch.device("meta"):
        network = Conformer(parameters)
    assert (parameters.heads, parameters.kernel, parameters.dropout) == (2, 13, 0.2)
    assert network(torch.empty(2, 125, width, device="meta")).shape == (2, 125, width)
    matrices = 2 * 2 + 5 + 3  # two feed-forwards, attention, convolution's gate (two) and pointwise
    vectors = 2 * 2 + 4 + 2 + (2 + 1 + 2 + 1) + 5 * 2  # biases, u and v, convolution, norms
    per_block = matrices * width**2 + (vectors + 13) * width
    assert sum(value.numel() for value in network.parameters()) == blocks * per_block


@given(length=st.integers(1, 90), batch=st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_a_clip_of_any_length(length, batch):
    out = conformer()(made(batch, length, 16, seed=length))
    assert out.shape == (batch, length, 16)
    assert out.isfinite().all()


def test_stack_scales_its_input_and_passes_it_through_its_blocks():
    network, x = conformer(), made(2, 9, 16)
    expected = x * 4  # the root of the width
    for block in network.blocks:
        expected = block(expected, RelativePositions(16)(9))
    torch.testing.assert_close(network(x), expected)


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    look_ahead=st.none() | st.integers(0, 3),
    look_back=st.none() | st.integers(0, 3),
)
@settings(deadline=None, max_examples=25)
def test_a_frame_attends_to_valid_ones_in_reach_and_to_itself(lengths, look_ahead, look_back):
    """Itself even where it is padding: a row without any key is not a number on some releases of torch."""
    network = Conformer(dataclasses.replace(SMALL, look_ahead=look_ahead, look_back=look_back))
    valid = torch.arange(12)[None] < torch.tensor(lengths)[:, None]
    allowed = network.attended(12, valid, torch.device("cpu")).expand(len(lengths), 1, 12, 12)
    ahead, back = (12 if frames is None else frames for frames in (look_ahead, look_back))
    for clip, length in enumerate(lengths):
        for i in range(12):
            expected = [i == j or (j < length and i - back <= j <= i + ahead) for j in range(12)]
            assert allowed[clip, 0, i].tolist() == expected


def test_state_is_strict_and_holds_parameters_only():
    network = Conformer(SMALL)
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
    assert not list(network.buffers())
    state = network.state_dict()
    removed = state.pop("blocks.1.attention.content_bias")
    with pytest.raises(RuntimeError, match=r"Missing.*blocks\.1\.attention\.content_bias"):
        Conformer(SMALL).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Unexpected.*other"):
        Conformer(SMALL).load_state_dict({**network.state_dict(), "other": removed})
    with pytest.raises(RuntimeError, match="size mismatch"):
        Conformer(dataclasses.replace(SMALL, kernel=7)).load_state_dict(network.state_dict())


def test_every_parameter_learns_and_dropout_is_for_training_only():
    torch.manual_seed(0)
    network, x = Conformer(SMALL), made(2, 12, 16)
    valid = torch.arange(12)[None] < torch.tensor([[12], [7]])
    (network(x, valid) * made(2, 12, 16, seed=2)).sum().backward()
    for name, value in network.named_parameters():
        assert value.grad.isfinite().all(), name
        assert value.grad.any() or name.endswith("key.bias"), name  # softmax cancels a key's offset
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_dropout_is_on_input_positions_and_every_residual():
    network, dropped = Conformer(SMALL), []
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda *_, name=name: dropped.append(name))
    network(made(1, 5, 16))
    per_block = ["first_feed_forward.2", *["dropout"] * 4, "second_feed_forward.2"]
    expected = ["dropout"] * 2 + [f"blocks.{index}.{name}" for index in range(2) for name in per_block]
    assert sorted(dropped) == sorted(expected)
    only_attention = with_made_weights(RelativeAttention(SMALL)).train()
    x, positions = made(1, 5, 16), RelativePositions(16)(5)
    assert not torch.equal(only_attention(x, positions), only_attention(x, positions))


def test_half_precision():
    network, x = conformer(), made(1, 20, 16)
    expected = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(network(x).float(), expected, atol=0.15, rtol=0.1)
    out = network.bfloat16()(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.25, rtol=0.2)


def test_input_is_left_as_it_was():
    x, valid = made(1, 6, 16), torch.tensor([[True] * 4 + [False] * 2])
    before = x.clone()
    conformer()(x, valid)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 15}, "width 15 must be even"),
        ({"heads": 3}, "3 heads"),
        ({"kernel": 4}, "kernel is 4, expected an odd"),
        ({"blocks": 0}, "blocks is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"look_ahead": -1}, "look_ahead is -1"),
        ({"look_back": -2}, "look_back is -2"),
    ],
)
def test_impossible_sizes_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **change)


def test_input_that_does_not_fit_is_named():
    network = conformer()
    with pytest.raises(ValueError, match=r"\(1, 5, 8\), expected \(B, T >= 1, 16\)"):
        network(made(1, 5, 8))
    with pytest.raises(ValueError, match="T >= 1"):
        network(made(1, 0, 16))
    with pytest.raises(ValueError, match=r"valid is torch.bool \(1, 4\)"):
        network(made(1, 5, 16), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"valid is torch.float32"):
        network(made(1, 5, 16), torch.ones(1, 5))
