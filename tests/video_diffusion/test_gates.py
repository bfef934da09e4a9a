"""Gates and regions: the released choice at 0 and 1, and a steady way between."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.video_diffusion.actalker.gates import (
    FaceRegions,
    regions_of_signals,
)

FACE = torch.zeros(16, 16)
FACE[2:14, 2:14] = 1
MOUTH = torch.zeros(16, 16)
MOUTH[9:13, 5:11] = 1
REGIONS = FaceRegions(FACE, MOUTH, FACE - MOUTH)
GATE = st.floats(0, 1, width=32)


def weight_on(regions, pixels):
    """The total weight of a signal's regions on the pixels of a mask, the same on all of them."""
    total = torch.zeros(16, 16)
    for region in regions:
        total = total + region.mask * (1.0 if region.weight is None else region.weight[0])
    values = total[pixels > 0]
    assert (values - values[0]).abs().max() < 1e-6
    return float(values[0])


def regions_at(audio, motion, mode="regions"):
    return regions_of_signals(REGIONS, torch.tensor([audio]), torch.tensor([motion]), mode)


@pytest.mark.parametrize(
    ("audio", "motion", "of_audio", "of_motion"),
    [
        (1.0, 0.0, [FACE], []),
        (0.0, 1.0, [], [FACE]),
        (1.0, 1.0, [MOUTH], [FACE - MOUTH]),
    ],
)
def test_open_and_closed_gates_give_the_released_masks_without_weights(audio, motion, of_audio, of_motion):
    for found, expected in zip(regions_at(audio, motion), (of_audio, of_motion), strict=True):
        assert [region.weight for region in found] == [None] * len(expected)
        assert all(torch.equal(region.mask, mask) for region, mask in zip(found, expected, strict=True))


def test_full_takes_the_whole_picture_only_where_both_work():
    audio, motion = regions_at(1.0, 1.0, "full")
    assert [region.mask.min().item() for region in (*audio, *motion)] == [1.0, 1.0]
    alone, none = regions_at(1.0, 0.0, "full")
    assert torch.equal(alone[0].mask, FACE)
    assert none == ()


@given(audio=GATE, motion=GATE)
def test_a_signal_counts_by_its_gate_in_its_own_region(audio, motion):
    if not (audio or motion):
        return
    of_audio, of_motion = regions_at(audio, motion)
    assert weight_on(of_audio, MOUTH) == pytest.approx(audio, abs=1e-6)
    assert weight_on(of_motion, FACE - MOUTH) == pytest.approx(motion, abs=1e-6)


@given(low=GATE, high=GATE, motion=st.floats(0.0625, 1, width=32))
def test_more_audio_means_more_of_it_and_less_motion_at_the_mouth(low, high, motion):
    low, high = sorted((low, high))
    less, more = regions_at(low, motion), regions_at(high, motion)
    assert weight_on(less[0], MOUTH) <= weight_on(more[0], MOUTH) + 1e-6
    assert weight_on(more[1], MOUTH) <= weight_on(less[1], MOUTH) + 1e-6


def test_gates_may_change_from_frame_to_frame():
    audio, motion = regions_of_signals(REGIONS, torch.tensor([1.0, 0.0, 0.5]), torch.ones(3))
    own = next(region for region in audio if torch.equal(region.mask, MOUTH))
    assert torch.equal(own.weight, torch.tensor([1.0, 0.0, 0.5]))
    over_the_face = next(region for region in motion if torch.equal(region.mask, FACE))
    assert torch.equal(over_the_face.weight, torch.tensor([0.0, 1.0, 0.5]))


def test_both_gates_closed_is_an_error_that_says_what_to_open():
    with pytest.raises(ValueError, match="open the audio gate or the motion gate"):
        regions_at(0.0, 0.0)


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="'half'; known: regions, full"):
        regions_at(1.0, 1.0, "half")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ((FACE * 0.999, MOUTH, MOUTH), "face mask is not binary"),
        ((FACE, MOUTH[:8], MOUTH), r"mouth mask has shape \(8, 16\)"),
        ((FACE, MOUTH, torch.full((16, 16), float("nan"))), "motion mask is not binary"),
    ],
)
def test_masks_that_the_layer_would_not_see_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        FaceRegions(*masks)
