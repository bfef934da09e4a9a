"""ACTalker's sampling loop: with a network that knows the answer, and with a small real one."""

import dataclasses

import pytest
import torch
from talking_portrait.core_models.video_diffusion import edm
from talking_portrait.core_models.video_diffusion.actalker.circular_windows import circular_windows
from talking_portrait.core_models.video_diffusion.actalker.controls import Region
from talking_portrait.core_models.video_diffusion.actalker.guidance import GuidanceScales
from talking_portrait.core_models.video_diffusion.actalker.sampler import (
    SamplingOptions,
    SignalTokens,
    sample_latents,
)
from torch import nn

from .actalker_networks import EYES, MOUTH, WIDTH, clip, new_unet, normal, rows

WINDOW = 4
QUICK = SamplingOptions(steps=2, window=WINDOW, overlap=1, shift=3)
SOLE = GuidanceScales(1, 1, 1)
"""The last stream alone."""
FACTOR = 0.18215


class KnowingNetwork(nn.Module):
    """Predicts the v whose clean latents are, in each frame, the sum of its audio and motion tokens' means."""

    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.evaluations = []

    def forward(self, latents, timestep, controls, time_conditions, pose):
        self.evaluations.append((latents, timestep, controls, time_conditions, pose))
        sigma = torch.exp(4 * timestep.double())
        clean = sum(signal.tokens.double().mean((2, 3)) for signal in controls.signals)[..., None, None, None]
        seen = latents[:, :, :4].double()
        root = torch.sqrt(sigma**2 + 1)  # what is seen is the noisy latent over it
        return ((seen / root - clean) * root / sigma).float()


def noise_for(conditions, options=QUICK):
    padding = options.window if options.padding is None else options.padding
    return normal(conditions.frame_count + padding, *conditions.portrait.shape, seed=9)


def sampled(unet, conditions, options=QUICK, **callbacks):
    start = FACTOR * conditions.portrait
    return sample_latents(unet, conditions, start, noise_for(conditions, options), options, **callbacks)


def means(signal, total):
    """(total,) means of a clip's tokens, the padding frames' last."""
    missing = signal.unconditional.expand(total - len(signal.tokens), -1, -1)
    return torch.cat([signal.tokens, missing]).mean((1, 2))


@pytest.fixture(scope="module")
def unet():
    return new_unet()


class TestKnownAnswer:
    """Every frame must come out as its own tokens say, wherever the windows lie."""

    @pytest.mark.parametrize("count", [1, 3, WINDOW, WINDOW + 1, 11])
    @pytest.mark.parametrize("overlap", [0, 1, 3])
    def test_each_frame_gets_its_own_tokens_and_padding_gets_none(self, count, overlap):
        conditions = clip(count)
        options = dataclasses.replace(QUICK, steps=5, overlap=overlap, guidance=SOLE)
        found = sampled(KnowingNetwork(), conditions, options)
        total = count + WINDOW
        expected = means(conditions.audio, total) + means(conditions.motion, total)
        torch.testing.assert_close(found, expected.view(-1, 1, 1, 1).expand_as(found), atol=2e-3, rtol=0)

    def test_guidance_pushes_along_the_differences_of_the_streams(self):
        conditions = clip(5)
        options = dataclasses.replace(QUICK, guidance=GuidanceScales(2.0, 7.5, 3.0))
        found = sampled(KnowingNetwork(), conditions, options)[:5]
        audio, motion = (
            (given.unconditional.mean(), given.tokens.mean((1, 2)))
            for given in (conditions.audio, conditions.motion)
        )
        pushed = audio[0] + 7.5 * (audio[1] - audio[0]) + motion[0] + 3.0 * (motion[1] - motion[0])
        torch.testing.assert_close(found, pushed.view(-1, 1, 1, 1).expand_as(found), atol=5e-3, rtol=0)

    def test_guidance_of_the_last_step_is_its_end(self):
        conditions = clip(3)
        end = GuidanceScales(1, 4, 2)
        turned = dataclasses.replace(QUICK, guidance_end=end)
        constant = dataclasses.replace(QUICK, guidance=end)
        torch.testing.assert_close(
            sampled(KnowingNetwork(), conditions, turned),
            sampled(KnowingNetwork(), conditions, constant),
            atol=5e-3,
            rtol=0,
        )
        assert turned.guidance_at(0, 2) == turned.guidance
        assert turned.guidance_at(1, 2) == end

    def test_previews_are_the_clips_clean_estimates_once_a_step(self):
        conditions, previews = clip(3), []
        options = dataclasses.replace(QUICK, steps=4, guidance=SOLE)
        found = sampled(KnowingNetwork(), conditions, options, preview=previews.append)
        assert [preview.shape for preview in previews] == [(3, 4, 8, 8)] * 4
        for preview in previews:
            torch.testing.assert_close(preview, found[:3], atol=5e-3, rtol=0)


