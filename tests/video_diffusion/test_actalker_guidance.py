"""Four-stream guidance: the weighted sum against the nested formula, and streams that need no computing."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.video_diffusion.actalker.guidance import (
    STREAMS,
    GuidanceScales,
    ramp,
    stream_weights,
)

SCALE = st.floats(-3, 12)
SCALES = st.builds(GuidanceScales, SCALE, SCALE, SCALE)
VALUES = st.lists(st.floats(-10, 10), min_size=STREAMS, max_size=STREAMS)


def nested(scales, values):
    """v0 + g1 (v1 - v0) + g2 (v2 - v1) + g3 (v3 - v2)."""
    v0, v1, v2, v3 = values
    return v0 + scales.identity * (v1 - v0) + scales.audio * (v2 - v1) + scales.motion * (v3 - v2)


def weighted(weights, values):
    return sum(weight * values[stream] for stream, weight in weights.items())


@given(scales=SCALES, values=VALUES)
def test_weighted_sum_is_the_nested_formula(scales, values):
    assert weighted(stream_weights(scales), values) == pytest.approx(nested(scales, values), abs=1e-9)


@given(scales=SCALES, values=VALUES, hears=st.booleans(), moves=st.booleans())
def test_equal_streams_that_are_left_out_change_nothing(scales, values, hears, moves):
    v0, v1, v2, v3 = values
    v2 = v2 if hears else v1
    v3 = v3 if moves else v2
    weights = stream_weights(scales, hears, moves)
    assert weighted(weights, (v0, v1, v2, v3)) == pytest.approx(nested(scales, (v0, v1, v2, v3)), abs=1e-9)
    assert hears or 2 not in weights
    assert moves or 3 not in weights


@given(scales=SCALES, hears=st.booleans(), moves=st.booleans())
def test_weights_add_up_to_1(scales, hears, moves):
    assert sum(stream_weights(scales, hears, moves).values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("hears", "moves", "streams"),
    [(True, True, {0, 1, 2, 3}), (True, False, {0, 1, 2}), (False, True, {0, 1, 3}), (False, False, {0, 1})],
)
def test_the_released_scales_need_three_streams_with_one_gate_and_four_with_both(hears, moves, streams):
    assert set(stream_weights(GuidanceScales(), hears, moves)) == streams


@pytest.mark.parametrize(
    ("hears", "moves", "last"), [(True, True, 3), (True, False, 2), (False, True, 3), (False, False, 1)]
)
def test_scales_of_1_need_the_last_stream_alone(hears, moves, last):
    assert stream_weights(GuidanceScales(1, 1, 1), hears, moves) == {last: 1}


def test_equal_scales_leave_the_stream_between_them_out():
    assert stream_weights(GuidanceScales(2, 2, 3)) == {0: -1, 2: -1, 3: 3}


@given(start=SCALE, end=SCALE, steps=st.integers(2, 40))
def test_ramp_goes_evenly_from_end_to_end(start, end, steps):
    values = [ramp(start, end, steps, step) for step in range(steps)]
    assert values[0] == start
    assert values[-1] == pytest.approx(end)
    changes = [after - before for before, after in itertools.pairwise(values)]
    assert changes == pytest.approx([(end - start) / (steps - 1)] * (steps - 1))


def test_ramp_of_one_step_stays_at_its_start():
    assert ramp(2.0, 5.0, 1, 0) == 2
