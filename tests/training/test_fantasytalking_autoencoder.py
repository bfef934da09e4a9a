"""The small Wan autoencoder's training: how it begins, what its losses weigh, and that a resumed run is the same."""

from dataclasses import replace

import pytest
import torch
from talking_portrait.core_models.video_diffusion.wan.autoencoder import (
    decode_video,
    encode_video,
    encoded_distribution,
    exported_wan_autoencoder,
    load_wan_autoencoder,
    new_wan_autoencoder,
    wan_autoencoder_parameters,
)
from talking_portrait.training import autoencoder_training as shared
from talking_portrait.training import fantasytalking_autoencoder as made
from talking_portrait.training.fantasytalking_autoencoder import (
    SMALL_WAN_AUTOENCODER,
    WanAutoencoderTrainer,
    WanAutoencoderTrainingParameters,
)
from talking_portrait.training.kdtalker_run import TrainingDivergedError
from talking_portrait.training.stepwise_training import fit, write_safetensors

from .fantasytalking_clips import TINY_AUTOENCODER, talking_clip

RECIPE = WanAutoencoderTrainingParameters(
    steps=4, clips=2, frames=5, alone_share=0.5, warmup=1, lips_weight=0, precision="float32"
)
CLIPS = [talking_clip(0), talking_clip(1)]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights_of(trainer: WanAutoencoderTrainer) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.autoencoder.parameters()])


class TestSizes:
    def test_the_small_one_makes_latents_of_the_small_model(self):
        assert SMALL_WAN_AUTOENCODER.pixels_per_latent == 8
        assert SMALL_WAN_AUTOENCODER.frames_per_latent == 4
        assert SMALL_WAN_AUTOENCODER.z_dim == 16
        autoencoder = new_wan_autoencoder(SMALL_WAN_AUTOENCODER)
        assert sum(value.numel() for value in autoencoder.parameters()) < 3e6

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"frames": 8}, "frames is 8, expected 1 more"),
            ({"steps": 0}, "steps is 0"),
            ({"lips_weight": -1}, "lips_weight is -1"),
        ],
    )
    def test_bad_recipes_are_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            replace(RECIPE, **change)


@pytest.fixture(scope="module")
def autoencoder():
    return WanAutoencoderTrainer(TINY_AUTOENCODER, RECIPE, CLIPS).autoencoder.eval()


class TestBeginning:
    @torch.no_grad()
    def test_latents_begin_with_little_noise(self, autoencoder):
        _, log_variance = encoded_distribution(autoencoder, made.video_of_frames(CLIPS[0].frames))
        assert log_variance.mean() == pytest.approx(made.FIRST_LOG_VARIANCE, abs=0.5)

    @torch.no_grad()
    def test_frames_know_nothing_of_those_before_their_latent(self, autoencoder):
        video = made.video_of_frames(CLIPS[0].frames)
        other = video.clone()
        other[:, :, :5] = -other[:, :, :5]
        one, changed = (encode_video(autoencoder, frames) for frames in (video, other))
        torch.testing.assert_close(one[:, :, 2], changed[:, :, 2])
        assert not torch.allclose(one[:, :, 1], changed[:, :, 1])
        latents = torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
        other = torch.cat([-latents[:, :, :1], latents[:, :, 1:]], dim=2)
        one, changed = (decode_video(autoencoder, values) for values in (latents, other))
        torch.testing.assert_close(one[:, :, 1:], changed[:, :, 1:])

    @torch.no_grad()
    def test_frames_of_a_latent_are_decoded_alike(self, autoencoder):
        latents = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        video = decode_video(autoencoder, latents)
        for first in (1, 5):
            torch.testing.assert_close(
                video[:, :, first : first + 4], video[:, :, [first]].expand(-1, -1, 4, -1, -1)
            )
        assert not torch.allclose(video[:, :, 1], video[:, :, 5])

    @torch.no_grad()
    def test_still_frames_are_coded_like_one(self, autoencoder):
        still = made.video_of_frames(CLIPS[0].frames[:1]).expand(-1, -1, 5, -1, -1)
        latents = encode_video(autoencoder, still)
        torch.testing.assert_close(latents[:, :, 0], latents[:, :, 1])

    @torch.no_grad()
    def test_in_full_it_does_the_same(self, autoencoder):
        full = made.in_full(autoencoder, TINY_AUTOENCODER)
        assert [v.shape for v in full.parameters()] == [
            v.shape for v in new_wan_autoencoder(TINY_AUTOENCODER).parameters()
        ]
        video = made.video_of_frames(CLIPS[0].frames)
        one, other = (encode_video(network, video) for network in (autoencoder, full))
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(decode_video(autoencoder, one), decode_video(full, one))


