"""Noise levels of Stable Video Diffusion, and what its v means."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.video_diffusion import edm

LEVEL = st.floats(0.002, 700)
SEED = st.integers(0, 1000)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def noisy_of(seed, sigma):
    """A clean latent, noise, and the two together, in float64."""
    random = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 4, 3, 3, generator=random, dtype=torch.float64)
    return clean, noise, clean + sigma * noise


class TestLevels:
    @given(steps=st.integers(2, 60), low=st.floats(1e-3, 1), ratio=st.floats(2, 1e5))
    def test_go_down_from_the_highest_to_the_lowest_and_zero(self, steps, low, ratio):
        sigmas = edm.karras_sigmas(steps, low, low * ratio)
        assert sigmas.shape == (steps + 1,)
        assert sigmas.dtype == torch.float32
        assert sigmas[0].item() == pytest.approx(low * ratio, rel=1e-6)
        assert sigmas[-2].item() == pytest.approx(low, rel=1e-6)
        assert sigmas[-1] == 0
        assert (sigmas.diff() < 0).all()

    def test_are_even_in_the_seventh_root(self):
        roots = edm.karras_sigmas(25)[:-1].double() ** (1 / 7)
        torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(24), rtol=1e-4, atol=0)

    def test_of_one_step_are_the_highest_and_zero(self):
        assert edm.karras_sigmas(1).tolist() == [700, 0]

    @pytest.mark.parametrize("steps", [0, -3])
    def test_of_no_steps_are_refused(self, steps):
        with pytest.raises(ValueError, match=f"steps is {steps}"):
            edm.karras_sigmas(steps)

    @given(LEVEL)
    def test_are_told_to_the_network_by_their_logarithm(self, sigma):
        assert math.exp(4 * edm.noise_condition(double(sigma)).item()) == pytest.approx(sigma)


class TestPrediction:
    @given(sigma=LEVEL, seed=SEED)
    def test_of_the_target_is_the_clean_latent(self, sigma, seed):
        sigma = double(sigma)
        clean, noise, noisy = noisy_of(seed, sigma)
        found = edm.denoised(noisy, edm.v_target(clean, noise, sigma), sigma)
        torch.testing.assert_close(found, clean, rtol=0, atol=1e-10)

    @given(sigma=LEVEL, seed=SEED)
    def test_squared_error_has_the_weight_of_edm(self, sigma, seed):
        """(sigma^2 + data^2) / (sigma data)^2 with data = 1 turns the clean latent's error into that of v."""
        sigma = double(sigma)
        clean, noise, noisy = noisy_of(seed, sigma)
        v = noisy_of(seed + 1, sigma)[0]
        of_v = (v - edm.v_target(clean, noise, sigma)).square()
        of_clean = (edm.denoised(noisy, v, sigma) - clean).square()
        torch.testing.assert_close(of_v, (sigma**2 + 1) / sigma**2 * of_clean, rtol=1e-5, atol=1e-7)

    @given(sigma=LEVEL, seed=SEED)
    def test_input_of_latents_of_unit_spread_has_unit_spread(self, sigma, seed):
        scale = edm.scaled_input(double(1.0), double(sigma))
        assert (scale**2 * (1 + sigma**2)).item() == pytest.approx(1)

    def test_of_pure_noise_says_nothing_about_v_but_minus_the_clean_latent(self):
        """At high levels v is minus the clean latent, at low ones the noise."""
        clean, noise, _ = noisy_of(0, double(1.0))
        torch.testing.assert_close(edm.v_target(clean, noise, double(1e6)), -clean, atol=1e-5, rtol=0)
        torch.testing.assert_close(edm.v_target(clean, noise, double(1e-6)), noise, atol=1e-5, rtol=0)


class TestEulerStep:
    @given(sigma=LEVEL, seed=SEED)
    def test_to_zero_gives_the_clean_estimate(self, sigma, seed):
        sigma = double(sigma)
        _, v, noisy = noisy_of(seed, sigma)
        found = edm.euler_step(noisy, v, sigma, double(0.0))
        torch.testing.assert_close(found, edm.denoised(noisy, v, sigma), rtol=0, atol=1e-9)

    @given(sigma=LEVEL, share=st.floats(0, 1), seed=SEED)
    def test_with_the_true_v_keeps_clean_latent_and_noise(self, sigma, share, seed):
        sigma = double(sigma)
        clean, noise, noisy = noisy_of(seed, sigma)
        found = edm.euler_step(noisy, edm.v_target(clean, noise, sigma), sigma, share * sigma)
        torch.testing.assert_close(found, clean + share * sigma * noise, rtol=0, atol=1e-9)

    def test_to_the_same_level_stays(self):
        _, v, noisy = noisy_of(0, double(3.0))
        assert torch.equal(edm.euler_step(noisy, v, double(3.0), double(3.0)), noisy)
