"""A run of the small FantasyTalking's training: it repeats itself, goes on where it stopped, saves what it trained."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.strict_loading import read_metadata
from talking_portrait.core_models.video_diffusion.fantasytalking.loading import load_fantasytalking_file
from talking_portrait.core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
from talking_portrait.core_models.video_diffusion.fantasytalking.parameters import FantasyTalkingParameters
from talking_portrait.training import fantasytalking_latents as latents_of
from talking_portrait.training import fantasytalking_run as made
from talking_portrait.training.fantasytalking import (
    FROZEN,
    LOW_RANK,
    TrainingClips,
    drawn_batch,
    training_loss,
)
from talking_portrait.training.fantasytalking_run import FantasyTalkingCheckpoint, FantasyTalkingTrainer
from talking_portrait.training.kdtalker_run import TrainingDivergedError
from talking_portrait.training.stepwise_training import fit

from .fantasytalking_training_clips import RECIPE as LARGER_RECIPE
from .fantasytalking_training_clips import (
    TINY_AUTOENCODER,
    tiny_autoencoder,
    tiny_model,
    tiny_parameters,
    training_clips,
)

TINY = tiny_parameters()
RECIPE = replace(LARGER_RECIPE, batch=1, clip_level_steps=1)


@pytest.fixture(scope="module")
def data():
    return training_clips()


def trained(data, steps: int = 0, recipe=RECIPE, parameters=TINY, start=None) -> FantasyTalkingTrainer:
    trainer = FantasyTalkingTrainer(parameters, recipe, data, start=start)
    for _ in range(steps):
        trainer.train_step()
    return trainer


@pytest.fixture(scope="module")
def trainer(data):
    """After two steps, one of each stage; tests that go on with it make one of their own."""
    return trained(data, 2)


def same(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestRun:
    def test_the_same_seed_is_the_same_run(self, data, trainer):
        again = trained(data, 2)
        assert same(again.model, trainer.model)
        assert same(again.average, trainer.average)
        other, first = trained(data, recipe=replace(RECIPE, seed=6)), trained(data)
        assert not same(other.model, first.model)

    def test_the_callers_random_numbers_are_left_alone(self, data):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        trained(data, 1)
        assert torch.equal(torch.rand(1), expected)

    def test_steps_on_the_same_batch_lower_its_loss(self, data):
        trainer, losses = trained(data, recipe=replace(RECIPE, learning_rate=1e-2, warmup_steps=0)), []
        for _ in range(5):
            trainer.step = 0
            losses.append(trainer.train_step().loss)
        assert losses[-1] < 0.97 * losses[0]

    def test_the_average_follows_with_branches_of_its_own(self, data, trainer):
        """A copy whose intensity went to the first model's time embedding would not change with it."""
        one = trained(data, recipe=replace(RECIPE, average_decay=0.15))
        mean = one.average.transformer.proj_out.weight.clone()
        for step in range(3):
            one.train_step()
            decay = min(0.15, (1 + step) / (10 + step))
            mean = decay * mean + (1 - decay) * one.model.transformer.proj_out.weight.detach()
            torch.testing.assert_close(one.average.transformer.proj_out.weight, mean)
        batch = drawn_batch(data, replace(RECIPE, dropped=0, intensity_dropped=0), 2)
        average = trained(data).average
        average.load_state_dict(tiny_model().state_dict())
        torch.testing.assert_close(training_loss(average, batch), training_loss(tiny_model(), batch))

    def test_divergence_leaves_the_weights_alone(self, data):
        trainer, before = trained(data, 1), trained(data, 1)
        trainer.data = TrainingClips(data.data, np.full_like(data.latents, np.nan), data.starts)
        with pytest.raises(TrainingDivergedError, match=r"step 1: loss nan.*lower learning rate"):
            trainer.train_step()
        assert trainer.step == 1
        assert same(trainer.model, before.model)
        trainer.data = data
        assert trainer.train_step() == before.train_step()
        assert same(trainer.average, before.average)

    def test_face_recognition_is_not_trained_on(self, data):
        with pytest.raises(ValueError, match="portrait encoder"):
            trained(data, parameters=replace(TINY, portrait_encoder=None))


BASE_PARTS = ("transformer.blocks.0.attn1.to_q.weight", "transformer.patch_embedding.weight")
NEW_PARTS = (
    "transformer.blocks.0.attn2.processor.v_proj.weight",
    "transformer.blocks.0.attn2.processor.identity_v_proj.weight",
    "audio_projection.proj.weight",
    "intensity.proj_out.weight",
    "portrait_encoder.features.weight",
)


