"""What the small ACTalker's measures mean: who is paired with whom, and what a perfect generator scores."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.video_diffusion.actalker.blendshape_motion import HEAD_NUMBERS
from talking_portrait.core_models.video_diffusion.actalker.model import ACTalkerModel
from talking_portrait.training import actalker_evaluation as made
from talking_portrait.training.actalker_evaluation import AUDIO, JOINT, JOINT_FULL, MOTION, SETTINGS, Trial
from talking_portrait.training.actalker_readers import READINGS, FrameReader, true_readings

from .actalker_clips import clip, tiny_autoencoder, tiny_parameters

CLIPS = [clip(seed) for seed in range(3)]
TRIAL = Trial(*CLIPS)
FOLLOWED = {"sound: mouth_opening", *(f"motion: {name}" for name in READINGS)}
CHANGED = {"mouth changed", "mouth opening changed"}


class TruthReader:
    """Knows the frames of the made clips."""

    def read(self, frames):
        (found,) = [one for one in CLIPS if np.array_equal(one.frames, frames)]
        return true_readings(found)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return ACTalkerModel(tiny_parameters()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def autoencoder():
    return tiny_autoencoder()


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(2)
    return FrameReader().eval()


class TestTrials:
    @pytest.mark.parametrize(("people", "count"), [(16, 16), (16, 32), (16, 1), (8, 4)])
    def test_three_different_people_meet(self, people, count):
        """Two clips of each person in a row, as they are made."""
        clips = [clip(person, 1) for person in range(people) for _ in range(2)]
        trials = made.trials_of(clips, count)
        assert len(trials) == count
        assert len({id(trial.clip) for trial in trials}) == count
        for trial in trials:
            seeds = {one.identity_seed for one in (trial.clip, trial.mover, trial.other)}
            assert len(seeds) == 3

    def test_three_clips_are_enough(self):
        trials = made.trials_of(CLIPS, 3)
        assert [trial.clip for trial in trials] == CLIPS
        assert all(len({id(t.clip), id(t.mover), id(t.other)}) == 3 for t in trials)

    @pytest.mark.parametrize(("clips", "count"), [(3, 4), (0, 1), (3, 0)])
    def test_too_few_clips(self, clips, count):
        with pytest.raises(ValueError, match=f"there are {clips} clips for {count} trials"):
            made.trials_of(CLIPS[:clips], count)

    def test_two_people_are_too_few(self):
        with pytest.raises(ValueError, match="the clips are of 2 people, expected at least 3"):
            made.trials_of(CLIPS[:2], 1)


class TestSignals:
    def test_another_expression_keeps_the_head(self):
        before = TRIAL.other.motion.copy()
        signal = made.other_expression(TRIAL)
        np.testing.assert_array_equal(signal[:, -HEAD_NUMBERS:], TRIAL.mover.motion[:, -HEAD_NUMBERS:])
        np.testing.assert_array_equal(signal[:, :-HEAD_NUMBERS], TRIAL.other.motion[:, :-HEAD_NUMBERS])
        assert signal.dtype == np.float32
        np.testing.assert_array_equal(TRIAL.other.motion, before)

    def test_the_first_frame_alone_is_a_clip(self):
        alone = made.first_frame(CLIPS[0])
        assert len(alone) == 1
        for one in fields(alone):
            if one.name in ("frames", "motion", "mouth_opening", "eye_opening", "turn"):
                np.testing.assert_array_equal(
                    getattr(alone, one.name), getattr(CLIPS[0], one.name)[:1], one.name
                )
        np.testing.assert_array_equal(alone.audio[0], CLIPS[0].audio[0])

    def test_the_mouths_change_is_that_of_its_box(self):
        frames = np.zeros((2, 64, 64, 3), np.uint8)
        changed = frames.copy()
        changed[:, 40:48, 24:40] = 10
        changed[0, 0, 0] = 255
        assert made.mouth_change(frames, changed, np.int32([24, 40, 40, 48])) == 10
        assert made.mouth_change(changed, frames, np.int32([24, 32, 40, 48])) == 5
        assert made.mouth_change(frames, frames, np.int32([24, 40, 40, 48])) == 0

    def test_what_follows_scores_1_and_what_does_not_move_0(self):
        truth = true_readings(CLIPS[0])
        np.testing.assert_allclose(made.followed(truth, CLIPS[0]), 1)
        np.testing.assert_allclose(made.followed(-3 * truth + 1, CLIPS[0]), -1)
        assert not made.followed(np.ones_like(truth), CLIPS[0]).any()


def perfect(model, autoencoder, trial, setting, signal=None, steps=None, seed=0):
    """Speaks as the clip where only sound works, else moves as the mover; where both work everywhere, as the other
    clip if the motion's expression is its."""
    if setting == AUDIO:
        return trial.clip.frames
    if setting == JOINT_FULL and signal is not None:
        return trial.other.frames
    return trial.mover.frames


