"""FantasyTalking's sampling loop at its limits: progress and cancelling, long clips, what is refused or failed."""

import dataclasses
import gc
import warnings
from dataclasses import replace

import pytest
import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.guidance import Interval
from talking_portrait.core_models.video_diffusion.fantasytalking.long_windows import ledger
from talking_portrait.core_models.video_diffusion.fantasytalking.sampler import sample_latents
from talking_portrait.core_models.video_diffusion.wan.frame_rules import latent_frames

from .fantasytalking_sampling import (
    CHANNELS,
    HEIGHT,
    QUICK,
    TEXT,
    WIDTH,
    KnowingNetwork,
    clip,
    drawn,
    guided,
    heard_frames,
    sampled,
    small_sampler,
)


@pytest.fixture(scope="module")
def small():
    return small_sampler()


class Cancelled(Exception):
    """What a callback may raise."""


class TestCallbacks:
    @pytest.mark.parametrize(("latents", "at_once"), [(5, 1), (12, 1), (12, 2), (12, 3)])
    def test_progress_counts_streams_of_windows_and_steps(self, latents, at_once):
        calls = []
        options = replace(QUICK, guidance=guided(5, 4.5, audio=Interval(0, 0.5)), streams_at_once=at_once)
        network = KnowingNetwork(heard_frames)
        sampled(network, clip(latents), latents, options, progress=lambda *call: calls.append(call))
        windows = len(ledger(latents, options.window, options.overlap).windows)
        done = 0
        for (seen, _, _), call in zip(network.evaluations, calls, strict=True):
            done += len(seen)
            assert call == (done, windows * (3 + 2))
        assert done == windows * 5

    def test_what_progress_raises_ends_the_work(self):
        network = KnowingNetwork(heard_frames)

        def progress(done, total):
            if done == 2:
                raise Cancelled

        with pytest.raises(Cancelled):
            sampled(network, clip(12), 12, progress=progress)
        assert len(network.evaluations) == 2

    def test_check_is_called_before_each_evaluation_and_block(self):
        calls, network = [], KnowingNetwork(heard_frames)
        options = replace(QUICK, steps=1, guidance=guided())
        sampled(network, clip(12), 12, options, check=lambda: calls.append(len(network.evaluations)))
        assert calls == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]

    def test_what_check_raises_ends_an_evaluation_between_blocks(self):
        network, calls = KnowingNetwork(heard_frames), []
        second = network.transformer.blocks[1]
        second.register_forward_hook(lambda *_: calls.append("second"))

        def check():
            calls.append("check")
            if len(calls) == 3:
                raise Cancelled

        with pytest.raises(Cancelled):
            sampled(network, clip(5), 5, check=check)
        assert calls == ["check"] * 3
        assert not any(block._forward_pre_hooks for block in network.transformer.blocks)

    def test_check_works_within_the_real_network(self, small):
        calls = []

        def check():
            calls.append(1)
            if len(calls) == 3:
                raise Cancelled

        with pytest.raises(Cancelled):
            small(4, QUICK, check=check)
        assert not any(block._forward_pre_hooks for block in small.model.transformer.blocks)
        assert small.model.shared.current.audio is None


