"""Rows between rows: evenly, held at the ends, angles by the shorter way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.motion.row_interpolation import interpolated_rows

ANGLE = st.floats(-180, 180)


def between(first, second, share, angles=slice(1)):
    return interpolated_rows(np.array([[first], [second]]), np.arange(2), np.array([share]), angles)[0, 0]


def test_it_goes_evenly_and_holds_the_ends():
    rows = np.array([[0.0, 5], [4, 5], [6, 1]], np.float32)
    found = interpolated_rows(rows, np.array([1, 3, 4]), np.arange(7))
    assert found[:, 0].tolist() == [0, 0, 2, 4, 6, 6, 6]
    assert found[:, 1].tolist() == [5, 5, 5, 5, 1, 1, 1]


@given(first=ANGLE, second=ANGLE, share=st.floats(0, 1))
def test_an_angle_never_turns_by_more_than_half_a_turn(first, second, share):
    found = between(first, second, share)
    assert -180 <= found <= 180
    gone = (found - first + 180) % 360 - 180
    whole = (second - first + 180) % 360 - 180
    assert abs(gone) <= abs(whole) + 1e-6 or abs(whole) > 180 - 1e-6


@pytest.mark.parametrize("angle", [-180.0, 180.0, 0.0])
def test_an_angle_at_the_end_of_its_range_stays_as_it_is(angle):
    assert between(angle, angle, 0.5) == angle


def test_the_input_stays_as_it_is():
    rows = np.array([[170.0], [-170.0]])
    assert interpolated_rows(rows, np.arange(2), np.array([0.5]), slice(1))[0, 0] == 180
    assert rows.tolist() == [[170], [-170]]
