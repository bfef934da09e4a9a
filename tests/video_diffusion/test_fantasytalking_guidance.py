"""Guidance by prompt and sound: the released formula, with streams computed only where they are needed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.video_diffusion.fantasytalking.guidance import (
    GuidanceScales,
    GuidanceSchedule,
    Interval,
    Stream,
    combined,
    stream_weights,
)

NEGATIVE, PROMPT, SOUND = Stream(False, False), Stream(True, False), Stream(True, True)
NEGATIVE_SOUND = Stream(False, True)
NUMBER = st.integers(-8, 8).map(float)
SCALES = st.builds(GuidanceScales, NUMBER, st.none() | NUMBER)


def velocity_of(stream):
    """A velocity that no other stream has."""
    return torch.tensor([3.0 * stream.prompted, -2.0 * stream.hears, 1.0 + stream.prompted * stream.hears])


def released(scales, at=velocity_of):
    """The formula as the released loop writes it."""
    if scales.audio is None:
        return at(NEGATIVE_SOUND) + scales.prompt * (at(SOUND) - at(NEGATIVE_SOUND))
    return (
        at(NEGATIVE) + scales.prompt * (at(PROMPT) - at(NEGATIVE)) + scales.audio * (at(SOUND) - at(PROMPT))
    )


@settings(deadline=None)
@given(scales=SCALES)
def test_the_weighted_sum_is_the_released_formula(scales):
    weights = stream_weights(scales)
    found = combined(weights, {stream: velocity_of(stream) for stream in weights})
    torch.testing.assert_close(found, released(scales))


@settings(deadline=None)
@given(scales=SCALES, reads=st.booleans(), hears=st.booleans())
def test_equal_streams_are_computed_once_and_change_nothing(scales, reads, hears):
    def seen(stream):
        return velocity_of(Stream(stream.prompted or not reads, stream.hears and hears))

    weights = stream_weights(scales, reads, hears)
    torch.testing.assert_close(combined(weights, {one: seen(one) for one in weights}), released(scales, seen))
    assert sum(weights.values()) == pytest.approx(1)
    assert reads or all(stream.prompted for stream in weights)
    assert hears or not any(stream.hears for stream in weights)
    assert 0.0 not in weights.values()


@pytest.mark.parametrize(
    ("scales", "streams"),
    [
        (GuidanceScales(5, 4.5), {NEGATIVE, PROMPT, SOUND}),
        (GuidanceScales(), {NEGATIVE, SOUND}),  # at equal scales the middle cancels out
        (GuidanceScales(1, 4.5), {PROMPT, SOUND}),
        (GuidanceScales(5, 1), {NEGATIVE, PROMPT, SOUND}),
        (GuidanceScales(1, 1), {SOUND}),
        (GuidanceScales(0, 5), {NEGATIVE, PROMPT, SOUND}),
        (GuidanceScales(5, 0), {NEGATIVE, PROMPT}),
        (GuidanceScales(0, 0), {NEGATIVE}),
        (GuidanceScales(5, None), {NEGATIVE_SOUND, SOUND}),
        (GuidanceScales(1, None), {SOUND}),
    ],
)
def test_streams_that_weigh_nothing_are_not_computed(scales, streams):
    assert set(stream_weights(scales)) == streams


def test_a_model_that_reads_no_prompt_needs_no_negative_stream():
    assert stream_weights(GuidanceScales(5, 4.5), reads_prompt=False) == {PROMPT: -3.5, SOUND: 4.5}


def test_without_sound_only_the_prompt_guides():
    assert stream_weights(GuidanceScales(5, 4.5), hears=False) == {NEGATIVE: -4, PROMPT: 5}
    assert stream_weights(GuidanceScales(5, None), hears=False) == {NEGATIVE: -4, PROMPT: 5}


def test_streams_have_names_of_their_own():
    assert len({Stream(prompted, hears).name for prompted in (0, 1) for hears in (0, 1)}) == 4


@pytest.mark.parametrize(
    ("start", "end", "steps"),
    [(0, 1, range(10)), (0, 0.7, range(7)), (0.2, 0.7, range(2, 7)), (0.5, 1, range(5, 10)), (0.3, 0.3, ())],
)
def test_an_interval_holds_its_share_of_the_steps(start, end, steps):
    assert [step for step in range(10) if Interval(start, end).holds(step, 10)] == list(steps)


@settings(deadline=None)
@given(share=st.floats(0, 1), steps=st.integers(1, 60))
def test_two_intervals_that_meet_hold_every_step_once(share, steps):
    first, second = Interval(0, share), Interval(share, 1)
    assert all(first.holds(step, steps) != second.holds(step, steps) for step in range(steps))


def test_outside_of_its_interval_a_guidance_is_off():
    schedule = GuidanceSchedule(GuidanceScales(5, 4), prompt=Interval(0, 0.5), audio=Interval(0.25, 1))
    assert [schedule.at(step, 4) for step in range(4)] == [
        GuidanceScales(5, None),
        GuidanceScales(5, 4),
        GuidanceScales(1, 4),
        GuidanceScales(1, 4),
    ]
    unguided = GuidanceSchedule(GuidanceScales(5, None), audio=Interval(0, 0))
    assert unguided.at(0, 4) == GuidanceScales(5, None)


@pytest.mark.parametrize(("start", "end"), [(-0.1, 1), (0, 1.1), (0.6, 0.5), (float("nan"), 1)])
def test_an_interval_outside_of_the_loop_is_refused(start, end):
    with pytest.raises(ValueError, match="expected 0 <= start <= end <= 1"):
        Interval(start, end)


@pytest.mark.parametrize("values", [{"prompt": float("nan")}, {"audio": float("inf")}])
def test_a_scale_that_is_not_finite_is_refused(values):
    with pytest.raises(ValueError, match=f"the {next(iter(values))} guidance is"):
        GuidanceScales(**values)


def test_a_velocity_that_is_missing_is_named():
    with pytest.raises(ValueError, match="streams negative"):
        combined(stream_weights(GuidanceScales()), {SOUND: torch.zeros(1)})
    with pytest.raises(ValueError, match="there are no streams"):
        combined({}, {})


def test_half_precision_is_summed_in_float32():
    weights = {NEGATIVE: -4.0, SOUND: 5.0}
    found = combined(weights, {one: torch.ones(2, dtype=torch.bfloat16) for one in weights})
    assert found.dtype == torch.float32
