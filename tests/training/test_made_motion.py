"""The made clips obey their law, and a short training learns some of it; the whole demonstration takes minutes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.keypoint_diffusion.kdtalker import KDTalkerModel
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


SMALL_WINDOW = 16


def lawful_clips(count: int, seed: int, smeared: bool = False, personal: bool = False) -> list[Clip]:
    """Clips in which each frame's expression is a fixed linear map of what is heard, and nothing else moves.

    smeared: of what is heard in three frames. personal: its sign is the person's, which the canonical keypoints show.
    """
    law, rng = np.random.default_rng(0), np.random.default_rng(seed)
    heard_by, moved_by, shown_by = (law.normal(size=(8, size)) for size in (512, 63, 63))
    clips = []
    for index in range(count):
        signals = rng.normal(size=(120, 8))
        sign = rng.choice([-1, 1]) if personal else 1
        moving = (signals[:-2] + signals[1:-1] + signals[2:]) / 3**0.5 if smeared else signals[1:-1]
        motion = np.zeros((118, 70))
        motion[:, 0], motion[:, EXPRESSION] = 1.5, 0.01 * sign * moving @ moved_by
        canonical = np.repeat(sign * shown_by[:1], 118, axis=0)
        clips.append(
            Clip(f"{seed}_{index}/0", motion, canonical, np.maximum(signals[1:-1] @ heard_by + 1, 0))
        )
    return clips


def trained_on(clips: list[Clip], **left_out: bool) -> KDTalkerModel:
    """Return a small model after a training of seconds."""
    parameters = replace(
        SMALL_DENOISER, width=64, window=SMALL_WINDOW, prediction="x0", **left_out
    )  # the motion itself is learned sooner than the noise
    recipe = replace(RECIPE, steps=300, batch=16, learning_rate=5e-3)
    data = training_data(clips, SMALL_WINDOW, 0.0)
    trainer = KDTalkerTrainer.begin(parameters, clip_statistics(clips), recipe, data)
    losses = [trainer.train_step(trainer.batch(step)).loss for step in range(recipe.steps)]
    assert np.mean(losses[-20:]) < np.mean(losses[:5])
    return trainer.model.eval()


def agreement(model: KDTalkerModel, held_out: Clip, heard: Clip | None = None) -> float:
    """Return the correlation of what the model makes for somebody it has not seen with the truth.

    heard: whose sound it hears; their own when None.
    """
    statistics = model.statistics
    canonical = torch.tensor(statistics.canonical_token(held_out.canonical[0])).float()
    scores = sample_scores(
        model,
        (canonical, torch.zeros(70)),  # nothing of the truth is given away
        torch.tensor((heard or held_out).audio[1:105]),
        window_starts(104, SMALL_WINDOW, 8),
        seeded_noise([0], 104, 70),
        KDTalkerSamplingParameters(overlap=8),
    )
    made = statistics.denormalised(scores[0].numpy())[:, EXPRESSION]
    return float(np.corrcoef(made.ravel(), held_out.motion[1:105, EXPRESSION].ravel())[0, 1])


def test_a_known_relation_is_found_and_needs_attention():
    """Frames go with the sound around them, not with another's; without attention each knows its own alone."""
    clips, (new, other) = lawful_clips(60, seed=1, smeared=True), lawful_clips(2, seed=5, smeared=True)
    model = trained_on(clips)
    assert agreement(model, new) > 0.9
    assert abs(agreement(model, new, heard=other)) < 0.2
    assert (
        agreement(trained_on(clips, attention=False), new) < 3**-0.5 + 0.1
    )  # what one of three frames can tell


def test_what_only_the_person_shows_needs_the_canonical_token():
    """Two people who move to opposite sides: both are right with the token, one at the most without."""
    clips = lawful_clips(60, seed=1, personal=True)
    people = lawful_clips(6, seed=5, personal=True)
    signs = [np.sign(clip.canonical[0, 0]) for clip in people]
    two = [people[signs.index(sign)] for sign in (-1, 1)]
    whole, without = trained_on(clips), trained_on(clips, canonical_token=False)
    assert min(agreement(whole, person) for person in two) > 0.9
    assert min(agreement(without, person) for person in two) < 0.5


def test_people_speak_in_whole_windows(clips):
    sets = made_sets(people=2, held_out=1)
    model, _ = trained(sets, replace(SMALL_DENOISER, width=32, layers=1), replace(RECIPE, steps=1))
    motion = spoken(model, clips[0], clips[0].clip.audio, seed=0, steps=1, overlap=8)
    assert motion.shape == (64 + 56, 70)  # of the 149 frames after the first
