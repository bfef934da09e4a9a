"""KDTalker's recipe, and runs that are stopped, killed and gone on with. Networks are tiny, clips random."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.keypoint_diffusion.denoiser import DenoiserParameters
from talking_portrait.core_models.keypoint_diffusion.kdtalker import load_kdtalker
from talking_portrait.core_models.keypoint_diffusion.motion_vectors import MotionStatistics
from talking_portrait.training.kdtalker import (
    KDTalkerTrainingParameters,
    TrainingBatch,
    heard_audio,
    learning_rate_at,
    new_model,
    parameter_groups,
    step_generator,
    training_batch,
    training_loss,
)
from talking_portrait.training.kdtalker_checkpoint import (
    checkpoint_path,
    checkpoints_of,
    export_checkpoint,
    newest_checkpoint,
    read_checkpoint,
)
from talking_portrait.training.kdtalker_dataset import Clip, ClipWindow
from talking_portrait.training.kdtalker_metrics import tensorboard_metrics
from talking_portrait.training.kdtalker_run import (
    KDTalkerTrainer,
    RunParameters,
    TrainingDivergedError,
    fit,
    only_process,
    training_data,
)

TINY = DenoiserParameters(
    width=16, layers=2, heads=2, head_size=8, time_size=8, rotary_size=4, window=8, context_size=512
)
RECIPE = KDTalkerTrainingParameters(
    steps=12, batch=4, learning_rate=1e-3, warmup_steps=3, held_out_share=0.3, seed=5
)
STATISTICS = MotionStatistics(np.zeros(70), np.ones(70), np.zeros(63), np.ones(63))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_clips(count: int = 4, frames: int = 30) -> list[Clip]:
    rng = np.random.default_rng(2)
    return [
        Clip(
            f"p{i}/a",
            rng.normal(size=(frames, 70)),
            rng.normal(size=(frames, 63)),
            rng.uniform(0, 2, size=(frames, 512)),
        )
        for i in range(count)
    ]


def begun(recipe=RECIPE, parameters=TINY, clips=None) -> KDTalkerTrainer:
    data = training_data(clips or random_clips(), parameters.window, recipe.held_out_share)
    return KDTalkerTrainer.begin(parameters, STATISTICS, recipe, data)


def continued(path: Path, clips=None) -> KDTalkerTrainer:
    checkpoint = read_checkpoint(path)
    data = training_data(
        clips or random_clips(), checkpoint.parameters.window, checkpoint.recipe.held_out_share
    )
    return KDTalkerTrainer.from_checkpoint(checkpoint, data)


def equal(one, other) -> bool:
    """Whether two nests of dictionaries, lists, tensors and numbers are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def same_state(one: Path, other: Path) -> bool:
    first, second = read_checkpoint(one), read_checkpoint(other)
    return equal(first.weights, second.weights) and equal(first.optimiser, second.optimiser)


def test_the_defaults_are_the_released_recipe():
    p = KDTalkerTrainingParameters()
    assert p.learning_rate == pytest.approx(2e-6 * p.batch)
    assert (p.steps, p.batch, p.warmup_steps, p.betas) == (500_000, 256, 2000, (0.95, 0.999))
    assert (p.weight_decay, p.clip_norm, p.noise_probability, p.seed) == (1e-6, 50.0, 0.7, 42)
    assert RunParameters().checkpoint_every == 10_000


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 0), ("noise_probability", 1.5), ("precision", "float8"), ("betas", (0.9, 1.0)), ("steps", 0)],
)
def test_a_bad_recipe_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} (is|are)"):
        KDTalkerTrainingParameters(**{name: value})


@given(step=st.integers(0, 600_000))
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(step):
    p = KDTalkerTrainingParameters()
    rate = learning_rate_at(step, p)
    assert 0 <= rate <= p.learning_rate
    if step < p.warmup_steps:
        assert rate == pytest.approx(p.learning_rate * step / p.warmup_steps)
    else:
        assert learning_rate_at(step + 1000, p) <= rate


def test_the_learning_rate_at_known_steps():
    p = KDTalkerTrainingParameters(steps=102, warmup_steps=2, learning_rate=1.0)
    assert [learning_rate_at(step, p) for step in (0, 1, 2)] == [0.0, 0.5, 1.0]
    assert learning_rate_at(52, p) == pytest.approx(0.5)
    assert learning_rate_at(102, p) == pytest.approx(0.0, abs=1e-12)