def bytes_alive():
    """Of all tensors that Python knows of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


class TestLongClips:
    def test_windows_stay_as_large_however_long_the_clip(self):
        sizes = set()
        for frames in (81, 1501):
            latents = latent_frames(frames)
            options = replace(QUICK, window=21, overlap=5, guidance=guided(5, 4.5), streams_at_once=3)
            network = KnowingNetwork(heard_frames)
            found = sampled(network, clip(latents, options), latents, options)
            assert found.shape[2] == latents
            sizes |= {tuple(seen.shape) for seen, _, _ in network.evaluations}
        assert sizes == {(3, CHANNELS, 21, HEIGHT, WIDTH)}

    def test_memory_grows_by_the_latents_alone(self):
        """By what is kept of a clip: its noise, its latents before and after a step, the velocity, and the anchors."""

        class Measured(KnowingNetwork):
            alive, count = 0, 0

            def forward(self, latents, timesteps, conditions):
                self.count += 1
                if self.count == 2 * windows:  # the last of the second step: all that is kept is there
                    self.alive = bytes_alive()
                return latents * 0.5

        found = {}
        for latents in (51, 376):
            options = replace(QUICK, window=21, overlap=5, guidance=guided())
            windows = len(ledger(latents, options.window, options.overlap).windows)
            network = Measured(None)
            conditions = clip(latents, options, image=drawn(20, 21, 16, 16))
            sample_latents(network, conditions, drawn(1, 16, latents, 16, 16), options)
            found[latents] = network.alive
        of_latents = 4 * 16 * 16 * 16 * (376 - 51)
        assert 2 * of_latents < found[376] - found[51] < 3.5 * of_latents


class TestBadInput:
    @pytest.mark.parametrize("shape", [(CHANNELS, 5, 2, 2), (2, CHANNELS, 5, 2, 2)])
    def test_noise_of_another_shape_is_refused(self, shape):
        with pytest.raises(ValueError, match=r"the noise has shape .*, expected \(1, C, F, h, w\)"):
            sample_latents(KnowingNetwork(heard_frames), clip(5), torch.zeros(shape), QUICK)

    @pytest.mark.parametrize("shape", [(4, 2, 2), (5, 2, 3)])
    def test_a_picture_of_another_size_is_refused(self, shape):
        with pytest.raises(ValueError, match="encode the picture for the window's frames"):
            sampled(KnowingNetwork(heard_frames), clip(5, image=torch.zeros(6, *shape)), 5)

    def test_intensity_of_another_length_is_refused(self):
        with pytest.raises(ValueError, match=r"the intensity has shape \(4, 2\), expected \(5, 2\)"):
            sampled(KnowingNetwork(heard_frames), clip(5, intensity=torch.zeros(4, 2)), 5)

    def test_prompts_of_two_lengths_are_refused(self):
        with pytest.raises(ValueError, match="pad both to one length"):
            clip(5, negative_text=torch.zeros(3, TEXT))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"steps": 0}, "steps is 0"),
            ({"window": 0}, "window 0"),
            ({"streams_at_once": 0}, "streams_at_once 0"),
            ({"first_block_cache": 0.0}, "first_block_cache is 0.0"),
            ({"first_block_cache": 1.5}, "first_block_cache is 1.5"),
        ],
    )
    def test_options_out_of_range_are_refused(self, changed, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(QUICK, **changed)

    @pytest.mark.parametrize(
        ("dtype", "advice"),
        [
            (torch.float16, "sampling in float16 .* step 1: choose bfloat16 or float32"),
            (torch.bfloat16, "sampling in bfloat16 .* step 1: lower the guidance, or choose float32"),
            (torch.float32, "sampling in float32 .* step 1: lower the guidance, or load the weights again"),
        ],
    )
    def test_infinity_ends_the_work_with_advice(self, dtype, advice):
        """By what the network computes in, whatever it stores: 8 bits, or one parameter in another precision."""
        network = KnowingNetwork(lambda conditions: torch.full((1, 1), float("inf")))
        network.computing_dtype, network.number.data = dtype, network.number.data.to(torch.float8_e4m3fn)
        with pytest.raises(FloatingPointError, match=advice):
            sampled(network, clip(5), 5)


class TestCache:
    def test_that_could_not_be_switched_on_whole_is_off_afterwards(self, small, monkeypatch):
        transformer, options = small.model.transformer, replace(QUICK, first_block_cache=0.1)
        enable = type(transformer).enable_cache

        def interrupted(self, config):
            enable(self, config)
            raise KeyboardInterrupt

        whole = small(4, options)
        monkeypatch.setattr(type(transformer), "enable_cache", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small(4, options)
        assert not transformer.is_cache_enabled
        monkeypatch.undo()
        assert torch.equal(small(4, options), whole)
