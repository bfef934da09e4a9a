"""A run of the small ACTalker's training: it repeats itself, goes on where it stopped, and saves what it trained."""

import io
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from talking_portrait.core_models.strict_loading import read_metadata
from talking_portrait.core_models.video_diffusion.actalker.loading import KEPT_IN_FLOAT32, load_actalker
from talking_portrait.core_models.video_diffusion.actalker.model import ACTalkerModel, ACTalkerParameters
from talking_portrait.training import actalker_kept_latents as latents_of
from talking_portrait.training import actalker_run as made
from talking_portrait.training.actalker import TrainingClips, drawn_batch, training_loss
from talking_portrait.training.actalker_latents import encode_clips
from talking_portrait.training.actalker_run import ACTalkerCheckpoint, ACTalkerTrainer
from talking_portrait.training.kdtalker_run import TrainingDivergedError
from talking_portrait.training.stepwise_training import fit

from .actalker_clips import RECIPE as LARGER_RECIPE
from .actalker_clips import tiny_autoencoder, tiny_parameters, training_clips

TINY = tiny_parameters()
RECIPE = replace(LARGER_RECIPE, batch=1, frames=2)


@pytest.fixture(scope="module")
def data():
    return training_clips()


def trained(data, steps: int = 0, recipe=RECIPE, parameters=TINY) -> ACTalkerTrainer:
    trainer = ACTalkerTrainer(parameters, recipe, data)
    for _ in range(steps):
        trainer.train_step()
    return trainer


@pytest.fixture(scope="module")
def trainer(data):
    """After two steps; tests that go on with it make one of their own."""
    return trained(data, 2)


