"""Wan's noise levels, steps and loss weight: the release's numbers, and what they mean."""

import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.video_diffusion.wan import flow_matching as flow

from .wan_golden import assert_agrees, read_case

SIGMA = st.floats(0, 1)
SHIFT = st.floats(0.1, 20)
SEED = st.integers(0, 1000)


def latents_of(seed, batch=2):
    """Clean latents and noise (B, 4, 2, 3, 3) in float64."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, 4, 2, 3, 3, generator=random, dtype=torch.float64)


@pytest.fixture(scope="module")
def case(golden_folder):
    return read_case(golden_folder, "scheduler")


class TestGolden:
    def test_levels_and_timesteps(self, case):
        case, arrays, _ = case
        shift = float(re.findall(r"shift=([\d.]+)", case["reference"])[-1])
        for name in case["outputs"]:
            found = re.fullmatch(r"(sigmas|timesteps)_(\d+)(?:_shift(\d+))?", name)
            if not found:
                continue
            sigmas = flow.shifted_sigmas(int(found[2]), float(found[3] or shift))
            assert sigmas[-1] == 0
            if found[1] == "sigmas":
                assert_agrees(case, arrays, name, sigmas[:-1], 1e-6)
            else:
                assert_agrees(case, arrays, name, flow.timesteps(sigmas[:-1]), 1e-3)

    def test_steps(self, case):
        case, arrays, inputs = case
        sigmas = flow.shifted_sigmas(30)
        numbers = [int(name.split("_")[1]) for name in case["outputs"] if name.startswith("step_")]
        assert numbers
        for step in numbers:
            after = flow.euler_step(inputs["sample"], inputs["model_output"], sigmas[step], sigmas[step + 1])
            assert_agrees(case, arrays, f"step_{step}", after, 1e-6)


class TestLevels:
    @settings(deadline=None)
    @given(steps=st.integers(1, 80), shift=SHIFT)
    def test_go_down_from_one_to_zero(self, steps, shift):
        sigmas = flow.shifted_sigmas(steps, shift)
        assert sigmas.shape == (steps + 1,)
        assert sigmas.dtype == torch.float32
        assert (sigmas[0], sigmas[-1]) == (1, 0)
        assert (sigmas.diff() < 0).all()

    @settings(deadline=None)
    @given(steps=st.integers(1, 40), first=SHIFT, second=SHIFT)
    def test_shifts_multiply(self, steps, first, second):
        """The odds sigma / (1 - sigma) are the shift times those of the even step."""
        once, both = (flow.shifted_sigmas(steps, shift).double() for shift in (first, first * second))
        again = second * once / (1 + (second - 1) * once)
        torch.testing.assert_close(both, again, rtol=0, atol=2e-6 * max(second, 1 / second))

    def test_without_a_shift_are_even(self):
        torch.testing.assert_close(flow.shifted_sigmas(4, 1), torch.tensor([1, 0.75, 0.5, 0.25, 0]))

    def test_are_told_in_thousandths(self):
        assert flow.timesteps(torch.tensor([1, 0.5, 0])).tolist() == [1000, 500, 0]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((0,), "steps is 0"), ((3, 0.0), "shift is 0.0"), ((3, float("nan")), "shift is nan")],
    )
    def test_that_cannot_be_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            flow.shifted_sigmas(*arguments)


class TestPath:
    @settings(deadline=None)
    @given(seed=SEED)
    def test_begins_at_the_clean_latents_and_ends_at_noise(self, seed):
        clean, noise = latents_of(seed)
        assert torch.equal(flow.noisy_latents(clean, noise, 0.0), clean)
        assert torch.equal(flow.noisy_latents(clean, noise, 1.0), noise)

    @settings(deadline=None)
    @given(seed=SEED, sigma=SIGMA, following=SIGMA)
    def test_is_straight(self, seed, sigma, following):
        """With the true velocity a step leads from any level to any other."""
        clean, noise = latents_of(seed)
        noisy = flow.noisy_latents(clean, noise, sigma)
        stepped = flow.euler_step(noisy, flow.velocity_target(clean, noise), sigma, following)
        torch.testing.assert_close(stepped, flow.noisy_latents(clean, noise, following), rtol=0, atol=1e-12)

    @settings(deadline=None)
    @given(seed=SEED, sigmas=st.tuples(SIGMA, SIGMA))
    def test_of_a_batch_has_a_level_for_each(self, seed, sigmas):
        clean, noise = latents_of(seed)
        levels = torch.tensor(sigmas, dtype=torch.float64)
        together = flow.noisy_latents(clean, noise, levels)
        stepped = flow.euler_step(together, clean, levels, levels / 2)
        for index, sigma in enumerate(sigmas):
            alone = flow.noisy_latents(clean[index], noise[index], sigma)
            torch.testing.assert_close(together[index], alone)
            torch.testing.assert_close(stepped[index], flow.euler_step(alone, clean[index], sigma, sigma / 2))

    def test_in_many_steps_ends_at_the_clean_latents(self):
        clean, noise = latents_of(3)
        latents, sigmas = noise, flow.shifted_sigmas(30)
        for sigma, following in itertools.pairwise(sigmas):
            latents = flow.euler_step(latents, flow.velocity_target(clean, noise), sigma, following)
        torch.testing.assert_close(latents, clean, rtol=0, atol=1e-6)

    def test_leaves_its_inputs(self):
        clean, noise = latents_of(0)
        before = clean.clone(), noise.clone()
        flow.euler_step(flow.noisy_latents(clean, noise, 0.5), flow.velocity_target(clean, noise), 0.5, 0.0)
        assert torch.equal(clean, before[0])
        assert torch.equal(noise, before[1])


class TestTrainingWeight:
    @pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
    def test_has_a_mean_of_one_over_the_schedule(self, shift):
        schedule = flow.timesteps(flow.shifted_sigmas(flow.TRAINING_STEPS, shift)[:-1])
        weights = flow.training_weight(schedule, shift)
        assert weights.dtype == torch.float32
        assert weights.mean().item() == pytest.approx(1, rel=1e-5)
        assert weights.min() == 0

    @settings(deadline=None)
    @given(timestep=st.floats(0, 1000), other=st.floats(0, 1000))
    def test_falls_away_from_the_middle(self, timestep, other):
        near, far = sorted((timestep, other), key=lambda t: abs(t - 500))
        weights = flow.training_weight(torch.tensor([near, far]))
        assert weights[0] >= weights[1] - 1e-6
        assert weights[1] >= 0

    def test_closed_form(self):
        """In the limit of a schedule without shift: the bell less exp(-1/2), over its mean."""
        t = torch.tensor([500.0, 250.0, 1000.0])
        bell = torch.exp(-2 * (t / 1000 - 0.5) ** 2)
        expected = (bell - bell[2]) / (bell[0] - bell[2])
        found = flow.training_weight(t, 1.0)
        torch.testing.assert_close(found / found[0], expected, atol=1e-4, rtol=0)

    def test_keeps_the_shape(self):
        assert flow.training_weight(torch.full((2, 1, 3), 400.0)).shape == (2, 1, 3)
