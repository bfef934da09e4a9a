"""The trainer on a few seconds of made-up recordings: it learns, repeats itself, and saves what it trained."""

import json

import numpy as np
import pytest
import torch
from talking_portrait.core_models.keypoint_diffusion.loading import load_pocket
from talking_portrait.core_models.keypoint_diffusion.schedule import TRAINING_STEPS
from talking_portrait.training import pocket as trainer
from talking_portrait.training.mel_augmentation import augment
from talking_portrait.training.pocket_data import (
    load_recordings,
    record,
    save_recordings,
    speechless_utterances,
)
from talking_portrait.training.speech_synthesis import SAMPLE_RATE, Utterance
from talking_portrait.training.visemes import Phone


@pytest.fixture(scope="module")
def recordings():
    """Buzzes that stand for an open vowel and silences that stand for p, alternating."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(3):
        phones = [Phone("a" if i % 2 else "PP", 0.2 * i, 0.2 * (i + 1), i % 2 == 0) for i in range(24)]
        time = np.arange(round(4.8 * SAMPLE_RATE)) / SAMPLE_RATE
        voiced = (time // 0.2).astype(int) % 2 == 1
        buzz = sum(np.sin(2 * np.pi * (100 + 10 * index) * k * time) for k in range(1, 20)) * 0.02
        made.append(
            record(Utterance((buzz * voiced).astype(np.float32), tuple(phones), f"buzz {index}"), rng)
        )
    return made


def small_run(steps: int, recordings, prediction: str = "x0", schedule: str = "cosine"):
    p = trainer.TrainingParameters(batch=4, warmup_steps=5, prediction=prediction, schedule=schedule)
    model = trainer.new_model(p)
    sampler = trainer.WindowSampler(recordings, 74, np.random.default_rng(p.seed))
    mean, std = trainer.motion_statistics(sampler, 20)
    model.motion_mean.copy_(mean)
    model.motion_std.copy_(std)
    generator = torch.Generator().manual_seed(p.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    parts = []
    for _ in range(steps):
        loss, figures = trainer.training_loss(model, sampler.batch(p.batch, p.emotion_dropout), p, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        parts.append(figures)
    return model, parts


def test_the_mouth_is_learned(recordings):
    _, parts = small_run(12, recordings)
    assert np.mean([p["mouth"] for p in parts[-3:]]) < 0.8 * parts[0]["mouth"]


def test_the_same_seed_gives_the_same_losses(recordings):
    assert small_run(2, recordings)[1] == small_run(2, recordings)[1]


def test_kdtalkers_epsilon_recipe_trains_in_the_same_trainer(recordings):
    model, parts = small_run(2, recordings, "epsilon", "linear")
    assert model.parameters_used.denoiser.prediction == "epsilon"
    assert all(np.isfinite(p["diffusion"]) for p in parts)


def test_what_is_saved_is_what_loads(recordings, tmp_path):
    model, _ = small_run(1, recordings)
    trainer.save_model(model, tmp_path / "pocket.safetensors", {"seed": 1})
    loaded = load_pocket(tmp_path / "pocket.safetensors")
    assert loaded.parameters_used == model.parameters_used
    for (name, value), other in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.allclose(value, other, rtol=2e-3, atol=1e-4), name
    assert not list(tmp_path.glob("*.partial"))


def test_recordings_survive_the_disk(recordings, tmp_path):
    save_recordings(recordings, tmp_path / "data.npz")
    for a, b in zip(recordings, load_recordings(tmp_path / "data.npz"), strict=True):
        assert a.voice == b.voice
        assert (a.mel_db == b.mel_db).all()
        assert (a.poses == b.poses).all()


def test_too_short_recordings_are_named(recordings):
    with pytest.raises(ValueError, match="as long as a training window"):
        trainer.WindowSampler(recordings, 10_000, np.random.default_rng(0))


def test_augmentation_keeps_shape_and_is_seeded():
    mel = torch.full((3, 40, 80), -30.0)
    a = augment(mel, torch.Generator().manual_seed(1))
    assert a.shape == mel.shape
    assert torch.isfinite(a).all()
    assert torch.equal(a, augment(mel, torch.Generator().manual_seed(1)))
    assert not torch.equal(a, augment(mel, torch.Generator().manual_seed(2)))


def test_speechless_sounds_have_resting_mouths():
    rng = np.random.default_rng(1)
    for utterance in speechless_utterances(3, rng):
        assert not record(utterance, rng).mouth.any()


def test_learning_rate_warms_up_and_ends_at_zero():
    p = trainer.TrainingParameters()
    assert trainer.learning_rate_at(0, 0.0, p) < p.learning_rate / 100
    assert trainer.learning_rate_at(TRAINING_STEPS, 0.0, p) == pytest.approx(p.learning_rate)
    assert trainer.learning_rate_at(TRAINING_STEPS, 1.0, p) == pytest.approx(0.0, abs=1e-9)


def test_parameters_travel_as_json(recordings):
    model, _ = small_run(1, recordings)
    text = json.dumps(model.parameters_used.to_dict())
    assert type(model.parameters_used).from_dict(json.loads(text)) == model.parameters_used