def test_biases_and_norms_do_not_decay_and_everything_trained_is_in_one_group():
    model = new_model(TINY, STATISTICS, 0)
    decaying, others = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(value): name for name, value in model.named_parameters()}
    free = {names[id(value)] for value in others["params"]}
    weighed = {names[id(value)] for value in decaying["params"]}
    assert free | weighed == {name for name, value in model.named_parameters() if value.requires_grad}
    assert not free & weighed
    assert "denoiser.layers.0.0.block1.norm.gamma" in free
    assert "denoiser.layers.0.2.fn.fn.proj.bias" in free
    assert "denoiser.time_rel_pos_bias.relative_attention_bias.weight" in free
    assert all(name.endswith(".weight") for name in weighed)
    assert not any("freqs" in name for name in free | weighed)


def test_noise_has_the_whole_tensors_mean_and_deviation_and_reaches_the_clean_tokens():
    audio = torch.rand(64, 8, 512) * 3
    generator = torch.Generator().manual_seed(1)
    clean = heard_audio(audio, 2, 0.0, generator)
    assert torch.equal(clean[:, 2:], audio)
    assert not clean[:, :2].any()
    noise = heard_audio(audio, 2, 1.0, generator) - clean
    assert float(noise.mean()) == pytest.approx(float(clean.mean()), rel=0.02)
    assert float(noise.std()) == pytest.approx(float(clean.std()), rel=0.02)
    assert float(noise[:, :2].std()) == pytest.approx(float(clean.std()), rel=0.05)


def test_noise_comes_as_often_as_asked_for_and_for_a_whole_batch():
    generator = torch.Generator().manual_seed(3)
    audio = torch.ones(2, 3, 512)
    changed = [(heard_audio(audio, 1, 0.7, generator)[:, 1:] != 1).float().mean() for _ in range(400)]
    assert set(map(float, changed)) <= {0.0, 1.0}
    assert float(torch.stack(changed).mean()) == pytest.approx(0.7, abs=0.08)


def test_an_untrained_model_predicts_nothing_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    model = new_model(TINY, STATISTICS, 9)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(
        model.denoiser.input_projection.weight,
        new_model(TINY, STATISTICS, 9).denoiser.input_projection.weight,
    )
    batch = begun().batch(0)
    loss = training_loss(model, batch, torch.Generator().manual_seed(0)).loss
    assert loss.item() == pytest.approx(1.0, abs=0.1)


def test_the_loss_is_over_the_window_and_its_parts_are_pose_and_expression(monkeypatch):
    def known_error(x, steps, context):
        """Predict motion that is off by 1 in the size, 2 in the pose, 3 in the expression; 100 in the clean tokens."""
        off = torch.full_like(x, 3.0)
        off[..., 0], off[..., 1:7], off[:, :2] = 1.0, 2.0, 100.0
        return off

    model = new_model(replace(TINY, prediction="x0"), STATISTICS, 0)
    monkeypatch.setattr(model.denoiser, "forward", known_error)
    batch = TrainingBatch(
        torch.zeros(3, 70), torch.zeros(3, 70), torch.zeros(3, 8, 70), torch.zeros(3, 8, 512)
    )
    parts = training_loss(model, batch, torch.Generator().manual_seed(0))
    assert (float(parts.pose), float(parts.expression)) == (4.0, 9.0)
    assert float(parts.loss) == pytest.approx((1 + 6 * 4 + 63 * 9) / 70)


def test_a_batch_is_in_z_scores_with_the_canonical_keypoints_in_the_expressions_place():
    statistics = MotionStatistics(np.full(70, 2.0), np.full(70, 4.0), np.full(63, 1.0), np.full(63, 0.5))
    windows = ClipWindow(
        np.full((1, 63), 2.0, np.float32),
        np.full((1, 70), 6.0, np.float32),
        np.full((1, 5, 70), -2.0, np.float32),
        np.zeros((1, 5, 512), np.float32),
    )
    batch = training_batch(windows, statistics)
    assert batch.canonical[0].tolist() == [0.0] * 7 + [2.0] * 63
    assert (batch.reference == 1).all()
    assert (batch.motion == -1).all()
    assert batch.motion.dtype == torch.float32


