"""Training of the motion space on drawn faces: losses fall, every network learns, runs resume to the bit."""

import hashlib
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.motion.motion_extractor import MotionExtractorParameters
from talking_portrait.core_models.rendering.liveportrait.appearance import AppearanceParameters
from talking_portrait.core_models.rendering.liveportrait.dense_motion import DenseMotionParameters
from talking_portrait.core_models.rendering.liveportrait.generator import GeneratorParameters
from talking_portrait.core_models.rendering.liveportrait.warping import WarpingParameters
from talking_portrait.core_models.rendering.motion_space import (
    MotionSpaceParameters,
    load_motion_space,
    new_motion_space,
    published_motion_space,
    small_motion_space,
)
from talking_portrait.core_models.strict_loading import read_metadata
from talking_portrait.training import takin_ada_frames, takin_ada_motion_space
from talking_portrait.training import takin_ada_motion_space_run as runs
from talking_portrait.training.kdtalker_checkpoint import newest_checkpoint
from talking_portrait.training.kdtalker_run import TrainingDivergedError
from talking_portrait.training.patch_discriminator import (
    DiscriminatorParameters,
)
from talking_portrait.training.perceptual_features import (
    RandomFeatures,
)
from talking_portrait.training.takin_ada_frames import FrameSampler, FrameSet, pictures_of
from talking_portrait.training.takin_ada_losses import TakinADALossWeights
from talking_portrait.training.takin_ada_motion_space import (
    MotionSpaceTrainer,
    frame_size,
    network_pictures,
    region_mask,
)
from talking_portrait.training.takin_ada_motion_space_recipe import (
    SMALL_WEIGHTS,
    MotionSpaceTrainingParameters,
    learning_rate_at,
    require_recipe_for,
    small_training_recipe,
)

SIZE = 16


def tiny_sizes() -> MotionSpaceParameters:
    dense = DenseMotionParameters(
        12, 2, 2, compressed_channels=1, first_channels=2, max_channels=4, blocks=1, mask_kernel=3
    )
    return MotionSpaceParameters(
        extractor=MotionExtractorParameters(depths=(1, 1), widths=(8, 16), keypoints=12),
        appearance=AppearanceParameters(4, 2, 8, volume_channels=2, volume_depth=2, residual_blocks=1),
        warping=WarpingParameters(out_channels=8, dense_motion=dense),
        generator=GeneratorParameters(
            8, 8, middle_blocks=1, out_channels=8, upscale=1, modulation_channels=4
        ),
        picture_size=SIZE,
    )


def drawn_frames(persons: int = 2, frames: int = 4, seed: int = 0) -> FrameSet:
    """Coloured squares with a dark mouth that opens, which move sideways."""
    rng = np.random.default_rng(seed)
    count = persons * frames
    pictures = np.full((count, SIZE, SIZE, 3), 200, np.uint8)
    landmarks = np.zeros((count, 10, 2), np.float32)
    openings = np.zeros((count, 3), np.float32)
    colours = rng.integers(60, 180, (persons, 3))
    for index in range(count):
        shift, gap = rng.integers(-2, 3), rng.integers(0, 4)
        pictures[index, 3:14, 4 + shift : 12 + shift] = colours[index // frames]
        pictures[index, 9 : 10 + gap, 6 + shift : 10 + shift] = 20
        landmarks[index, :, 0] = (2 * (8 + shift) - 15) / SIZE + np.linspace(-0.3, 0.3, 10)
        landmarks[index, 8:, 1] = [0.2, 0.2 + 2 * gap / SIZE]
        openings[index, 2] = gap / 4
    return FrameSet(
        pictures=pictures,
        landmarks=landmarks,
        angles=rng.normal(0, 5, (count, 3)).astype(np.float32),
        openings=openings,
        persons=np.repeat(np.arange(persons), frames),
        clips=np.repeat(np.arange(persons), frames),
    )


def tiny_recipe(**changes) -> MotionSpaceTrainingParameters:
    values = {"steps": 6, "batch": 2, "pyramid_levels": 2, "decay_share": 0.5, **changes}
    judge = DiscriminatorParameters(first_channels=4, layers=2)
    return small_training_recipe(discriminator=judge, **values)


def begun(frames: FrameSet | None = None, **changes) -> MotionSpaceTrainer:
    sampler = FrameSampler(frames or drawn_frames())
    return MotionSpaceTrainer.begin(tiny_sizes(), tiny_recipe(**changes), sampler)


FULL = TakinADALossWeights(canonical_ramp_steps=0)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_a_step_has_every_term_and_moves_every_network():
    trainer = begun(weights=FULL, adversarial_ramp_steps=0)
    before = {name: value.clone() for name, value in trainer.networks.state_dict().items()}
    judged = {name: value.clone() for name, value in trainer.discriminator.state_dict().items()}
    figures = trainer.train_step()
    terms = {n for n in vars(FULL) if n != "canonical_ramp_steps"}
    assert terms | {"loss", "gradient_norm", "discriminator"} == set(figures)
    assert figures["loss"] == pytest.approx(sum(figures[name] for name in terms), rel=1e-4)
    after = trainer.networks.state_dict()
    for network in ("motion_extractor", "appearance", "warping", "generator"):
        assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith(network)), network
    assert not same(judged, trainer.discriminator.state_dict())
    assert trainer.step == 1


