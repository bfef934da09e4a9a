"""A run of Takin-ADA's second stage: it learns, repeats itself, goes on where it stopped, and saves what it trained."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.keypoint_diffusion.takin_ada import TakinADAParameters, streaming
from talking_portrait.core_models.keypoint_diffusion.takin_ada_loading import STATISTICS, load_takin_ada
from talking_portrait.training.checkpoint_file import remove_unfinished, run_checkpoint
from talking_portrait.training.kdtalker_run import TrainingDivergedError
from talking_portrait.training.stepwise_training import fit
from talking_portrait.training.takin_ada_speech import (
    draw_batch,
    new_model,
    training_loss,
)
from talking_portrait.training.takin_ada_speech_run import (
    SpeechCheckpoint,
    TakinADASpeechTrainer,
    export,
    small_speech_parameters,
)

from ..keypoint_diffusion.takin_ada_models import (
    SMALL,
    SMALL_KEYPOINTS,
    SMALL_LISTENING,
    SMALL_STREAMING,
    takin_ada,
)
from .takin_ada_clips import RECIPE, clip, labelled_clips, swaying_clip


@pytest.fixture(scope="module")
def clips():
    return labelled_clips()


class TestRun:
    def test_a_few_clips_are_learned_by_heart(self):
        """The motion's projection is as wide as the motion, or noise could not be told from it."""
        generator = replace(SMALL_STREAMING.generator, width=96, dropout=0.0)
        encoder = replace(SMALL_STREAMING.encoder, dropout=0.0)
        parameters = replace(SMALL_STREAMING, encoder=encoder, generator=generator)
        recipe = replace(RECIPE, steps=30, batch=8, learning_rate=1e-2, clip_norm=10.0)
        trainer = TakinADASpeechTrainer(parameters, recipe, [swaying_clip(1), swaying_clip(2)])
        parts = [trainer.train_step() for _ in range(30)]
        first, last = (
            {name: np.mean([getattr(one, name).item() for one in some]) for name in parts[0]._fields}
            for some in (parts[:5], parts[-5:])
        )
        assert last["denoiser"] < 0.7 * first["denoiser"]
        for name in ("pose", "emotion", "closure", "loss"):
            assert last[name] < 0.5 * first[name]

    def test_the_same_seed_is_the_same_run(self, clips):
        first, second = (TakinADASpeechTrainer(SMALL, RECIPE, clips) for _ in range(2))
        for _ in range(2):
            assert torch.equal(first.train_step().loss, second.train_step().loss)
        other = TakinADASpeechTrainer(SMALL, replace(RECIPE, seed=6), clips)
        assert not torch.equal(
            first.model.encoder.blocks[0].attention.key.weight,
            other.model.encoder.blocks[0].attention.key.weight,
        )

    def test_the_callers_random_numbers_are_left_alone(self, clips):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        TakinADASpeechTrainer(SMALL, RECIPE, clips).train_step()
        assert torch.equal(torch.rand(1), expected)

    def test_the_largest_seed(self, clips):
        trainer = TakinADASpeechTrainer(SMALL, replace(RECIPE, seed=2**63), clips)
        assert torch.isfinite(trainer.train_step().loss)

    def test_a_listener_does_not_change(self, clips):
        data = [clip(index, parameters=SMALL_LISTENING) for index in range(2)]
        given_weights = {
            f"listener.{name}": value
            for name, value in takin_ada(SMALL_LISTENING, seed=4).float().listener.state_dict().items()
        }
        recipe = replace(RECIPE, batch=16, emotion_dropout=0.5, start_dropout=0.5)
        trainer = TakinADASpeechTrainer(SMALL_LISTENING, recipe, data, given_weights)
        before = {name: value.clone() for name, value in trainer.model.named_parameters()}
        for _ in range(3):
            trainer.train_step()
        for name, value in trainer.model.named_parameters():
            assert torch.equal(value, before[name]) == name.startswith("listener."), name
        for name, value in given_weights.items():
            assert torch.equal(trainer.model.state_dict()[name], value)
            assert torch.equal(trainer.average.state_dict()[name], value)

    def test_start_weights_of_another_model_are_refused(self, clips):
        with pytest.raises(RuntimeError, match="mystery"):
            TakinADASpeechTrainer(SMALL, RECIPE, clips, {"mystery": torch.zeros(1)})

    def test_the_average_follows(self, clips):
        trainer = TakinADASpeechTrainer(SMALL, replace(RECIPE, average_decay=0.5), clips)
        mean = trainer.average.output.weight.clone()
        for step in range(3):
            trainer.train_step()
            decay = min(0.5, (1 + step) / (10 + step))
            mean = decay * mean + (1 - decay) * trainer.model.output.weight.detach()
            torch.testing.assert_close(trainer.average.output.weight, mean)

    def test_half_precision_products_learn_too(self, clips):
        trainer = TakinADASpeechTrainer(SMALL, replace(RECIPE, precision="bfloat16"), clips)
        whole = TakinADASpeechTrainer(SMALL, RECIPE, clips)
        assert trainer.train_step().loss.item() == pytest.approx(whole.train_step().loss.item(), rel=0.05)
        assert all(value.dtype == torch.float32 for value in trainer.model.parameters())

    def test_divergence_leaves_the_weights_alone(self, clips):
        broken = replace(clips[0], hidden_states=np.full_like(clips[0].hidden_states, np.nan))
        trainer = TakinADASpeechTrainer(SMALL, RECIPE, [broken])
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        average = {name: value.clone() for name, value in trainer.average.state_dict().items()}
        with pytest.raises(TrainingDivergedError, match="step 0: loss nan"):
            trainer.train_step()
        assert trainer.step == 0
        for kept, model in ((weights, trainer.model), (average, trainer.average)):
            for name, value in model.state_dict().items():
                assert torch.equal(value, kept[name]), name
        trainer.clips = clips
        assert torch.isfinite(trainer.train_step().loss)


