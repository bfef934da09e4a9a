"""Hidden states of a speech model to one row per video frame: weighted sum, half the rate, exact frame count."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio.frame_clock import frame_count
from talking_portrait.core_models.audio.hubert_layers import (
    HUBERT_LAYERS,
    HUBERT_WIDTH,
    SPEECH_WIDTH,
    HalveRate,
    WeightedLayers,
    fit_to_frames,
)

SAMPLE_RATE, FIRST_WINDOW, HOP = 16000, 400, 320
"""HuBERT's: steps of 320 samples, each hears 400."""


def made(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_untrained_weights_give_the_mean():
    states = made(2, HUBERT_LAYERS, 7, 5)
    torch.testing.assert_close(WeightedLayers()(states), states.mean(dim=1))


@given(layers=st.integers(1, 13), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=25)
def test_sum_is_that_of_the_softmax(layers, seed):
    module, states = WeightedLayers(layers), made(2, layers, 3, 4, seed=seed)
    with torch.no_grad():
        module.weights.copy_(made(layers, seed=seed + 1))
    shares = module.weights.exp() / module.weights.exp().sum()
    expected = sum(shares[index] * states[:, index] for index in range(layers))
    torch.testing.assert_close(module(states), expected)
    assert module.shares().sum().item() == pytest.approx(1)


def test_a_large_weight_picks_its_layer_and_weights_learn():
    module, states = WeightedLayers(4), made(1, 4, 6, 3)
    module(states).square().sum().backward()
    assert module.weights.grad.abs().max() > 0
    with torch.no_grad():
        module.weights[2] = 200.0
    torch.testing.assert_close(module(states), states[:, 2])


def test_half_precision_stays_half():
    assert WeightedLayers(3).to(torch.bfloat16)(made(1, 3, 4, 2).bfloat16()).dtype == torch.bfloat16
    assert WeightedLayers(3)(made(1, 3, 4, 2).bfloat16()).dtype == torch.bfloat16


def test_published_sizes_and_strict_state():
    halve = HalveRate()
    assert halve.convolution.weight.shape == (SPEECH_WIDTH, HUBERT_WIDTH, 3)
    assert list(WeightedLayers().state_dict()) == ["weights"]
    assert list(halve.state_dict()) == ["convolution.weight", "convolution.bias"]
    with pytest.raises(RuntimeError, match="size mismatch"):
        WeightedLayers(13).load_state_dict(WeightedLayers(25).state_dict())


@given(steps=st.integers(1, 60))
@settings(deadline=None, max_examples=25)
def test_halved_rate_centres_each_frame_on_every_other_step(steps):
    halve, features = HalveRate(4, 3), made(2, steps, 4, seed=steps)
    halved = halve(features)
    assert halved.shape == (2, (steps + 1) // 2, 3)
    around = torch.nn.functional.pad(features, (0, 0, 1, 1))
    for frame in range(halved.shape[1]):
        window = around[:, 2 * frame : 2 * frame + 3]
        expected = torch.einsum("btc,oct->bo", window, halve.convolution.weight) + halve.convolution.bias
        torch.testing.assert_close(halved[:, frame], expected, atol=1e-5, rtol=1e-4)


@given(samples=st.integers(1, 20 * SAMPLE_RATE))
@settings(deadline=None)
def test_a_clip_of_any_length_gets_its_frames_with_little_repeated(samples):
    duration = samples / SAMPLE_RATE
    steps = (max(samples, FIRST_WINDOW) - FIRST_WINDOW) // HOP + 1
    features = torch.arange((steps + 1) // 2, dtype=torch.float32)[None, :, None]
    fitted = fit_to_frames(features, duration)
    frames = frame_count(duration, 25)
    assert fitted.shape == (1, frames, 1)
    kept = min(frames, features.shape[1])
    assert torch.equal(fitted[:, :kept], features[:, :kept])
    assert (fitted[:, kept:] == features[:, -1:]).all()
    assert frames - kept <= 1


@given(steps=st.integers(1, 80), duration=st.floats(0, 4))
def test_frames_are_exact_whatever_came(steps, duration):
    features, frames = torch.arange(float(steps))[None, :, None], frame_count(duration, 25)
    expected = [min(frame, steps - 1) for frame in range(frames)]
    assert fit_to_frames(features, duration)[0, :, 0].tolist() == expected


def test_a_second_of_hubert_is_25_frames_from_end_to_end():
    states = made(1, 3, 49, 8)
    assert fit_to_frames(HalveRate(8, 6)(WeightedLayers(3)(states)), 1.0).shape == (1, 25, 6)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="at least 1"):
        WeightedLayers(0)
    with pytest.raises(ValueError, match=r"\(1, 13, 4, 2\), expected \(B, 25, T, C\)"):
        WeightedLayers()(made(1, 13, 4, 2))
    with pytest.raises(ValueError, match=r"\(1, 4, 768\).*1024 wide"):
        HalveRate()(made(1, 4, 768))
    with pytest.raises(ValueError, match="T >= 1"):
        HalveRate(2, 2)(made(1, 0, 2))
    with pytest.raises(ValueError, match="T >= 1"):
        fit_to_frames(made(1, 0, 2), 1.0)
    with pytest.raises(ValueError, match="duration"):
        fit_to_frames(made(1, 3, 2), float("nan"))
