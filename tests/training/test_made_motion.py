"""The made clips obey their law, and a short training learns some of it; the whole demonstration takes minutes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.keypoint_diffusion.kdtalker_sampler import (
    KDTalkerSamplingParameters,
    sample_scores,
)
from talking_portrait.core_models.keypoint_diffusion.motion_vectors import EXPRESSION
from talking_portrait.core_models.keypoint_diffusion.windows import seeded_noise, window_starts
from talking_portrait.training.kdtalker_dataset import Clip
from talking_portrait.training.kdtalker_demonstration import (
    RECIPE,
    SMALL_DENOISER,
    made_sets,
    spoken,
    trained,
)
from talking_portrait.training.kdtalker_run import KDTalkerTrainer, training_data
from talking_portrait.training.kdtalker_statistics import clip_statistics
from talking_portrait.training.made_motion import (
    OPENING_SIZE,
    made_clips,
    made_world,
    mouth_opening,
    opening_read_back,
)


@pytest.fixture(scope="module")
def clips():
    return made_clips(made_world(smeared_frames=2), persons=12, clips_each=2, frames=150, seed=3)


def test_the_opening_can_be_read_back(clips):
    for made in clips:
        read = opening_read_back(made.clip.motion, made.person)
        assert (
            np.corrcoef(read, made.opening)[0, 1] > 0.7
        )  # other movements of the mouth share the direction in part


def test_what_opens_a_mouth_is_written_in_the_canonical_keypoints_alone(clips):
    """Both mixtures occur, canonical keypoints tell them apart, and people are the same in all of their clips."""
    mixtures = np.array([made.person.mixture[1] for made in clips])
    assert {True, False} == set(mixtures > 0)
    assert all(a.person is b.person for a, b in zip(clips[::2], clips[1::2], strict=True))
    world = made_world(smeared_frames=2)
    marks = np.array([made.clip.canonical[0] @ world.mixture_marks[0] for made in clips])
    assert np.corrcoef(marks, mixtures)[0, 1] > 0.8


def test_one_frame_of_sound_does_not_tell_the_opening():
    """The opening is the mixture averaged over the frames around, so a frame's own signals explain only a part."""
    rng = np.random.default_rng(0)
    signals, mixture = rng.normal(size=(4, 3004)), np.array([0.6, 0.8])
    opening = mouth_opening(signals, mixture, smeared_frames=2)
    own = mixture @ signals[:2, 2:-2]
    assert len(opening) == len(own) == 3000
    assert np.corrcoef(opening, own)[0, 1] == pytest.approx(5**-0.5, abs=0.05)
    assert opening.std() == pytest.approx(1, abs=0.1)


def test_clips_are_the_same_each_time():
    one, again, other = (made_clips(made_world(), 1, 1, 80, seed)[0].clip for seed in (1, 1, 2))
    assert np.array_equal(one.motion, again.motion)
    assert np.array_equal(one.audio, again.audio)
    assert not np.allclose(one.motion, other.motion)
    assert one.audio.min() >= 0
    assert np.abs(one.motion[:, EXPRESSION]).max() < 10 * OPENING_SIZE


def linear_clips(count, seed):
    """Clips in which each frame's expression is a fixed linear map of what is heard, and nothing else moves."""
    law, rng = np.random.default_rng(0), np.random.default_rng(seed)
    heard_by, moved_by = law.normal(size=(8, 512)), law.normal(size=(8, 63))
    clips = []
    for index in range(count):
        signals = rng.normal(size=(120, 8))
        motion = np.zeros((120, 70))
        motion[:, 0], motion[:, EXPRESSION] = 1.5, 0.01 * signals @ moved_by
        audio = np.maximum(signals @ heard_by + 1, 0)
        clips.append(Clip(f"{seed}_{index}/0", motion, np.zeros((120, 63)), audio))
    return clips


def test_a_short_training_finds_a_known_relation():
    """Frames go with their sound, on clips that were not learned from, and not with another's."""
    clips, (new, other) = linear_clips(40, seed=1), linear_clips(2, seed=2)
    statistics = clip_statistics(clips)
    sizes = replace(SMALL_DENOISER, width=64, layers=1, window=16, prediction="x0")  # quicker than "epsilon"
    recipe = replace(RECIPE, steps=400, batch=16, learning_rate=5e-3)
    trainer = KDTalkerTrainer.begin(sizes, statistics, recipe, training_data(clips, 16, 0.0))
    losses = [trainer.train_step(trainer.batch(step)).loss for step in range(recipe.steps)]
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:5])
    truth = new.motion[1:105, EXPRESSION]
    for heard, least, most in ((new, 0.8, 1.0), (other, -0.2, 0.2)):
        scores = sample_scores(
            trainer.model.eval(),
            (torch.zeros(70), torch.zeros(70)),
            torch.tensor(heard.audio[1:105]),
            window_starts(104, 16, 8),
            seeded_noise([0], 104, 70),
            KDTalkerSamplingParameters(overlap=8),
        )
        made = statistics.denormalised(scores[0].numpy())[:, EXPRESSION]
        assert least <= np.corrcoef(made.ravel(), truth.ravel())[0, 1] <= most


def test_people_speak_in_whole_windows(clips):
    sets = made_sets(people=2, held_out=1)
    model, _ = trained(sets, replace(SMALL_DENOISER, width=32, layers=1), replace(RECIPE, steps=1))
    motion = spoken(model, clips[0], clips[0].clip.audio, seed=0, steps=1, overlap=8)
    assert motion.shape == (64 + 56, 70)  # of the 149 frames after the first
