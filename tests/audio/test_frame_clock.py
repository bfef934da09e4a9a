"""The one place that turns seconds into frames: counts, rates and samples must agree for every duration."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.audio.decode import Sound
from talking_portrait.core_models.audio.frame_clock import exact_rate, frame_count, frame_times, sample_count
from talking_portrait.core_models.audio.resample import pad_to_frames

RATES = (12.5, 23, 23.976, 24, 25, 29.97, 30, 50, 60)
SAMPLE_RATES = (8000, 16000, 22050, 44100, 48000, 96000)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (25, Fraction(25)),
        (12.5, Fraction(25, 2)),
        (23, Fraction(23)),
        (29.97, Fraction(30000, 1001)),
        (30000 / 1001, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
    ],
)
def test_rates_are_the_fractions_they_stand_for(fps, expected):
    assert exact_rate(fps) == expected
    assert exact_rate(float(expected)) == expected


@given(
    samples=st.integers(1, 10_000_000), sample_rate=st.sampled_from(SAMPLE_RATES), fps=st.sampled_from(RATES)
)
def test_frames_cover_the_sound_and_no_frame_is_superfluous(samples, sample_rate, fps):
    frames = frame_count(samples / sample_rate, fps)
    assert sample_count(frames, fps, sample_rate) >= samples
    assert frames == 1 or sample_count(frames - 1, fps, sample_rate) < samples + 1


@given(frames=st.integers(1, 200_000), sample_rate=st.sampled_from(SAMPLE_RATES), fps=st.sampled_from(RATES))
def test_the_sound_of_n_frames_has_n_frames(frames, sample_rate, fps):
    samples = sample_count(frames, fps, sample_rate)
    # The sample count is rounded to a whole sample, at most half a sample too long.
    slack = float(exact_rate(fps)) / sample_rate
    assert frame_count(max(0.0, samples / sample_rate - slack / float(exact_rate(fps))), fps) == frames


@given(samples=st.integers(1, 40_000), sample_rate=st.sampled_from(SAMPLE_RATES), fps=st.sampled_from(RATES))
def test_padding_never_cuts_and_gives_whole_frames(samples, sample_rate, fps):
    waveform = np.linspace(-1, 1, samples, dtype=np.float32)[None]
    padded, frames = pad_to_frames(Sound(waveform, sample_rate), fps)
    assert padded.sample_count == sample_count(frames, fps, sample_rate)
    assert frames == frame_count(samples / sample_rate, fps)
    np.testing.assert_array_equal(padded.waveform[:, :samples], waveform)
    assert not padded.waveform[:, samples:].any()


def test_padding_a_whole_number_of_frames_changes_nothing():
    sound = Sound(np.ones((2, 16000)), 16000)
    padded, frames = pad_to_frames(sound, 25)
    assert frames == 25
    assert padded is sound


def test_ten_milliseconds_are_one_frame():
    padded, frames = pad_to_frames(Sound(np.ones((1, 160)), 16000), 25)
    assert (frames, padded.sample_count) == (1, 640)


def test_a_long_clip_at_ntsc_rate_does_not_drift():
    assert frame_count(1000.0, 29.97) == 29971
    assert frame_times(30001, 29.97)[-1] == pytest.approx(1001.0, abs=1e-9)


@pytest.mark.parametrize("duration", [-1.0, float("nan"), float("inf")])
def test_a_bad_duration_is_refused(duration):
    with pytest.raises(ValueError, match="duration"):
        frame_count(duration, 25)


@pytest.mark.parametrize("fps", [0, -25, float("nan")])
def test_a_bad_rate_is_refused(fps):
    with pytest.raises(ValueError, match="fps"):
        frame_count(1.0, fps)
