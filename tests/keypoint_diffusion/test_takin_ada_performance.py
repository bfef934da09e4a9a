"""A face that speaks by Takin-ADA: valid tracks, lips that close, poses that are kept, portraits that start at rest."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.frame_clock import frame_count
from talking_portrait.core_models.keypoint_diffusion import takin_ada_performance
from talking_portrait.core_models.keypoint_diffusion.motion_vectors import motion_vectors
from talking_portrait.core_models.keypoint_diffusion.sampler import CLOSED_PRESS, lip_opening
from talking_portrait.core_models.keypoint_diffusion.takin_ada_performance import (
    TakinADAOptions,
    directed,
    heard_emotion,
    speaking_face,
    speaking_keypoints,
)
from talking_portrait.core_models.keypoint_diffusion.takin_ada_sampler import sample_scores
from talking_portrait.core_models.motion.keypoint_driving import moved_readings
from talking_portrait.core_models.motion.region_names import LIP_PARTING
from talking_portrait.core_models.types import (
    BLENDSHAPE_INDEX,
    BLENDSHAPES,
    EMOTION_NAMES,
    IMPLICIT_KEYPOINTS,
    Emotion,
    FaceMotion,
)

from .takin_ada_models import SMALL, SMALL_KEYPOINTS, SMALL_STREAMING, log_mel, speech, takin_ada

STILL_EYES = {"steps": 3, "blinks_per_minute": 0.0, "gaze": False}


def calm(parameters=SMALL, spread=1e-4):
    """A model whose motion, made with random weights, is of a natural size."""
    model = takin_ada(parameters)
    model.motion_std.fill_(spread)
    return model


@pytest.fixture(scope="module")
def model():
    return calm()


def turning_track(frames, space=BLENDSHAPES, fps=25.0):
    time = np.arange(frames)[:, None] / fps
    return replace(
        FaceMotion.at_rest(frames, fps, space),
        rotation=10 * np.sin(time * np.array([1.0, 2.0, 3.0])),
        translation=0.1 * np.cos(time * np.array([1.0, 2.0, 3.0])) * np.array([1.0, 1.0, 0.0]),
        scale=1 + 0.05 * np.sin(time[:, 0]),
    )


class TestFaces:
    @pytest.mark.parametrize("parameters", [SMALL, SMALL_STREAMING], ids=["whole", "stream"])
    @pytest.mark.parametrize("fps", [25.0, 30.0])
    def test_tracks_are_valid_and_as_long_as_the_sound(self, parameters, fps):
        """Even wild weights make coefficients."""
        options = TakinADAOptions.of({"steps": 3, "variations": 2, "fps": fps})
        motions = speaking_face(takin_ada(parameters), speech(1.3), Emotion.mixed({"happy": 1}), options)
        assert len(motions) == 2
        for motion in motions:
            assert motion.space == BLENDSHAPES
            assert motion.fps == fps
            assert motion.frame_count == frame_count(1.3, fps)
            assert motion.expression.min() >= 0
            assert motion.expression.max() <= 1
            assert np.isfinite(motion.rotation).all()
            assert np.isfinite(motion.translation).all()
            assert (motion.scale == 1).all()
        assert not np.allclose(motions[0].rotation, motions[1].rotation)

    def test_the_same_seed_is_the_same_face(self, model):
        options = TakinADAOptions.of({"steps": 3, "seed": 8})
        first, second = (speaking_face(model, speech(1.0), options=options)[0] for _ in range(2))
        assert np.array_equal(first.expression, second.expression)
        assert np.array_equal(first.rotation, second.rotation)

    def test_coefficients_angles_and_places_are_where_the_layout_has_them(self, model):
        options = TakinADAOptions.of(STILL_EYES)
        motion = speaking_face(model, speech(0.6), options=options)[0]
        made = (
            model.denormalise(sample_scores(model, speech(0.6), options.sampling).scores)[0].float().numpy()
        )
        np.testing.assert_allclose(motion.rotation, made[:, 52:55], atol=1e-6)
        np.testing.assert_allclose(motion.translation, made[:, 55:58], atol=1e-6)
        brows = [index for index in model.parameters_used.layout.expression if index < 52]
        np.testing.assert_allclose(motion.expression[:, brows], np.clip(made[:, brows], 0, 1), atol=1e-6)

    @pytest.mark.parametrize("emotion", EMOTION_NAMES)
    def test_lips_meet_for_p_b_and_m_in_every_emotion(self, model, emotion, monkeypatch):
        moments = [4, 11]
        logits = torch.full((1, 15), -6.0).double()
        logits[0, moments] = 6.0
        monkeypatch.setattr(model, "closure_logits", lambda speech: logits)
        mixed = Emotion.mixed({emotion: 1.0}, strength=1.5)
        motion = speaking_face(model, speech(0.6), mixed, TakinADAOptions.of(STILL_EYES))[0]
        opening = lip_opening(motion.expression)
        assert np.allclose(opening[moments], 0)
        parting = motion.expression[:, [BLENDSHAPE_INDEX[name] for name in LIP_PARTING]]
        assert not parting[moments].any()
        assert motion.expression[moments, BLENDSHAPE_INDEX["mouthPressLeft"]].min() >= CLOSED_PRESS - 1e-6
        assert np.delete(parting, moments, axis=0).any(axis=1).all()

    def test_a_model_that_does_not_tell_of_lips_closes_none(self):
        silent = calm(replace(SMALL, closes_lips=False))
        motion = speaking_face(silent, speech(0.6), options=TakinADAOptions.of(STILL_EYES))[0]
        assert motion.expression[:, BLENDSHAPE_INDEX["mouthPressLeft"]].max() < CLOSED_PRESS

    def test_an_emotion_changes_the_face(self, model):
        options = TakinADAOptions.of(STILL_EYES)
        happy, sad = (
            speaking_face(model, speech(0.6), Emotion.mixed({name: 1.0}), options)[0]
            for name in ("happy", "sad")
        )
        assert np.abs(happy.expression - sad.expression).max() > 1e-4

    def test_a_given_pose_is_kept_and_told(self, model):
        pose, options = (
            turning_track(40),
            TakinADAOptions.of({**STILL_EYES, "head_motion": 0.5, "pitch": 2.0}),
        )
        free = speaking_face(model, speech(1.6), options=options)[0]
        held = speaking_face(model, speech(1.6), options=options, pose=pose)[0]
        np.testing.assert_allclose(held.rotation, pose.rotation, atol=1e-5)
        np.testing.assert_allclose(held.translation, pose.translation, atol=1e-5)
        np.testing.assert_allclose(held.scale, pose.scale, atol=1e-5)
        assert np.abs(held.expression - free.expression).max() > 1e-4

    def test_a_short_pose_goes_back_and_forth(self, model):
        pose = turning_track(10)
        held = speaking_face(model, speech(1.0), options=TakinADAOptions.of(STILL_EYES), pose=pose)[0]
        assert held.frame_count == 25
        np.testing.assert_allclose(held.rotation[:10], pose.rotation, atol=1e-5)
        np.testing.assert_allclose(held.rotation[10], pose.rotation[8], atol=1e-5)

    def test_gains(self, model):
        full, still = (
            speaking_face(model, speech(0.6), options=TakinADAOptions.of({**STILL_EYES, **gains}))[0]
            for gains in ({}, {"head_motion": 0.0, "mouth": 0.0, "brows": 0.0})
        )
        assert np.abs(full.rotation).max() > 0
        assert not still.rotation.any()
        assert not still.expression.any()

    def test_a_preview_is_shown(self, model):
        shown = []
        options = TakinADAOptions.of(STILL_EYES)
        speaking_face(model, speech(0.6), options=options, preview=shown.append)
        assert len(shown) == 1
        assert shown[0].dtype == np.uint8

    def test_what_does_not_fit(self, model):
        with pytest.raises(
            ValueError, match="makes motion in the implicit_keypoints space, not in the blendshapes"
        ):
            speaking_face(takin_ada(SMALL_KEYPOINTS), speech(0.4))
        with pytest.raises(ValueError, match="hears 'hubert' features but got 'log_mel'"):
            speaking_face(model, log_mel(0.4))
        with pytest.raises(ValueError, match="blendshapes"):
            speaking_face(model, speech(0.4), pose=turning_track(10, IMPLICIT_KEYPOINTS))


def keypoint_model(source, spread=1e-7, parameters=SMALL_KEYPOINTS):
    """A model whose motion is that of the portrait's reading, nearly."""
    model = takin_ada(parameters)
    model.motion_mean.copy_(torch.from_numpy(motion_vectors(source)[0]))
    model.motion_std.fill_(spread)
    return model