class TestBases:
    @pytest.mark.parametrize("base", [LOW_RANK, FROZEN])
    def test_wan_stays_and_what_is_added_learns(self, data, base):
        start = tiny_model().state_dict()
        recipe = replace(RECIPE, base=base, dropped=0, intensity_dropped=0)
        trainer = trained(data, 2, recipe, start=start)
        weights = trainer.model.state_dict()
        for name in BASE_PARTS:
            assert torch.equal(weights[name], start[name]), name
        for name in NEW_PARTS:
            assert not torch.equal(weights[name], start[name]), name
        added = [name for name in weights if name not in start]
        assert (len(added) > 0) == (base == LOW_RANK)
        assert all(".attn1.to_" in name or ".attn2.to_" in name for name in added)

    def test_a_low_rank_run_goes_on_and_merges_into_a_plain_file(self, data, tmp_path):
        recipe = replace(RECIPE, base=LOW_RANK, steps=3)
        start = tiny_model().state_dict()
        whole = trained(data, 3, recipe, start=start)
        begun = trained(data, 1, recipe, start=start)
        begun.write_checkpoint(tmp_path / "c.pt")
        resumed = FantasyTalkingTrainer.from_checkpoint(
            FantasyTalkingCheckpoint.read(tmp_path / "c.pt"), data
        )
        fit(resumed, tmp_path / "c.pt")
        assert same(resumed.model, whole.model)
        merged = FantasyTalkingCheckpoint.read(tmp_path / "c.pt").averaged_model()
        assert merged.state_dict().keys() == start.keys()
        assert not torch.equal(merged.state_dict()[BASE_PARTS[0]], start[BASE_PARTS[0]])
        batch = drawn_batch(data, recipe, 9)
        torch.testing.assert_close(training_loss(merged, batch), training_loss(whole.average, batch))
        made.export(merged, tmp_path / "m.safetensors", {})
        assert same(load_fantasytalking_file(tmp_path / "m.safetensors"), merged)

    def test_weights_of_another_model(self, data):
        with pytest.raises(ValueError, match="what the training begins with"):
            trained(data, start={"strange": torch.zeros(1)})


