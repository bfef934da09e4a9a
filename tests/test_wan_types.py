"""What travels along the wires of FantasyTalking: models, motion intensity, prompts."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.core_models.video_types import Gate
from talking_portrait.core_models.wan_types import (
    FANTASYTALKING,
    FANTASYTALKING_POCKET,
    STAND_INS,
    WAN,
    WAN_POCKET,
    FantasyTalkingModels,
    MotionIntensity,
    PromptEmbeddings,
    WanModels,
)

FILE = ModelHandle("any", "any.safetensors")


class TestModels:
    @pytest.mark.parametrize(("kind", "wan"), [(FANTASYTALKING, WAN), (FANTASYTALKING_POCKET, WAN_POCKET)])
    def test_stand_on_their_own_wan(self, kind, wan):
        models = FantasyTalkingModels(kind, WanModels(wan, FILE, FILE), FILE)
        assert models.wan.kind == wan

    @pytest.mark.parametrize(("kind", "wan"), [(FANTASYTALKING, WAN_POCKET), (FANTASYTALKING_POCKET, WAN)])
    def test_on_the_other_wan_are_refused(self, kind, wan):
        with pytest.raises(ValueError, match=f"but the Wan model is of the kind {wan}"):
            FantasyTalkingModels(kind, WanModels(wan, FILE, FILE), FILE)

    def test_of_an_unknown_kind_are_refused(self):
        with pytest.raises(ValueError, match=r"WanModels\.kind is 'svd', expected wan or wan_pocket"):
            WanModels("svd", FILE, FILE)
        with pytest.raises(ValueError, match=r"FantasyTalkingModels\.kind is 'wan'"):
            FantasyTalkingModels("wan", WanModels(WAN, FILE, FILE), FILE)

    def test_read_prompts_with_a_text_encoder(self):
        assert not WanModels(WAN_POCKET, FILE, FILE).reads_prompts
        assert WanModels(WAN, FILE, FILE, text_encoder=FILE).reads_prompts

    def test_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            WanModels(WAN, FILE, FILE).kind = WAN_POCKET


class TestMotionIntensity:
    def test_is_neutral_unless_chosen(self):
        assert MotionIntensity().on_frames(3, 25).tolist() == [[0.5, 0.5]] * 3
        assert MotionIntensity().mean(4.0) == (0.5, 0.5)

    def test_takes_numbers_for_face_and_body(self):
        found = MotionIntensity(0.25, 1).on_frames(2, 25)
        assert found.tolist() == [[0.25, 1]] * 2
        assert found.dtype == np.float32

    def test_goes_evenly_between_its_times(self):
        rising = MotionIntensity(Gate(np.array([0.0, 1.0]), np.array([0.0, 2.0])), 0.5)
        assert rising.on_frames(5, 2)[:, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert rising.mean(2.0) == pytest.approx((0.5, 0.5))
        assert rising.mean(4.0)[0] == pytest.approx(0.75)  # held at 1 for the second half
        assert rising.mean(0.0)[0] == 0

    @settings(deadline=None)
    @given(
        values=st.lists(st.floats(0, 1), min_size=1, max_size=6),
        start=st.floats(-3, 3),
        duration=st.floats(0.01, 9),
    )
    def test_mean_is_that_of_many_moments(self, values, start, duration):
        gate = Gate(np.array(values), start + np.arange(len(values)))
        moments = (np.arange(4000) + 0.5) / 4000 * duration
        expected = np.interp(moments, gate.times, gate.values).mean()
        assert MotionIntensity(gate).mean(duration)[0] == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "much", None])
    def test_out_of_range_is_refused_by_name(self, value):
        with pytest.raises(ValueError, match=r"the body intensity is .*, expected 0\.\.1"):
            MotionIntensity(body=value)

    def test_knows_its_stand_ins(self):
        assert [MotionIntensity(stand_in=name).stand_in for name in STAND_INS] == list(STAND_INS)
        with pytest.raises(
            ValueError, match="stand_in is 'wishing', expected one of none, audio_guidance, prompt"
        ):
            MotionIntensity(stand_in="wishing")


class TestPromptEmbeddings:
    def test_may_differ_in_length(self):
        found = PromptEmbeddings(torch.zeros(4, 6), torch.ones(9, 6))
        assert found.negative.shape == (9, 6)
        assert PromptEmbeddings(torch.zeros(4, 6)).negative is None

    @pytest.mark.parametrize("shape", [(4,), (0, 6), (1, 4, 6)])
    def test_of_another_shape_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"PromptEmbeddings\.prompt has shape"):
            PromptEmbeddings(torch.zeros(shape))
        with pytest.raises(ValueError, match=r"PromptEmbeddings\.negative has shape"):
            PromptEmbeddings(torch.zeros(4, 6), torch.zeros(shape))

    def test_of_two_encoders_are_refused(self):
        with pytest.raises(ValueError, match="the prompt has 6 channels and the negative prompt 8"):
            PromptEmbeddings(torch.zeros(4, 6), torch.zeros(4, 8))
