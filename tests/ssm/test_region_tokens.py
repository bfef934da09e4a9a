"""Masks on grids of tokens: the grid's size, soft edges, what is selected, and pasting."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.ssm.region_tokens import (
    mask_on_tokens,
    pasted,
    region_on_tokens,
    selected_tokens,
    token_grid,
)

SIDE = st.integers(1, 12)


def enlarged(cells, factor):
    """The mask (H, W) whose blocks of factor x factor pixels are the cells."""
    return cells.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


class TestGrid:
    @given(rows=SIDE, columns=SIDE, factor=st.integers(1, 9))
    def test_has_the_masks_aspect(self, rows, columns, factor):
        assert token_grid(rows * columns, factor * rows, factor * columns) == (rows, columns)

    @given(count=st.integers(1, 500), height=st.integers(1, 300), width=st.integers(1, 300))
    def test_lies_within_the_tokens_or_cuts_few(self, count, height, width):
        """The release adds one row at most, so a grid that does not fit leaves less than a row over."""
        rows, columns = token_grid(count, height, width)
        assert rows >= 1
        assert 0 <= count - rows * columns < rows

    def test_of_another_aspect_is_the_nearest_that_the_release_tries(self):
        assert token_grid(96, 64, 64) == (10, 9)  # 9 rows do not divide 96

    @pytest.mark.parametrize("sizes", [(0, 8, 8), (4, 0, 8), (4, 8, 0)])
    def test_of_nothing_is_refused(self, sizes):
        with pytest.raises(ValueError, match="no grid of"):
            token_grid(*sizes)


class TestMaskOnTokens:
    @given(rows=SIDE, columns=SIDE, factor=st.sampled_from([1, 2, 4, 8, 16]), seed=st.integers(0, 1000))
    @settings(deadline=None)
    def test_made_of_whole_tokens_is_found_exactly(self, rows, columns, factor, seed):
        cells = torch.randint(2, (rows, columns), generator=torch.Generator().manual_seed(seed))
        values, selected = region_on_tokens(enlarged(cells.float(), factor), rows * columns)
        if factor > 2:  # a token's value comes from the four pixels about its centre
            assert torch.equal(values, cells.flatten().float())
            assert torch.equal(selected, cells.flatten().nonzero().flatten())
        assert not set(selected.tolist()) - set(cells.flatten().nonzero().flatten().tolist())

    @pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
    def test_of_one_value_is_that_value_everywhere(self, level):
        values = mask_on_tokens(torch.full((64, 32), level), 8 * 4)
        assert torch.equal(values, torch.full((32,), level))
        assert values.dtype == torch.float32

    def test_keeps_soft_edges_that_select_nothing(self):
        ramp = torch.linspace(0, 1, 64).expand(64, 64)
        values, selected = region_on_tokens(ramp, 64)
        rows = values.view(8, 8)
        assert torch.allclose(rows, rows[:1].expand_as(rows), atol=1e-6)
        assert (rows.diff(dim=1) > 0).all()
        assert not len(selected)

    def test_softens_an_edge_within_a_token_as_bicubic_does(self):
        mask = torch.zeros(8, 64)
        mask[:, 36:] = 1  # from the middle of the fifth token
        assert mask_on_tokens(mask, 8).tolist() == pytest.approx([0, 0, 0, 0, 0.5, 1, 1, 1])
        mask[:, 37:] = 0
        # The weight of the pixel half a pixel away, with the parameter -0.75.
        assert mask_on_tokens(mask, 8).tolist() == pytest.approx([0, 0, 0, 0, 19 / 32, 0, 0, 0])

    def test_fills_missing_tokens_with_zero(self):
        values = mask_on_tokens(torch.ones(64, 64), 96)  # the grid is 10 x 9
        assert values.shape == (96,)
        assert values[:90].min() > 0.999
        assert not values[90:].any()

    def test_takes_any_number_type(self):
        whole = mask_on_tokens(torch.ones(16, 16, dtype=torch.bool), 4)
        assert torch.equal(whole, torch.ones(4))

    def test_lies_on_the_grid_that_is_given(self):
        cells = torch.zeros(7, 18)
        cells[4:, 9:] = 1
        mask = enlarged(cells, 64)
        assert token_grid(7 * 18, *mask.shape) == (6, 21)
        values, selected = region_on_tokens(mask, 7 * 18, (7, 18))
        assert torch.equal(values, cells.flatten())
        assert torch.equal(selected, cells.flatten().nonzero().flatten())
        assert not torch.equal(mask_on_tokens(mask, 7 * 18), values)

    def test_of_a_grid_of_another_number_of_tokens_is_refused(self):
        with pytest.raises(ValueError, match="a grid of 6 x 20 tokens does not have 126"):
            mask_on_tokens(torch.ones(448, 1152), 126, (6, 20))

    @pytest.mark.parametrize("shape", [(8,), (1, 8, 8), (1, 1, 8, 8)])
    def test_of_another_shape_is_refused(self, shape):
        with pytest.raises(ValueError, match=r"expected \(height, width\)"):
            mask_on_tokens(torch.ones(shape), 4)


class TestSelection:
    def test_starts_at_one_on_either_side_of_zero(self):
        values = torch.tensor([1.0, 0.9999, 1.2, 0.0, -0.5, -1.0, -1.1])
        assert selected_tokens(values).tolist() == [0, 2, 5, 6]

    def test_of_a_mask_of_0_999_is_empty(self):
        _, selected = region_on_tokens(torch.full((64, 64), 0.999), 64)
        assert selected.shape == (0,)
        assert selected.dtype == torch.int64


class TestPasting:
    def test_replaces_the_selected_and_leaves_the_input(self):
        tokens, selected = torch.zeros(2, 5, 3), torch.tensor([1, 4])
        found = pasted(tokens, selected, torch.ones(2, 2, 3))
        assert not tokens.any()
        assert found[0, :, 0].tolist() == found[1, :, 2].tolist() == [0, 1, 0, 0, 1]

    def test_of_nothing_changes_nothing(self):
        tokens = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(pasted(tokens, torch.zeros(0, dtype=torch.int64), torch.zeros(2, 0, 3)), tokens)

    def test_keeps_the_tokens_type(self):
        tokens = torch.zeros(1, 2, 1, dtype=torch.bfloat16)
        assert pasted(tokens, torch.tensor([0]), torch.ones(1, 1, 1)).dtype == torch.bfloat16
