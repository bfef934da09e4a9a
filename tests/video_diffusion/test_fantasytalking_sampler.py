"""FantasyTalking's sampling loop: the released one; networks that know the answer; a small one of random weights."""

from dataclasses import replace

import pytest
import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_windows import (
    audio_timeline,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.clip_conditions import (
    ClipConditions,
    FrameAudio,
    WholeAudio,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.guidance import (
    GuidanceScales,
    GuidanceSchedule,
    Interval,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.long_windows import ledger
from talking_portrait.core_models.video_diffusion.fantasytalking.sampler import (
    SamplingOptions,
    sample_latents,
)
from talking_portrait.core_models.video_diffusion.wan.frame_rules import video_frames

from .fantasytalking_models import new_model
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
    noise_of,
    read_text,
    sampled,
    small_conditions,
    small_sampler,
)
from .test_fantasytalking_golden import case_and_arrays, network_case  # noqa: F401
from .wan_golden import assert_agrees

LOOP_TOLERANCE = 1e-3
SCALES = {
    "cfg5_audio5": (GuidanceScales(5, 5), 1.0),
    "cfg1_audio4_5": (GuidanceScales(1, 4.5), 1.0),
    "cfg5_noaudiocfg": (GuidanceScales(5, None), 1.0),
    "cfg3_audio7_scale0_5": (GuidanceScales(3, 7), 0.5),
}


@pytest.fixture(scope="module")
def small():
    return small_sampler()


class TestRelease:
    @pytest.mark.parametrize("at_once", [1, 3])
    @pytest.mark.parametrize("name", sorted(SCALES))
    def test_loop_is_the_releases(self, request, golden_folder, name, at_once):
        _, _, model, _, given = request.getfixturevalue("network_case")
        case, arrays = case_and_arrays(golden_folder, "cfg_loop")
        scales, audio_scale = SCALES[name]
        noise = torch.randn(
            case["outputs"]["noise"]["shape"], generator=torch.Generator().manual_seed(case["seed"])
        )
        assert_agrees(case, arrays, "noise", noise, 0)
        found = sample_latents(
            model,
            self.conditions(given, request.getfixturevalue("golden_tools"), audio_scale),
            noise,
            SamplingOptions(steps=3, guidance=GuidanceSchedule(scales), streams_at_once=at_once),
        )
        assert_agrees(case, arrays, name, found, LOOP_TOLERANCE)

    def conditions(self, given, tools, audio_scale):
        """The case's conditions; its windows one after another are tokens that ranges find again."""
        windows, lengths = given.audio[0], given.audio_lengths[0]

        class Given:
            def of_frames(self, first, count):
                return windows[first : first + count], lengths[first : first + count]

        negative = torch.nn.functional.pad(tools.input_for("ft_a_neg", (29, 64)), (0, 0, 0, 512 - 29))
        prompt = torch.nn.functional.pad(given.text[0], (0, 0, 0, 512 - given.text.shape[1]))
        return ClipConditions(given.image[0], prompt, negative, given.picture[0], Given(), audio_scale)


@pytest.fixture(scope="module")
def golden_tools(golden_folder):
    from .wan_golden import weight_tools

    return weight_tools(golden_folder)


class TestKnownAnswer:
    """Every latent frame must come out as its own sound says, in whichever windows it lies."""

    @pytest.mark.parametrize("latents", [1, 4, 5, 6, 9, 23])
    @pytest.mark.parametrize("overlap", [0, 1, 3])
    def test_each_frame_hears_what_the_whole_clip_has_there(self, latents, overlap):
        options = replace(QUICK, overlap=overlap, guidance=guided())
        found = sampled(KnowingNetwork(heard_frames), clip(latents), latents, options)
        assert found.shape == (1, CHANNELS, latents, HEIGHT, WIDTH)
        expected = torch.arange(1.0, latents + 1)[:, None, None].expand_as(found)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)

    def test_a_constant_velocity_leads_to_a_constant_result(self):
        class Constant(KnowingNetwork):
            def forward(self, latents, timesteps, conditions, beginning=None):
                return torch.full_like(latents, 0.75)

        for latents in (3, 5, 17):
            found = sampled(Constant(None), clip(latents), latents)
            torch.testing.assert_close(found, noise_of(latents) - 0.75)

    def test_guidance_pushes_along_the_differences_of_the_streams(self):
        def clean(conditions):
            return heard_frames(conditions) + read_text(conditions)

        options = replace(QUICK, guidance=guided(3.0, 4.0))
        found = sampled(KnowingNetwork(clean), clip(9), 9, options)
        expected = -1 + 3.0 * (2 + 1) + 4.0 * torch.arange(1.0, 10)
        torch.testing.assert_close(found, expected[:, None, None].expand_as(found), atol=1e-3, rtol=0)

    def test_previews_are_clean_estimates_once_a_step(self):
        previews = []
        options = replace(QUICK, steps=4, guidance=guided())
        found = sampled(KnowingNetwork(heard_frames), clip(7), 7, options, preview=previews.append)
        assert [preview.shape for preview in previews] == [(7, CHANNELS, HEIGHT, WIDTH)] * 4
        for preview in previews:
            torch.testing.assert_close(preview, found[0].transpose(0, 1), atol=1e-3, rtol=0)


class TestWindows:
    def first_step(self, latents, **changed):
        network = KnowingNetwork(heard_frames)
        options = replace(QUICK, steps=1, guidance=guided())
        sampled(network, clip(latents, **changed), latents, options)
        return network.evaluations, ledger(latents, options.window, options.overlap).windows

    def test_begin_with_the_anchor_but_for_the_first(self):
        noise = noise_of(12)
        evaluations, windows = self.first_step(12)
        assert len(evaluations) == len(windows) == 4
        for (seen, _, conditions), window in zip(evaluations, windows, strict=True):
            assert torch.equal(seen[:, :, 0], noise[:, :, 0])
            assert torch.equal(seen[:, :, window.anchored :], noise[:, :, window.own_first : window.end])
            assert conditions.audio[0, :, 0, 0].tolist() == list(range(window.first + 1, window.end + 1))

    def test_all_see_the_picture_in_the_first_place(self):
        given = clip(12)
        evaluations, _ = self.first_step(12)
        assert all(torch.equal(conditions.image[0], given.image) for _, _, conditions in evaluations)

    def test_sample_their_anchor_along_and_throw_it_away(self):
        class Anchored(KnowingNetwork):
            """What it makes of the first place is that window's own number."""

            def forward(self, latents, timesteps, conditions):
                found = super().forward(latents, timesteps, conditions)
                found[:, :, 0] = conditions.audio[0, 0, 0, 0]
                return found

        network = Anchored(heard_frames)
        found = sampled(network, clip(12), 12, replace(QUICK, guidance=guided()))
        expected = torch.arange(1.0, 13)[:, None, None].expand_as(found)
        torch.testing.assert_close(found[:, :, 1:], expected[:, :, 1:], atol=1e-4, rtol=0)
        windows = ledger(12, QUICK.window, QUICK.overlap).windows
        (_, first, _), (_, second, _) = (network.evaluations[index] for index in (1, 1 + len(windows)))
        moved = network.evaluations[1 + len(windows)][0][:, :, 0] - network.evaluations[1][0][:, :, 0]
        distance = (second[0] - first[0]) / 1000
        torch.testing.assert_close(moved, torch.full_like(moved, (windows[1].first + 1) * distance))

    def test_are_as_intense_as_their_own_frames_in_the_mean(self):
        intensity = torch.stack([torch.arange(12.0) / 12, torch.ones(12)], dim=1)
        evaluations, windows = self.first_step(12, intensity=intensity)
        for (_, _, conditions), window in zip(evaluations, windows, strict=True):
            face, body = conditions.intensity[0]
            assert face == pytest.approx(
                sum(range(window.own_first, window.end)) / (12 * (window.end - window.own_first))
            )
            assert body == 1

    def test_may_hear_all_of_their_sound_alike(self):
        tokens = torch.arange(float(video_frames(12)))[:, None]
        evaluations, windows = self.first_step_of_whole(WholeAudio(tokens, 1.0))
        for (_, _, conditions), window in zip(evaluations, windows, strict=True):
            assert conditions.audio.ndim == 3
            starts = max(0, 4 * window.first - 3)
            assert conditions.audio[0, :, 0].tolist() == list(range(starts, 4 * window.end - 3))

    def first_step_of_whole(self, audio):
        network = KnowingNetwork(lambda conditions: conditions.audio.mean(dim=(1, 2))[:, None])
        options = replace(QUICK, steps=1, guidance=guided())
        sampled(network, clip(12, audio=audio), 12, options)
        return network.evaluations, ledger(12, options.window, options.overlap).windows


class TestStreams:
    def counts(self, conditions, options, latents=5):
        network = KnowingNetwork(lambda conditions: torch.zeros(1, 1))
        sampled(network, conditions, latents, options)
        return [len(seen) for seen, _, _ in network.evaluations]

    @pytest.mark.parametrize(
        ("changed", "scales", "streams"),
        [
            ({}, (5, 4.5), 3),
            ({}, (5, 5), 2),
            ({}, (1, 4.5), 2),
            ({}, (1, 1), 1),
            ({}, (5, None), 2),
            ({"negative_text": None}, (5, 4.5), 2),
            ({"negative_text": torch.full((2, TEXT), 2.0)}, (5, 4.5), 2),
            ({"audio": None}, (5, 4.5), 2),
            ({"audio_scale": 0.0}, (5, 4.5), 2),
            ({"audio": None, "negative_text": None}, (5, 4.5), 1),
        ],
    )
    def test_are_computed_only_where_needed(self, changed, scales, streams):
        options = replace(QUICK, steps=1, guidance=guided(*scales), streams_at_once=8)
        assert self.counts(clip(5, **changed), options) == [streams]

    def test_of_windows_after_the_sound_are_fewer(self):
        silent = FrameAudio(audio_timeline(torch.ones(8, 1), video_frames(40), 2.0))
        options = replace(QUICK, steps=1, guidance=guided(5, 4.5), streams_at_once=8)
        counts = self.counts(clip(40, audio=silent), options, 40)
        assert counts == sorted(counts, reverse=True)
        assert (counts[0], counts[-1]) == (3, 2)

    def test_are_fewer_outside_of_the_guidances_intervals(self):
        schedule = guided(5, 4.5, prompt=Interval(0, 0.5), audio=Interval(0, 0.75))
        options = replace(QUICK, steps=4, guidance=schedule, streams_at_once=8)
        assert self.counts(clip(5), options) == [3, 3, 2, 1]

    def test_are_given_what_their_names_say(self):
        network = KnowingNetwork(heard_frames)
        options = replace(QUICK, steps=1, guidance=guided(5, 4.5), streams_at_once=3)
        sampled(network, clip(5), 5, options)
        ((_, timesteps, given),) = network.evaluations
        assert given.text[:, 0, 0].tolist() == [-1, 2, 2]
        assert given.audio_scale.tolist() == [0, 0, 1]
        assert timesteps.tolist() == [1000] * 3

    @pytest.mark.parametrize("at_once", [1, 2])
    def test_in_smaller_groups_give_the_same_but_for_rounding(self, small, at_once):
        options = replace(QUICK, window=3, overlap=0, guidance=guided(5, 4.5))
        whole = small(5, replace(options, streams_at_once=3))
        torch.testing.assert_close(
            small(5, replace(options, streams_at_once=at_once)), whole, atol=1e-3, rtol=0
        )

    def test_without_sound_are_not_given_any(self):
        network = KnowingNetwork(heard_frames)
        options = replace(QUICK, steps=1, guidance=guided(5, 4.5))
        sampled(network, clip(5), 5, options)
        assert [given.audio is None for _, _, given in network.evaluations] == [True, True, False]


class TestSmallNetwork:
    @pytest.mark.parametrize("latents", [1 + 1, 3, 4, 8])
    def test_clips_of_any_length_are_sampled(self, small, latents):
        found = small(latents, replace(QUICK, window=3, overlap=1))
        assert found.shape == (1, 16, latents, 4, 6)
        assert found.dtype == torch.float32
        assert found.isfinite().all()

    def test_the_same_noise_is_the_same_clip(self, small):
        assert torch.equal(small(4, QUICK), small(4, QUICK))

    def test_keys_that_are_kept_change_nothing(self, small):
        options = replace(QUICK, window=3, steps=3)
        torch.testing.assert_close(small(5, replace(options, keys_kept=True)), small(5, options))

    def test_the_first_block_cache_leaves_blocks_out_and_is_gone_afterwards(self, small):
        counts = []
        block = small.model.transformer.blocks[1]
        options = replace(QUICK, steps=6, guidance=guided(5, 4.5))
        whole = small(4, options)
        for threshold in (None, 1e-9, 0.9):
            numbers = []
            hook = block.attn2.register_forward_hook(lambda *_, numbers=numbers: numbers.append(1))
            found = small(4, replace(options, first_block_cache=threshold))
            hook.remove()
            counts.append(len(numbers))
            if threshold != 0.9:
                torch.testing.assert_close(found, whole)
        assert counts[0] == counts[1] == 18
        assert 3 <= counts[2] < 18
        assert torch.equal(small(4, options), whole)

    def test_the_first_block_cache_keeps_each_stream_apart(self, small):
        """Each stream's first evaluation is its own, so one step is exact however high the threshold."""
        options = replace(QUICK, steps=1, guidance=guided(5, 4.5))
        torch.testing.assert_close(small(4, replace(options, first_block_cache=0.99)), small(4, options))

    def test_the_first_block_cache_is_for_one_window(self, small):
        with pytest.raises(ValueError, match="one state a window, and this clip has 3"):
            small(5, replace(QUICK, window=3, overlap=1, first_block_cache=0.1))

    def test_a_network_in_half_precision_samples_in_float32(self):
        from talking_portrait.core_models.video_diffusion.wan.transformer import kept_in_float32

        model = new_model()
        for name, value in model.transformer.named_parameters():
            value.data = value.data if kept_in_float32(name) else value.data.bfloat16()
        noise = drawn(1, 16, 4, 4, 6, seed=7)
        found = sample_latents(model, small_conditions(4, 3), noise, replace(QUICK, window=3))
        assert found.dtype == torch.float32
        assert found.isfinite().all()
