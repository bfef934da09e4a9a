"""The small ACTalker's ingredients in a folder: made once, kept, and gone on with where they were cut short."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from talking_portrait.training import actalker_ingredients as made
from talking_portrait.training.actalker_autoencoder import AutoencoderTrainingParameters
from talking_portrait.training.actalker_data import ControlledClip, heard_rows, write_clips

RECIPE = AutoencoderTrainingParameters(steps=2, clips=1, frames=2, warmup=0)


def clip(seed: int, frames: int = 3) -> ControlledClip:
    rng = np.random.default_rng(seed)
    return ControlledClip(
        frames=rng.integers(0, 256, (frames, 64, 64, 3), dtype=np.uint8),
        heard=np.zeros((heard_rows(frames), 2, 3), np.float16),
        motion=np.zeros((frames, 58), np.float32),
        mouth_opening=rng.random(frames, np.float32),
        eye_opening=rng.random(frames, np.float32),
        turn=rng.random((frames, 2), np.float32),
        face_box=np.int32([4, 4, 60, 60]),
        mouth_box=np.int32([26, 40, 38, 48]),
        eye_box=np.int32([18, 20, 46, 24]),
        identity_seed=seed,
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    write_clips(tmp_path / made.TRAINING_CLIPS_FILE, [clip(seed) for seed in range(4)])
    return tmp_path


def stopping(done: int, total: int) -> None:
    raise InterruptedError


def test_clips_that_are_there_are_kept(folder, monkeypatch):
    monkeypatch.setattr(made, "controlled_clips", None)
    assert [one.identity_seed for one in made.training_clips(folder)] == [0, 1, 2, 3]


def test_clips_are_made_of_people_that_training_and_results_do_not_share(tmp_path, monkeypatch):
    asked = []

    def make(people, clips_each, seconds, seed, listener, progress):
        asked.append((set(people), seed))
        return [clip(people[0])]

    monkeypatch.setattr(made, "controlled_clips", make)
    monkeypatch.setattr(made, "embedded_listener", lambda: None)
    made.training_clips(tmp_path)
    made.held_out_clips(tmp_path)
    (people, seed), (others, other_seed) = asked
    assert (len(people), len(others)) == (200, 16)
    assert not people & others
    assert seed != other_seed


def test_a_training_cut_short_goes_on_as_the_same_run(folder):
    whole = load_file(made.trained_autoencoder(folder, RECIPE))
    (folder / made.AUTOENCODER_FILE).unlink()
    (folder / made.AUTOENCODER_CHECKPOINT_FILE).unlink()
    trainer = made.AutoencoderTrainer(made.SMALL_AUTOENCODER, RECIPE, made.training_clips(folder))
    made.fit(trainer, folder / made.AUTOENCODER_CHECKPOINT_FILE, until=1)
    other = replace(RECIPE, learning_rate=0.5)
    resumed = load_file(made.trained_autoencoder(folder, other))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_stops_it_leaves_no_file(folder):
    with pytest.raises(InterruptedError):
        made.trained_autoencoder(folder, RECIPE, progress=stopping)
    assert not (folder / made.AUTOENCODER_FILE).exists()


def test_a_reader_is_fitted_once(folder, monkeypatch):
    made.trained_autoencoder(folder, RECIPE)
    first = made.trained_reader(folder, clips=2, steps=1)
    monkeypatch.setattr(made, "fitted_frame_reader", None)
    frames = clip(9).frames
    np.testing.assert_array_equal(made.trained_reader(folder).read(frames), first.read(frames))
