"""Windows of frames around a ring."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.video_diffusion.actalker.circular_windows import circular_windows, shift_at

TOTAL, LENGTH, SHIFT = st.integers(1, 80), st.integers(1, 30), st.integers(0, 60)


@st.composite
def windows(draw):
    """(total, length, overlap, shift) that fit each other."""
    length = draw(LENGTH)
    return draw(TOTAL), length, draw(st.integers(0, length - 1)), draw(SHIFT)


@given(windows())
def test_every_frame_is_covered_by_windows_of_full_length(sizes):
    total, length, _, _ = sizes
    found = circular_windows(*sizes)
    assert {len(window) for window in found} == {length}
    assert set(Counter(frame for window in found for frame in window)) == set(range(total))


@given(windows())
def test_frames_of_a_window_follow_each_other_around_the_ring(sizes):
    total = sizes[0]
    for window in circular_windows(*sizes):
        assert all(after == (before + 1) % total for before, after in itertools.pairwise(window))


@given(windows())
def test_neighbours_share_as_many_frames_as_told(sizes):
    _, _, overlap, _ = sizes
    found = circular_windows(*sizes)
    for before, after in itertools.pairwise(found):
        assert before[len(before) - overlap :] == after[:overlap]


@given(length=st.integers(1, 12), overlap=st.integers(0, 11), rounds=st.integers(1, 6), shift=SHIFT)
def test_frames_count_evenly_where_windows_fit_the_ring(length, overlap, rounds, shift):
    overlap = min(overlap, length - 1)
    step = length - overlap
    total = rounds * step
    counts = Counter(frame for window in circular_windows(total, length, overlap, shift) for frame in window)
    assert sum(counts.values()) == rounds * length
    assert max(counts.values()) - min(counts.values()) <= 1


@given(total=TOTAL, length=LENGTH)
def test_without_a_shift_they_start_at_the_first_frame(total, length):
    assert circular_windows(total, length)[0][0] == 0


@given(windows())
def test_a_shift_turns_the_ring(sizes):
    total, length, overlap, shift = sizes
    turned = [
        [(frame - shift) % total for frame in window] for window in circular_windows(total, length, overlap)
    ]
    assert circular_windows(*sizes) == turned


def test_a_ring_shorter_than_the_window_goes_round():
    assert circular_windows(2, 5) == [[0, 1, 0, 1, 0]]
    assert circular_windows(1, 3, shift=2) == [[0, 0, 0]]


@pytest.mark.parametrize("sizes", [(0, 4, 0), (-1, 4, 0), (5, 4, 4), (5, 4, 9), (5, 4, -1), (5, 0, 0)])
def test_windows_that_cannot_be_are_refused(sizes):
    with pytest.raises(ValueError, match="no windows of"):
        circular_windows(*sizes)


@given(step=st.integers(0, 50), shift=st.integers(0, 40), length=LENGTH)
def test_windows_move_on_by_the_shift_within_their_length(step, shift, length):
    found = shift_at(step, shift, length)
    assert 0 <= found < length
    assert (found - step * shift) % length == 0
    assert shift_at(0, shift, length) == 0