class TestBatches:
    def test_weights_follow_the_mouth_from_frame_to_frame(self):
        weights = shared.region_weights(CLIPS[0], 3.0)
        assert weights.shape == (9, 1, 64, 64)
        torch.testing.assert_close(weights.mean(dim=(1, 2, 3)), torch.ones(9))
        assert weights[0, 0, 44, 22] == pytest.approx(4 * float(weights[0, 0, 0, 0]))
        assert weights[1, 0, 44, 22] == weights[1, 0, 0, 0]

    def test_weights_are_those_of_the_frames_drawn(self):
        """Mouth and eyes are black in the made clips; there, and only there, counts more."""
        recipe = replace(RECIPE, colour_range=0.0)
        for step in (1, 2):
            batch = shared.drawn_batch(CLIPS, recipe, step)
            assert batch.pictures.shape == (10, 3, 64, 64)
            dark = batch.pictures.amax(dim=1, keepdim=True) < -0.7
            heavy = batch.weights > batch.weights.amin(dim=(1, 2, 3), keepdim=True) * 1.5
            assert torch.equal(dark, heavy)

    def test_single_frames_first_and_rows_later(self):
        assert [shared.drawn_batch(CLIPS, RECIPE, step).frames for step in range(4)] == [1, 1, 5, 5]


class TestTraining:
    def test_a_resumed_run_is_the_same_run(self, tmp_path):
        path = tmp_path / "checkpoint.pt"
        whole = WanAutoencoderTrainer(TINY_AUTOENCODER, RECIPE, CLIPS)
        fit(whole)
        begun = WanAutoencoderTrainer(TINY_AUTOENCODER, RECIPE, CLIPS)
        fit(begun, path, until=2)
        resumed = WanAutoencoderTrainer.from_checkpoint(path, CLIPS)
        assert resumed.step == 2
        assert resumed.recipe == RECIPE
        fit(resumed, path)
        assert torch.equal(weights_of(whole), weights_of(resumed))

    def test_training_brings_pictures_closer(self):
        recipe = replace(RECIPE, steps=16, clips=1, colour_range=0.0, learning_rate=3e-3, alone_share=1.0)
        trainer = WanAutoencoderTrainer(TINY_AUTOENCODER, recipe, CLIPS[:1])

        def loss_of_rows() -> float:
            batch = shared.drawn_batch(CLIPS[:1], replace(recipe, alone_share=0.0), 0)
            return float(trainer.losses(batch, torch.Generator().manual_seed(0)).colours.detach())

        before = loss_of_rows()
        fit(trainer)
        assert loss_of_rows() < 0.85 * before

    def test_every_weight_learns_in_rows(self):
        trainer = WanAutoencoderTrainer(TINY_AUTOENCODER, replace(RECIPE, alone_share=0.0), CLIPS)
        batch = shared.drawn_batch(CLIPS, trainer.recipe, 0)
        trainer.losses(batch, torch.Generator().manual_seed(0)).loss.backward()
        idle = [name for name, value in trainer.autoencoder.named_parameters() if value.grad is None]
        assert not idle

    def test_bfloat16_has_about_the_same_gradient(self):
        gradients = []
        for precision in ("float32", "bfloat16"):
            recipe = replace(RECIPE, alone_share=0.0, precision=precision)
            trainer = WanAutoencoderTrainer(TINY_AUTOENCODER, recipe, CLIPS)
            batch = shared.drawn_batch(CLIPS, recipe, 0)
            trainer.losses(batch, torch.Generator().manual_seed(0)).loss.backward()
            gradients.append([value.grad.flatten() for value in trainer.autoencoder.parameters()])
        for one, other in zip(*gradients, strict=True):
            assert torch.cosine_similarity(one, other, dim=0) > 0.95 or one.norm() < 1e-5

    def test_the_divergence_is_none_for_a_normal_distribution(self):
        zeros = torch.zeros(2, 3, 1, 2, 2)
        assert made.divergence_from_normal(zeros, zeros) == 0
        assert made.divergence_from_normal(zeros + 2, zeros) == pytest.approx(2 * 12)

    def test_nothing_changes_when_it_diverges(self):
        trainer = WanAutoencoderTrainer(TINY_AUTOENCODER, RECIPE, CLIPS)
        with torch.no_grad():
            trainer.autoencoder.decoder.conv_out.bias.fill_(float("nan"))
        with pytest.raises(TrainingDivergedError, match="step 0"):
            trainer.train_step()
        assert trainer.step == 0