@pytest.fixture(scope="module")
def whole_one(trainer, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    trainer.write_checkpoint(path)
    return path.read_bytes()


@pytest.fixture
def written(whole_one, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(whole_one)
    return tmp_path / "checkpoint.pt"


class TestCheckpoints:
    def test_a_run_that_goes_on_is_the_run_that_never_stopped(self, data, tmp_path):
        """From the first stage into the second."""
        recipe = replace(RECIPE, steps=3)
        whole, begun = trained(data, 3, recipe), trained(data, 1, recipe)
        begun.write_checkpoint(tmp_path / "run" / "checkpoint.pt")
        read = FantasyTalkingCheckpoint.read(tmp_path / "run" / "checkpoint.pt")
        resumed = FantasyTalkingTrainer.from_checkpoint(read, data)
        assert (resumed.recipe, resumed.model.parameters_used, resumed.step) == (recipe, TINY, 1)
        fit(resumed)
        assert resumed.step == 3
        assert same(resumed.model, whole.model)
        assert same(resumed.average, whole.average)
        one, other = (t.optimiser.state_dict()["state"] for t in (resumed, whole))
        for number, moments in one.items():
            assert all(torch.equal(value, other[number][name]) for name, value in moments.items())

    def test_damaged_and_foreign_ones_are_refused(self, written):
        content = written.read_bytes()
        written.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="not a"):
            FantasyTalkingCheckpoint.read(written)
        torch.save({"kind": "actalker_training_1"}, written)
        with pytest.raises(ValueError, match="not a checkpoint of FantasyTalking's training"):
            FantasyTalkingCheckpoint.read(written)
        written.unlink()
        with pytest.raises(FileNotFoundError, match="no checkpoint"):
            FantasyTalkingCheckpoint.read(written)

    @pytest.mark.parametrize(
        "change",
        [{"recipe": {"depth": 3}}, {"recipe": None}, {"parameters": "{}"}, {"parameters": "not json"}],
    )
    def test_one_of_another_version_is_refused(self, written, whole_one, change):
        content = torch.load(io.BytesIO(whole_one), weights_only=True)
        torch.save({**content, **change}, written)
        with pytest.raises(ValueError, match=r"checkpoint\.pt.*another version"):
            FantasyTalkingCheckpoint.read(written)

    @pytest.mark.parametrize("state", ["weights", "average"])
    def test_other_weights_are_named(self, written, data, state):
        content = torch.load(written, weights_only=True)
        content[state]["strange"] = content[state].pop("transformer.proj_out.bias")
        torch.save(content, written)
        with pytest.raises(ValueError, match=r"transformer\.proj_out\.bias.*strange"):
            FantasyTalkingTrainer.from_checkpoint(FantasyTalkingCheckpoint.read(written), data)

    def test_the_averaged_model_of_one(self, written, trainer):
        checkpoint = FantasyTalkingCheckpoint.read(written)
        model = checkpoint.averaged_model()
        assert not model.training
        assert not any(value.requires_grad for value in model.parameters())
        assert same(model, trainer.average)
        assert not same(model, trainer.model)
        assert (checkpoint.facts["step"], checkpoint.facts["learning_rate"]) == (2, RECIPE.learning_rate)


class TestExport:
    def test_what_is_exported_is_what_loads(self, trainer, data, tmp_path):
        path = tmp_path / "mine.safetensors"
        made.export(trainer.average, path, {"step": 2})
        loaded = load_fantasytalking_file(path)
        assert loaded.parameters_used == TINY
        assert same(loaded, trainer.average)
        batch = drawn_batch(data, RECIPE, 7)
        # Products depend on where in memory the weights lie, so the last bit may differ.
        torch.testing.assert_close(
            training_loss(loaded, batch), training_loss(trainer.average, batch), rtol=1e-5, atol=0
        )
        assert json.loads(read_metadata(path)[made.TRAINING_ENTRY]) == {"step": 2}
        assert list(tmp_path.iterdir()) == [path]

    def test_another_ending_is_refused(self, trainer, tmp_path):
        with pytest.raises(ValueError, match=r"safetensors, but the name is 'mine\.pth'"):
            made.export(trainer.average, tmp_path / "mine.pth", {})
        assert not list(tmp_path.iterdir())


def test_the_small_model_is_small_and_its_sizes_are_plain_values():
    sizes = made.small_parameters(6, 192)
    with torch.device("meta"):
        model = FantasyTalkingModel(sizes)
    assert 1e6 < sum(value.numel() for value in model.parameters()) < 5e6
    assert FantasyTalkingParameters.from_dict(json.loads(json.dumps(sizes.to_dict()))) == sizes
    assert sizes.defaults.fps == 12.5
    assert made.small_parameters(6, 192, 6, 8).wan.width == 192


class TestKeptLatents:
    def test_they_are_encoded_once(self, data, tmp_path, monkeypatch):
        clips, autoencoder = data.data.clips, tiny_autoencoder()
        path = latents_of.latents_path(tmp_path / "clips.npz")
        assert path == tmp_path / "clips.latents.npz"
        digest, told = latents_of.latents_digest(clips, autoencoder), []
        latents, starts = latents_of.kept_latents(
            path, clips, autoencoder, digest, lambda done, total: told.append((done, total))
        )
        assert latents.shape == starts.shape == (3, 4, 3, 8, 8)
        assert latents.dtype == starts.dtype == np.float16
        assert told == [(1, 3), (2, 3), (3, 3)]
        # The autoencoder looks back only: the first latent frame is of the first frame alone.
        np.testing.assert_array_equal(latents[:, :, 0], starts[:, :, 0])
        assert not np.array_equal(latents[:, :, 1], starts[:, :, 1])
        monkeypatch.setattr(latents_of, "clip_latents", None)
        again = latents_of.kept_latents(path, clips, autoencoder, digest)
        np.testing.assert_array_equal(again[0], latents)
        np.testing.assert_array_equal(again[1], starts)
        assert list(tmp_path.iterdir()) == [path]

    def test_others_are_made_anew(self, data, tmp_path):
        path, autoencoder = tmp_path / "clips.latents.npz", tiny_autoencoder()
        path.write_bytes(b"damaged")
        first, _ = latents_of.kept_latents(path, data.data.clips[:1], autoencoder, "a")
        other, _ = latents_of.kept_latents(path, data.data.clips[1:2], autoencoder, "b")
        assert not np.array_equal(first, other)
        with pytest.raises(ValueError, match="none frames"):
            latents_of.kept_latents(tmp_path / "x.npz", [], autoencoder, "a")

    def test_the_digest_tells_clips_autoencoders_and_statistics_apart(self, data):
        clips = data.data.clips
        measured = TINY_AUTOENCODER.with_statistics([0.5] * 4, [2.0] * 4)
        digests = [
            latents_of.latents_digest(clips, tiny_autoencoder()),
            latents_of.latents_digest(clips[:2], tiny_autoencoder()),
            latents_of.latents_digest(clips, tiny_autoencoder(seed=1)),
            latents_of.latents_digest(clips, tiny_autoencoder(parameters=measured)),
        ]
        assert len(set(digests)) == 4
        assert latents_of.latents_digest(clips, tiny_autoencoder()) == digests[0]