class TestStreams:
    def of_first_window(self, conditions, **changed):
        """The network's first evaluation; its rows are the streams."""
        network = KnowingNetwork()
        sampled(network, conditions, dataclasses.replace(QUICK, **changed))
        return network.evaluations[0]

    def test_add_person_then_sound_then_motion(self):
        conditions = clip(6)
        latents, _, controls, times, pose = self.of_first_window(conditions, overlap=0)
        portraits, identity = latents[:, :, 4:], controls.identity
        assert not portraits[0].any()
        assert not identity[0].any()
        for stream in (1, 2, 3):
            assert torch.equal(portraits[stream], conditions.portrait.expand(WINDOW, -1, -1, -1))
            assert torch.equal(identity[stream], conditions.identity.expand(WINDOW, -1, -1))
        for signal, given, first in (
            (controls.audio, conditions.audio, 2),
            (controls.motion, conditions.motion, 3),
        ):
            for stream in range(4):
                expected = (
                    given.tokens[:WINDOW] if stream >= first else given.unconditional.expand(WINDOW, -1, -1)
                )
                assert torch.equal(signal.tokens[stream], expected)
        assert torch.equal(times, conditions.time_conditions.expand(4, -1))
        assert torch.equal(pose, conditions.pose.expand(4, WINDOW, -1, -1, -1))

    def test_noisy_latents_are_scaled_to_unit_spread(self):
        latents, timestep, *_ = self.of_first_window(clip(6))
        assert timestep == edm.noise_condition(torch.tensor(700.0))
        assert latents[:, :, :4].std() == pytest.approx(1, abs=0.1)

    @pytest.mark.parametrize(
        ("audio", "motion", "count"), [(MOUTH, EYES, 4), (MOUTH, (), 3), ((), EYES, 3), ((), (), 2)]
    )
    def test_that_are_equal_are_computed_once(self, audio, motion, count):
        latents, *_ = self.of_first_window(clip(6, audio, motion), overlap=0)
        assert len(latents) == count

    def test_of_windows_without_a_frame_of_the_clip_hear_and_move_nothing(self):
        network = KnowingNetwork()
        sampled(network, clip(4), dataclasses.replace(QUICK, steps=1, overlap=0))
        assert [len(latents) for latents, *_ in network.evaluations] == [4, 2]

    def test_of_windows_whose_gate_is_shut_are_computed_once(self):
        heard = (Region(MOUTH[0].mask, torch.tensor([1.0] * 4 + [0.0] * 4)),)
        network = KnowingNetwork()
        sampled(network, clip(8, heard), dataclasses.replace(QUICK, steps=1, overlap=0))
        assert [len(latents) for latents, *_ in network.evaluations] == [4, 3, 2]
        assert [len(given.audio.regions) for _, _, given, *_ in network.evaluations] == [1, 0, 0]

    def test_regions_that_count_nowhere_in_a_window_are_left_out_of_it(self):
        weights = torch.tensor([1.0, 0.5, 0.0, 0.0])
        heard = (Region(MOUTH[0].mask, weights), Region(EYES[0].mask, 1 - weights))
        network = KnowingNetwork()
        options = dataclasses.replace(QUICK, steps=1, window=2, overlap=0, padding=0)
        sampled(network, clip(4, heard), options)
        assert [len(given.audio.regions) for _, _, given, *_ in network.evaluations] == [2, 1]

    def test_are_equal_where_the_gate_is_open_in_padding_alone(self):
        heard = (Region(MOUTH[0].mask, torch.tensor([0.0, 1.0, 1.0, 1.0])),)
        network = KnowingNetwork()
        sampled(network, clip(4, heard), dataclasses.replace(QUICK, overlap=0))
        counts = [len(latents) for latents, *_ in network.evaluations]
        assert counts == [4, 2, 3, 4]  # the second step's first window is three padding frames and frame 0

    @pytest.mark.parametrize("at_once", [1, 2, 3])
    def test_in_smaller_groups_give_the_same_but_for_rounding(self, unet, at_once):
        options = dataclasses.replace(QUICK, sigma_max=20.0)  # 700 would amplify the rounding
        whole = sampled(unet, clip(3), options)
        found = sampled(unet, clip(3), dataclasses.replace(options, streams_at_once=at_once))
        torch.testing.assert_close(found, whole, atol=1e-4 * whole.abs().max().item(), rtol=0)