class TestPortraits:
    def test_the_portraits_own_motion_is_rest(self, source_reading):
        model = keypoint_model(source_reading)
        options = TakinADAOptions.of({"steps": 3, "variations": 2, "blinks_per_minute": 0.0})
        motions = speaking_keypoints(model, source_reading, speech(0.8), options=options)
        assert len(motions) == 2
        for motion in motions:
            assert motion.space == IMPLICIT_KEYPOINTS
            assert (motion.fps, motion.frame_count) == (25.0, 20)
            np.testing.assert_allclose(motion.expression, 0, atol=2e-3)
            np.testing.assert_allclose(motion.rotation, 0, atol=2e-2)
            np.testing.assert_allclose(motion.translation, 0, atol=2e-3)
            np.testing.assert_allclose(motion.scale, 1, atol=2e-3)

    def test_what_is_made_is_what_is_shown(self, source_reading):
        """Eight degrees of pitch and a lower lip further down, of a frontal portrait."""
        frontal = replace(source_reading, rotation=np.eye(3)[None])
        model = keypoint_model(frontal)
        layout = model.parameters_used.layout
        model.motion_mean[layout.angles[0]] += 8.0
        model.motion_mean[layout.mouth[-1]] += 0.03
        options = TakinADAOptions.of({"steps": 3, "blinks_per_minute": 0.0})
        motion = speaking_keypoints(model, frontal, speech(0.4), options=options)[0]
        np.testing.assert_allclose(np.abs(motion.rotation), [[8, 0, 0]] * 10, atol=2e-2)
        moved = np.abs(motion.expression[0]) > 0.01
        assert moved.sum() == 1
        assert moved[layout.mouth[-1] - 7]

    def test_it_is_told_where_it_starts_for_whom_and_from_which_expression(self, source_reading, monkeypatch):
        model, told = keypoint_model(source_reading), []

        def watched(*given):
            told.append(given[3])
            return sample_scores(*given)

        monkeypatch.setattr(takin_ada_performance, "sample_scores", watched)
        happy = Emotion.mixed({"happy": 1.0})
        model.motion_std.fill_(0.5)
        model.motion_mean.zero_()
        options = TakinADAOptions.of({"steps": 1})
        speaking_keypoints(model, source_reading, speech(0.4), happy, options)
        direction, vector = told[0], torch.from_numpy(motion_vectors(source_reading)[0])
        torch.testing.assert_close(direction.start, vector / 0.5)
        canonical = torch.from_numpy(source_reading.canonical.reshape(-1))
        torch.testing.assert_close(direction.source, (canonical - model.source_mean) / model.source_std)
        own = direction.start[list(model.parameters_used.layout.expression)]
        rows = direction.given(0, 3)["emotion"]
        torch.testing.assert_close(
            rows, (own + model.affective_vectors[1]).expand(3, -1), atol=1e-5, rtol=1e-5
        )

    def test_a_given_pose_is_kept_and_told(self, source_reading, monkeypatch):
        model, told = keypoint_model(source_reading, 0.01), []

        def watched(*given):
            told.append(given[3])
            return sample_scores(*given)

        monkeypatch.setattr(takin_ada_performance, "sample_scores", watched)
        pose = turning_track(20, IMPLICIT_KEYPOINTS)
        options = TakinADAOptions.of({"steps": 1})
        motion = speaking_keypoints(model, source_reading, speech(0.8), options=options, pose=pose)[0]
        np.testing.assert_allclose(motion.rotation, pose.rotation, atol=1e-4)
        np.testing.assert_allclose(motion.translation, pose.translation, atol=1e-5)
        np.testing.assert_allclose(motion.scale, pose.scale, atol=1e-5)
        expected = torch.from_numpy(motion_vectors(moved_readings(source_reading, pose)))
        layout, rows = model.parameters_used.layout, told[0].given(0, 20)
        for name in ("angles", "location"):
            columns = list(getattr(layout, name))
            made = rows[name] * model.motion_std[columns] + model.motion_mean[columns]
            torch.testing.assert_close(made, expected[:, columns], atol=1e-3, rtol=1e-3)

    def test_a_pose_in_blendshapes_is_brought_over(self, source_reading):
        model = keypoint_model(source_reading)
        motion = speaking_keypoints(
            model,
            source_reading,
            speech(0.8),
            options=TakinADAOptions.of({"steps": 1}),
            pose=turning_track(20),
        )[0]
        np.testing.assert_allclose(motion.rotation, turning_track(20).rotation, atol=1e-4)

    def test_a_model_that_knows_no_source(self, source_reading):
        parameters = replace(SMALL_KEYPOINTS, source_size=0)
        model = keypoint_model(source_reading, parameters=parameters)
        motion = speaking_keypoints(
            model, source_reading, speech(0.4), options=TakinADAOptions.of({"steps": 2})
        )[0]
        assert motion.frame_count == 10

    def test_a_model_over_blendshapes_is_refused(self, source_reading, model):
        with pytest.raises(
            ValueError, match="makes motion in the blendshapes space, not in the implicit_keypoints"
        ):
            speaking_keypoints(model, source_reading, speech(0.4))


