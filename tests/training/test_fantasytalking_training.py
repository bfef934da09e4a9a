"""One step of the small FantasyTalking's training: its stages and its loss, what is dropped and drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.video_diffusion.actalker.prepared_picture import FACE_SHARE
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_windows import audio_timeline
from talking_portrait.core_models.video_diffusion.wan.flow_matching import training_weight
from talking_portrait.training import fantasytalking as made
from talking_portrait.training.actalker_data import landmark_box
from talking_portrait.training.fantasytalking import FantasyTalkingTrainingParameters, TrainingClips
from talking_portrait.training.fantasytalking_data import HEARD_MARGIN, HEARD_PER_FRAME, TalkingClips

from .fantasytalking_training_clips import (
    FRAMES,
    LATENT_CHANNELS,
    LATENTS,
    RECIPE,
    SIDE,
    clip,
    tiny_model,
    tiny_parameters,
    training_clips,
)

SIZE = (LATENTS, SIDE, SIDE)
FRAME_LEVEL = RECIPE.clip_level_steps
"""The first step of the second stage."""


@pytest.fixture(scope="module")
def data():
    return training_clips()


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture(params=[0, FRAME_LEVEL], ids=["clip level", "frame level"])
def batch(data, request):
    return made.drawn_batch(data, RECIPE, request.param)


def answering(model, velocity):
    """Let a model answer with a velocity, and keep what it was given."""
    calls = []

    def forward(latents, timesteps, conditions):
        calls.append((latents, timesteps, conditions))
        return velocity

    model.forward = forward
    return calls


class TestLoss:
    def test_the_true_velocity_costs_nothing(self, model, batch):
        answering(model, batch.noise - batch.clean)
        assert made.training_loss(model, batch).item() == 0

    def test_an_even_error_costs_its_square(self, model, batch):
        """The lips' loss has the whole frame's scale."""
        answering(model, batch.noise - batch.clean + 0.3)
        assert made.training_loss(model, batch).item() == pytest.approx(0.09, rel=1e-4)

    def test_without_normalisation_it_costs_the_lips_share(self, data, model):
        recipe = replace(RECIPE, lip_share=1.0, lip_normalised=False)
        batch = made.drawn_batch(data, recipe, FRAME_LEVEL)
        answering(model, batch.noise - batch.clean + 0.3)
        # The lips' boxes have 16 x 8 to 16 x 10 pixels of 64 x 64.
        loss = made.training_loss(model, batch).item()
        assert 0.09 * 128 / 4096 <= loss <= 0.09 * 160 / 4096
        assert loss == pytest.approx(0.09 * batch.weights.mean().item(), rel=1e-4)

    def test_the_network_sees_noise_of_the_level_it_is_told(self, model, batch):
        calls = answering(model, torch.zeros_like(batch.clean))
        made.training_loss(model, batch)
        ((latents, timesteps, conditions),) = calls
        sigma = batch.sigma.view(-1, 1, 1, 1, 1)
        torch.testing.assert_close(latents, (1 - sigma) * batch.clean + sigma * batch.noise)
        torch.testing.assert_close(timesteps, 1000 * batch.sigma)
        assert torch.equal(conditions.image, batch.image)
        assert conditions.text.shape == (2, 1, 5)
        assert not conditions.text.any()

    def test_levels_may_count_as_in_wans_training(self, data):
        for step in (0, FRAME_LEVEL):
            plain = made.drawn_batch(data, RECIPE, step)
            weighted = made.drawn_batch(data, replace(RECIPE, weighted=True), step)
            factor = training_weight(1000 * plain.sigma, RECIPE.shift).view(-1, 1, 1, 1, 1)
            torch.testing.assert_close(weighted.weights, plain.weights * factor)

    def test_steps_on_a_fixed_batch_lower_it(self, batch):
        model = tiny_model()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(4):
            loss = made.training_loss(model, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.97 * losses[0]

    def test_every_part_learns(self, data):
        model = tiny_model()
        batch = made.drawn_batch(
            data, replace(RECIPE, dropped=0, identity_alone=0, intensity_dropped=0), FRAME_LEVEL
        )
        made.training_loss(model, batch).backward()
        without = {n for n, v in model.named_parameters() if v.grad is None or not v.grad.abs().max() > 1e-12}
        # The prompt is one token of zeros: what is made of its numbers and its keys makes no difference.
        allowed = (
            "text_embedder.linear_1.weight",
            "attn2.to_k.weight",
            "attn2.to_k.bias",
            "attn2.norm_k.weight",
        )
        assert not [name for name in without if not name.endswith(allowed)]


class TestStages:
    def test_the_first_steps_are_clip_level(self, data):
        stages = [made.drawn_batch(data, RECIPE, step).clip_level for step in range(4)]
        assert stages == [True, True, False, False]
        only = replace(RECIPE, clip_level_steps=0)
        assert not made.drawn_batch(data, only, 0).clip_level

    def test_all_hear_the_clip_first_and_the_loss_is_of_all(self, data):
        batch = made.drawn_batch(data, replace(RECIPE, dropped=0), 0)
        assert batch.heard.shape == (2, 4 * FRAMES, 2, 3)
        assert (batch.lengths == 4 * FRAMES).all()
        assert (batch.weights == 1).all()

    @pytest.mark.parametrize(("before", "after"), [(0, 0), (HEARD_MARGIN, HEARD_MARGIN), (0, HEARD_MARGIN)])
    def test_then_each_hears_what_its_window_has(self, before, after):
        """As the sampler's windows: of the clip's own sound, or of a longer one that goes on at both ends."""
        one = clip(3)
        places, lengths = made.heard_places(FRAMES, np.array([[before, after]]))
        tokens = torch.tensor(one.heard.reshape(len(one.heard), -1)).float()
        heard = tokens[before : len(tokens) - after]
        windows = audio_timeline(heard, FRAMES, HEARD_PER_FRAME)
        shift = HEARD_MARGIN - before
        moved = replace(windows, ranges=tuple((a + shift, b + shift) for a, b in windows.ranges))
        expected, real = moved.of(range(LATENTS))
        assert torch.equal(lengths[0], real)
        for frame in range(LATENTS):
            count = real[frame]
            assert torch.equal(tokens[places[0, frame, :count]], expected[frame, :count])

    def test_beyond_the_ends_whole_windows_are_heard(self):
        places, lengths = made.heard_places(37, np.zeros((1, 2), int))
        assert places.shape == (1, 10, 25)
        assert (lengths == 25).all()
        assert (places.diff(dim=2) == 1).all()
        assert (places.min().item(), places.max().item()) == (HEARD_MARGIN - 17, HEARD_MARGIN + 148 + 3)

    def test_lips_count_alone_in_their_share(self, data):
        recipe = replace(RECIPE, batch=150, clip_level_steps=0)
        weights = made.drawn_batch(data, recipe, 0).weights
        whole = (weights == 1).flatten(1).all(dim=1)
        assert whole.float().mean().item() == pytest.approx(0.2, abs=0.1)
        torch.testing.assert_close(weights.mean(dim=(1, 2, 3, 4)), torch.ones(150))
        assert (weights[~whole][:, 0, :, 0] == 0).all()
        none = made.drawn_batch(data, replace(recipe, lip_share=0.0), 0)
        assert (none.weights == 1).all()

    def test_a_mask_is_how_much_of_a_cell_the_lips_cover(self):
        boxes = np.tile(np.int32([16, 40, 28, 41]), (FRAMES, 1))
        mask = made.lip_mask(boxes, SIZE)
        expected = torch.zeros(LATENTS, SIDE, SIDE)
        expected[:, 5, 2], expected[:, 5, 3] = 1 / 8, 1 / 16
        torch.testing.assert_close(mask, expected)

    @pytest.mark.parametrize(("frame", "latent"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (36, 9)])
    def test_a_frame_counts_in_its_own_latent_alone(self, frame, latent):
        """The first latent frame holds one video frame, each other one the four after those before."""
        boxes = np.zeros((37, 4), np.int32)
        boxes[frame] = [0, 0, 64, 64]
        mask = made.lip_mask(boxes, (10, SIDE, SIDE))
        expected = torch.zeros(10, SIDE, SIDE)
        expected[latent] = 1.0 if frame == 0 else 0.25
        torch.testing.assert_close(mask, expected)

    def test_a_mask_of_a_picture_is_its_own(self):
        assert (
            made.lip_mask(np.int32([[0, 0, 64, 64]]), (1, SIDE, SIDE)).tolist()
            == torch.ones(1, SIDE, SIDE).tolist()
        )


def conditions(model, batch):
    return made.conditions_of(model, batch)


def given_all(data, step, **changes):
    batch = made.drawn_batch(data, replace(RECIPE, dropped=0, identity_alone=0, intensity_dropped=0), step)
    return batch._replace(**changes)


@torch.no_grad()
def velocity(model, batch, **changes):
    return model(batch.clean, torch.full((2,), 500.0), replace(conditions(model, batch), **changes))


class TestConditions:
    @pytest.mark.parametrize("step", [0, FRAME_LEVEL])
    def test_sound_that_is_left_out_is_as_none(self, data, model, step):
        batch = given_all(data, step)
        quiet = batch._replace(lengths=torch.zeros_like(batch.lengths))
        silent = velocity(model, batch, audio=None, audio_lengths=None)
        torch.testing.assert_close(velocity(model, quiet), silent)
        half = batch.lengths.clone()
        half[1] = 0
        both = velocity(model, batch._replace(lengths=half))
        torch.testing.assert_close(both[1], silent[1])
        torch.testing.assert_close(both[0], velocity(model, batch)[0])
        assert (both[0] - silent[0]).abs().max() > 1e-3

    def test_an_identity_that_is_left_out_is_as_none(self, data, model):
        batch = given_all(data, 0)
        unknown = batch._replace(known=torch.zeros_like(batch.known))
        torch.testing.assert_close(velocity(model, unknown), velocity(model, batch, identity=None))
        assert (velocity(model, unknown) - velocity(model, batch)).abs().max() > 1e-4

    def test_a_picture_that_is_left_out_is_zeros_and_takes_the_identity_along(self, data, model):
        batch = made.drawn_batch(data, replace(RECIPE, dropped=1.0), 0)
        assert not batch.image.any()
        assert not conditions(model, batch).identity.any()
        assert not batch.lengths.any()
        shown = given_all(data, 0)
        assert (shown.image[:, :4, 0] == 1).all()
        assert not shown.image[:, :4, 1:].any()
        assert conditions(model, shown).identity.any()

    def test_picture_sound_and_steps_intensity_are_dropped_independently(self, data):
        recipe = replace(RECIPE, batch=600, dropped=0.2, identity_alone=0.0)
        small = TrainingClips(data.data, data.latents[:, :1, :, :1, :1], data.starts[:, :1, :, :1, :1])
        batch = made.drawn_batch(small, recipe, 0)
        shown, hears = batch.known.float(), (batch.lengths > 0).float()
        assert shown.mean().item() == pytest.approx(0.8, abs=0.06)
        assert hears.mean().item() == pytest.approx(0.8, abs=0.06)
        assert (shown * hears).mean().item() == pytest.approx(0.64, abs=0.07)
        one = replace(RECIPE, batch=1, intensity_dropped=0.3)
        told = [made.drawn_batch(small, one, step).intensity is not None for step in range(60)]
        assert np.mean(told) == pytest.approx(0.7, abs=0.18)

    def test_an_identity_alone_is_told_without_its_picture(self, data):
        recipe = replace(RECIPE, batch=600, dropped=0.2, identity_alone=0.5)
        small = TrainingClips(data.data, data.latents[:, :1, :, :1, :1], data.starts[:, :1, :, :1, :1])
        batch = made.drawn_batch(small, recipe, 0)
        shown = batch.image.flatten(1).any(dim=1)
        assert not (shown & ~batch.known).any()
        assert batch.known.float().mean().item() == pytest.approx(0.8, abs=0.06)
        assert shown.float().mean().item() == pytest.approx(0.4, abs=0.07)

    def test_prompts_are_dropped_for_what_stands_in_their_place(self, data):
        prompts = np.arange(1, 4, dtype=np.float32)[:, None, None] * np.ones((1, 2, 5), np.float32)
        reads = replace(data, prompts=prompts, no_prompt=np.full((2, 5), -1, np.float32))
        batch = made.drawn_batch(reads, replace(RECIPE, batch=300, dropped=0.5), 0)
        dropped = (batch.text == -1).all(dim=(1, 2))
        assert 0.3 < dropped.float().mean() < 0.7
        assert (batch.text[~dropped] >= 1).all()

    def test_a_model_without_branches_is_given_nothing_for_them(self, data):
        bare = tiny_model(replace(tiny_parameters(), identity=None, intensity=None, portrait_encoder=None))
        found = conditions(bare, given_all(data, 0))
        assert found.identity is None
        assert found.intensity is None
        assert torch.isfinite(made.training_loss(bare, given_all(data, FRAME_LEVEL)))


class TestDrawn:
    def test_the_same_step_is_the_same_batch(self, data, batch):
        step = 0 if batch.clip_level else FRAME_LEVEL
        again = made.drawn_batch(data, RECIPE, step)
        for one, other in zip(batch, again, strict=True):
            assert (one is None and other is None) or torch.equal(one, other)
        later = made.drawn_batch(data, RECIPE, step + 1)
        assert not torch.equal(batch.noise, later.noise)
        other = made.drawn_batch(data, replace(RECIPE, seed=6), step)
        assert not torch.equal(batch.noise, other.noise)

    def test_the_callers_random_numbers_are_left_alone(self, data):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        made.drawn_batch(data, RECIPE, 0)
        assert torch.equal(torch.rand(1), expected)

    def test_a_clips_parts_stay_together(self, data):
        """Latents, first frames, sound and coefficients tell the clip."""
        marks = np.arange(3, dtype=np.float16)[:, None, None, None, None] * np.ones((1, 4, *SIZE), np.float16)
        marked = TrainingClips(data.data, marks, marks + 10)
        batch = made.drawn_batch(
            marked, replace(RECIPE, batch=8, dropped=0, identity_alone=0, intensity_dropped=0), 0
        )
        assert len(batch.clean[:, 0, 0, 0, 0].unique()) > 1
        for row, index in enumerate(batch.clean[:, 0, 0, 0, 0].int().tolist()):
            assert (batch.image[row, 4:] == index + 10).all()
            one = data.data.clips[index]
            np.testing.assert_array_equal(batch.heard[row].numpy(), one.heard_within.astype(np.float32))
            np.testing.assert_allclose(batch.intensity[row].numpy(), data.data.coefficients(index), rtol=1e-6)

    def test_levels_are_spaced_as_the_sampler_spaces_its_steps(self):
        even = torch.linspace(0, 1, 5)
        torch.testing.assert_close(made.shifted(even, 1.0), even)
        torch.testing.assert_close(made.shifted(even, 3.0), 3 * even / (1 + 2 * even))
        assert made.shifted(torch.tensor(0.5), 3.0) == pytest.approx(0.75)

    def test_a_face_is_framed_as_the_nodes_frame_it(self):
        """Its height is the share of the square that it has there; edges are whole pixels."""
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[20:50, 25:41] = 255
        points = np.array([[25.0, 20.0], [40.0, 49.0]])
        face = made.face_picture(frame, landmark_box(points[None], 1.2))
        rows = (face[:, 32, 0] > 127).sum()
        assert rows == pytest.approx(64 * FACE_SHARE, abs=3)
        columns = (face[32, :, 0] > 127).sum()
        assert columns == pytest.approx(rows * 16 / 30, abs=3)

    def test_a_batch_goes_to_a_device_whole(self, batch):
        moved = made.on_device(batch, "cpu")
        for one, other in zip(batch, moved, strict=True):
            assert one is other is None or torch.equal(one, other)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": 0}, "steps is 0"),
            ({"rank": 0}, "rank is 0"),
            ({"shift": 0.0}, r"shift is 0\.0"),
            ({"learning_rate": -1.0}, r"learning_rate is -1\.0"),
            ({"clip_level_steps": -1}, "clip_level_steps is -1"),
            ({"lip_share": 1.5}, r"lip_share is 1\.5"),
            ({"dropped": float("nan")}, "dropped is nan"),
            ({"average_decay": 1.0}, "average_decay"),
            ({"base": "half"}, "base is 'half', expected one of 'whole', 'lora', 'frozen'"),
        ],
    )
    def test_recipes(self, change, message):
        with pytest.raises(ValueError, match=message):
            replace(RECIPE, **change)

    def test_a_recipe_is_plain_values(self):
        assert FantasyTalkingTrainingParameters.from_dict(RECIPE.to_dict()) == RECIPE
        with pytest.raises(TypeError):
            FantasyTalkingTrainingParameters.from_dict({"depth": 3})

    def test_latents_of_other_clips(self, data):
        latents = np.zeros((3, LATENT_CHANNELS, 4, SIDE, SIDE), np.float16)
        for clips, wrong in ((data.data, latents), (TalkingClips((), data.data.scale), latents[:0])):
            with pytest.raises(ValueError, match="do not fit latents of shape"):
                TrainingClips(clips, wrong, wrong)
        with pytest.raises(ValueError, match="first frames of"):
            TrainingClips(data.data, data.latents, data.starts[:, :, :1])
        with pytest.raises(ValueError, match="go together"):
            replace(data, prompts=np.zeros((3, 1, 5), np.float32))
