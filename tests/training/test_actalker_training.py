"""One step of the small ACTalker's training: its loss, what is dropped and drawn, and what learns from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.types import BLENDSHAPE_NAMES
from talking_portrait.core_models.video_diffusion import edm
from talking_portrait.core_models.video_diffusion.actalker.blendshape_motion import motion_numbers
from talking_portrait.core_models.video_diffusion.actalker.clip_conditions import ClipSignals, clip_conditions
from talking_portrait.core_models.video_diffusion.actalker.guidance import GuidanceScales
from talking_portrait.core_models.video_diffusion.actalker.model import ACTalkerModel
from talking_portrait.core_models.video_diffusion.actalker.sampler import SamplingOptions, sample_latents
from talking_portrait.core_models.video_types import FULL, REGIONS
from talking_portrait.training import actalker as made
from talking_portrait.training.actalker import ACTalkerTrainingParameters, TrainingClips
from talking_portrait.training.actalker_latents import pictures_of_frames
from torch import nn

from .actalker_clips import FACTOR, RECIPE, SIDE, clip, tiny_parameters, training_clips


@pytest.fixture(scope="module")
def data():
    return training_clips()


@pytest.fixture(scope="module")
def batch(data):
    return made.drawn_batch(data, RECIPE, 0)


@pytest.fixture
def model():
    return tiny_model()


def tiny_model(layer: str = "per_frame") -> ACTalkerModel:
    """With features of the pose guider that are not 0, as they are in a fresh one."""
    torch.manual_seed(1)
    model = ACTalkerModel(tiny_parameters(layer=layer))
    nn.init.normal_(model.pose_guider.conv_out.weight, std=0.1)
    return model


class Recorded(nn.Module):
    """In place of a UNet: gives what it is told to, and keeps what it was given."""

    def __init__(self, v=None) -> None:
        super().__init__()
        self.v, self.calls = v, []
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, latents, timestep, controls, time_conditions, spatial_condition):
        self.calls.append((latents, timestep, controls, time_conditions, spatial_condition))
        return torch.zeros_like(latents[:, :, :4]) if self.v is None else self.v


def v_of(batch):
    return edm.v_target(batch.clean, batch.noise, batch.sigma.view(-1, 1, 1, 1, 1))


class TestLoss:
    def test_a_perfect_prediction_costs_nothing(self, model, batch):
        model.unet = Recorded(v_of(batch))
        assert made.training_loss(model, batch).item() == 0

    def test_an_error_that_is_even_costs_its_square(self, model, batch):
        """The weights are 1 on average."""
        model.unet = Recorded(v_of(batch) + 0.3)
        assert made.training_loss(model, batch).item() == pytest.approx(0.09, rel=1e-5)

    def test_it_is_edms_weight_on_the_clean_latents(self, model, batch):
        """(1 + sigma^2) / sigma^2 on the error of what is denoised (arXiv 2206.00364)."""
        torch.manual_seed(0)
        v, sigma = torch.randn_like(batch.clean), batch.sigma.view(-1, 1, 1, 1, 1)
        model.unet = Recorded(v)
        error = edm.denoised(batch.clean + sigma * batch.noise, v, sigma) - batch.clean
        expected = (batch.weights * (1 + sigma**2) / sigma**2 * error**2).mean()
        torch.testing.assert_close(made.training_loss(model, batch), expected, rtol=1e-4, atol=1e-6)

    def test_the_network_sees_scaled_noise_beside_the_portrait(self, model, batch):
        batch = batch._replace(given=torch.tensor([[True] * 3, [False] * 3]))
        model.unet = Recorded()
        made.training_loss(model, batch)
        ((latents, timestep, _, time_conditions, pose),) = model.unet.calls
        sigma = batch.sigma.view(-1, 1, 1, 1, 1)
        expected = (batch.clean + sigma * batch.noise) / torch.sqrt(1 + sigma**2)
        torch.testing.assert_close(latents[:, :, :4], expected)
        torch.testing.assert_close(timestep, torch.log(batch.sigma) / 4)
        assert torch.equal(latents[0, :, 4:], batch.portrait[0].expand(3, -1, -1, -1))
        assert not latents[1, :, 4:].any()
        assert time_conditions.tolist() == [[12.5, 12.0, 20.0]] * 2
        assert pose.shape == (2, 3, 32, SIDE, SIDE)
        assert torch.equal(pose[0, 0], pose[1, 2])

    @pytest.mark.parametrize("layer", ["per_frame", "joint", "none"])
    def test_steps_on_a_fixed_batch_lower_it(self, batch, layer):
        model = tiny_model(layer)
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
        losses = []
        for _ in range(4):
            loss = made.training_loss(model, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.95 * losses[0]

    def test_weights_are_1_on_average_and_highest_at_mouth_and_eyes(self):
        one = clip(0)
        weights = made.loss_weights(one, 64, RECIPE)
        assert weights.mean().item() == pytest.approx(1)
        left, top, right, bottom = one.mouth_box
        mouth = weights[top:bottom, left:right]
        left, top, right, bottom = one.eye_box
        eyes = weights[top:bottom, left:right]
        assert (mouth == weights.max()).all()
        torch.testing.assert_close(mouth[0, 0] / weights.min(), torch.tensor(1 + RECIPE.mouth_weight))
        torch.testing.assert_close(eyes[0, 0] / weights.min(), torch.tensor(1 + RECIPE.eye_weight))
        small = made.loss_weights(one, 16, RECIPE)
        torch.testing.assert_close(small, nn.functional.avg_pool2d(weights[None], 4)[0])
        even = replace(RECIPE, mouth_weight=0, eye_weight=0)
        assert (made.loss_weights(one, 16, even) == 1).all()


def streams_batch(data, gates):
    """One clip four times, with what each guidance stream is given."""
    batch = made.drawn_batch(data, replace(RECIPE, batch=1), 3)
    given = torch.arange(4)[:, None] > torch.arange(3)
    tensors = {name: value for name, value in batch._asdict().items() if isinstance(value, torch.Tensor)}
    four = {name: value.expand(4, *value.shape[1:]) for name, value in tensors.items()}
    return batch._replace(**{**four, "given": given, "gates": gates})


def sampled(model, batch, mode):
    """Return what the sampler gives the network in each of the streams of one window."""
    frames = batch.clean.shape[1]
    audio, motion = (torch.full((frames,), float(gate)) for gate in batch.gates)
    identity = model.portrait_encoder(batch.picture[:1])[0]
    conditions = clip_conditions(
        model,
        ClipSignals(identity, batch.heard[0], batch.moved[0], audio, motion),
        batch.portrait[0],
        batch.regions,
        made.time_conditions(model),
        mode,
    )
    network = Recorded()
    options = SamplingOptions(1, GuidanceScales(2.0, 7.5, 3.0), window=frames, padding=0, streams_at_once=1)
    sample_latents(network, conditions, batch.portrait[0], torch.randn(batch.clean[0].shape), options)
    return network.calls


class TestConditions:
    @pytest.mark.parametrize("mode", [REGIONS, FULL])
    @pytest.mark.parametrize("gates", made.GATES)
    @torch.no_grad()
    def test_what_is_dropped_is_what_guidance_leaves_out(self, data, model, gates, mode):
        batch = streams_batch(data, gates)
        calls = sampled(model, batch, mode)
        streams = [0, 1, 2, 3] if gates == (1, 1) else [0, 1, 2] if gates[0] else [0, 1, 3]
        assert len(calls) == len(streams)
        model.unet = Recorded()
        made.training_loss(model, batch, mode)
        ((latents, _, controls, time_conditions, pose),) = model.unet.calls
        for stream, (seen, _, wanted, times, features) in zip(streams, calls, strict=True):
            assert torch.equal(latents[stream, :, 4:], seen[0, :, 4:])
            torch.testing.assert_close(controls.identity[stream], wanted.identity[0])
            for mine, other in zip(controls.signals, wanted.signals, strict=True):
                if other.regions:
                    torch.testing.assert_close(mine.tokens[stream], other.tokens[0])
                assert len(mine.regions) == len(other.regions)
                for region, expected in zip(mine.regions, other.regions, strict=True):
                    assert torch.equal(region.mask, expected.mask)
                    assert region.weight is expected.weight is None
            assert torch.equal(time_conditions[stream], times[0])
            torch.testing.assert_close(pose[stream], features[0])

    @torch.no_grad()
    def test_nobody_is_zeros_and_no_signal_its_projection_of_zeros(self, data, model):
        controls = made.controls_of(model, streams_batch(data, (1, 1)), REGIONS)
        assert not controls.identity[0].any()
        assert controls.identity[1].any()
        silent = model.audio_projection(torch.zeros(1, 16, 2, 3))[0]
        still = model.motion_projection(torch.zeros(1, 64))[0]
        for stream in range(4):
            for frame in range(3):
                same = torch.allclose(controls.audio.tokens[stream, frame], silent)
                assert same == (stream < 2)
                same = torch.allclose(controls.motion.tokens[stream, frame, 0], still)
                assert same == (stream < 3)

    def test_each_stream_gets_its_share(self):
        recipe = replace(RECIPE, batch=40_000, dropped=0.1)
        given = made.kept_conditions(np.random.default_rng(0), recipe)
        kept = [int(count) for count in torch.bincount(given.sum(dim=1), minlength=4)]
        np.testing.assert_allclose(np.array(kept) / 40_000, [0.1, 0.1, 0.1, 0.7], atol=0.01)
        identity, audio, motion = given.T
        assert (identity | ~audio).all()
        assert (audio | ~motion).all()

    @pytest.mark.parametrize(("dropped", "whole"), [(0.0, 1.0), (1e-300, 1.0), (1 / 3, 0.0)])
    def test_nothing_or_everything_is_dropped(self, dropped, whole):
        recipe = replace(RECIPE, batch=500, dropped=dropped)
        given = made.kept_conditions(np.random.default_rng(0), recipe)
        assert given.shape == (500, 3)
        assert given.all(dim=1).float().mean().item() == whole

    def test_gates_are_drawn_evenly(self):
        one = training_clips(1, 1)
        recipe = replace(RECIPE, batch=1, frames=1)
        drawn = [made.drawn_batch(one, recipe, step).gates for step in range(300)]
        counts = [drawn.count(gates) for gates in made.GATES]
        assert sum(counts) == 300
        assert min(counts) > 70

    def test_masks_are_the_boxes_that_hold_all_clips(self):
        regions = made.shared_regions([clip(0), clip(1), clip(2)])
        boxes = {name: [getattr(clip(seed), name) for seed in range(3)] for name in ("face_box", "mouth_box")}
        for mask, name in ((regions.face, "face_box"), (regions.mouth, "mouth_box")):
            rows, columns = mask.nonzero().T
            stacked = np.stack(boxes[name])
            assert [columns.min(), rows.min()] == stacked[:, :2].min(axis=0).tolist()
            assert [columns.max() + 1, rows.max() + 1] == stacked[:, 2:].max(axis=0).tolist()
            assert mask.sum() == (rows.max() + 1 - rows.min()) * (columns.max() + 1 - columns.min())
        assert torch.equal(regions.motion, regions.face * (1 - regions.mouth))

    @torch.no_grad()
    def test_full_masks_are_ones_where_both_signals_work(self, model, batch):
        both = made.controls_of(model, batch._replace(gates=(1, 1)), FULL)
        for signal in both.signals:
            (region,) = signal.regions
            assert (region.mask == 1).all()
        alone = made.controls_of(model, batch._replace(gates=(0, 1)), FULL)
        assert alone.audio.regions == ()
        assert torch.equal(alone.motion.regions[0].mask, batch.regions.face)
        own = made.controls_of(model, batch._replace(gates=(1, 1)), REGIONS)
        assert torch.equal(own.audio.regions[0].mask, batch.regions.mouth)
        assert torch.equal(own.motion.regions[0].mask, batch.regions.motion)


def equal(one, other) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else True for a, b in pairs)


class TestDrawn:
    def test_the_same_step_is_the_same_batch(self, data, batch):
        again = made.drawn_batch(data, RECIPE, 0)
        assert equal(batch, again)
        assert batch.gates == again.gates
        for other in (made.drawn_batch(data, RECIPE, 1), made.drawn_batch(data, replace(RECIPE, seed=6), 0)):
            assert not torch.equal(batch.noise, other.noise)

    def test_the_callers_random_numbers_are_left_alone(self, data):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        made.drawn_batch(data, RECIPE, 0)
        assert torch.equal(torch.rand(1), expected)

    @pytest.mark.parametrize("frames", [3, 5, 99])
    def test_frames_follow_each_other_within_one_clip(self, data, frames):
        """Latents tell clip and frame."""
        marks = np.arange(3)[:, None] * 100 + np.arange(5)
        marked = np.broadcast_to(marks[:, :, None, None, None], (3, 5, 4, 2, 2)).astype(np.float16)
        told = TrainingClips(data.clips, marked, FACTOR)
        count = min(frames, 5)
        starts = set()
        for step in range(12):
            batch = made.drawn_batch(told, replace(RECIPE, frames=frames), step)
            for row in range(2):
                seen = batch.clean[row, :, 0, 0, 0].int().tolist()
                index, start = divmod(seen[0], 100)
                starts.add(start)
                assert seen == [100 * index + start + frame for frame in range(count)]
                one, span = data.clips[index], slice(start, start + count)
                assert np.array_equal(batch.heard[row].numpy(), one.audio[span].astype(np.float32))
                assert np.array_equal(batch.moved[row].numpy(), motion_numbers(one.motion[span]))
                of, portrait = divmod(round(batch.portrait[row, 0, 0, 0].item() * FACTOR), 100)
                assert of == index
                assert torch.equal(batch.picture[row], pictures_of_frames(one.frames[portrait][None])[0])
        assert starts == set(range(5 - count + 1))

    def test_pictures_span_minus_1_to_1(self):
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[0, 1, 2] = 255
        (picture,) = pictures_of_frames(frame[None])
        assert picture.shape == (3, 64, 64)
        assert picture[2, 0, 1] == 1
        assert picture.min() == -1

    def test_noise_levels_are_log_normal(self, data):
        wide = replace(RECIPE, batch=2000, frames=1, sigma_mean=0.4, sigma_std=1.2)
        small = TrainingClips(data.clips, data.latents[..., :1, :1], FACTOR)
        levels = torch.log(made.drawn_batch(small, wide, 0).sigma)
        assert levels.mean().item() == pytest.approx(0.4, abs=0.1)
        assert levels.std().item() == pytest.approx(1.2, abs=0.1)

    def test_a_batch_goes_to_a_device_whole(self, batch):
        moved = made.on_device(batch, "cpu")
        assert equal(batch, moved)
        assert torch.equal(moved.regions.motion, batch.regions.motion)
        assert moved.gates == batch.gates


PARTS = ("portrait_encoder", "identity_projection", "audio_projection", "motion_projection", "pose_guider")


def moved_parts(model, batch) -> dict[str, bool]:
    """Return whether any gradient reaches each part, the adapters and scans of both signals among them."""
    model.zero_grad(set_to_none=True)
    made.training_loss(model, batch).backward()
    reached = {
        name: value.grad is not None and bool(value.grad.any()) for name, value in model.named_parameters()
    }
    names = (*PARTS, "audio_unit", "exp_unit", "unet.conv_in", "unet.conv_out", "temporal_transformer_blocks")
    return {part: any(hit for name, hit in reached.items() if part in name) for part in names}


class TestGradients:
    @pytest.mark.parametrize("layer", ["per_frame", "joint"])
    def test_they_reach_every_part(self, batch, layer):
        model = tiny_model(layer)
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.1)  # what begins at zero lets nothing through
        whole = batch._replace(gates=(1, 1), given=torch.ones(2, 3, dtype=torch.bool))
        assert all(moved_parts(model, whole).values())

    @pytest.mark.parametrize(
        ("gates", "still"),
        [((1, 0), {"motion_projection", "exp_unit"}), ((0, 1), {"audio_projection", "audio_unit"})],
    )
    def test_a_closed_signal_learns_nothing(self, model, batch, gates, still):
        whole = batch._replace(gates=gates, given=torch.ones(2, 3, dtype=torch.bool))
        assert {part for part, hit in moved_parts(model, whole).items() if not hit} == still

    def test_dropped_identities_teach_the_encoder_nothing(self, model, batch):
        dropped = batch._replace(gates=(1, 1), given=torch.zeros(2, 3, dtype=torch.bool))
        still = {part for part, hit in moved_parts(model, dropped).items() if not hit}
        assert {"portrait_encoder", "identity_projection"} <= still


class TestRecipe:
    def test_the_rate_rises_and_falls(self):
        recipe = replace(RECIPE, steps=100, warmup_steps=4, learning_rate=1.0)
        rates = [made.learning_rate_at(step, recipe) for step in range(101)]
        assert rates[0] == pytest.approx(0.25)
        assert max(rates) == rates[3]
        assert rates[3:] == sorted(rates[3:], reverse=True)
        assert rates[50] == pytest.approx(0.001 + 0.999 / 2)
        assert rates[100] == pytest.approx(0.001)
        flat = replace(recipe, annealed=False)
        assert [made.learning_rate_at(step, flat) for step in (3, 99)] == [1.0, 1.0]
        assert made.learning_rate_at(0, replace(flat, warmup_steps=0)) == 1.0

    def test_plain_values_give_it_back(self):
        assert ACTalkerTrainingParameters.from_dict(RECIPE.to_dict()) == RECIPE
        with pytest.raises(TypeError, match="colour"):
            ACTalkerTrainingParameters.from_dict({"colour": 1})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": 0}, "steps is 0"),
            ({"batch": 0}, "batch is 0"),
            ({"frames": -1}, "frames is -1"),
            ({"learning_rate": 0.0}, "learning_rate is 0"),
            ({"learning_rate": float("nan")}, "learning_rate is nan"),
            ({"sigma_std": 0.0}, "sigma_std is 0"),
            ({"clip_norm": -1.0}, "clip_norm is -1"),
            ({"dropped": 0.4}, r"dropped is 0\.4, expected 0 to 1/3"),
            ({"average_decay": 1.0}, "average_decay is 1"),
            ({"mouth_weight": -1.0}, "mouth_weight is -1"),
            ({"warmup_steps": -1}, "warmup_steps is -1"),
            ({"seed": -1}, "seed is -1"),
            ({"regions": "everywhere"}, "regions is 'everywhere', expected one of regions, full"),
        ],
    )
    def test_bad_values_are_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            replace(RECIPE, **change)


@pytest.mark.parametrize("shape", [(2, 5, 4, 8, 8), (3, 4, 4, 8, 8)])
def test_latents_of_other_clips_are_refused(data, shape):
    with pytest.raises(ValueError, match=r"3 clips of \[5\] frames do not fit"):
        TrainingClips(data.clips, np.zeros(shape, np.float16), FACTOR)


def test_clips_of_several_lengths_are_refused():
    with pytest.raises(ValueError, match=r"\[4, 5\] frames"):
        TrainingClips([clip(0, 4), clip(1, 5)], np.zeros((2, 5, 4, 8, 8), np.float16), FACTOR)


def test_motion_brings_another_mouth_where_both_gates_are_open_and_there_alone():
    data = training_clips()
    mixed = replace(RECIPE, mixed_mouths=True)
    changed = set()
    for step in range(30):
        plain = made.drawn_batch(data, replace(RECIPE, mixed_mouths=False), step)
        other = made.drawn_batch(data, mixed, step)
        different = (plain.moved != other.moved).any(0).any(0)
        changed |= {(plain.gates, column) for column in different.nonzero().flatten().tolist()}
        assert plain.gates == other.gates
        assert torch.equal(plain.clean, other.clean)
        assert torch.equal(plain.heard, other.heard)
    assert changed
    assert {gates for gates, _ in changed} == {(1, 1)}
    names = [BLENDSHAPE_NAMES[column] for _, column in changed]
    assert all(name.startswith(("jaw", "mouth", "tongue")) for name in names)