def test_terms_of_no_weight_are_left_out_and_change_nothing_else():
    with_all, without = begun(weights=SMALL_WEIGHTS), begun(weights=replace(SMALL_WEIGHTS, landmark=0.0))
    first, second = with_all.train_step(), without.train_step()
    assert "landmark" not in second
    assert all(second[n] == first[n] for n in ("perceptual", "equivariance", "head_pose", "deformation"))
    assert with_all.discriminator is None


def test_the_canonical_and_adversarial_terms_come_in_slowly():
    trainer = begun(weights=replace(FULL, canonical_ramp_steps=2), adversarial_ramp_steps=2)
    ramped = [trainer.train_step() for _ in range(3)]
    assert ramped[0]["canonical"] == ramped[0]["adversarial"] == ramped[0]["feature_matching"] == 0
    assert ramped[1]["feature_matching"] < ramped[2]["feature_matching"]


def test_loss_falls_on_a_few_frames():
    trainer = begun(drawn_frames(1, 2), steps=60, batch=2, learning_rate=5e-3, decay_share=0.0)
    first = np.mean([trainer.train_step()["perceptual"] for _ in range(3)])
    for _ in range(35):
        trainer.train_step()
    last = np.mean([trainer.train_step()["perceptual"] for _ in range(3)])
    assert last < 0.6 * first


def canonical_spread(trainer: MotionSpaceTrainer, frames: FrameSet) -> float:
    with torch.no_grad():
        canonical = trainer.networks.motion(pictures_of(frames, np.arange(len(frames)))).canonical
    parts = [canonical[torch.from_numpy(frames.persons == person)] for person in set(frames.persons.tolist())]
    return float(torch.stack([part.std(dim=0).mean() for part in parts]).mean())


def test_equation_1_keeps_the_canonical_keypoints_of_a_person_together():
    frames, spreads = drawn_frames(2, 6), []
    for weight in (0.0, 1000.0):
        weights = replace(SMALL_WEIGHTS, canonical=weight, canonical_ramp_steps=0, landmark=0.0)
        trainer = begun(frames, weights=weights, steps=20, batch=4, learning_rate=2e-3, decay_share=0.0)
        with torch.no_grad():
            trainer.networks.motion_extractor.detector.fc_kp.weight.mul_(50)  # they depend on the expression
        before = canonical_spread(trainer, frames)
        for _ in range(20):
            trainer.train_step()
        spreads.append(canonical_spread(trainer, frames) / before)
    assert spreads[1] < 0.5 * spreads[0], spreads


def test_equation_2_brings_keypoints_to_their_landmarks():
    weights = replace(SMALL_WEIGHTS, canonical=0.0)
    trainer = begun(drawn_frames(1, 3), weights=weights, steps=40, learning_rate=5e-3, decay_share=0.0)
    first = trainer.train_step()["landmark"]
    for _ in range(28):
        trainer.train_step()
    assert trainer.train_step()["landmark"] < 0.4 * first


@pytest.mark.parametrize("weights", [SMALL_WEIGHTS, FULL])
def test_a_run_that_goes_on_is_the_run_that_was_not_interrupted(tmp_path, weights):
    keeping = runs.KeepingParameters(checkpoint_every=2, keep=2, log_every=1)
    whole = begun(weights=weights, adversarial_ramp_steps=2)
    runs.fit_motion_space(whole, tmp_path / "whole", keeping)
    begun_again = begun(weights=weights, adversarial_ramp_steps=2)
    runs.fit_motion_space(begun_again, tmp_path / "parts", keeping, until=3)
    checkpoint = runs.read_motion_space_checkpoint(newest_checkpoint(tmp_path / "parts"))
    assert checkpoint.step == 3
    resumed = runs.trainer_from_checkpoint(checkpoint, FrameSampler(drawn_frames()))
    path = runs.fit_motion_space(resumed, tmp_path / "parts", keeping)
    assert resumed.step == whole.step == 6
    assert same(whole.networks.state_dict(), resumed.networks.state_dict())
    if whole.discriminator is not None:
        assert same(whole.discriminator.state_dict(), resumed.discriminator.state_dict())
    assert same(load_motion_space(path).state_dict(), whole.networks.state_dict())
    assert len(list((tmp_path / "parts" / "checkpoints").iterdir())) == 2