class TestClip:
    @pytest.mark.parametrize("count", [1, 3, WINDOW, WINDOW + 1])
    def test_of_any_length_is_sampled_with_its_padding(self, unet, count):
        found = sampled(unet, clip(count))
        assert found.shape == (count + WINDOW, 4, 8, 8)
        assert found.dtype == torch.float32
        assert found.isfinite().all()

    @pytest.mark.parametrize("padding", [0, 2])
    def test_may_have_less_padding_than_a_window(self, unet, padding):
        found = sampled(unet, clip(3), dataclasses.replace(QUICK, padding=padding))
        assert len(found) == 3 + padding
        assert found.isfinite().all()

    def test_of_an_odd_size_is_sampled(self, unet):
        regions = (Region(rows(2, 5, 9, 7)),)
        assert sampled(unet, clip(2, regions, regions, 9, 7)).shape == (6, 4, 9, 7)

    def test_is_the_same_for_the_same_noise(self, unet):
        assert torch.equal(sampled(unet, clip(3)), sampled(unet, clip(3)))

    def test_does_not_depend_on_tokens_of_closed_signals(self, unet):
        open_parts, closed_parts = clip(3, audio=()), clip(3, audio=())
        other = SignalTokens(normal(3, 5, WIDTH, seed=50), normal(5, WIDTH, seed=51))
        closed_parts = dataclasses.replace(closed_parts, audio=other)
        assert torch.equal(sampled(unet, open_parts), sampled(unet, closed_parts))
        heard = dataclasses.replace(clip(3), audio=dataclasses.replace(other, regions=MOUTH))
        assert not torch.equal(sampled(unet, clip(3)), sampled(unet, heard))

    def test_follows_weights_of_its_frames(self, unet):
        weights = torch.tensor([1.0, 0.5, 0.0])
        regions = (Region(MOUTH[0].mask, weights),)
        options = dataclasses.replace(QUICK, guidance=SOLE)
        network = KnowingNetwork()
        sampled(network, clip(3, regions), dataclasses.replace(options, steps=1, overlap=0, padding=1))
        (region,) = network.evaluations[0][2].audio.regions
        assert region.weight.tolist() == [1, 0.5, 0, 0]  # the padding frame's is that of the last
        nothing, whole = (
            sampled(unet, clip(3, (Region(MOUTH[0].mask, torch.full((3,), weight)),)), options)
            for weight in (0.0, 1.0)
        )
        torch.testing.assert_close(nothing, sampled(unet, clip(3, ()), options), atol=1e-3, rtol=0)
        torch.testing.assert_close(whole, sampled(unet, clip(3), options), atol=1e-3, rtol=0)

    def test_is_sampled_in_half_precision(self):
        conditions, half = clip(2), torch.bfloat16
        signals = {
            name: SignalTokens(signal.tokens.to(half), signal.unconditional.to(half), signal.regions)
            for name, signal in (("audio", conditions.audio), ("motion", conditions.motion))
        }
        conditions = dataclasses.replace(
            conditions,
            identity=conditions.identity.to(half),
            portrait=conditions.portrait.to(half),
            pose=conditions.pose.to(half),
            **signals,
        )
        found = sampled(new_unet().to(half), conditions)
        assert found.dtype == torch.float32
        assert found.isfinite().all()


