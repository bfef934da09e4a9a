"""Where windows meet: a model that has learned smooth motion goes over from one to the next without a jolt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.keypoint_diffusion.kdtalker_sampler import (
    KDTalkerSamplingParameters,
    sample_scores,
)
from talking_portrait.core_models.keypoint_diffusion.windows import seeded_noise, window_starts
from talking_portrait.training.kdtalker_dataset import Clip
from talking_portrait.training.kdtalker_demonstration import RECIPE, SMALL_DENOISER
from talking_portrait.training.kdtalker_run import KDTalkerTrainer, training_data
from talking_portrait.training.kdtalker_statistics import clip_statistics
from talking_portrait.training.made_motion import smooth_signals

WINDOW, OVERLAP = 32, 8
SEEDS = range(32)


@pytest.fixture(scope="module")
def smooth_model():
    """A small model trained for seconds on clips in which everything drifts smoothly and nothing is said."""
    rng = np.random.default_rng(0)
    clips = []
    for index in range(40):
        drift = smooth_signals(8, 150, 5.0, rng).T
        motion = drift @ np.random.default_rng(1).normal(size=(8, 70))
        motion[:, 0] = 1.5 + 0.01 * motion[:, 0]
        clips.append(Clip(f"{index}/0", motion, np.zeros((150, 63)), np.zeros((150, 512))))
    statistics = clip_statistics(clips)
    sizes = replace(SMALL_DENOISER, width=64, window=WINDOW, prediction="x0")
    recipe = replace(RECIPE, steps=400, batch=16, learning_rate=4e-3)
    trainer = KDTalkerTrainer.begin(sizes, statistics, recipe, training_data(clips, WINDOW, 0.0))
    for step in range(recipe.steps):
        trainer.train_step(trainer.batch(step))
    return trainer.model.eval()


def jolts(model, overlap: int) -> tuple[np.ndarray, float]:
    """Return how much the velocity changes from frame to frame, averaged over clips, numbers and seams.

    Where windows meet, by the place from the seam on (the frame before it to the last that is shared), and within them.
    """
    frames = WINDOW + 5 * (WINDOW - OVERLAP)
    starts = window_starts(frames, WINDOW, overlap)
    padded = starts[-1] + WINDOW
    scores = sample_scores(
        model,
        (torch.zeros(70), torch.zeros(70)),
        torch.zeros(padded, 512),
        starts,
        seeded_noise(list(SEEDS), padded, 70),
        KDTalkerSamplingParameters(overlap=overlap),
    ).numpy()
    changes = np.abs(np.diff(scores, n=2, axis=1)).mean(axis=(0, 2))  # row i is around frame i + 1
    places = np.arange(-2, max(overlap, 1))
    seams = np.array(starts[1:])[:, None] + places
    within = np.delete(changes, seams.ravel())
    return changes[seams].mean(axis=0), float(within.mean())


def test_the_velocity_jumps_no_more_at_seams_than_within_windows(smooth_model):
    at_seams, within = jolts(smooth_model, OVERLAP)
    assert at_seams.mean() <= within
    assert at_seams.max() <= 1.25 * within  # of ten places, each an average over five seams only


def test_hard_seams_jolt_and_fading_takes_it_away(smooth_model):
    """The release's windows side by side: what the overlap is for."""
    hard, within = jolts(smooth_model, 0)
    faded, _ = jolts(smooth_model, OVERLAP)
    assert hard.max() > 2 * within
    assert faded.max() < 0.5 * hard.max()