def test_other_frames_are_named_in_the_log(tmp_path, caplog):
    trainer = begun()
    checkpoint = runs.checkpoint_of(trainer)
    runs.trainer_from_checkpoint(checkpoint, FrameSampler(drawn_frames(seed=1)))
    assert "no longer the same run" in caplog.text


def test_a_run_goes_on_with_its_own_feature_network():
    checkpoint = runs.checkpoint_of(begun())
    assert checkpoint.features == "random convolutions of 3-12-24 channels, seed 20241014"
    with pytest.raises(ValueError, match=r"began with random convolutions .* given is .* seed 1: give"):
        runs.trainer_from_checkpoint(checkpoint, FrameSampler(drawn_frames()), features=RandomFeatures(1))


def test_a_checkpoint_of_the_first_runs_goes_on_with_a_warning(tmp_path, caplog):
    trainer, path = begun(), tmp_path / "step_0000000.pt"
    runs.write_motion_space_checkpoint(path, runs.checkpoint_of(trainer))
    content = torch.load(path, weights_only=True)
    del content["features"], content["recipe"]["guided"]
    torch.save(content, path)
    checkpoint = runs.read_motion_space_checkpoint(path)
    assert checkpoint.features is None
    assert checkpoint.recipe == trainer.recipe
    runs.trainer_from_checkpoint(checkpoint, FrameSampler(drawn_frames()))
    assert "does not say what compared pictures" in caplog.text


def test_the_weight_file_names_recipe_and_features(tmp_path):
    guided = tuple(range(2, 12))
    path = runs.fit_motion_space(begun(guided=guided), tmp_path, until=1)
    facts = json.loads(read_metadata(path)[runs.TRAINING_ENTRY])
    assert (facts["step"], tuple(facts["guided"])) == (1, guided)
    assert facts["features"].startswith("random convolutions")
    assert runs.read_motion_space_checkpoint(newest_checkpoint(tmp_path)).recipe.guided == guided


def test_frames_are_hashed_once_in_a_run(tmp_path, monkeypatch):
    calls = []
    plain = takin_ada_frames.frames_digest
    monkeypatch.setattr(takin_ada_frames, "frames_digest", lambda frames: calls.append(1) or plain(frames))
    runs.fit_motion_space(begun(steps=3), tmp_path, runs.KeepingParameters(checkpoint_every=1))
    assert len(calls) == 1


def test_frames_are_told_apart_by_all_they_hold():
    frames = drawn_frames()
    digest = takin_ada_frames.frames_digest(frames)
    whole = hashlib.sha256(b"".join(getattr(frames, entry.name).tobytes() for entry in fields(frames)))
    assert digest == whole.hexdigest()
    assert digest != takin_ada_frames.frames_digest(replace(frames, angles=frames.angles + 1))


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    path = tmp_path / "step_0000001.pt"
    with pytest.raises(FileNotFoundError):
        runs.read_motion_space_checkpoint(path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="cut off"):
        runs.read_motion_space_checkpoint(path)
    torch.save({"kind": "kdtalker_training_1"}, path)
    with pytest.raises(ValueError, match=r"is not a checkpoint of .*takin-ada"):
        runs.read_motion_space_checkpoint(path)
    torch.save({"kind": runs.CHECKPOINT_KIND, "step": 1}, path)
    with pytest.raises(ValueError, match="another version"):
        runs.read_motion_space_checkpoint(path)


def test_a_run_stops_after_its_minutes(tmp_path):
    trainer = begun(steps=10_000)
    runs.fit_motion_space(trainer, tmp_path / "run", minutes=0.001)
    assert 1 <= trainer.step < 10_000
    with pytest.raises(ValueError, match="minutes is 0"):
        runs.fit_motion_space(trainer, tmp_path / "run", minutes=0)