def test_the_emotion_that_is_heard_is_named(model, monkeypatch):
    """Half happy and a quarter surprised, as the predictor says, come back as such."""
    row = model.neutral_emotion + 0.5 * model.affective_vectors[1] + 0.25 * model.affective_vectors[4]
    adapter = model.adapters["emotion"]
    monkeypatch.setattr(adapter, "predict", lambda speech: (row.expand(1, speech.shape[1], -1), None))
    rows = heard_emotion(model, speech(0.4))
    assert rows.shape == (10, 7)
    np.testing.assert_allclose(rows, np.tile([0, 0.5, 0, 0, 0.25, 0, 0], (10, 1)), atol=1e-5)


def test_heard_emotions_are_never_negative(model):
    rows = heard_emotion(model, speech(1.0))
    assert (rows >= 0).all()
    assert not rows[:, 0].any()


def test_nothing_is_given_where_nothing_is_asked_for(model):
    assert directed(model, None, None)(0, 5) == {}


def test_settings_go_to_the_parts_that_have_them():
    options = TakinADAOptions.of({"guidance": 2.0, "fps": 30.0, "strength": 0.5, "gaze": False, "seed": 9})
    assert options.sampling.guidance == 2
    assert (options.face.fps, options.portrait.fps) == (30, 30)
    assert options.portrait.strength == 0.5
    assert not options.face.gaze
    assert options.sampling.seed == options.face.seed == 9
