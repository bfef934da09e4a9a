"""Features in blocks: what each block hears, and that a stream cut anywhere gives what the whole clip gives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio.frame_clock import frame_count
from talking_portrait.core_models.audio.listening_windows import (
    STEP_SAMPLES,
    FeatureStream,
    ListeningWindows,
    block_count,
    complete_blocks,
    features_in_blocks,
    samples_heard,
    step_count,
    steps_of_block,
)

windows_of_any_size = st.builds(
    ListeningWindows,
    block_steps=st.integers(1, 6),
    behind_steps=st.integers(0, 5),
    ahead_steps=st.integers(0, 4),
)


def noise(samples, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def encode(window):
    """An encoder whose every step hears the whole window: two layers of each step's mean and the window's sum."""
    steps = torch.from_numpy(window).view(-1, STEP_SAMPLES)
    own, all_of_it = steps.mean(dim=1), steps.sum().expand(len(steps))
    return torch.stack([own, all_of_it], dim=1)[:, :, None]


def in_pieces(sound, cuts):
    return np.split(sound, sorted(cuts))


def streamed(stream, pieces, total_frames=None):
    made = [stream.push(piece) for piece in pieces]
    made.append(stream.finish(total_frames))
    return torch.cat([features for features in made if features is not None])


def test_what_a_block_hears():
    windows = ListeningWindows(block_steps=10, behind_steps=5, ahead_steps=2)
    assert samples_heard(windows, 0) == (0, 12 * 320)
    assert samples_heard(windows, 3) == (25 * 320, 42 * 320)
    assert samples_heard(windows, 3, steps=36) == (25 * 320, 36 * 320)
    assert steps_of_block(windows, 3, steps=36) == (30, 36)
    assert block_count(windows, 36) == 4
    assert windows.latency == pytest.approx(0.24)
    assert windows.window_steps == 17


@given(windows=windows_of_any_size, steps=st.integers(1, 60))
def test_blocks_cover_every_step_once_and_hear_it(windows, steps):
    covered = []
    for block in range(block_count(windows, steps)):
        first, end = steps_of_block(windows, block, steps)
        heard_first, heard_end = (samples // STEP_SAMPLES for samples in samples_heard(windows, block, steps))
        assert max(0, first - windows.behind_steps) == heard_first
        assert heard_end == min(
            steps, block * windows.block_steps + windows.block_steps + windows.ahead_steps
        )
        assert heard_first <= first < end <= heard_end
        covered += range(first, end)
    assert covered == list(range(steps))


@given(windows=windows_of_any_size, samples=st.integers(0, 20_000))
def test_a_block_is_complete_once_all_it_hears_was_heard(windows, samples):
    count = complete_blocks(windows, samples)
    assert samples_heard(windows, count)[1] > samples
    assert count == 0 or samples_heard(windows, count - 1)[1] <= samples


@given(samples=st.integers(1, 200_000))
def test_two_steps_for_each_video_frame(samples):
    assert step_count(samples) == 2 * frame_count(samples / 16000, 25)
    assert 0 <= step_count(samples) * STEP_SAMPLES - samples < 2 * STEP_SAMPLES


@given(windows=windows_of_any_size, samples=st.integers(1, 9000))
@settings(deadline=None)
def test_each_block_is_the_encoder_s_of_its_window(windows, samples):
    sound = noise(samples)
    features = features_in_blocks(encode, sound, windows)
    steps = step_count(samples)
    assert features.shape == (steps, 2, 1)
    padded = np.pad(sound, (0, steps * STEP_SAMPLES - samples))
    expected = torch.from_numpy(padded).view(-1, STEP_SAMPLES).mean(dim=1)
    torch.testing.assert_close(features[:, 0, 0], expected)
    for block in range(block_count(windows, steps)):
        first, end = samples_heard(windows, block, steps)
        one = features[steps_of_block(windows, block, steps)[0], 1, 0].item()
        assert one == pytest.approx(padded[first:end].sum(dtype=np.float64), abs=1e-2)


@given(
    windows=windows_of_any_size,
    samples=st.integers(1, 9000),
    cuts=st.lists(st.integers(0, 9000), max_size=12),
    more=st.none() | st.integers(0, 9),
)
@settings(deadline=None)
def test_a_stream_gives_what_the_clip_gives_however_it_is_cut(windows, samples, cuts, more):
    sound = noise(samples, seed=samples)
    frames = None if more is None else frame_count(samples / 16000, 25) + more
    pieces = in_pieces(sound, [min(cut, samples) for cut in cuts] + [min(1, samples), min(2, samples)])
    expected = features_in_blocks(encode, sound, windows, frames)
    assert torch.equal(streamed(FeatureStream(encode, windows), pieces, frames), expected)


def test_single_samples_and_nothing_at_all():
    windows, sound = ListeningWindows(2, 1, 1), noise(2000)
    pieces = [piece for sample in sound for piece in (sample[None], np.zeros(0, np.float32))]
    assert torch.equal(
        streamed(FeatureStream(encode, windows), pieces), features_in_blocks(encode, sound, windows)
    )


def test_features_come_as_soon_as_they_can():
    windows = ListeningWindows(block_steps=2, behind_steps=3, ahead_steps=1)
    stream, sound = FeatureStream(encode, windows), noise(7 * STEP_SAMPLES)
    assert stream.push(sound[: 3 * STEP_SAMPLES - 1]) is None
    assert stream.push(sound[3 * STEP_SAMPLES - 1 : 3 * STEP_SAMPLES]).shape == (2, 2, 1)
    assert stream.push(sound[3 * STEP_SAMPLES :]).shape == (4, 2, 1)
    assert stream.steps_given == 6
    assert stream.finish().shape == (2, 2, 1)


def test_nothing_is_left_when_all_was_given():
    stream = FeatureStream(encode, ListeningWindows(2, 0, 0))
    assert stream.push(noise(2 * STEP_SAMPLES)).shape == (2, 2, 1)
    assert stream.finish() is None


@given(windows=windows_of_any_size, sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=30))
@settings(deadline=None)
def test_little_is_held_however_long_the_sound(windows, sizes):
    stream = FeatureStream(encode, windows)
    for size in sizes:
        stream.push(noise(size))
        assert stream.held_samples == sum(map(len, stream._pieces))
        assert stream.held_samples <= windows.window_steps * STEP_SAMPLES + size


def test_a_large_piece_is_not_kept():
    stream = FeatureStream(encode, ListeningWindows(2, 1, 1))
    stream.push(noise(160_000))
    assert all(piece.base is None for piece in stream._pieces)
    assert stream.held_samples <= 4 * STEP_SAMPLES


def test_what_was_pushed_may_be_overwritten():
    windows, sound = ListeningWindows(4, 2, 2), noise(6000)
    stream, microphone, made = FeatureStream(encode, windows), np.zeros(100, np.float32), []
    for start in range(0, 6000, 100):
        microphone[:] = sound[start : start + 100]
        made.append(stream.push(microphone))
    made.append(stream.finish())
    assert torch.equal(
        torch.cat([part for part in made if part is not None]), features_in_blocks(encode, sound, windows)
    )


def test_a_sample_of_resampling_too_much_is_left_out():
    windows, sound = ListeningWindows(2, 1, 1), noise(10 * 640 + 1)
    assert torch.equal(
        streamed(FeatureStream(encode, windows), [sound], 10), features_in_blocks(encode, sound, windows, 10)
    )


def test_progress_tells_steps_and_ends_the_work():
    told = []
    windows = ListeningWindows(4, 0, 0)
    features_in_blocks(encode, noise(3200), windows, progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 10), (8, 10), (10, 10)]

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features_in_blocks(encode, noise(3200), windows, progress=cancel)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, 1), "block_steps is 0"),
        ((1, -1, 0), "behind_steps is -1"),
        ((1, 0, 0.5), "ahead_steps is 0.5"),
        ((True, 0, 0), "block_steps is True"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        ListeningWindows(*sizes)


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(0), "0 samples"),
        (np.array([0, np.nan, np.inf]), "2 NaN or infinite samples of 3, the first at sample 1"),
        (np.zeros((2, 9)), r"shape \(2, 9\), expected \(samples,\)"),
    ],
    ids=["empty", "NaN", "two channels"],
)
def test_bad_sounds(sound, message):
    with pytest.raises(ValueError, match=message):
        features_in_blocks(encode, sound, ListeningWindows(1, 0, 0))
    if sound.size:
        with pytest.raises(ValueError, match=message):
            FeatureStream(encode, ListeningWindows(1, 0, 0)).push(sound)


def test_an_encoder_of_another_rate_is_named():
    def twice(window):
        return torch.zeros(len(window) // 160, 1, 1)

    with pytest.raises(ValueError, match=r"shape \(4, 1, 1\) for 640 samples, expected \(2, layers, width\)"):
        features_in_blocks(twice, noise(640), ListeningWindows(2, 0, 0))


def test_a_stream_ends_once():
    stream = FeatureStream(encode, ListeningWindows(1, 0, 0))
    with pytest.raises(ValueError, match="heard 0 samples"):
        stream.finish()
    stream.push(noise(5 * 640))
    with pytest.raises(ValueError, match="total_frames is 4, but features of 5 frames"):
        stream.finish(4)
    with pytest.raises(ValueError, match="total_frames is 0"):
        stream.finish(0)
    stream.finish()
    for call in (stream.finish, lambda: stream.push(noise(3))):
        with pytest.raises(ValueError, match="finished: make a new"):
            call()