class TestMeasured:
    def test_a_perfect_generator_scores_1(self, monkeypatch):
        monkeypatch.setattr(made, "made_frames", perfect)
        told = []
        found = made.measured(
            None, None, TruthReader(), [TRIAL], progress=lambda done, total: told.append((done, total))
        )
        assert told == [(1, 1)]
        assert found[AUDIO]["sound: mouth_opening"] == pytest.approx(1)
        between = made.followed(true_readings(TRIAL.clip), TRIAL.mover)
        for index, name in enumerate(READINGS):
            assert found[AUDIO][f"motion: {name}"] == pytest.approx(between[index])
            for setting in (MOTION, JOINT, JOINT_FULL):
                assert found[setting][f"motion: {name}"] == pytest.approx(1)
        assert found[MOTION]["sound: mouth_opening"] == pytest.approx(between[0], abs=1e-6)

    def test_only_what_changes_with_the_expression_counts_as_changed(self, monkeypatch):
        monkeypatch.setattr(made, "made_frames", perfect)
        found = made.measured(None, None, TruthReader(), [TRIAL])
        assert found[MOTION]["mouth changed"] == found[JOINT]["mouth opening changed"] == 0
        box, frames = TRIAL.clip.mouth_box, (TRIAL.mover.frames, TRIAL.other.frames)
        assert found[JOINT_FULL]["mouth changed"] == pytest.approx(made.mouth_change(*frames, box))
        expected = np.abs(TRIAL.mover.mouth_opening - TRIAL.other.mouth_opening).mean()
        assert found[JOINT_FULL]["mouth opening changed"] == pytest.approx(expected)

    def test_trials_count_alike(self, monkeypatch):
        monkeypatch.setattr(made, "made_frames", perfect)
        other = Trial(CLIPS[1], CLIPS[2], CLIPS[0])
        one, two, both = (
            made.measured(None, None, TruthReader(), trials, settings=[JOINT_FULL])[JOINT_FULL]
            for trials in ([TRIAL], [other], [TRIAL, other])
        )
        for name, value in both.items():
            assert value == pytest.approx((one[name] + two[name]) / 2)

    def test_a_model_is_measured_under_every_setting(self, model, autoencoder, reader):
        found = made.measured(model, autoencoder, reader, [TRIAL], steps=1)
        assert list(found) == list(SETTINGS)
        assert set(found[AUDIO]) == FOLLOWED
        for setting in (MOTION, JOINT, JOINT_FULL):
            assert set(found[setting]) == FOLLOWED | CHANGED
            assert found[setting]["mouth changed"] >= 0
        assert np.isfinite([value for values in found.values() for value in values.values()]).all()


def frames_of(model, autoencoder, setting, signal=None, seed=0, trial=TRIAL):
    return made.made_frames(model, autoencoder, trial, setting, signal, steps=1, seed=seed)


class TestMadeFrames:
    def test_the_same_seed_is_the_same_clip(self, model, autoencoder):
        frames = frames_of(model, autoencoder, JOINT)
        assert (frames.shape, frames.dtype) == ((5, 64, 64, 3), np.uint8)
        np.testing.assert_array_equal(frames, frames_of(model, autoencoder, JOINT))
        assert not np.array_equal(frames, frames_of(model, autoencoder, JOINT, seed=1))

    def test_a_closed_signal_is_not_seen(self, model, autoencoder):
        other = made.other_expression(TRIAL)
        quiet = replace(TRIAL.clip, heard=np.zeros_like(TRIAL.clip.heard))
        silent = Trial(quiet, TRIAL.mover, TRIAL.other)
        spoken, moved = (frames_of(model, autoencoder, setting) for setting in (AUDIO, MOTION))
        np.testing.assert_array_equal(spoken, frames_of(model, autoencoder, AUDIO, other))
        np.testing.assert_array_equal(moved, frames_of(model, autoencoder, MOTION, trial=silent))
        assert not np.array_equal(moved, frames_of(model, autoencoder, MOTION, other))
        assert not np.array_equal(spoken, frames_of(model, autoencoder, AUDIO, trial=silent))
