"""Which sound each latent frame hears: where windows lie, that none of it is lost, and what is refused."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio.wav2vec2 import step_count
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_windows import (
    WIDENED_TOKENS,
    AudioWindows,
    audio_timeline,
    audio_windows,
    widened,
    window_ranges,
)
from talking_portrait.core_models.video_diffusion.wan.frame_rules import (
    covering_frames,
    latent_frames,
    video_frames,
)

LATENTS = st.integers(2, 90)
RATE = st.floats(0.3, 8)
FEWER = settings(deadline=None, max_examples=30)
FPS = st.sampled_from([12.5, 23.0, 23.976, 25.0, 30.0])


def numbered(count):
    """Tokens (count, 1) whose value is their number, from 1: 0 is no sound."""
    return torch.arange(1, count + 1, dtype=torch.float32)[:, None]


def heard(windows):
    """Numbers of the tokens that are in any window."""
    return {int(value) - 1 for value in windows.flatten() if value}


class TestRanges:
    @settings(deadline=None)
    @given(latents=LATENTS, rate=RATE)
    def test_are_centred_one_to_two_tokens_before_the_middle_of_their_frames(self, latents, rate):
        """Of latent frame i that is video frame 4i - 1, counted in tokens."""
        ranges = window_ranges(500, video_frames(latents), rate)
        assert len(ranges) == latents
        for index, (first, last) in enumerate(ranges[1:], start=1):
            middle = rate * (4 * index - 1)
            assert middle - 2 - 1e-6 < (first + last) / 2 <= middle - 1 + 1e-6

    def test_of_the_release_are_around_what_is_seen(self):
        """At 23 fps: the middle token is centred less than 45 ms before the middle of its frames."""
        for index, (first, last) in enumerate(window_ranges(175, 81)[1:], start=1):
            sounds_at = ((first + last) / 2 * 320 + 200) / 16000
            assert -0.045 < sounds_at - (4 * index - 1) / 23 <= 0

    @settings(deadline=None)
    @given(latents=LATENTS, rate=RATE)
    def test_have_one_length_that_spans_four_frames(self, latents, rate):
        lengths = {last - first + 1 for first, last in window_ranges(99, video_frames(latents), rate)}
        assert lengths == {2 * int(2 * rate) + 1}

    @settings(deadline=None)
    @given(latents=LATENTS, rate=RATE)
    def test_of_the_first_frame_end_where_the_seconds_begin(self, latents, rate):
        first, second = window_ranges(99, video_frames(latents), rate)[:2]
        assert first[1] == second[0]

    @settings(deadline=None)
    @given(latents=LATENTS, tokens=st.integers(1, 400))
    def test_without_a_rate_stretch_the_sound_over_the_video(self, latents, tokens):
        frames = video_frames(latents)
        assert window_ranges(tokens, frames) == window_ranges(tokens, frames, tokens / frames)

    @settings(deadline=None)
    @given(latents=LATENTS, rate=RATE, tokens=st.integers(1, 400))
    def test_in_exact_timing_know_nothing_of_the_rest(self, latents, rate, tokens):
        """A longer video or sound has the same windows, and more."""
        short = window_ranges(tokens, video_frames(latents), rate)
        assert window_ranges(tokens + 7, video_frames(latents + 3), rate)[:latents] == short

    @pytest.mark.parametrize("frames", [-5, 0, 1, 4])
    def test_of_less_than_five_frames_are_refused(self, frames):
        with pytest.raises(ValueError, match=rf"video has {frames} frames.*at least 5.*append silence"):
            window_ranges(10, frames)

    @pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
    def test_of_a_rate_that_is_none_are_refused(self, rate):
        with pytest.raises(ValueError, match=f"tokens_per_frame is {rate}"):
            window_ranges(10, 5, rate)

    def test_of_no_sound_are_refused(self):
        with pytest.raises(ValueError, match="0 audio tokens"):
            window_ranges(0, 5)

    def test_are_not_narrowed(self):
        with pytest.raises(ValueError, match="widened by -1"):
            widened([(0, 4)], -1)


class TestCoverage:
    @FEWER
    @given(latents=st.integers(2, 60), tokens=st.integers(1, 400))
    def test_stretched_sound_is_all_heard(self, latents, tokens):
        windows, lengths = audio_windows(numbered(tokens), video_frames(latents))
        assert heard(windows) == set(range(tokens))
        assert (lengths > 0).all()

    @FEWER
    @given(samples=st.integers(400, 200_000), fps=FPS)
    def test_sound_in_exact_timing_is_all_heard(self, samples, fps):
        tokens, frames = step_count(samples), covering_frames(samples / 16000, fps)
        windows, _ = audio_windows(numbered(tokens), frames, 50 / fps)
        assert len(windows) == latent_frames(frames)
        assert heard(windows) == set(range(tokens))

    @FEWER
    @given(latents=LATENTS, rate=RATE, tokens=st.integers(1, 400))
    def test_windows_hold_their_range_of_sound_and_then_zeros(self, latents, rate, tokens):
        timeline = audio_timeline(numbered(tokens), video_frames(latents), rate)
        windows, lengths = timeline.of(range(latents))
        assert windows.shape == (latents, timeline.width, 1)
        for (first, last), window, length in zip(timeline.ranges, windows, lengths.tolist(), strict=True):
            expected = [token + 1 for token in range(first, last + 1) if 0 <= token < tokens]
            assert window[:, 0].tolist() == expected + [0] * (timeline.width - len(expected))
            assert length == len(expected)

    @FEWER
    @given(quarters=st.integers(2, 30), moved=st.integers(1, 5), later=st.integers(6, 20))
    def test_sound_a_latent_frame_later_is_heard_a_latent_frame_later(self, quarters, moved, later):
        """At rates with whole tokens to a latent frame."""
        latents, rate = moved + later, quarters / 4
        sound, frames = numbered(quarters * latents + 50), video_frames(latents)
        moved_sound = torch.cat([sound.new_zeros(quarters * moved, 1), sound])
        windows, lengths = audio_windows(sound, frames, rate)
        after, after_lengths = audio_windows(moved_sound, frames, rate)
        whole = [index for index in range(1, later) if lengths[index] == windows.shape[1]]
        assert whole
        for index in whole:
            assert torch.equal(after[index + moved], windows[index])
            assert after_lengths[index + moved] == lengths[index]

    @settings(deadline=None)
    @given(rate=RATE, latents=st.integers(3, 60))
    def test_at_other_rates_windows_advance_by_the_nearest_tokens(self, rate, latents):
        firsts = [first for first, _ in window_ranges(99, video_frames(latents), rate)[1:]]
        assert all(abs(b - a - 4 * rate) < 1 for a, b in itertools.pairwise(firsts))


class TestPieces:
    @FEWER
    @given(latents=LATENTS, data=st.data())
    def test_of_a_video_are_those_of_the_whole(self, latents, data):
        tokens = torch.randn(120, 3)
        timeline = audio_timeline(tokens, video_frames(latents), 50 / 23)
        chosen = data.draw(st.lists(st.integers(0, latents - 1), min_size=1, max_size=12))
        windows, lengths = timeline.of(chosen)
        together, all_lengths = audio_windows(tokens, video_frames(latents), 50 / 23)
        assert torch.equal(windows, together[chosen])
        assert torch.equal(lengths, all_lengths[chosen])

    def test_after_the_sound_are_empty(self):
        timeline = audio_timeline(torch.ones(30, 2), video_frames(40), 2.0)
        windows, lengths = timeline.of([39])
        assert lengths.tolist() == [0]
        assert not windows.any()
        assert len(timeline) == 40
        assert timeline.width == 2 * 4 + 1 + 2 * WIDENED_TOKENS == 17

    def test_keep_kind_and_let_gradients_through(self):
        tokens = torch.randn(40, 2, dtype=torch.float64, requires_grad=True)
        windows, lengths = audio_windows(tokens, 17)
        assert (windows.dtype, lengths.dtype) == (torch.float64, torch.int64)
        windows.sum().backward()
        times_heard = torch.tensor(
            [sum(f <= t <= e for f, e in audio_timeline(tokens, 17).ranges) for t in range(40)]
        )
        assert torch.equal(tokens.grad[:, 0], times_heard.double())

    def test_of_no_frames_are_none(self):
        windows, lengths = audio_timeline(torch.ones(30, 2), 9).of([])
        assert windows.shape[0] == lengths.shape[0] == 0

    @pytest.mark.parametrize("frame", [-1, 3])
    def test_beyond_the_video_are_refused(self, frame):
        with pytest.raises(IndexError, match=f"latent frame {frame} is asked for.*windows of 3"):
            audio_timeline(torch.ones(30, 2), 9).of([0, frame])

    @pytest.mark.parametrize(
        ("tokens", "ranges", "message"),
        [
            (torch.ones(1, 30, 2), ((0, 3),), r"\(1, 30, 2\), expected \(L, C\)"),
            (torch.ones(0, 2), ((0, 3),), r"\(0, 2\)"),
            (torch.ones(30, 2), ((0, 3), (2, 6)), r"\[4, 5\] tokens do not go together"),
            (torch.ones(30, 2), ((0, -1),), r"\[0\] tokens"),
            (torch.ones(30, 2), (), r"\[\] tokens"),
        ],
    )
    def test_that_do_not_fit_are_refused(self, tokens, ranges, message):
        with pytest.raises(ValueError, match=message):
            AudioWindows(tokens, ranges)
