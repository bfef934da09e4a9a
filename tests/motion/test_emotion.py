"""Emotions over time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.motion.emotion import (
    emotion_followed_by,
    emotion_from_keyframes,
    emotions_of_lines,
)
from talking_portrait.core_models.types import EMOTION_NAMES, Emotion

HAPPY, SAD, NEUTRAL = (EMOTION_NAMES.index(name) for name in ("happy", "sad", "neutral"))


def at(emotion: Emotion, time: float) -> np.ndarray:
    return emotion.at(np.array([time]))[0]


def test_keyframes_are_read_in_any_order_and_interpolated():
    emotion = emotion_from_keyframes("2: happy 0.8\n0: neutral; 4: sad 0.6 + happy 0.2,")
    assert emotion.times.tolist() == [0, 2, 4]
    np.testing.assert_allclose(at(emotion, 2)[HAPPY], 0.8, atol=1e-6)
    np.testing.assert_allclose(at(emotion, 1)[[HAPPY, NEUTRAL]], [0.4, 0.5], atol=1e-6)
    np.testing.assert_allclose(at(emotion, 9)[[SAD, HAPPY]], [0.6, 0.2], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" , ", "no key frames"),
        ("happy", "cannot read the keyframe"),
        ("x: happy", "cannot read the keyframe"),
        ("-1: happy", "cannot read the keyframe"),
        ("0: joyful", "unknown emotion 'joyful'; known: neutral"),
        ("0: happy very", "'very' in '0: happy very' is not a number"),
        ("0: happy 3", "expected 0 to 2"),
        ("0: happy 1.5 + sad 1.5", "add up to 3"),
        ("0: happy, 0: sad", "two key frames at 0 s"),
        ("0: happy 1 1", "cannot read the emotion"),
        ("0:", "cannot read the emotion"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(ValueError, match=message):
        emotion_from_keyframes(text)


def test_one_emotion_takes_over_from_another():
    happy, sad = Emotion.mixed({"happy": 1}), Emotion.mixed({"sad": 1}, 0.5)
    emotion = emotion_followed_by(happy, sad, time=2, transition=1)
    assert at(emotion, 1.99)[HAPPY] == 1
    np.testing.assert_allclose(at(emotion, 2.5)[[HAPPY, SAD]], [0.5, 0.25], atol=1e-6)
    np.testing.assert_allclose(at(emotion, 3.5)[[HAPPY, SAD]], [0, 0.5], atol=1e-6)


def test_times_of_the_following_count_from_the_handover():
    following = emotion_from_keyframes("0: neutral, 1: sad")
    emotion = emotion_followed_by(Emotion.mixed({"happy": 1}), following, time=2, transition=0.5)
    np.testing.assert_allclose(at(emotion, 3.5)[SAD], 1, atol=1e-6)
    np.testing.assert_allclose(at(emotion, 2.5)[NEUTRAL], 1, atol=1e-6)


@given(time=st.floats(0, 100), transition=st.floats(0.05, 10), when=st.floats(0, 120))
def test_a_handover_never_exceeds_either_strength(time, transition, when):
    first = emotion_from_keyframes("0: happy 0.4, 3: angry 0.8")
    emotion = emotion_followed_by(first, Emotion.mixed({"sad": 1}, 0.6), time, transition)
    assert at(emotion, when).sum() <= 0.8 + 1e-5
    np.testing.assert_allclose(emotion.weights.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("time", "transition"), [(-1, 1), (0, 0), (float("nan"), 1)])
def test_impossible_handovers_are_refused(time, transition):
    happy = Emotion.mixed({"happy": 1})
    with pytest.raises(ValueError, match="expected"):
        emotion_followed_by(happy, happy, time, transition)


def test_strength_zero_is_neutral():
    assert not at(emotion_from_keyframes("0: happy 0"), 0).any()


def test_an_emotion_per_line():
    emotions, lines = emotions_of_lines("neutral\n\n happy 0.6 + surprised 0.4 \n")
    assert lines == ["neutral", "happy 0.6 + surprised 0.4"]
    assert emotions[1].at(np.zeros(1))[0].tolist() == pytest.approx([0, 0.6, 0, 0, 0.4, 0, 0])


@pytest.mark.parametrize(
    ("text", "word"), [("\n \n", "no emotions"), ("happy\ncheerful", "cheerful"), ("sad 3", "0 to 2")]
)
def test_lines_that_are_no_emotions(text, word):
    with pytest.raises(ValueError, match=word):
        emotions_of_lines(text)


@pytest.mark.parametrize("strength", [-0.1, 2.5])
def test_strengths_stay_within_their_range(strength):
    with pytest.raises(ValueError, match="strengths must be 0 to 2"):
        Emotion.mixed({"happy": 1.0}, strength)
