"""Clips side by side: where each lands, how long the whole is, and what cannot be put together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.frame_grid import grid_of_clips


def clip(value: float, frames: int = 2, height: int = 6, width: int = 8) -> torch.Tensor:
    return torch.full((frames, height, width, 3), value)


@given(
    st.integers(1, 9),
    st.integers(0, 5),
    st.integers(0, 6),
    st.lists(st.integers(1, 4), min_size=9, max_size=9),
)
def test_every_clip_is_whole_and_in_its_place(count, columns, gap, lengths):
    clips = [clip((index + 1) / 10, lengths[index]) for index in range(count)]
    grid = grid_of_clips(clips, columns, gap)
    assert len(grid) == max(lengths[:count])
    assert grid.shape[1] % 2 == grid.shape[2] % 2 == 0
    for index in range(count):
        assert (grid == clips[index][0, 0, 0, 0]).all(dim=-1).sum(dim=(1, 2)).tolist() == [48] * len(grid)
    assert torch.equal(grid[0, :6, :8], clips[0][0])


def test_a_shorter_clip_holds_its_last_frame():
    short = torch.cat([clip(0.2, 1), clip(0.7, 1)])
    grid = grid_of_clips([clip(0.5, 4), short], columns=2, gap=0)
    assert grid[:, 0, 8, 0].tolist() == pytest.approx([0.2, 0.7, 0.7, 0.7])


def test_columns():
    wide = grid_of_clips([clip(0.5)] * 6, columns=3, gap=2)
    assert wide.shape == (2, 6 + 2 + 6, 8 * 3 + 2 * 2, 3)
    assert grid_of_clips([clip(0.5)] * 6, gap=2).shape == wide.shape, "about square"


def test_labels_are_written_into_their_clips_alone():
    clips = [clip(0.5, height=64, width=64)] * 2
    grid = grid_of_clips(clips, columns=2, gap=0, labels=["happy", ""])
    assert grid[0, :, :64].max() > 0.8
    assert grid[0, :, :64].min() < 0.2
    assert (grid[0, :, 64:] == 0.5).all()
    assert (clips[0] == 0.5).all(), "what came in stays as it was"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "no clips"),
        (([clip(0), clip(0, height=10)],), "8 x 6, 8 x 10 px"),
        (([clip(0)], -1), "columns is -1"),
        (([clip(0)], 1, 0, ["a", "b"]), "2 labels for 1 clips"),
    ],
)
def test_what_cannot_be_put_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid_of_clips(*arguments)
