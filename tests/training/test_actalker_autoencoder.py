"""The small video autoencoder: sizes and files, what its losses weigh, and that a resumed run is the same run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError
from talking_portrait.core_models.video_diffusion.autoencoder import (
    PUBLISHED_AUTOENCODER,
    VIDEO_AUTOENCODER_ENTRY,
    VideoAutoencoderParameters,
    autoencoder_parameters,
    load_video_autoencoder,
    new_video_autoencoder,
)
from talking_portrait.training import actalker_autoencoder as made
from talking_portrait.training import actalker_latents as latents_of
from talking_portrait.training import autoencoder_training as shared
from talking_portrait.training.actalker_autoencoder import SMALL_AUTOENCODER, AutoencoderTrainer
from talking_portrait.training.actalker_data import ControlledClip, heard_rows
from talking_portrait.training.autoencoder_training import AutoencoderBatch, AutoencoderTrainingParameters
from talking_portrait.training.kdtalker_run import TrainingDivergedError
from talking_portrait.training.perceptual_features import RandomFeatures
from talking_portrait.training.stepwise_training import fit
from torch import nn

RECIPE = AutoencoderTrainingParameters(steps=4, clips=2, frames=2, alone_share=0.5, warmup=1)
TINY = replace(SMALL_AUTOENCODER, block_out_channels=(32, 32))


def clip(seed: int = 0, frames: int = 4) -> ControlledClip:
    """Even colours that change from frame to frame, a dark mouth and dark eyes."""
    rng = np.random.default_rng(seed)
    pictures = np.empty((frames, 64, 64, 3), np.uint8)
    pictures[:] = rng.integers(80, 250, (frames, 1, 1, 3))
    pictures[:, 40:48, 26:38] = 30
    pictures[:, 20:24, 18:46] = 60
    return ControlledClip(
        frames=pictures,
        heard=np.zeros((heard_rows(frames), 2, 3), np.float16),
        motion=np.zeros((frames, 58), np.float32),
        mouth_opening=np.zeros(frames, np.float32),
        eye_opening=np.zeros(frames, np.float32),
        turn=np.zeros((frames, 2), np.float32),
        face_box=np.int32([4, 4, 60, 60]),
        mouth_box=np.int32([26, 40, 38, 48]),
        eye_box=np.int32([18, 20, 46, 24]),
        identity_seed=seed,
    )


CLIPS = [clip(0), clip(1), clip(2)]


def weights_of(trainer: AutoencoderTrainer) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.autoencoder.parameters()])


class TestSizes:
    def test_the_small_one_is_small_and_reduces_four_times(self):
        autoencoder = new_video_autoencoder(SMALL_AUTOENCODER)
        assert sum(value.numel() for value in autoencoder.parameters()) < 1e6
        assert SMALL_AUTOENCODER.reduction == 4
        assert PUBLISHED_AUTOENCODER.reduction == 8

    def test_the_published_sizes_are_stable_video_diffusions(self):
        with torch.device("meta"):
            autoencoder = new_video_autoencoder(PUBLISHED_AUTOENCODER)
        assert sum(value.numel() for value in autoencoder.parameters()) == 97_742_847
        assert autoencoder.config.scaling_factor == 0.18215
        assert autoencoder.config.force_upcast
        assert {m.num_groups for m in autoencoder.modules() if isinstance(m, nn.GroupNorm)} == {32}

    def test_groups_are_those_asked_for(self):
        autoencoder = new_video_autoencoder(TINY)
        assert {m.num_groups for m in autoencoder.modules() if isinstance(m, nn.GroupNorm)} == {1}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"block_out_channels": (32, 48)}, r"block_out_channels is \(32, 48\)"),
            ({"block_out_channels": ()}, "at least one"),
            ({"layers_per_block": 0}, "layers_per_block is 0"),
            ({"latent_channels": 0}, "latent_channels is 0"),
            ({"scaling_factor": float("nan")}, "scaling_factor is nan"),
            ({"groups": 5}, "groups is 5"),
        ],
    )
    def test_bad_sizes_are_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            VideoAutoencoderParameters(**change)


class TestFrames:
    def test_pictures_give_back_their_frames(self):
        frames = CLIPS[0].frames
        pictures = latents_of.pictures_of_frames(frames)
        assert pictures.shape == (4, 3, 64, 64)
        assert float(pictures.abs().max()) <= 1
        np.testing.assert_array_equal(latents_of.frames_of_pictures(pictures), frames)

    def test_what_is_too_bright_is_cut_off(self):
        assert latents_of.frames_of_pictures(torch.full((1, 3, 1, 1), 1.5)).tolist() == [[[[255, 255, 255]]]]


class TestBatches:
    def test_a_step_has_its_own_batch(self):
        first, again, other = (shared.drawn_batch(CLIPS, RECIPE, step) for step in (0, 0, 1))
        assert torch.equal(first.pictures, again.pictures)
        assert not torch.equal(first.pictures, other.pictures)
        assert first.pictures.shape == (4, 3, 64, 64)

    def test_frames_stand_alone_first_and_in_a_row_later(self):
        alone, rows = (shared.drawn_batch(CLIPS, RECIPE, step) for step in (1, 2))
        assert (alone.frames, rows.frames) == (1, 2)
        assert len(alone.pictures) == len(rows.pictures) == 4

    def test_weights_are_one_on_average_and_more_at_mouth_and_eyes(self):
        weights = shared.region_weights(CLIPS[0], 3.0)[0, 0]
        assert weights.mean() == pytest.approx(1)
        assert weights[44, 30] == pytest.approx(4 * float(weights[0, 0]))
        assert weights[22, 20] == weights[44, 30]
        assert weights[30, 30] == weights[0, 0]

    def test_clips_that_are_too_short_are_refused(self):
        with pytest.raises(ValueError, match="a clip has 4 frames, but 9"):
            shared.drawn_batch(CLIPS, replace(RECIPE, frames=9), 3)


class TestLosses:
    def losses(self, made_picture: torch.Tensor, wanted: torch.Tensor) -> shared.AutoencoderLosses:
        class Answer(nn.Module):
            def encode(self, pictures):
                self.latent_dist = made_distribution(pictures)
                return self

            def decode(self, latents, num_frames):
                self.sample = made_picture
                return self

        def made_distribution(pictures):
            from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

            return DiagonalGaussianDistribution(torch.zeros(len(pictures), 8, 16, 16))

        batch = AutoencoderBatch(wanted, torch.ones(len(wanted), 1, 64, 64), 2)
        generator = torch.Generator().manual_seed(0)
        return made.training_losses(Answer(), RandomFeatures(), batch, RECIPE, generator)

    def test_equal_pictures_and_normal_latents_cost_nothing(self):
        pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
        losses = self.losses(pictures, pictures)
        assert float(losses.loss) == 0

    def test_a_change_of_tone_costs_its_size(self):
        pictures = torch.zeros(4, 3, 64, 64)
        losses = self.losses(pictures + 0.25, pictures)
        assert float(losses.colours) == pytest.approx(0.25)
        assert float(losses.divergence) == 0


class TestTraining:
    def test_a_resumed_run_is_the_same_run(self, tmp_path):
        path = tmp_path / "checkpoint.pt"
        whole = AutoencoderTrainer(TINY, RECIPE, CLIPS)
        fit(whole)
        begun = AutoencoderTrainer(TINY, RECIPE, CLIPS)
        fit(begun, path, until=2)
        resumed = AutoencoderTrainer.from_checkpoint(path, CLIPS)
        assert resumed.step == 2
        fit(resumed, path)
        assert torch.equal(weights_of(whole), weights_of(resumed))

    def test_it_begins_frame_by_frame_and_with_little_noise(self):
        trainer = AutoencoderTrainer(TINY, RECIPE, CLIPS)
        autoencoder = trainer.autoencoder.eval()
        latents = torch.randn(4, 4, 32, 32, generator=torch.Generator().manual_seed(0))
        other = torch.cat([latents[:2], -latents[2:]])
        with torch.no_grad():
            noise = autoencoder.encode(latents_of.pictures_of_frames(CLIPS[0].frames)).latent_dist.std
            layer = autoencoder.decoder.time_conv_out
            frames, changed = (
                layer(values[:, :3].permute(1, 0, 2, 3)[None])[0, :, :2] for values in (latents, other)
            )
        assert 0.05 < float(noise.mean()) < 0.15
        assert torch.equal(frames, changed)
        torch.testing.assert_close(frames, latents[:2, :3].transpose(0, 1))

    def test_training_brings_pictures_closer(self):
        recipe = replace(RECIPE, steps=12, clips=1, frames=1, colour_range=0.0)
        trainer = AutoencoderTrainer(TINY, recipe, CLIPS[:1])
        losses = [float(trainer.train_step().colours) for _ in range(12)]
        assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:3])

    def test_the_rate_rises_and_falls_to_zero(self):
        recipe = replace(RECIPE, steps=100, warmup=9)
        rates = [shared.learning_rate_at(step, recipe) for step in range(100)]
        assert rates[0] == pytest.approx(recipe.learning_rate / 10)
        assert np.argmax(rates) == 9
        assert rates[-1] < 0.001 * recipe.learning_rate

    def test_other_clips_are_warned_of(self, tmp_path, caplog):
        path = tmp_path / "checkpoint.pt"
        AutoencoderTrainer(TINY, RECIPE, CLIPS).write_checkpoint(path)
        AutoencoderTrainer.from_checkpoint(path, CLIPS[:2])
        assert "the clips are not those of the checkpoint" in caplog.text

    def test_nothing_changes_when_it_diverges(self):
        trainer = AutoencoderTrainer(TINY, RECIPE, CLIPS)
        with torch.no_grad():
            trainer.autoencoder.decoder.conv_out.bias.fill_(float("nan"))
        before = weights_of(trainer)
        with pytest.raises(TrainingDivergedError, match="step 0"):
            trainer.train_step()
        assert torch.equal(before.nan_to_num(7), weights_of(trainer).nan_to_num(7))
        assert trainer.step == 0

    def test_progress_is_told_and_may_stop(self):
        trainer = AutoencoderTrainer(TINY, RECIPE, CLIPS)

        def stop(done, total):
            raise InterruptedError(f"{done} of {total}")

        with pytest.raises(InterruptedError, match="1 of 4"):
            fit(trainer, progress=stop)

    @pytest.mark.parametrize("name", ["checkpoint_every", "log_every", "until"])
    def test_steps_below_one_are_refused(self, name):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            fit(AutoencoderTrainer(TINY, RECIPE, CLIPS), **{name: 0})

    def test_no_clips_are_refused(self):
        with pytest.raises(ValueError, match="no clips"):
            AutoencoderTrainer(TINY, RECIPE, [])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": 0}, "steps is 0"),
            ({"alone_share": 1.5}, "alone_share is 1.5"),
            ({"learning_rate": 0.0}, "learning_rate"),
            ({"region_weight": -1.0}, "weights"),
            ({"precision": "float16"}, "precision is 'float16'"),
            ({"precision": "bfloat16", "frames": 2}, "frames is 2, which bfloat16 cannot be trusted with"),
        ],
    )
    def test_bad_recipes_are_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            replace(RECIPE, **change)


@pytest.fixture(scope="module")
def trainer() -> AutoencoderTrainer:
    trained = AutoencoderTrainer(SMALL_AUTOENCODER, RECIPE, CLIPS)
    fit(trained, until=1)
    return trained


class TestLatentsAndFiles:
    def test_latents_spread_by_one_and_decode_to_frames(self, trainer, tmp_path):
        path = tmp_path / "autoencoder.safetensors"
        made.export_autoencoder(trainer, path)
        autoencoder = load_video_autoencoder(path)
        latents = latents_of.encode_clips(autoencoder, CLIPS)
        assert latents.shape == (3, 4, 4, 16, 16)
        assert latents.dtype == np.float16
        each = torch.from_numpy(latents.astype(np.float32)).flatten(0, 1).std(dim=(0, 2, 3))
        every = latents_of.measured_scaling_factor(autoencoder, CLIPS, every=1)
        assert float(each.mean()) == pytest.approx(autoencoder.config.scaling_factor / every, rel=0.01)
        assert float(each.mean()) == pytest.approx(1, abs=0.5)  # the file's factor is of every fourth frame
        frames = latents_of.decode_latents(autoencoder, latents[0])
        assert frames.shape == (4, 64, 64, 3)
        assert frames.dtype == np.uint8

    def test_a_frames_latents_do_not_hang_on_other_frames(self, trainer):
        whole = latents_of.encode_clips(trainer.autoencoder, [CLIPS[0]])[0]
        alone = latents_of.encode_clips(trainer.autoencoder, [clip(0, 4)])[0]
        np.testing.assert_array_equal(whole, alone)
        frames = CLIPS[0].frames[2:3]
        one = replace(clip(0, 1), frames=frames)
        single = latents_of.encode_clips(trainer.autoencoder, [one])[0, 0]
        np.testing.assert_allclose(single.astype(np.float32), whole[2].astype(np.float32), atol=2e-3)

    def test_latents_are_the_modes_times_the_factor(self, trainer):
        picture = latents_of.pictures_of_frames(CLIPS[1].frames)
        with torch.no_grad():
            mode = trainer.autoencoder.encode(picture).latent_dist.mode()
        trainer.autoencoder.register_to_config(scaling_factor=2.0)
        latents = latents_of.encode_clips(trainer.autoencoder, [CLIPS[1]])[0].astype(np.float32)
        trainer.autoencoder.register_to_config(scaling_factor=1.0)
        np.testing.assert_allclose(latents, 2 * mode.numpy(), rtol=2e-3, atol=2e-3)

    def test_clips_of_several_lengths_are_refused(self, trainer):
        with pytest.raises(ValueError, match=r"\[3, 4\] frames"):
            latents_of.encode_clips(trainer.autoencoder, [clip(0, 3), clip(0, 4)])

    @pytest.mark.parametrize("half", [False, True])
    def test_a_file_gives_back_the_autoencoder(self, trainer, tmp_path, half):
        path = tmp_path / "autoencoder.safetensors"
        made.export_autoencoder(trainer, path, half)
        loaded = load_video_autoencoder(path)
        assert autoencoder_parameters(path).block_out_channels == (32, 32, 64)
        assert loaded.config.scaling_factor != 1.0
        assert not loaded.training
        assert {m.num_groups for m in loaded.modules() if isinstance(m, nn.GroupNorm)} == {1}
        pairs = zip(loaded.parameters(), trainer.autoencoder.parameters(), strict=True)
        assert all(torch.allclose(a, b, atol=1e-3 if half else 0) for a, b in pairs)
        assert list(tmp_path.iterdir()) == [path]

    def test_another_suffix_is_refused(self, trainer, tmp_path):
        with pytest.raises(ValueError, match=r"autoencoder\.pt"):
            made.export_autoencoder(trainer, tmp_path / "autoencoder.pt")

    def test_files_without_sizes_are_taken_for_the_published_one(self, trainer, tmp_path):
        path = tmp_path / "plain.safetensors"
        save_file(trainer.autoencoder.state_dict(), path)
        assert autoencoder_parameters(path) == PUBLISHED_AUTOENCODER
        with pytest.raises(WeightMismatchError, match=r"Missing: .*down_blocks\.3"):
            load_video_autoencoder(path)

    def test_every_key_at_fault_is_named(self, trainer, tmp_path):
        path = tmp_path / "autoencoder.safetensors"
        made.export_autoencoder(trainer, path)
        entry = {VIDEO_AUTOENCODER_ENTRY: json.dumps(SMALL_AUTOENCODER.to_dict())}
        tensors = load_file(path)
        tensors["strange.weight"] = tensors.pop("quant_conv.bias")
        save_file(tensors, path, entry)
        with pytest.raises(WeightMismatchError, match=r"quant_conv\.bias.*strange\.weight"):
            load_video_autoencoder(path)

    @pytest.mark.parametrize("text", ["{", "[]", '{"groups": 1, "colour": 1}', '{"groups": 5}'])
    def test_sizes_that_cannot_be_read_are_named(self, trainer, tmp_path, text):
        path = tmp_path / "autoencoder.safetensors"
        save_file({"x": torch.zeros(1)}, path, {VIDEO_AUTOENCODER_ENTRY: text})
        with pytest.raises(UnreadableWeightsError, match="its sizes"):
            load_video_autoencoder(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nothing"):
            load_video_autoencoder(tmp_path / "nothing.safetensors")
