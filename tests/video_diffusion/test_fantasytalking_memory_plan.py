"""FantasyTalking's memory plan: what it chooses at each level, what it refuses."""

from dataclasses import replace

import pytest
from talking_portrait.core_models.video_diffusion.fantasytalking.memory_plan import (
    BUSY_TOKENS,
    PlannedModel,
    Room,
    SceneSize,
    plan_for,
    scene_estimate,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.memory_sizes import (
    EIGHT_BITS,
    STORAGES,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.model import (
    FantasyTalkingParameters,
)
from talking_portrait.core_models.video_diffusion.memory_sizes import RESERVE_SHARE
from talking_portrait.core_models.video_diffusion.wan.autoencoder import (
    WanAutoencoderParameters,
)

GIGABYTE = 10**9
MODEL = PlannedModel(FantasyTalkingParameters(), WanAutoencoderParameters())
EIGHT_BIT_TEXT = replace(MODEL, eight_bit_text=True)
SQUARE = SceneSize(512, 512, 21, 21)


def planned(free, size=SQUARE, main=64, model=MODEL, may_stream=True, **changed):
    room = Room(int(free * GIGABYTE), None if main is None else int(main * GIGABYTE), may_stream)
    return plan_for(model, size, room, **changed)


def forms(plan):
    return plan.streamed, plan.streams_at_once, plan.text_streamed, plan.clip_streamed


class TestLevels:
    def test_each_card_has_its_form(self):
        """81 frames at 512 pixels fit from 8 GB up, with more streams in more memory, and whole from 40 GB up."""
        assert {card: forms(planned(card)) for card in (8, 12, 16, 24, 40, 80)} == {
            8: (True, 1, True, False),
            12: (True, 2, True, False),
            16: (True, 3, False, False),
            24: (True, 3, False, False),
            40: (False, 1, True, False),
            80: (False, 1, False, False),
        }

    @pytest.mark.parametrize("storage", STORAGES)
    @pytest.mark.parametrize("card", [8, 12, 16, 24, 40])
    def test_what_is_planned_fits(self, card, storage):
        plan = planned(card, model=replace(MODEL, storage=storage))
        assert plan.needed_bytes <= card * GIGABYTE
        assert plan.estimate.preparing(plan.streamed) <= card * GIGABYTE

    def test_eight_bits_are_on_the_device_from_24_gigabytes(self):
        packed = replace(MODEL, storage=EIGHT_BITS)
        assert [planned(card, model=packed).streamed for card in (8, 16, 24)] == [True, True, False]

    def test_small_windows_are_evaluated_together_where_all_weights_are_there(self):
        few = SceneSize(256, 256, 9, 9)
        assert BUSY_TOKENS > 9 * 16 * 16
        assert forms(planned(80, few))[:2] == (False, 3)
        assert forms(planned(80, few, most_streams=2))[:2] == (False, 2)

    def test_longer_clips_take_no_more(self):
        """60 seconds at 23 frames a second are 346 latent frames."""
        short, long = planned(12), planned(12, replace(SQUARE, latents=346))
        assert short.needed_bytes == long.needed_bytes

    def test_chosen_streams_are_kept(self):
        assert forms(planned(12, streams=1))[:2] == (True, 1)
        assert forms(planned(80, streams=3))[:2] == (False, 3)
        assert forms(planned(80, streams=3, most_streams=2))[:2] == (False, 2)
        with pytest.raises(ValueError, match=r"expected 1\.\.3"):
            planned(80, streams=4)

    def test_the_estimate_is_one_sentence(self):
        text = planned(8).describe()
        for part in (
            "21 latent frames at 512x512",
            "34.9 GB in bfloat16",
            "2.6 GB there",
            "34.8 GB of main memory",
        ):
            assert part in text
        assert "1 stream at a time; 6.6 GB of 8.0 GB" in text
        assert "approximate" not in text
        assert "8 bits (approximate)" in planned(8, model=replace(MODEL, storage=EIGHT_BITS)).describe()
        assert "on the device" in planned(80).describe()

    def test_the_text_encoder_is_named_as_its_file_has_it(self):
        assert "beforehand the text encoder, 11.4 GB, streamed by block; " in planned(8).describe()
        packed = planned(8, model=EIGHT_BIT_TEXT).describe()
        assert "beforehand the text encoder, 7.7 GB of an 8-bit file, streamed by block; " in packed
        assert "beforehand the text encoder, 11.4 GB; " in planned(80).describe()
        assert "text encoder" not in planned(8, model=replace(MODEL, text_encoder=False)).describe()

    def test_a_text_encoder_in_eight_bits_is_whole_where_it_fits_so(self):
        """10 GB are left beside the streamed transformer of 2.6, and 11.4 GB take more."""
        assert forms(planned(12)) == (True, 2, True, False)
        assert forms(planned(12, model=EIGHT_BIT_TEXT)) == (True, 2, False, False)

    def test_a_text_encoder_in_eight_bits_needs_less_before_sampling(self):
        plain, packed = (scene_estimate(one, SQUARE) for one in (MODEL, EIGHT_BIT_TEXT))
        assert packed.preparing(False) < plain.preparing(False) - 3.5 * GIGABYTE
        assert packed.text_encoder.whole == pytest.approx(7.74 * GIGABYTE, rel=0.001)
        assert (packed.sampling(True, 1), packed.transformer) == (plain.sampling(True, 1), plain.transformer)
        assert packed.reading > plain.reading


class TestRefusal:
    def test_says_what_is_needed_and_what_fits(self):
        with pytest.raises(ValueError, match=r"needs at least 6\.6 GB.*6\.0 GB can be had") as error:
            planned(6)
        assert "image_size to 464" in str(error.value)
        assert "window to 65" in str(error.value)
        assert planned(6, SceneSize(464, 464, 21, 21)).streamed
        assert planned(6, SceneSize(512, 512, 17, 17)).streamed

    def test_of_streams_says_how_many_fit(self):
        with pytest.raises(ValueError, match=r"3 streams at once.*lower streams_at_once to 1"):
            planned(8, streams=3)

    def test_when_nothing_smaller_fits(self):
        with pytest.raises(ValueError, match="nothing smaller fits; choose another memory level"):
            planned(3)

    def test_too_little_main_memory_to_stream_from(self):
        with pytest.raises(
            ValueError, match=r"takes 34\.8 GB of it, and 24\.0 GB can be had: switch on eight_bit"
        ):
            planned(8, main=24)
        packed = replace(MODEL, storage=EIGHT_BITS)
        assert planned(8, main=24, model=packed).main_memory_bytes < 18 * GIGABYTE
        with pytest.raises(ValueError, match="can be had: close other programs"):
            planned(8, main=10, model=packed)
        assert not planned(48, main=10).streamed
        assert planned(8, main=None).streamed

    def test_too_little_main_memory_to_merge_loras_in(self):
        merged = replace(MODEL, merged=True)
        assert not planned(80, main=40, model=merged).streamed
        with pytest.raises(ValueError, match=r"streamed from main memory, which takes 34\.8 GB"):
            planned(80, main=30, model=merged)
        with pytest.raises(ValueError, match=r"LoRAs are merged .* takes 34\.9 GB.*or leave the LoRAs out"):
            planned(80, main=30, model=merged, may_stream=False)
        assert not planned(80, main=30, model=replace(merged, storage=EIGHT_BITS)).streamed

    def test_where_nothing_may_be_streamed(self):
        with pytest.raises(ValueError, match=r"35\.1 GB of weights.*switch on eight_bit_weights"):
            planned(24, may_stream=False)
        assert not planned(40, may_stream=False).streamed

    @pytest.mark.parametrize("name", ["height", "width", "latents", "window"])
    def test_sizes_of_nothing(self, name):
        with pytest.raises(ValueError, match="at least 1"):
            replace(SQUARE, **{name: 0})


def test_the_reserve_is_on_what_works_only():
    e = scene_estimate(MODEL, SQUARE)
    stays = e.transformer.whole + e.autoencoder + e.conditions
    assert e.sampling(False, 2) == pytest.approx(stays + (1 + RESERVE_SHARE) * 2 * e.activations)
    kept = scene_estimate(replace(MODEL, keys_kept=True), SQUARE)
    assert kept.conditions > e.conditions + GIGABYTE