class StillNetwork(KnowingNetwork):
    """Predicts v = 0 whatever it sees."""

    def forward(self, latents, *arguments):
        super().forward(latents, *arguments)
        return torch.zeros_like(latents[:, :, :4])


class TestStrength:
    @pytest.mark.parametrize(("strength", "left_out"), [(1.0, 0), (0.75, 2), (0.5, 4), (0.13, 7)])
    def test_below_1_starts_at_a_later_level(self, strength, left_out):
        network = StillNetwork()
        sampled(network, clip(1), dataclasses.replace(QUICK, steps=8, strength=strength))
        levels = edm.karras_sigmas(8)
        assert network.evaluations[0][1] == edm.noise_condition(levels[left_out])
        windows = len(circular_windows(1 + WINDOW, WINDOW, QUICK.overlap))
        assert len(network.evaluations) == (8 - left_out) * windows

    def test_below_1_stays_nearer_to_the_start(self):
        conditions = clip(2)
        start, options = FACTOR * conditions.portrait, dataclasses.replace(QUICK, steps=8)
        distances = [
            (
                sampled(StillNetwork(), conditions, dataclasses.replace(options, strength=strength)) - start
            ).norm()
            for strength in (1.0, 0.5, 0.25, 0.125)
        ]
        assert distances == sorted(distances, reverse=True)
        assert distances[-1] < 0.05 * distances[0]


class Cancelled(Exception):
    """What a progress callback may raise."""


class TestCallbacks:
    @pytest.mark.parametrize(("count", "overlap"), [(1, 0), (5, 0), (5, 2)])
    def test_progress_counts_windows_and_steps(self, count, overlap):
        calls, network = [], KnowingNetwork()
        options = dataclasses.replace(QUICK, steps=3, overlap=overlap)
        sampled(network, clip(count), options, progress=lambda done, total: calls.append((done, total)))
        total = 3 * len(circular_windows(count + WINDOW, WINDOW, overlap))
        assert calls == [(done, total) for done in range(1, total + 1)]
        assert len(network.evaluations) == total

    def test_what_progress_raises_ends_the_work_at_once(self):
        network, previews = KnowingNetwork(), []

        def progress(done, total):
            if done == 2:
                raise Cancelled

        with pytest.raises(Cancelled):
            sampled(network, clip(5), progress=progress, preview=previews.append)
        assert len(network.evaluations) == 2
        assert not previews


class TestBadInput:
    @pytest.mark.parametrize("shape", [(7, 4, 8, 8), (3, 4, 8, 8), (1, 7, 4, 8, 8), (7, 4, 8, 9)])
    def test_noise_of_another_shape_is_refused(self, shape):
        conditions = clip(4)
        with pytest.raises(ValueError, match=r"the noise has shape .*, expected \(8, 4, 8, 8\)"):
            sample_latents(KnowingNetwork(), conditions, conditions.portrait, normal(*shape), QUICK)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"steps": 0}, "steps is 0"),
            ({"window": 0}, "window 0"),
            ({"streams_at_once": 0}, "streams_at_once 0"),
            ({"overlap": 4}, r"overlap is 4, expected 0\.\.3"),
            ({"overlap": -1}, "overlap is -1"),
            ({"strength": 0.0}, "strength is 0.0"),
            ({"strength": 1.5}, "strength is 1.5"),
            ({"strength": 0.3}, "leaves none of 2 steps"),
            ({"padding": -1}, "padding is -1"),
            ({"sigma_min": 0.0}, "sigma_min is 0.0"),
            ({"sigma_max": 0.001}, "sigma_max 0.001"),
        ],
    )
    def test_options_out_of_range_are_refused(self, changed, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(QUICK, **changed)

    def test_signals_of_different_lengths_are_refused(self):
        with pytest.raises(ValueError, match="audio has 3 frames and motion 4"):
            dataclasses.replace(clip(3), motion=clip(4).motion)

    def test_a_clip_without_frames_is_refused(self):
        with pytest.raises(ValueError, match="audio has 0 frames and motion 0"):
            clip(0)

    def test_weights_of_another_length_are_refused(self):
        with pytest.raises(ValueError, match=r"weight has shape \(2,\), expected \(3,\)"):
            clip(3, (Region(MOUTH[0].mask, torch.ones(2)),))
