"""Emotions laid over motion, and read off faces: lips that meet stay together, and what was laid on is read back."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.keypoint_diffusion.loading import load_pocket
from talking_portrait.core_models.keypoint_diffusion.pocket import POCKET_EMOTIONS, sampled_channels
from talking_portrait.core_models.motion.emotion_expression import (
    described_emotion,
    emotion_of_expression,
    emotion_of_face,
    emotion_shapes,
    with_emotion,
)
from talking_portrait.core_models.motion.track import CLOSED_APERTURE, mouth_aperture
from talking_portrait.core_models.types import (
    BLENDSHAPE_INDEX,
    EMOTION_NAMES,
    IMPLICIT_KEYPOINTS,
    Emotion,
    FaceMotion,
    PortraitVideo,
)

SHOWN = EMOTION_NAMES[1:]


def talking(frames: int = 50) -> FaceMotion:
    """A jaw that opens and closes; on every tenth frame the lips meet for p, b or m though the jaw stays open."""
    expression = np.zeros((frames, 52))
    expression[:, BLENDSHAPE_INDEX["jawOpen"]] = 0.25 + 0.15 * np.sin(np.arange(frames))
    closed = np.arange(0, frames, 10)
    expression[closed, BLENDSHAPE_INDEX["mouthClose"]] = expression[closed, BLENDSHAPE_INDEX["jawOpen"]]
    return replace(FaceMotion.at_rest(frames, 25.0), expression=expression)


class TestOffset:
    @pytest.mark.parametrize("name", SHOWN)
    @pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
    def test_closures_survive_every_emotion_and_the_words_stay(self, name, strength):
        motion = talking()
        shown = with_emotion(motion, Emotion.mixed({name: 1.0}, strength))
        closed = mouth_aperture(motion.expression) <= CLOSED_APERTURE
        assert closed.sum() == 5
        assert (mouth_aperture(shown.expression)[closed] <= CLOSED_APERTURE).all()
        parting = [BLENDSHAPE_INDEX[f"mouthUpperUp{side}"] for side in ("Left", "Right")]
        assert (shown.expression[np.ix_(closed, parting)] == 0).all()
        assert np.allclose(mouth_aperture(shown.expression), mouth_aperture(motion.expression))
        assert np.array_equal(shown.rotation, motion.rotation)

    @pytest.mark.parametrize("name", SHOWN)
    def test_each_emotion_shows_as_itself(self, name):
        shown = with_emotion(FaceMotion.at_rest(10, 25.0), Emotion.mixed({name: 1.0}))
        found = emotion_of_expression(shown.expression)
        assert EMOTION_NAMES[int(np.argmax(found.weights[0]))] == name
        assert found.weights[0].max() > 0.95
        assert found.strengths[0] == pytest.approx(1, abs=0.05)

    def test_neutral_changes_nothing(self):
        motion = talking()
        shown = with_emotion(motion, Emotion.mixed({"neutral": 1.0}))
        assert np.array_equal(shown.expression, motion.expression)

    def test_it_can_come_later(self):
        later = Emotion(np.eye(7)[[0, 1]], np.ones(2), np.array([1.0, 1.5]))
        smile = with_emotion(FaceMotion.at_rest(50, 25.0), later).blendshape("mouthSmileLeft")
        assert (smile[:25] < 0.02).all()
        assert np.allclose(smile[38:], 0.6)

    def test_implicit_keypoints_move_as_the_table_says(self):
        from talking_portrait.core_models.motion.blendshape_retargeting import default_basis

        still = FaceMotion.at_rest(3, 25.0, IMPLICIT_KEYPOINTS)
        happy = with_emotion(still, Emotion.mixed({"happy": 1.0}))
        expected = emotion_shapes()[EMOTION_NAMES.index("happy")] @ default_basis().matrix
        assert np.allclose(happy.expression, expected, atol=1e-6)
        assert np.abs(happy.expression).max() > 1e-3
        surprised = with_emotion(still, Emotion.mixed({"surprised": 1.0})).expression
        shapes = emotion_shapes()[EMOTION_NAMES.index("surprised")].copy()
        shapes[[BLENDSHAPE_INDEX["mouthUpperUpLeft"], BLENDSHAPE_INDEX["mouthUpperUpRight"]]] = 0
        assert np.allclose(surprised, shapes @ default_basis().matrix, atol=1e-6), "nothing parts the lips"

    @settings(max_examples=30)
    @given(st.lists(st.floats(0, 1), min_size=52, max_size=52), st.sampled_from(SHOWN), st.floats(0, 2))
    def test_coefficients_stay_coefficients(self, row, name, strength):
        motion = replace(FaceMotion.at_rest(1, 25.0), expression=np.array([row]))
        shown = with_emotion(motion, Emotion.mixed({name: 1.0}, strength)).expression
        assert shown.min() >= 0
        assert shown.max() <= 1
        assert (shown >= motion.expression - 1e-6).all()


class TestReading:
    @settings(max_examples=40)
    @given(
        st.lists(st.floats(0, 1), min_size=6, max_size=6).filter(lambda w: sum(w) > 0.2), st.floats(0.3, 1.2)
    )
    def test_mixes_are_read_back(self, weights, strength):
        named = dict(zip(SHOWN, weights, strict=True))
        mixed = Emotion.mixed(named, strength)
        read = emotion_of_expression(mixed.at(np.zeros(1))[0] @ emotion_shapes())
        assert np.allclose(read.at(np.zeros(1)), mixed.at(np.zeros(1)), atol=1e-3)

    def test_speech_is_no_emotion(self):
        assert described_emotion(emotion_of_expression(talking().expression)) == "neutral"

    def test_what_lasts_counts_and_what_comes_and_goes_does_not(self):
        happy = with_emotion(talking(), Emotion.mixed({"happy": 0.8}, 0.8))
        assert described_emotion(emotion_of_face(None, happy)) == "happy 0.8"

    def test_strength_is_a_factor_up_to_2(self):
        happy = with_emotion(talking(), Emotion.mixed({"happy": 1.0}, 0.8))
        assert emotion_of_face(None, happy, 0.5).strengths[0] == pytest.approx(0.4, abs=0.02)
        assert emotion_of_face(None, happy, 3.0).strengths[0] == 2

    def test_the_astronaut_smiles(self, astronaut_portrait):
        read = emotion_of_face(astronaut_portrait, None)
        assert EMOTION_NAMES[int(np.argmax(read.weights[0]))] == "happy"
        film = PortraitVideo((astronaut_portrait,) * 3, 25.0)
        assert np.allclose(emotion_of_face(film, None).weights, read.weights)

    def test_a_resting_frown_is_no_anger_beside_the_same_face_at_rest(self, astronaut_portrait):
        frown = np.zeros(52, np.float32)
        frown[[BLENDSHAPE_INDEX["browDownLeft"], BLENDSHAPE_INDEX["browDownRight"]]] = 0.4
        smile = emotion_shapes()[EMOTION_NAMES.index("happy")]
        resting = replace(astronaut_portrait, blendshapes=frown)
        smiling = replace(astronaut_portrait, blendshapes=frown + 0.8 * smile)
        assert emotion_of_face(resting, None).strengths[0] > 0.3  # alone it reads as an emotion
        assert described_emotion(emotion_of_face(resting, None, neutral=resting)) == "neutral"
        assert described_emotion(emotion_of_face(smiling, None, neutral=resting)) == "happy 0.8"

    def test_what_the_pocket_model_shows_is_what_was_asked(self):
        """Its own condition and these shapes are one: the resting expression it adds is read back."""
        rest = load_pocket().emotion_rest[:, :52].numpy() * sampled_channels()[:52].numpy()
        for index, name in enumerate(POCKET_EMOTIONS):
            assert np.allclose(
                rest[index], emotion_shapes()[index] * sampled_channels()[:52].numpy(), atol=1e-3
            ), name


class TestWrongInputs:
    def test_one_of_both(self, astronaut_portrait):
        for portrait, motion in ((None, None), (astronaut_portrait, talking())):
            with pytest.raises(ValueError, match="either a portrait or a motion"):
                emotion_of_face(portrait, motion)

    def test_keypoints_are_refused(self):
        with pytest.raises(ValueError, match="blendshapes"):
            emotion_of_face(None, FaceMotion.at_rest(3, 25.0, IMPLICIT_KEYPOINTS))

    @pytest.mark.parametrize(
        "rows", [np.zeros(51), np.zeros((0, 52)), np.full(52, np.nan), np.zeros((2, 2, 52))]
    )
    def test_other_expressions_are_refused(self, rows):
        with pytest.raises(ValueError, match="expression"):
            emotion_of_expression(rows)