class TestFiles:
    def test_a_file_gives_back_the_autoencoder_with_its_statistics(self, tmp_path):
        trainer = WanAutoencoderTrainer(TINY_AUTOENCODER, RECIPE, CLIPS)
        fit(trainer, until=1)
        path = tmp_path / "autoencoder.safetensors"
        made.export_wan_autoencoder(trainer, path)
        loaded = load_wan_autoencoder(path)
        sizes = wan_autoencoder_parameters(path)
        assert sizes == TINY_AUTOENCODER.with_statistics(sizes.latents_mean, sizes.latents_std)
        latents = torch.cat([encode_video(loaded, made.video_of_frames(clip.frames)) for clip in CLIPS])
        torch.testing.assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.zeros(16), atol=1e-3, rtol=0)
        spread = latents.std(dim=(0, 2, 3, 4), correction=0)
        torch.testing.assert_close(spread, torch.ones(16), atol=1e-3, rtol=0)
        assert list(tmp_path.iterdir()) == [path]

    def test_another_kind_of_checkpoint_is_refused(self, tmp_path):
        path = tmp_path / "checkpoint.pt"
        shared.write_checkpoint_content(path, {"kind": "actalker_autoencoder_training_1"})
        with pytest.raises(ValueError, match="not a checkpoint of the small video autoencoder"):
            WanAutoencoderTrainer.from_checkpoint(path, CLIPS)


@pytest.fixture
def exported(tmp_path):
    """A file of an autoencoder after one step."""
    trainer = WanAutoencoderTrainer(TINY_AUTOENCODER, RECIPE, CLIPS)
    fit(trainer, until=1)
    path = tmp_path / "begin.safetensors"
    made.export_wan_autoencoder(trainer, path)
    return path