def same(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestRun:
    def test_the_same_seed_is_the_same_run(self, data, trainer):
        again = trained(data, 2)
        assert same(again.model, trainer.model)
        assert same(again.average, trainer.average)
        other = trained(data, recipe=replace(RECIPE, seed=6))
        assert not torch.equal(other.model.unet.conv_in.weight, trained(data).model.unet.conv_in.weight)

    def test_the_callers_random_numbers_are_left_alone(self, data):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        trained(data, 1)
        assert torch.equal(torch.rand(1), expected)

    def test_steps_on_the_same_batch_lower_its_loss(self, data):
        trainer, losses = trained(data, recipe=replace(RECIPE, learning_rate=1e-2)), []
        for _ in range(4):
            trainer.step = 0
            losses.append(trainer.train_step().loss)
        assert losses[-1] < 0.9 * losses[0]

    def test_the_average_follows(self, data):
        trainer = trained(data, recipe=replace(RECIPE, average_decay=0.15))
        mean = trainer.average.unet.conv_out.weight.clone()
        for step in range(3):
            trainer.train_step()
            decay = min(0.15, (1 + step) / (10 + step))
            mean = decay * mean + (1 - decay) * trainer.model.unet.conv_out.weight.detach()
            torch.testing.assert_close(trainer.average.unet.conv_out.weight, mean)

    def test_the_recipes_regions_are_trained_with(self, data):
        """Only a batch in which both signals work can tell."""
        step = next(step for step in range(99) if drawn_batch(data, RECIPE, step).gates == (1, 1))
        full = trained(data, recipe=replace(RECIPE, regions="full"))
        own = trained(data)
        own.step = full.step = step
        assert own.train_step() != full.train_step()

    def test_divergence_leaves_the_weights_alone(self, data):
        trainer = trained(data, 1)
        before = trained(data, 1)
        trainer.data = TrainingClips(data.clips, np.full_like(data.latents, np.nan), data.scaling_factor)
        with pytest.raises(TrainingDivergedError, match=r"step 1: loss nan.*lower learning rate"):
            trainer.train_step()
        assert trainer.step == 1
        assert same(trainer.model, before.model)
        assert same(trainer.average, before.average)
        trainer.data = data
        assert trainer.train_step() == before.train_step()
        assert same(trainer.model, before.model)


@pytest.fixture(scope="module")
def whole_one(trainer, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    trainer.write_checkpoint(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def content(whole_one) -> dict:
    """What one holds, without its tensors."""
    held = torch.load(io.BytesIO(whole_one), weights_only=True)
    return {**held, "weights": {}, "average": {}, "optimiser": {}}


class TestCheckpoints:
    @pytest.mark.parametrize("layer", ["per_frame", "joint"])
    def test_a_run_that_goes_on_is_the_run_that_never_stopped(self, data, layer, tmp_path):
        recipe, sizes = replace(RECIPE, steps=3), tiny_parameters(layer=layer)
        whole = trained(data, 3, recipe, sizes)
        begun = trained(data, 1, recipe, sizes)
        begun.write_checkpoint(tmp_path / "run" / "checkpoint.pt")
        read = ACTalkerCheckpoint.read(tmp_path / "run" / "checkpoint.pt")
        resumed = ACTalkerTrainer.from_checkpoint(read, data)
        assert (resumed.recipe, resumed.model.parameters_used, resumed.step) == (recipe, sizes, 1)
        fit(resumed)
        assert resumed.step == 3
        assert same(resumed.model, whole.model)
        assert same(resumed.average, whole.average)
        one, other = (t.optimiser.state_dict()["state"] for t in (resumed, whole))
        for number, moments in one.items():
            assert all(torch.equal(value, other[number][name]) for name, value in moments.items())

    @pytest.fixture
    def written(self, whole_one, tmp_path):
        (tmp_path / "checkpoint.pt").write_bytes(whole_one)
        return tmp_path / "checkpoint.pt"

    def test_a_truncated_one_is_refused(self, written):
        content = written.read_bytes()
        for kept in (len(content) // 2, len(content) - 10, 0):
            written.write_bytes(content[:kept])
            with pytest.raises(ValueError, match="not a"):
                ACTalkerCheckpoint.read(written)

    def test_damage_inside_is_noticed(self, written):
        content = bytearray(written.read_bytes())
        content[len(content) // 2] ^= 1
        written.write_bytes(content)
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            ACTalkerCheckpoint.read(written)

    def test_a_foreign_one_is_refused(self, written):
        for content in ({"kind": "takin_ada_speech_training_1"}, [1, 2]):
            torch.save(content, written)
            with pytest.raises(ValueError, match="not a checkpoint of ACTalker's training"):
                ACTalkerCheckpoint.read(written)

    @pytest.mark.parametrize(
        "change",
        [{"recipe": {"depth": 3}}, {"recipe": None}, {"parameters": "{}"}, {"parameters": "not json"}],
    )
    def test_one_of_another_version_is_refused(self, written, content, change):
        torch.save({**content, **change}, written)
        with pytest.raises(ValueError, match=r"checkpoint\.pt.*another version"):
            ACTalkerCheckpoint.read(written)

    @pytest.mark.parametrize("name", ["weights", "average", "optimiser", "step", "recipe"])
    def test_one_that_lacks_a_part_is_refused(self, written, content, name):
        torch.save({key: value for key, value in content.items() if key != name}, written)
        with pytest.raises(ValueError, match=name):
            ACTalkerCheckpoint.read(written)

    @pytest.mark.parametrize("state", ["weights", "average"])
    def test_other_weights_are_named(self, written, data, state):
        content = torch.load(written, weights_only=True)
        content[state]["strange"] = content[state].pop("unet.conv_in.bias")
        torch.save(content, written)
        with pytest.raises(ValueError, match=r"unet\.conv_in\.bias.*strange"):
            ACTalkerTrainer.from_checkpoint(ACTalkerCheckpoint.read(written), data)

    def test_none(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no checkpoint"):
            ACTalkerCheckpoint.read(tmp_path / "checkpoint.pt")

    def test_an_interrupted_write_leaves_the_last_whole_one(self, written, trainer, monkeypatch):
        before = written.read_bytes()

        def interrupted(content, file):
            file.write(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer.write_checkpoint(written)
        assert written.read_bytes() == before
        assert [path.name for path in written.parent.iterdir()] == [written.name]

    def test_the_averaged_model_of_one(self, written, trainer):
        checkpoint = ACTalkerCheckpoint.read(written)
        model = checkpoint.averaged_model()
        assert not model.training
        assert not any(value.requires_grad for value in model.parameters())
        assert same(model, trainer.average)
        assert not same(model, trainer.model)
        assert (checkpoint.facts["step"], checkpoint.facts["learning_rate"]) == (2, RECIPE.learning_rate)


class TestFit:
    def test_it_stops_where_it_is_told_to(self, data, tmp_path, caplog):
        path, told = tmp_path / "c.pt", []
        trainer = trained(data, recipe=replace(RECIPE, steps=4))
        with caplog.at_level(logging.INFO):
            fit(trainer, path, 10, 2, lambda done, total: told.append((done, total)), until=3)
        assert trainer.step == ACTalkerCheckpoint.read(path).step == 3
        assert told == [(1, 3), (2, 3), (3, 3)]
        assert [record.args[0] for record in caplog.records] == [2]
        fit(trainer, path, until=10**9)
        assert trainer.step == ACTalkerCheckpoint.read(path).step == 4
        fit(trainer, path)
        assert trainer.step == 4

    def test_what_cancels_it_leaves_the_last_checkpoint(self, data, tmp_path):
        def cancel(done, total):
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(trained(data), tmp_path / "c.pt", 2, progress=cancel)
        assert ACTalkerCheckpoint.read(tmp_path / "c.pt").step == 2

    @pytest.mark.parametrize("name", ["checkpoint_every", "log_every", "until"])
    def test_impossible_limits(self, trainer, name):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            fit(trainer, **{name: 0})


class TestExport:
    def test_what_is_exported_is_what_loads(self, trainer, data, tmp_path):
        path = tmp_path / "mine.safetensors"
        made.export(trainer.average, path, {"step": 2})
        loaded = load_actalker(path)
        assert loaded.parameters_used == TINY
        assert not loaded.training
        assert same(loaded, trainer.average)
        batch = drawn_batch(data, RECIPE, 7)
        # Products depend on where in memory the weights lie, so the last bit may differ.
        torch.testing.assert_close(
            training_loss(loaded, batch), training_loss(trainer.average, batch), rtol=1e-5, atol=0
        )
        assert json.loads(read_metadata(path)[made.TRAINING_ENTRY]) == {"step": 2}
        assert list(tmp_path.iterdir()) == [path]

    def test_half_is_close_and_keeps_what_the_scan_computes_with(self, trainer, data, tmp_path):
        path = tmp_path / "half.safetensors"
        made.export(trainer.average, path, {}, half=True)
        kept = {name for name, value in load_file(path).items() if value.dtype == torch.float32}
        assert kept == {name for name in trainer.average.state_dict() if name.endswith(KEPT_IN_FLOAT32)}
        assert {name.rsplit(".", 1)[1] for name in kept} == {"A_logs", "Ds", "dt_projs_bias"}
        loaded, batch = load_actalker(path), drawn_batch(data, RECIPE, 7)
        for name in kept:
            assert torch.equal(loaded.state_dict()[name], trainer.average.state_dict()[name])
        exact = training_loss(trainer.average, batch)
        torch.testing.assert_close(training_loss(loaded, batch), exact, rtol=1e-2, atol=1e-2)
        light = load_actalker(path, torch.float16).state_dict()
        assert {name for name, value in light.items() if value.dtype == torch.float32} == kept

    def test_another_ending_is_refused(self, trainer, tmp_path):
        with pytest.raises(ValueError, match=r"safetensors, but the name is 'mine\.pth'"):
            made.export(trainer.average, tmp_path / "mine.pth", {})
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layer", ["per_frame", "joint", "none"])
def test_the_small_model_is_small_and_its_sizes_are_plain_values(layer):
    sizes = made.small_parameters(6, 192, layer)
    with torch.device("meta"):
        model = ACTalkerModel(sizes)
    assert 2e6 < sum(value.numel() for value in model.parameters()) < 12e6
    assert ACTalkerParameters.from_dict(json.loads(json.dumps(sizes.to_dict()))) == sizes
    assert sizes.pose.stride == 4


@pytest.fixture(scope="module")
def autoencoder():
    return tiny_autoencoder()


class TestKeptLatents:
    def test_they_are_encoded_once(self, data, autoencoder, tmp_path, monkeypatch):
        path = latents_of.latents_path(tmp_path / "clips.npz")
        assert path == tmp_path / "clips.latents.npz"
        digest, told = latents_of.latents_digest(data.clips, autoencoder), []
        made = latents_of.kept_latents(
            path, data.clips, autoencoder, digest, lambda done, total: told.append((done, total))
        )
        np.testing.assert_array_equal(made, encode_clips(autoencoder, data.clips))
        assert made.dtype == np.float16
        assert told == [(1, 3), (2, 3), (3, 3)]
        monkeypatch.setattr(latents_of, "encode_clips", None)
        np.testing.assert_array_equal(latents_of.kept_latents(path, data.clips, autoencoder, digest), made)
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("content", [b"", b"damaged", None])
    def test_others_are_made_anew(self, data, autoencoder, tmp_path, content):
        path = tmp_path / "clips.latents.npz"
        if content is None:
            np.savez(path, latents=np.zeros(3))
        else:
            path.write_bytes(content)
        made = latents_of.kept_latents(path, data.clips[:1], autoencoder, "a")
        assert made.shape == (1, 5, 4, 8, 8)
        again = latents_of.kept_latents(path, data.clips[1:2], autoencoder, "b")
        np.testing.assert_array_equal(again, encode_clips(autoencoder, data.clips[1:2]))

    def test_the_digest_tells_clips_and_autoencoders_apart(self, data, autoencoder):
        digest = latents_of.latents_digest(data.clips, autoencoder)
        assert latents_of.latents_digest(data.clips, tiny_autoencoder()) == digest
        others = {
            latents_of.latents_digest(data.clips[:2], autoencoder),
            latents_of.latents_digest(data.clips, tiny_autoencoder(seed=1)),
            latents_of.latents_digest(data.clips, tiny_autoencoder(factor=0.5)),
        }
        assert len(others | {digest}) == 4

    def test_no_clips(self, autoencoder, tmp_path):
        with pytest.raises(ValueError, match="none frames"):
            latents_of.kept_latents(tmp_path / "x.npz", [], autoencoder, "a")
