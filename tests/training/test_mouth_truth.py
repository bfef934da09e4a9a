"""The made truth: phones to mouth shapes that a phonetician would accept."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.keypoint_diffusion.pocket import POCKET_EMOTIONS
from talking_portrait.core_models.motion.emotion_expression import EMOTION_SHAPES, sided
from talking_portrait.core_models.types import BLENDSHAPE_INDEX
from talking_portrait.training import visemes
from talking_portrait.training.mouth_curves import closure_frames, mouth_curves
from talking_portrait.training.performance import (
    emotion_offsets,
    mouth_to_blendshapes,
    perform,
)
from talking_portrait.training.speech_synthesis import espeak_phones, natural_phones, require_variant
from talking_portrait.training.visemes import (
    BILABIAL,
    MOUTH_CHANNELS,
    PHONE_CLASSES,
    Phone,
    mouth_shape,
    split_ipa,
)

RATE = 25.0
JAW, CLOSE, PUCKER = (MOUTH_CHANNELS.index(name) for name in ("jaw", "close", "pucker"))


def word(*symbols: str, length: float = 0.12) -> list[Phone]:
    return [
        Phone(s, i * length, (i + 1) * length, bilabial_stop=s == BILABIAL) for i, s in enumerate(symbols)
    ]


def loud(count: int) -> np.ndarray:
    return np.full(count, -6.0, np.float32)


@pytest.mark.parametrize(
    ("ipa", "symbols"),
    [
        ("tʃ", ["CH"]),
        ("aɪ", ["a", "ɪ"]),
        ("ɜː", ["ɜ"]),
        ("p", ["PP"]),
        ("ɑ̃", ["ɑ"]),
        ("oʊ", ["o", "ʊ"]),
        ("ˈ", []),
        ("d͡ʒ", ["CH"]),
    ],
)
def test_ipa_is_split_into_known_gestures(ipa, symbols):
    assert split_ipa(ipa) == symbols


@pytest.mark.parametrize("phone_set", ["ARPABET", "CZECH", "FINNISH", "RUSSIAN", "CATALAN"])
def test_every_phone_of_a_set_maps_to_gestures_or_a_pause(phone_set):
    for phone, ipa in getattr(visemes, phone_set).items():
        assert split_ipa(ipa) or not ipa, phone


@pytest.mark.parametrize("symbol", PHONE_CLASSES)
def test_shapes_stay_in_range(symbol):
    shape = mouth_shape(symbol)
    assert ((shape >= 0) & (shape <= 1)).all()


def test_lips_meet_on_p_b_m_and_open_on_vowels():
    phones = word("a", BILABIAL, "a", BILABIAL, "a", length=0.2)
    curves = mouth_curves(phones, loud(25), RATE)
    opening = curves[:, JAW] - curves[:, CLOSE]
    assert (opening[closure_frames(phones, RATE, 25)] < 0.01).all()
    assert opening[12] > 0.2


def test_even_a_closure_shorter_than_a_frame_closes():
    phones = [Phone("a", 0, 0.205), Phone(BILABIAL, 0.205, 0.225, True), Phone("a", 0.225, 0.5)]
    curves = mouth_curves(phones, loud(12), RATE)
    assert (curves[:, JAW] - curves[:, CLOSE]).min() < 0.01


def test_rounding_comes_before_its_vowel():
    curves = mouth_curves(word("a", "DD", "u"), loud(9), RATE)
    assert curves[4, PUCKER] > 0.1 > curves[0, PUCKER]


def test_silence_keeps_the_mouth_still():
    assert not mouth_curves([], loud(20), RATE).any()


@given(st.lists(st.sampled_from(PHONE_CLASSES), min_size=1, max_size=12), st.floats(-60, 6))
def test_any_speech_gives_channels_between_0_and_1(symbols, level):
    curves = mouth_curves(word(*symbols), np.full(30, level, np.float32), RATE)
    assert np.isfinite(curves).all()
    assert ((curves >= 0) & (curves <= 1)).all()


def test_unvoiced_espeak_stops_close_before_their_burst():
    events = [(0, "a"), (2205, "p"), (4410, "a")]  # the burst of p at 0.1 s
    phones = espeak_phones(events, 22050, 0.3)
    stop = next(phone for phone in phones if phone.symbol == BILABIAL)
    assert stop.bilabial_stop
    assert stop.start == pytest.approx(0.05)
    assert 0.1 < stop.end < 0.2
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(phones))


def test_language_switches_are_no_phones():
    assert [p.symbol for p in espeak_phones([(0, "(en)"), (100, "m")], 22050, 0.1)] == ["PP"]


def test_recorded_stops_release_before_their_segment_ends():
    phones = natural_phones([("pau", 0.1), ("b", 0.2), ("aa", 0.3)], visemes.ARPABET)
    assert [phone.symbol for phone in phones] == ["sil", "PP", "hh", "ɑ"]
    assert phones[1].end < 0.2


def test_an_unknown_phone_is_noticed():
    with pytest.raises(KeyError):
        natural_phones([("qq", 0.1)], visemes.ARPABET)


def test_emotions_use_known_coefficients_and_differ():
    table = emotion_offsets()
    for row, emotion in enumerate(POCKET_EMOTIONS):
        shapes = EMOTION_SHAPES.get(emotion, {})
        assert all(name in BLENDSHAPE_INDEX for shape in shapes for name in sided(shape))
        assert (np.abs(table - table[row]).sum(axis=1) > 0.3).sum() == (5 if emotion == "neutral" else 6)


def test_speech_moves_the_head_more_than_silence():
    speech = np.tile(np.repeat([0.0, 1.0], 10), 40)
    spoken = np.mean([perform(speech, np.random.default_rng(s))[0][:, 1].std() for s in range(5)])
    silent = np.mean([perform(0 * speech, np.random.default_rng(s))[0][:, 1].std() for s in range(5)])
    assert spoken > 1.5 * silent


def test_channels_reach_blendshapes_on_both_sides():
    matrix = mouth_to_blendshapes()
    assert matrix[JAW, BLENDSHAPE_INDEX["jawOpen"]] == 1
    left, right = BLENDSHAPE_INDEX["mouthStretchLeft"], BLENDSHAPE_INDEX["mouthStretchRight"]
    assert (matrix[:, left] == matrix[:, right]).all()


def test_a_variant_espeak_would_silently_replace_is_refused():
    require_variant("en", frozenset({"f5"}))
    require_variant("en+f5", frozenset({"f5"}))
    with pytest.raises(ValueError, match="Rob"):
        require_variant("en+Rob", frozenset({"f5", "rob"}))