class TestBeginningWithAFile:
    recipe = replace(RECIPE, steps=2, alone_share=0.0, learning_rate=1e-2, decoder_alone=True)

    def test_it_begins_with_the_file_s_weights(self, exported):
        trainer = WanAutoencoderTrainer.begun_with(exported, RECIPE, CLIPS)
        latents = made.raw_latents_of(trainer.autoencoder, CLIPS)
        written = made.raw_latents_of(load_wan_autoencoder(exported), CLIPS)
        for one, other in zip(latents, written, strict=True):
            torch.testing.assert_close(one, other)

    def test_the_decoder_alone_learns_and_latents_stay(self, exported, tmp_path):
        trainer = WanAutoencoderTrainer.begun_with(exported, self.recipe, CLIPS)
        fit(trainer)
        after = tmp_path / "after.safetensors"
        made.export_wan_autoencoder(trainer, after)
        assert wan_autoencoder_parameters(after) == wan_autoencoder_parameters(exported)
        one, other = (load_wan_autoencoder(path).state_dict() for path in (exported, after))
        changed = {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}
        assert changed == {"decoder", "post_quant_conv"}

    def test_going_on_with_the_decoder_alone_is_the_same_run(self, exported, tmp_path):
        path = tmp_path / "checkpoint.pt"
        whole = WanAutoencoderTrainer.begun_with(exported, self.recipe, CLIPS)
        fit(whole)
        fit(WanAutoencoderTrainer.begun_with(exported, self.recipe, CLIPS), path, until=1)
        resumed = WanAutoencoderTrainer.from_checkpoint(path, CLIPS)
        fit(resumed, path)
        assert torch.equal(weights_of(whole), weights_of(resumed))

    def test_with_both_statistics_are_measured_again(self, exported, tmp_path):
        trainer = WanAutoencoderTrainer.begun_with(exported, replace(RECIPE, learning_rate=1e-2), CLIPS)
        fit(trainer)
        after = tmp_path / "after.safetensors"
        made.export_wan_autoencoder(trainer, after)
        assert wan_autoencoder_parameters(after) != wan_autoencoder_parameters(exported)

    def test_one_that_looks_at_frames_before_is_refused(self, tmp_path):
        path = tmp_path / "ordinary.safetensors"
        ordinary = new_wan_autoencoder(TINY_AUTOENCODER)
        write_safetensors(path, *exported_wan_autoencoder(ordinary, TINY_AUTOENCODER))
        with pytest.raises(ValueError, match=r"encoder.conv_in.weight looks at frames before"):
            WanAutoencoderTrainer.begun_with(path, RECIPE, CLIPS)

    def test_weights_of_another_one_are_refused(self):
        begun = WanAutoencoderTrainer(TINY_AUTOENCODER, RECIPE, CLIPS).autoencoder
        weights = dict(begun.state_dict())
        del weights["decoder.conv_out.bias"]
        with pytest.raises(ValueError, match=r"decoder.conv_out.bias"):
            made.as_trained(weights, begun, "x.safetensors")


@pytest.fixture(scope="module")
def trainer():
    """One that looks at lips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "LIPS_READER_STEPS", 2)
        yield WanAutoencoderTrainer(TINY_AUTOENCODER, replace(RECIPE, lips_weight=2.0), CLIPS)


class TestLips:
    def test_pictures_that_are_right_lose_nothing(self, trainer):
        pictures = made.pictures_of_frames(CLIPS[0].frames)
        assert made.lips_loss(trainer.lips, pictures, pictures) == 0
        assert made.lips_loss(trainer.lips, pictures.flip(0), pictures) > 0

    def test_its_loss_is_added_and_reaches_the_decoder(self, trainer):
        batch = shared.drawn_batch(CLIPS, trainer.recipe, 3)
        with_lips, without = (
            made.training_losses(trainer.autoencoder, batch, one, torch.Generator().manual_seed(0))
            for one in (trainer, WanAutoencoderTrainer(TINY_AUTOENCODER, RECIPE, CLIPS))
        )
        assert with_lips.loss > without.loss
        assert with_lips.colours == without.colours
        (gradient,) = torch.autograd.grad(
            with_lips.loss - without.loss.detach(), trainer.autoencoder.decoder.conv_out.weight
        )
        assert gradient.abs().sum() > 0
        assert all(not value.requires_grad for value in trainer.lips.parameters())

    def test_what_sees_them_is_the_same_every_time(self, trainer, monkeypatch):
        monkeypatch.setattr(made, "LIPS_READER_STEPS", 2)
        again = WanAutoencoderTrainer(TINY_AUTOENCODER, trainer.recipe, CLIPS)
        for one, other in zip(trainer.lips.parameters(), again.lips.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