def test_divergence_stops_the_run_before_weights_change(tmp_path):
    trainer = begun()
    with torch.no_grad():
        trainer.networks.generator.fc.bias.fill_(float("nan"))
    kept = trainer.networks.motion_extractor.detector.fc_kp.weight.clone()
    with pytest.raises(TrainingDivergedError, match=r"step 0.*last good checkpoint is .*step_0000000"):
        runs.fit_motion_space(trainer, tmp_path / "run")
    assert torch.equal(kept, trainer.networks.motion_extractor.detector.fc_kp.weight)


def test_the_learning_rate_falls_in_a_straight_line_at_the_end():
    recipe = small_training_recipe(steps=100, decay_share=0.5, learning_rate=1.0)
    assert [learning_rate_at(step, recipe) for step in (0, 50, 75, 100)] == [1, 1, 0.5, 0]
    assert learning_rate_at(99, replace(recipe, decay_share=0.0)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"clip_norm": float("inf")},
        {"decay_share": 1.5},
        {"region_weight": -1.0},
        {"penalty": "square"},
        {"seed": -1},
        {"pyramid_levels": 0},
        {"guided": (0, 1, 2)},
        {"guided": (0, 0, *range(2, 10))},
        {"guided": (-1, *range(9))},
    ],
)
def test_recipes_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} is "):
        MotionSpaceTrainingParameters(**change)


def test_recipes_survive_a_dictionary():
    recipe = tiny_recipe(weights=FULL)
    assert MotionSpaceTrainingParameters.from_dict(recipe.to_dict()) == recipe


def test_a_recipe_without_guided_keypoints_is_of_the_first_ten():
    values = tiny_recipe().to_dict()
    del values["guided"]
    assert MotionSpaceTrainingParameters.from_dict(values).guided == tuple(range(10))
    assert (
        MotionSpaceTrainingParameters.from_dict(json.loads(json.dumps(tiny_recipe().to_dict())))
        == tiny_recipe()
    )


def test_landmarks_guide_the_keypoints_of_the_recipe():
    first, last = begun(), begun(guided=tuple(range(2, 12)))
    batch = first.batch(0)
    keypoints = torch.zeros(2, 12, 3)
    keypoints[:, 2:, :2] = batch.driving_landmarks
    made = takin_ada_motion_space.reenacted(first.networks, batch, first._warp())
    made = made._replace(source_keypoints=keypoints, driving_keypoints=keypoints)
    batch = batch._replace(source_landmarks=batch.driving_landmarks)
    assert last.terms(batch, made)["landmark"] == 0
    assert first.terms(batch, made)["landmark"] > 0


def test_recipes_that_sizes_cannot_follow_are_refused():
    sizes = tiny_sizes()
    require_recipe_for(tiny_recipe(guided=tuple(range(2, 12))), sizes)
    for changes, message in (
        ({"guided": tuple(range(3, 13))}, "guided is .* keypoints 0 to 11"),
        ({"pyramid_levels": 6}, "pyramid_levels is 6, but pictures have 16 pixels"),
        ({"weights": FULL, "discriminator": DiscriminatorParameters(4, layers=4, scales=2)}, "needs 32"),
    ):
        with pytest.raises(ValueError, match=message):
            require_recipe_for(replace(tiny_recipe(), **changes), sizes)
    free = replace(tiny_recipe().weights, landmark=0.0)
    require_recipe_for(tiny_recipe(guided=tuple(range(3, 13)), weights=free), sizes)


def test_frames_are_as_large_as_what_is_read_or_drawn():
    assert frame_size(published_motion_space()) == 512
    assert frame_size(small_motion_space()) == 64


def test_frames_smaller_than_the_networks_are_refused():
    sizes = replace(tiny_sizes(), picture_size=32)
    with pytest.raises(ValueError, match="frames have 16 pixels a side, but the networks read 32"):
        MotionSpaceTrainer(new_motion_space(sizes, 0), tiny_recipe(), FrameSampler(drawn_frames()))


def test_regions_are_around_the_landmarks():
    mask = region_mask(torch.tensor([[[0.5, -0.5], [-0.5, 0.5]]]), 32)
    assert mask.shape == (1, 1, 32, 32)
    assert mask[0, 0, 8, 24] > 0.9
    assert mask[0, 0, 24, 8] > 0.9
    assert mask[0, 0, 24, 24] < 1e-3
    weighted = begun(region_weight=5.0).train_step()["perceptual"]
    assert weighted > begun().train_step()["perceptual"]


def test_larger_pictures_are_averaged_down():
    pictures = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(network_pictures(pictures, 4), torch.nn.functional.avg_pool2d(pictures, 2))
    assert network_pictures(pictures, 8) is pictures
