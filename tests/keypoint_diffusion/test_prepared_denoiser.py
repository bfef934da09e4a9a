"""What is computed once per clip or window changes nothing: the prepared denoiser against the plain network."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.keypoint_diffusion.denoiser import Denoiser, DenoiserParameters
from talking_portrait.core_models.keypoint_diffusion.prepared_denoiser import PreparedDenoiser
from talking_portrait.core_models.packed_linear import packed_linear

SIZES = {"width": 32, "layers": 2, "heads": 2, "head_size": 16, "time_size": 16, "context_size": 24}


def made_denoiser(seed=0, **changes) -> Denoiser:
    torch.manual_seed(seed)
    parameters = DenoiserParameters(**{**SIZES, "motion_size": 10, "rotary_size": 8, "window": 12, **changes})
    denoiser = Denoiser(parameters)
    for value in denoiser.parameters():
        if value.requires_grad:
            torch.nn.init.normal_(value, std=0.3)
    return denoiser.eval().requires_grad_(False)


def inputs(parameters, batch, frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prefix = torch.randn(batch, parameters.prefix_tokens, parameters.motion_size, generator=generator)
    x = torch.randn(batch, frames, parameters.motion_size, generator=generator)
    return prefix, x, torch.randn(batch, frames, parameters.context_size, generator=generator)


def plain(denoiser, prefix, x, context, step):
    p = denoiser.parameters_used
    empty = context.new_zeros(len(x), p.prefix_tokens, p.context_size)
    tokens, listened = torch.cat([prefix, x], dim=1), torch.cat([empty, context], dim=1)
    return denoiser(tokens, torch.full((len(x),), step), listened)[:, p.prefix_tokens :]


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 12),
    steps=st.lists(st.integers(0, 999), min_size=1, max_size=3),
    previous=st.integers(0, 3),
    attention=st.booleans(),
    canonical=st.booleans(),
)
def test_it_predicts_what_the_network_predicts(batch, frames, steps, previous, attention, canonical):
    denoiser = made_denoiser(
        previous_frames=max(previous, 1 - canonical), attention=attention, canonical_token=canonical
    )
    prefix, x, context = inputs(denoiser.parameters_used, batch, frames)
    prepared = PreparedDenoiser(denoiser, steps)
    window = prepared.window(prefix, context)
    for index, step in enumerate(steps):
        expected = plain(denoiser, prefix, x, context, step)
        assert torch.allclose(prepared.predict(window, x, index), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_stays_near():
    """bfloat16 keeps 8 bits: a few per cent of the prediction's spread. Rotary angles are not among what is rounded."""
    denoiser = made_denoiser(window=64)
    prefix, x, context = inputs(denoiser.parameters_used, 2, 64)
    expected = plain(denoiser, prefix, x, context, 500)
    half = made_denoiser(window=64).to(torch.bfloat16)
    prepared = PreparedDenoiser(half, [500])
    found = prepared.predict(prepared.window(prefix, context), x, 0)
    assert found.dtype == torch.float32
    assert (found - expected).std() < 0.05 * expected.std()
    exact, rounded = (network.turns(66, torch.float32) for network in (denoiser, half))
    assert torch.allclose(exact[0], rounded[0], atol=1e-5)


def test_compiling_changes_nothing():
    denoiser = made_denoiser(layers=1)
    prefix, x, context = inputs(denoiser.parameters_used, 1, 12)
    plain_one, compiled = PreparedDenoiser(denoiser, [300]), PreparedDenoiser(denoiser, [300], compiled=True)
    assert plain_one._step is not compiled._step
    try:
        found = compiled.predict(compiled.window(prefix, context), x, 0)
    except Exception as error:
        if "compiler" not in str(error).lower() and "InvalidCxxCompiler" not in type(error).__name__:
            raise
        pytest.skip(f"torch.compile finds no compiler here: {error}")
    assert torch.allclose(found, plain_one.predict(plain_one.window(prefix, context), x, 0), atol=1e-4)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_packed_products_are_plain_ones(silu, bias, dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 24, generator=generator).to(dtype)
    offset = torch.randn(40, generator=generator).to(dtype) if bias else None
    x = torch.randn(2, 7, 24, generator=generator).to(dtype)
    expected = torch.nn.functional.linear(
        x.double(), weight.double(), None if offset is None else offset.double()
    )
    expected = torch.nn.functional.silu(expected) if silu else expected
    found = packed_linear(weight, offset, 7, silu)(x)
    assert found.dtype == dtype
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-4
    assert np.abs((found.double() - expected).numpy()).max() < tolerance * float(expected.std()) + tolerance


def test_a_pytorch_without_the_layouts_multiplies_plainly(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    weight = torch.randn(4, 3)
    assert torch.equal(packed_linear(weight, None, 2)(torch.eye(3)), weight.T)
