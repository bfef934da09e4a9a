"""Long clips in windows: every latent frame is there, counts as one, and belongs to one window."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_windows import audio_timeline
from talking_portrait.core_models.video_diffusion.fantasytalking.clip_conditions import FrameAudio, WholeAudio
from talking_portrait.core_models.video_diffusion.fantasytalking.long_windows import (
    OVERLAP,
    WINDOW,
    Window,
    ledger,
)
from talking_portrait.core_models.video_diffusion.wan.frame_rules import video_frames


@st.composite
def books(draw):
    """Ledgers of clips and windows of any length and overlap."""
    window = draw(st.integers(2, 30))
    return ledger(draw(st.integers(1, 400)), window, draw(st.integers(0, window - 2)))


class TestLedger:
    @settings(deadline=None, max_examples=40)
    @given(book=books())
    def test_every_latent_frame_is_in_a_window_and_counts_as_one(self, book):
        covered = torch.zeros(book.frames)
        for index, window in enumerate(book.windows):
            assert len(book.of_window(index)) == window.count - window.anchored
            covered[window.own_first : window.end] += book.of_window(index)
        torch.testing.assert_close(covered, torch.ones(book.frames))

    @settings(deadline=None, max_examples=40)
    @given(book=books())
    def test_weights_are_shares_and_nothing_outside_of_a_window(self, book):
        assert ((book.weights >= 0) & (book.weights <= 1)).all()
        for index, window in enumerate(book.windows):
            outside = torch.ones(book.frames, dtype=torch.bool)
            outside[window.own_first : window.end] = False
            assert not book.weights[index][outside].any()

    @settings(deadline=None, max_examples=40)
    @given(book=books())
    def test_every_latent_frame_has_one_owner_that_sees_it(self, book):
        owned = book.owned()
        assert [frame for first, end in owned for frame in range(first, end)] == list(range(book.frames))
        owners = book.owners()
        for index, ((first, end), window) in enumerate(zip(owned, book.windows, strict=True)):
            assert set(owners[first:end]) <= {index}
            assert first == end or window.own_first <= first < end <= window.end

    @settings(deadline=None, max_examples=40)
    @given(book=books())
    def test_windows_are_of_one_length_and_reach_from_end_to_end(self, book):
        assert len({window.count for window in book.windows}) == 1
        assert book.windows[0].first == 0
        assert book.windows[-1].end == book.frames

    @settings(deadline=None, max_examples=40)
    @given(frames=st.integers(1, 400), overlap=st.integers(0, 10))
    def test_neighbours_overlap_enough_and_no_window_is_too_many(self, frames, overlap):
        windows = ledger(frames, WINDOW, overlap).windows
        for before, after in pairwise(windows):
            assert before.end - after.own_first >= overlap
            assert after.first > before.first
        fewer = len(windows) - 1
        assert fewer == 0 or WINDOW + (fewer - 1) * (WINDOW - 1 - overlap) < frames

    @pytest.mark.parametrize("frames", [1, 2, 20, 21])
    def test_a_clip_that_fits_is_one_window_as_released(self, frames):
        book = ledger(frames)
        assert book.windows == (Window(0, frames),)
        assert not book.windows[0].anchored
        assert torch.equal(book.weights, torch.ones(1, frames))

    def test_fades_are_linear_and_elsewhere_a_window_counts_alone(self):
        book = ledger(36, WINDOW, OVERLAP)  # 15 more than a window: two windows that share five
        first, second = book.windows
        assert (second.first, second.own_first, second.end) == (15, 16, 36)
        sixths = torch.arange(1, 6) / 6
        torch.testing.assert_close(book.weights[1, 16:21], sixths)
        torch.testing.assert_close(book.weights[0, 16:21], 1 - sixths)
        assert torch.equal(book.weights[0, :16], torch.ones(16))
        assert torch.equal(book.weights[1, 21:], torch.ones(15))
        assert book.owned() == [(0, 19), (19, 36)]
        assert first.end == 21

    @pytest.mark.parametrize(
        ("frames", "window", "overlap", "message"),
        [
            (0, 21, 5, "a clip of 0 latent frames"),
            (50, 21, 20, r"windows of 21 latent frames cannot overlap by 20: expected 0\.\.19"),
            (50, 1, 0, "windows of 1 latent frames"),
            (50, 21, -1, "overlap by -1"),
        ],
    )
    def test_windows_that_add_nothing_are_refused(self, frames, window, overlap, message):
        with pytest.raises(ValueError, match=message):
            ledger(frames, window, overlap)


class TestSoundOfWindows:
    """A window hears what the whole clip hears at the same frames."""

    @settings(deadline=None, max_examples=40)
    @given(latents=st.integers(2, 90), seconds=st.floats(0.05, 20), exact=st.booleans())
    def test_is_that_of_the_whole_clip_at_the_same_frames(self, latents, seconds, exact):
        tokens = torch.arange(1.0, max(1, int(50 * seconds)) + 1)[:, None]
        timeline = audio_timeline(tokens, video_frames(latents), 50 / 23 if exact else None)
        whole, lengths = timeline.of(range(latents))
        heard = FrameAudio(timeline)
        for window in ledger(latents).windows:
            found = heard.of_frames(window.first, window.count)
            places = slice(window.first, window.end)
            if found is None:
                assert not lengths[places].any()
                continue
            assert torch.equal(found[0], whole[places])
            assert torch.equal(found[1], lengths[places])

    def test_may_count_places_without_sound(self):
        timeline = audio_timeline(torch.ones(40, 3), 17)
        tokens, lengths = FrameAudio(timeline, masked=False).of_frames(0, 5)
        assert lengths is None
        assert torch.equal(tokens, timeline.of(range(5))[0])

    def test_is_none_after_the_sound(self):
        timeline = audio_timeline(torch.ones(20, 3), video_frames(60), 50 / 23)
        heard = FrameAudio(timeline)
        assert heard.of_frames(0, 21) is not None
        assert heard.of_frames(39, 21) is None

    @settings(deadline=None, max_examples=40)
    @given(latents=st.integers(2, 60), rate=st.floats(1, 4))
    def test_of_a_whole_clip_is_divided_without_gap_or_repetition(self, latents, rate):
        count = round(rate * video_frames(latents))
        tokens = torch.arange(count)[:, None]
        audio = WholeAudio(tokens, rate)
        assert torch.equal(audio.of_frames(0, latents)[0], tokens)
        parts = [audio.of_frames(place, 1) for place in range(latents)]
        assert torch.equal(torch.cat([part[0] for part in parts if part is not None]), tokens)

    def test_of_a_whole_clip_ends_with_the_sound(self):
        assert WholeAudio(torch.ones(10, 2), 2.0).of_frames(5, 3) is None
