"""Clips for the small Takin-ADA in blendshapes: lips close in every emotion, brows tell it, takes share their sound."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.mel import FLOOR_DB, scale_decibels
from talking_portrait.core_models.keypoint_diffusion.loading import load_pocket
from talking_portrait.core_models.keypoint_diffusion.sampler import lip_opening
from talking_portrait.core_models.keypoint_diffusion.takin_ada import TakinADAModel
from talking_portrait.core_models.keypoint_diffusion.takin_ada_sampler import hidden_states
from talking_portrait.core_models.motion.emotion_expression import emotion_shapes
from talking_portrait.core_models.types import BLENDSHAPE_INDEX, EMOTION_NAMES, AudioEmbedding
from talking_portrait.training.pocket import PRESS, TOUCHING_PRESS
from talking_portrait.training.pocket_data import record
from talking_portrait.training.speech_synthesis import SAMPLE_RATE, Utterance
from talking_portrait.training.takin_ada_pocket_data import (
    NEUTRAL_SHARE,
    STRENGTHS,
    drawn_emotion,
    heard_layers,
    listener_weights,
    performed,
    performed_clips,
    pocket_sized,
)
from talking_portrait.training.takin_ada_speech import new_model
from talking_portrait.training.visemes import Phone

NEUTRAL = np.eye(7, dtype=np.float32)[0]


@pytest.fixture(scope="module")
def recordings():
    """Buzzes that stand for an open vowel and silences that stand for p, alternating."""
    rng, made = np.random.default_rng(0), []
    for index in range(2):
        phones = [Phone("a" if i % 2 else "PP", 0.2 * i, 0.2 * (i + 1), i % 2 == 0) for i in range(10)]
        time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
        voiced = (time // 0.2).astype(int) % 2 == 1
        buzz = sum(np.sin(2 * np.pi * (100 + 10 * index) * k * time) for k in range(1, 20)) * 0.02
        made.append(
            record(Utterance((buzz * voiced).astype(np.float32), tuple(phones), f"buzz {index}"), rng)
        )
    return made


@pytest.fixture(scope="module")
def pocket():
    return load_pocket()


@pytest.fixture(scope="module")
def model(pocket) -> TakinADAModel:
    network = TakinADAModel(pocket_sized(pocket)).eval().requires_grad_(False)
    network.load_state_dict({**network.state_dict(), **listener_weights(pocket)})
    return network


def touching(recording):
    return recording.mouth[:, PRESS] > TOUCHING_PRESS


def shown(name, strength=1.0):
    return strength * np.eye(7, dtype=np.float32)[EMOTION_NAMES.index(name)]


class TestPerformances:
    @pytest.mark.parametrize("emotion", EMOTION_NAMES)
    def test_lips_close_in_every_emotion(self, recordings, emotion):
        """At the strongest that is drawn they press and hardly part, and between closures they open."""
        for recording in recordings:
            motion = performed(recording, shown(emotion, STRENGTHS[1]), 0)
            moments = recording.closed.astype(bool)
            assert moments.any()
            opening = lip_opening(motion[:, :52])
            assert opening[moments].max() < 0.04
            assert opening[~moments].max() > 0.2
            for side in ("Left", "Right"):
                assert motion[moments, BLENDSHAPE_INDEX[f"mouthPress{side}"]].min() > TOUCHING_PRESS

    @pytest.mark.parametrize("emotion", EMOTION_NAMES[1:])
    def test_brows_and_eyes_tell_the_emotion(self, recordings, emotion):
        neutral, felt = (performed(recordings[0], row, 0) for row in (NEUTRAL, shown(emotion)))
        upper = [
            index
            for name, index in BLENDSHAPE_INDEX.items()
            if name.startswith(("brow", "eyeSquint", "eyeWide", "cheekSquint", "noseSneer"))
        ]
        added = (felt - neutral).mean(axis=0)[upper]
        expected = emotion_shapes()[EMOTION_NAMES.index(emotion), upper]
        np.testing.assert_allclose(added, expected, atol=0.08)
        assert np.abs(added).max() > 0.1

    def test_neutral_adds_nothing(self, recordings):
        assert np.array_equal(
            performed(recordings[0], NEUTRAL, 1), performed(recordings[0], np.zeros(7, np.float32), 1)
        )

    def test_half_a_strength_is_half_of_what_is_added_to_brows(self, recordings):
        neutral, half, whole = (
            performed(recordings[0], row, 0)[:, BLENDSHAPE_INDEX["browDownLeft"]]
            for row in (NEUTRAL, shown("angry", 0.5), shown("angry"))
        )
        np.testing.assert_allclose(2 * (half - neutral), whole - neutral, atol=1e-5)

    def test_values_and_units(self, recordings):
        motion = performed(recordings[0], shown("happy"), 2)
        assert motion.shape == (len(recordings[0].mouth), 58)
        assert motion.dtype == np.float32
        assert motion[:, :52].min() >= 0
        assert motion[:, :52].max() <= 1
        plain = performed(recordings[0], NEUTRAL, 2)
        np.testing.assert_allclose(plain[:, 52:], recordings[0].poses[2].astype(np.float32), atol=1e-5)

    def test_takes_differ_in_head_and_brows_alone(self, recordings):
        first, second = (performed(recordings[0], NEUTRAL, take) for take in (0, 1))
        assert not np.allclose(first[:, 52:], second[:, 52:])
        mouth = [index for name, index in BLENDSHAPE_INDEX.items() if name.startswith(("mouth", "jaw"))]
        assert np.array_equal(first[:, mouth], second[:, mouth])


class TestDrawnEmotions:
    def test_shares(self):
        rng = np.random.default_rng(0)
        rows = np.stack([drawn_emotion(rng) for _ in range(2000)])
        neutral = rows[:, 0] > 0
        assert neutral.mean() == pytest.approx(NEUTRAL_SHARE, abs=0.03)
        assert (rows[neutral] == NEUTRAL).all()
        strengths = rows[~neutral].sum(axis=1)
        assert strengths.min() >= STRENGTHS[0] - 1e-6
        assert strengths.max() <= STRENGTHS[1] + 1e-6
        counts = (rows[~neutral] > 0).sum(axis=1)
        assert set(counts) <= {1, 2}
        assert (counts == 2).mean() == pytest.approx(0.2, abs=0.03)
        assert ((rows > 0).any(axis=0)).all()

    def test_the_same_seed_draws_the_same(self):
        first, second = (drawn_emotion(np.random.default_rng(4)) for _ in range(2))
        assert np.array_equal(first, second)


class TestHearing:
    def test_the_model_listens_as_the_pocket_model_does(self, pocket, model):
        for name, value in listener_weights(pocket).items():
            assert torch.equal(model.state_dict()[name], value)
        mel = torch.randn(1, 40, 80)
        with torch.no_grad():
            states = model.listener(mel)
            expected = pocket.encoder(mel)[1]
            torch.testing.assert_close(pocket.encoder.phones(states[:, -1]), expected)

    def test_sizes(self, pocket):
        parameters = pocket_sized(pocket)
        parameters.require_streamable()
        assert parameters.motion_width >= parameters.layout.size
        assert parameters.closes_lips
        assert sum(one.numel() for one in TakinADAModel(parameters).parameters()) < 10_000_000

    def test_what_is_heard_in_training_is_what_is_heard_later(self, model, recordings):
        """Of a loud clip too, whose silence lies below the floor once it is brought to level."""
        for level in (0.0, -15.0):
            mel_db = recordings[0].mel_db.astype(np.float32) + level
            heard = heard_layers(model, mel_db.astype(np.float16))
            frames = len(recordings[0].mouth)
            assert heard.shape == (2 * frames, 6, 192)
            assert heard.dtype == np.float16
            floored = np.maximum(mel_db.astype(np.float16).astype(np.float32), FLOOR_DB)
            features = torch.from_numpy(scale_decibels(floored))[:, None]
            embedding = AudioEmbedding(features, 100.0, frames / 25, "log_mel")
            with torch.no_grad():
                states = hidden_states(model, embedding, frames)[0].transpose(0, 1)
            torch.testing.assert_close(torch.from_numpy(heard).float(), states, atol=2e-2, rtol=2e-3)


class TestClips:
    @pytest.fixture(scope="class")
    @staticmethod
    def clips(model, recordings):
        return performed_clips(model, recordings, 3, seed=1)

    def test_clips_of_a_recording_share_what_is_heard(self, clips):
        assert len(clips) == 6
        assert len({clip.name for clip in clips}) == 6
        assert all(clip.hidden_states is clips[0].hidden_states for clip in clips[:3])
        assert clips[3].hidden_states is not clips[0].hidden_states
        assert not np.array_equal(clips[0].motion, clips[1].motion)

    def test_they_are_labelled(self, clips, recordings):
        for index, clip in enumerate(clips):
            recording = recordings[index // 3]
            assert clip.emotion.shape == (7,)
            assert np.array_equal(clip.closed, touching(recording))
            takes = [performed(recording, clip.emotion, take) for take in range(3)]
            assert any(np.array_equal(clip.motion, take) for take in takes)

    def test_the_seed_and_the_place_decide(self, model, recordings, clips):
        again = performed_clips(model, recordings, 3, seed=1)
        assert all(np.array_equal(a.motion, b.motion) for a, b in zip(again, clips, strict=True))
        other = performed_clips(model, recordings, 3, seed=2)
        assert not all(np.array_equal(a.emotion, b.emotion) for a, b in zip(other, clips, strict=True))

    def test_a_model_takes_its_statistics_of_them(self, pocket, clips):
        made = new_model(pocket_sized(pocket), clips, 0)
        assert torch.isfinite(made.motion_std).all()
        assert not any(value.requires_grad for value in made.listener.parameters())