class TestCheckpoints:
    @pytest.mark.parametrize("parameters", [SMALL, SMALL_KEYPOINTS])
    def test_a_run_that_goes_on_is_the_run_that_never_stopped(self, parameters, tmp_path):
        data = [clip(index, parameters=parameters) for index in range(3)]
        recipe = replace(RECIPE, warmup_steps=2, annealed=True)
        whole = TakinADASpeechTrainer(parameters, recipe, data)
        fit(whole)
        begun = TakinADASpeechTrainer(parameters, recipe, data)
        for _ in range(3):
            begun.train_step()
        begun.write_checkpoint(tmp_path / "run" / "checkpoint.pt")
        resumed = TakinADASpeechTrainer.from_checkpoint(tmp_path / "run" / "checkpoint.pt", data)
        assert resumed.recipe == recipe
        assert resumed.model.parameters_used == parameters
        fit(resumed)
        assert resumed.step == whole.step == 6
        for name in ("model", "average"):
            for key, value in getattr(whole, name).state_dict().items():
                assert torch.equal(getattr(resumed, name).state_dict()[key], value), key

    def test_a_frozen_listener_goes_on_too(self, tmp_path):
        data = [clip(index, parameters=SMALL_LISTENING) for index in range(2)]
        trainer = TakinADASpeechTrainer(SMALL_LISTENING, RECIPE, data)
        trainer.train_step()
        trainer.write_checkpoint(tmp_path / "checkpoint.pt")
        resumed = TakinADASpeechTrainer.from_checkpoint(tmp_path / "checkpoint.pt", data)
        assert torch.equal(resumed.train_step().loss, trainer.train_step().loss)

    @pytest.fixture
    def written(self, clips, tmp_path):
        trainer = TakinADASpeechTrainer(SMALL, RECIPE, clips)
        trainer.write_checkpoint(tmp_path / "checkpoint.pt")
        return tmp_path / "checkpoint.pt"

    def test_a_truncated_one_is_refused(self, written, clips):
        content = written.read_bytes()
        for kept in (len(content) // 2, len(content) - 10, 0):
            written.write_bytes(content[:kept])
            with pytest.raises(ValueError, match="not a"):
                TakinADASpeechTrainer.from_checkpoint(written, clips)

    def test_damage_inside_is_noticed(self, written, clips):
        content = bytearray(written.read_bytes())
        middle = len(content) // 2
        content[middle] ^= 1  # one bit of one weight, which torch itself would not notice
        written.write_bytes(content)
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            TakinADASpeechTrainer.from_checkpoint(written, clips)

    def test_a_foreign_one_is_refused(self, written, clips):
        torch.save({"kind": "kdtalker_training_1"}, written)
        with pytest.raises(ValueError, match="not a checkpoint of Takin-ADA's second stage"):
            TakinADASpeechTrainer.from_checkpoint(written, clips)
        torch.save([1, 2], written)
        with pytest.raises(ValueError, match="not a checkpoint of Takin-ADA's second stage"):
            TakinADASpeechTrainer.from_checkpoint(written, clips)

    @pytest.mark.parametrize(
        "change",
        [{"recipe": {"depth": 3}}, {"recipe": None}, {"parameters": "{}"}, {"parameters": "not json"}],
    )
    def test_one_of_another_version_is_refused(self, written, clips, change):
        torch.save({**torch.load(written, weights_only=True), **change}, written)
        with pytest.raises(ValueError, match=r"checkpoint\.pt.*another version"):
            TakinADASpeechTrainer.from_checkpoint(written, clips)

    @pytest.mark.parametrize("name", ["weights", "average", "optimiser", "step", "recipe"])
    def test_one_that_lacks_a_part_is_refused(self, written, clips, name):
        content = torch.load(written, weights_only=True)
        del content[name]
        torch.save(content, written)
        with pytest.raises(ValueError, match=name):
            TakinADASpeechTrainer.from_checkpoint(written, clips)

    def test_other_weights_are_named(self, written, clips):
        content = torch.load(written, weights_only=True)
        del content["average"]["output.bias"]
        torch.save(content, written)
        with pytest.raises(ValueError, match=r"output\.bias"):
            TakinADASpeechTrainer.from_checkpoint(written, clips)

    def test_none(self, tmp_path, clips):
        with pytest.raises(FileNotFoundError, match="no checkpoint"):
            TakinADASpeechTrainer.from_checkpoint(tmp_path / "checkpoint.pt", clips)

    def test_an_interrupted_write_leaves_the_last_whole_one(self, written, clips, monkeypatch):
        before = written.read_bytes()

        def interrupted(content, file):
            file.write(b"half")
            raise KeyboardInterrupt

        trainer = TakinADASpeechTrainer.from_checkpoint(written, clips)
        monkeypatch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer.write_checkpoint(written)
        assert written.read_bytes() == before
        assert [path.name for path in written.parent.iterdir()] == [written.name]

    def test_the_averaged_model_of_one(self, written, clips):
        checkpoint = SpeechCheckpoint.read(written)
        assert checkpoint.parameters == SMALL
        assert checkpoint.facts["learning_rate"] == RECIPE.learning_rate
        model = checkpoint.averaged_model()
        assert not model.training
        for name, value in checkpoint.average.items():
            assert torch.equal(model.state_dict()[name], value)

    def test_other_clips_are_told_of(self, written, clips, caplog):
        TakinADASpeechTrainer.from_checkpoint(written, clips)
        assert not caplog.records
        TakinADASpeechTrainer.from_checkpoint(written, clips[:3])
        assert "not those of the checkpoint" in caplog.text

    def test_the_run_s_folder_leads_to_it(self, written, tmp_path):
        assert run_checkpoint(tmp_path) == run_checkpoint(written) == written
        (tmp_path / ".checkpoint.abc.part").write_bytes(b"half")
        remove_unfinished(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [written.name]
        with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
            run_checkpoint(tmp_path / "other")


class TestFit:
    def test_it_stops_where_it_is_told_to(self, clips, tmp_path):
        trainer = TakinADASpeechTrainer(SMALL, RECIPE, clips)
        fit(trainer, tmp_path / "c.pt", until=2)
        assert trainer.step == SpeechCheckpoint.read(tmp_path / "c.pt").step == 2
        fit(trainer, tmp_path / "c.pt", minutes=1e-9)
        assert trainer.step == SpeechCheckpoint.read(tmp_path / "c.pt").step == 3
        fit(trainer, until=10**9)
        assert trainer.step == RECIPE.steps

    @pytest.mark.parametrize("change", [{"minutes": 0}, {"checkpoint_every": 0}, {"log_every": 0}])
    def test_impossible_limits(self, clips, change):
        (name,) = change
        with pytest.raises(ValueError, match=f"{name} is 0"):
            fit(TakinADASpeechTrainer(SMALL, RECIPE, clips), **change)

    def test_checkpoints_progress_and_figures(self, clips, tmp_path, caplog):
        told = []
        trainer = TakinADASpeechTrainer(SMALL, RECIPE, clips)
        with caplog.at_level(logging.INFO):
            fit(trainer, tmp_path / "c.pt", 4, 2, lambda done, total: told.append((done, total)))
        assert told == [(step, 6) for step in range(1, 7)]
        assert len(caplog.records) == 3
        assert TakinADASpeechTrainer.from_checkpoint(tmp_path / "c.pt", clips).step == 6

    def test_figures_are_means_of_the_steps_since_the_last(self, clips, caplog):
        trainer = TakinADASpeechTrainer(SMALL, RECIPE, clips)
        for _ in range(3):
            trainer.train_step()
        again = TakinADASpeechTrainer(SMALL, RECIPE, clips)
        again.model.load_state_dict(trainer.model.state_dict())
        again.optimiser.load_state_dict(trainer.optimiser.state_dict())
        again.step = 3
        loss = again.train_step().loss.item()
        trainer.recipe = replace(RECIPE, steps=4)
        with caplog.at_level(logging.INFO):
            fit(trainer, log_every=4)
        assert caplog.records[-1].args[2]["loss"] == pytest.approx(loss, abs=1e-3)


class TestExport:
    def test_what_is_exported_is_what_loads(self, clips, tmp_path):
        trainer = TakinADASpeechTrainer(SMALL, RECIPE, clips)
        fit(trainer)
        export(trainer.average, tmp_path / "mine.safetensors", {"clips": 8})
        loaded = load_takin_ada(tmp_path / "mine.safetensors")
        batch = draw_batch(loaded, clips, 4, 0, 0)
        expected = training_loss(trainer.average, batch, RECIPE, 0)
        made = training_loss(loaded, batch, RECIPE, 0)
        for name, value in expected._asdict().items():
            torch.testing.assert_close(getattr(made, name), value, atol=1e-6, rtol=1e-6)

    def test_half_is_close(self, clips, tmp_path):
        trainer = TakinADASpeechTrainer(SMALL, RECIPE, clips)
        fit(trainer)
        export(trainer.average, tmp_path / "half.safetensors", {}, half=True)
        loaded = load_takin_ada(tmp_path / "half.safetensors")
        for name, value in trainer.average.state_dict().items():
            exact = name in STATISTICS
            torch.testing.assert_close(
                loaded.state_dict()[name], value, atol=0 if exact else 1e-4, rtol=0 if exact else 1e-3
            )

    def test_facts_are_kept(self, clips, tmp_path):
        from talking_portrait.core_models.strict_loading import read_metadata

        export(new_model(SMALL, clips, 0), tmp_path / "mine.safetensors", {"steps": 3})
        metadata = read_metadata(tmp_path / "mine.safetensors")
        assert json.loads(metadata["takin_ada_speech_training"]) == {"steps": 3}

    def test_another_ending_is_refused(self, clips, tmp_path):
        with pytest.raises(ValueError, match=r"safetensors, but the name is 'mine\.pth'"):
            export(new_model(SMALL, clips, 0), tmp_path / "mine.pth", {})
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("parameters", [TakinADAParameters(), streaming(TakinADAParameters())])
def test_the_small_network_leaves_room_for_the_motion(parameters):
    small = small_speech_parameters(parameters)
    assert small.motion_width >= small.layout.size
    assert (small.layers, small.speech_width) == (parameters.layers, parameters.speech_width)