@pytest.mark.parametrize("change", [{"prediction": "x0"}, {"attention": False}, {"canonical_token": False}])
def test_the_ablations_train_too(change):
    trainer = begun(parameters=replace(TINY, **change))
    assert math.isfinite(trainer.train_step(trainer.batch(0)).loss)


def test_bfloat16_products_keep_float32_weights():
    trainer = begun(replace(RECIPE, precision="bfloat16"))
    assert math.isfinite(trainer.train_step(trainer.batch(0)).loss)
    assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}


def test_more_previous_frames_than_the_sampler_knows_are_refused():
    with pytest.raises(ValueError, match="previous_frames is 10"):
        new_model(replace(TINY, previous_frames=10), STATISTICS, 0)


def test_generators_of_steps_differ_and_repeat():
    def draw(seed, step):
        return torch.randn(4, generator=step_generator(seed, step, torch.device("cpu"))).tolist()

    assert draw(1, 2) == draw(1, 2)
    assert draw(1, 2) != draw(1, 3)
    assert draw(1, 2) != draw(2, 2)


@settings(max_examples=5, deadline=None)
@given(stop=st.integers(0, 11))
def test_a_run_stopped_anywhere_ends_equal_to_the_last_bit(stop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    whole = fit(begun(), folder / "whole")
    half = fit(begun(), folder / "halves", until=stop)
    assert read_checkpoint(half).step == stop
    rest = fit(continued(half), folder / "halves")
    assert same_state(whole, rest)


def test_any_checkpoint_will_do_and_only_the_newest_stay(tmp_path):
    watch = RunParameters(checkpoint_every=3, keep=2)
    last = fit(begun(), tmp_path, watch)
    assert [step for step, _ in checkpoints_of(tmp_path)] == [9, 12]
    assert newest_checkpoint(tmp_path) == last
    again = fit(continued(checkpoint_path(tmp_path, 9)), tmp_path / "elsewhere", watch)
    assert same_state(last, again)


def test_going_on_from_an_earlier_checkpoint_sets_later_ones_aside(tmp_path):
    """Also a damaged one of the same step is written anew, and the abandoned branch is not the newest any more."""
    watch = RunParameters(checkpoint_every=3, keep=9)
    whole = fit(begun(), tmp_path, watch)
    expected = read_checkpoint(whole)
    whole.write_bytes(whole.read_bytes()[:500])
    last = fit(continued(checkpoint_path(tmp_path, 3)), tmp_path, watch, until=6)
    assert newest_checkpoint(tmp_path) == last == checkpoint_path(tmp_path, 6)
    aside = sorted(path.name for path in last.parent.glob("*.abandoned"))
    assert aside == [f"{checkpoint_path(tmp_path, step).name}.abandoned" for step in (6, 9, 12)]
    again = fit(continued(last), tmp_path, watch)
    assert again == whole
    assert all(
        torch.equal(read_checkpoint(again).weights[name], value) for name, value in expected.weights.items()
    )


KILLED_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
import importlib.util
spec = importlib.util.spec_from_file_location("training_tests", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
run = Path(sys.argv[2])
tests.fit(tests.begun(tests.LONG_RECIPE), run, tests.RunParameters(checkpoint_every=1, keep=100))
"""
LONG_RECIPE = replace(RECIPE, steps=100_000)


def test_a_killed_run_goes_on_to_the_last_bit(tmp_path):
    run = tmp_path / "killed"
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, __file__, str(run), root])
    try:
        deadline = time.monotonic() + 60
        while len(checkpoints_of(run)) < 4 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    found = checkpoints_of(run)
    assert len(found) >= 4
    for _, path in found:
        read_checkpoint(path)  # each is whole
    step = found[-1][0]
    (run / "checkpoints" / ".step_0000001.dead.part").write_bytes(b"half")
    resumed = fit(continued(found[-1][1]), run, RunParameters(keep=100), until=step + 3)
    assert not list(run.rglob("*.part"))
    uninterrupted = fit(begun(LONG_RECIPE), tmp_path / "whole", until=step + 3)
    assert same_state(resumed, uninterrupted)


def test_a_cancelled_run_keeps_its_checkpoints(tmp_path):
    def cancel_at_five(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(begun(), tmp_path, RunParameters(checkpoint_every=2), progress=cancel_at_five)
    assert [step for step, _ in checkpoints_of(tmp_path)] == [0, 2, 4]
    assert not list(tmp_path.rglob("*.part"))
    assert same_state(fit(continued(newest_checkpoint(tmp_path)), tmp_path), fit(begun(), tmp_path / "whole"))


def test_a_run_that_diverges_says_so_and_keeps_the_last_good_checkpoint(tmp_path):
    trainer = begun(replace(RECIPE, learning_rate=1e30, warmup_steps=0))
    with pytest.raises(
        TrainingDivergedError, match=r"diverged in step \d.*last good checkpoint.*lower"
    ) as error:
        fit(trainer, tmp_path, RunParameters(checkpoint_every=1))
    last = newest_checkpoint(tmp_path)
    assert str(last) in str(error.value)
    assert read_checkpoint(last).step == trainer.step
    assert all(torch.isfinite(value).all() for value in trainer.model.parameters())


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    with only_process(tmp_path), pytest.raises(ValueError, match="another process trains in"):
        fit(begun(), tmp_path)


def test_other_data_is_allowed_with_a_warning(tmp_path, caplog):
    half = fit(begun(), tmp_path, until=2)
    continued(half)
    assert "no longer the same run" not in caplog.text
    continued(half, random_clips(5))
    assert "no longer the same run" in caplog.text


@pytest.mark.parametrize("content", [b"", b"text", "cut", "other"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "step_0000009.pt"
    if content == "cut":
        whole = fit(begun(), tmp_path / "run", until=0).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "other":
        torch.save({"weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"step_0000009\.pt is not a"):
        read_checkpoint(path)


def test_a_place_without_checkpoints_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        newest_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("change", [{}, {"attention": False}, {"canonical_token": False}])
def test_what_is_exported_is_what_the_loader_reads(tmp_path, change):
    trainer = begun(parameters=replace(TINY, **change))
    last = fit(trainer, tmp_path / "run", until=3)
    target = tmp_path / "model.safetensors"
    export_checkpoint(read_checkpoint(last), target)
    loaded = load_kdtalker(target)
    assert loaded.parameters_used == trainer.model.parameters_used
    assert equal(dict(loaded.state_dict()), dict(trainer.model.state_dict()))
    assert np.array_equal(loaded.statistics.motion_std, STATISTICS.motion_std)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "run"]


def test_an_export_under_another_name_is_refused(tmp_path):
    checkpoint = read_checkpoint(fit(begun(), tmp_path / "run", until=0))
    with pytest.raises(ValueError, match=r"model\.pth"):
        export_checkpoint(checkpoint, tmp_path / "model.pth")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        export_checkpoint(checkpoint, tmp_path / "nowhere" / "model.safetensors")


def test_figures_come_when_they_are_due(tmp_path):
    seen = {}
    parameters = RunParameters(log_every=4, validate_every=6, validation_windows=8)
    trainer = begun()
    fit(trainer, tmp_path, parameters, metrics=lambda step, figures: seen.update({step: dict(figures)}))
    assert sorted(seen) == [4, 6, 8, 12]
    assert set(seen[6]) == {"loss/validation"}
    assert {"loss/training", "loss/pose", "loss/expression", "gradient_norm", "learning_rate"} < set(seen[4])
    assert seen[12]["loss/validation"] == pytest.approx(trainer.validation_loss(8))


def test_the_validation_loss_is_of_held_out_people_and_the_same_each_time():
    trainer = begun()
    assert {clip.name for clip in trainer.data.held_out}.isdisjoint(c.name for c in trainer.data.training)
    assert trainer.validation_loss(8) == trainer.validation_loss(8)
    assert begun(replace(RECIPE, held_out_share=0)).validation_loss(8) is None


def test_figures_reach_tensorboard_and_a_continued_run_hides_later_ones(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for step in (0, 3):
        with tensorboard_metrics(tmp_path, step) as write:
            for at in range(step + 1, 6):
                write(at, {"loss/training": float(at + 10 * step)})
    events = accumulator.EventAccumulator(str(tmp_path / "metrics"))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("loss/training")}
    assert shown == {1: 1.0, 2: 2.0, 3: 3.0, 4: 34.0, 5: 35.0}


def test_a_missing_tensorboard_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"), tensorboard_metrics(tmp_path, 0):
        pass
