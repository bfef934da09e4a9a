"""`talking-portrait train kdtalker`: its four subcommands together, and what it says when something is wrong."""

import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from talking_portrait.core_models.keypoint_diffusion.kdtalker import load_kdtalker
from talking_portrait.headless import train_kdtalker_command
from talking_portrait.headless.command_line import main
from talking_portrait.training.kdtalker_checkpoint import checkpoints_of, read_checkpoint
from talking_portrait.training.kdtalker_dataset import Clip, write_clip
from talking_portrait.training.kdtalker_extraction import (
    ClipReport,
    ExtractionNetworks,
    ExtractionSettings,
)

SIZES = ["--width", "16", "--layers", "2", "--heads", "2", "--head-size", "12", "--window", "8"]
RECIPE = ["--steps", "4", "--batch", "2", "--warmup-steps", "1", "--held-out-share", "0.4"]


@pytest.fixture(autouse=True)
def on_the_processor(monkeypatch):
    monkeypatch.setenv("TALKING_PORTRAIT_DEVICE", "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path):
    """A folder of three random clips with their statistics."""
    rng = np.random.default_rng(4)
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abc":
        arrays = (rng.normal(size=(20, size)) for size in (70, 63, 512))
        write_clip(folder / f"{name}.safetensors", Clip(name, *arrays))
    return folder


@pytest.fixture
def run_command(capsys):
    def run(*arguments) -> tuple[int, str, str]:
        code = main(["train", "kdtalker", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.strip(), captured.err

    return run


@pytest.fixture
def ready(data, run_command):
    """The data with its statistics."""
    assert run_command("statistics", data) == (0, f"{data}/norm.npz", "")
    return data


def test_from_clips_to_a_model_that_loads(ready, tmp_path, run_command):
    run, target = tmp_path / "run", tmp_path / "own.safetensors"
    code, out, _ = run_command("fit", ready, "--out", run, *SIZES, *RECIPE, "--until", 2)
    assert (code, out) == (0, f"{run}/checkpoints/step_0000002.pt")
    assert list((run / "metrics").iterdir())
    code, out, _ = run_command("fit", ready, "--out", run, "--resume", "--in-memory", "--no-metrics")
    assert (code, out) == (0, f"{run}/checkpoints/step_0000004.pt")
    assert run_command("export", run, "--out", target)[:2] == (0, str(target))
    loaded = load_kdtalker(target)
    assert (loaded.parameters_used.width, loaded.parameters_used.window) == (16, 8)
    weights = read_checkpoint(run / "checkpoints" / "step_0000004.pt").weights
    assert torch.equal(weights["denoiser.input_projection.weight"], loaded.denoiser.input_projection.weight)


def test_stopping_and_going_on_is_equal_to_never_stopping(ready, tmp_path, run_command):
    run_command("fit", ready, "--out", tmp_path / "whole", *SIZES, *RECIPE, "--no-metrics")
    halves = tmp_path / "halves"
    run_command("fit", ready, "--out", halves, *SIZES, *RECIPE, "--no-metrics", "--until", 3)
    run_command(
        "fit", ready, "--out", halves, "--resume", halves / "checkpoints/step_0000003.pt", "--no-metrics"
    )
    one, other = (read_checkpoint(checkpoints_of(run)[-1][1]).weights for run in (tmp_path / "whole", halves))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_ablations_and_the_small_network_can_be_chosen():
    parser = train_kdtalker_command.build_parser()
    options = parser.parse_args(["fit", "D", "--out", "R", "--small", "--layers", "2", "--no-attention"])
    sizes = train_kdtalker_command.denoiser_sizes(options)
    assert (sizes.width, sizes.layers, sizes.attention, sizes.canonical_token) == (128, 2, False, True)
    plain = train_kdtalker_command.denoiser_sizes(parser.parse_args(["fit", "D", "--out", "R"]))
    assert (plain.width, plain.layers, plain.window) == (768, 6, 64)
    assert train_kdtalker_command.training_recipe(options).batch == 256


def failed(result) -> str:
    code, out, err = result
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    return err


def test_a_folder_that_holds_a_run_is_not_overwritten(ready, tmp_path, run_command):
    arguments = ["fit", ready, "--out", tmp_path / "run", *SIZES, *RECIPE, "--no-metrics"]
    assert run_command(*arguments)[0] == 0
    assert "up to step 4: go on with --resume" in failed(run_command(*arguments))


def test_a_run_goes_on_as_it_began(ready, tmp_path, run_command):
    run = tmp_path / "run"
    run_command("fit", ready, "--out", run, *SIZES, *RECIPE, "--no-metrics", "--until", 1)
    again = ["fit", ready, "--out", run, "--resume", "--no-metrics"]
    error = failed(run_command(*again, "--batch", 8, "--width", 16, "--layers", 3))
    assert "--batch 8 (it is 2)" in error
    assert "--layers 3 (it is 2)" in error
    assert "--width" not in error
    assert run_command(*again, *SIZES, *RECIPE)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "holds no checkpoint"),
        (["--resume", "nowhere.pt"], "nowhere.pt holds no checkpoint"),
        (["--width", "15"], "--width is 15, expected an even number"),
        (["--layers", "0"], "--layers is 0"),
        (["--batch", "0"], "batch is 0"),
        (["--precision", "float8"], "precision is 'float8'"),
        (["--device", "toaster"], "not a torch device"),
        (["--checkpoint-every", "0"], "checkpoint_every is 0"),
        (["--window", "64"], "no clip has the 66 frames"),
        (["--rotary"], None),
    ],
)
def test_bad_options_of_fit(ready, tmp_path, run_command, arguments, message):
    command = ["fit", ready, "--out", tmp_path / "run", *SIZES, *RECIPE, "--no-metrics", *arguments]
    if message is None:
        with pytest.raises(SystemExit) as ended:
            run_command(*command)
        assert ended.value.code == 2
    else:
        assert message in failed(run_command(*command))


def test_data_that_cannot_be_trained_on(data, tmp_path, run_command):
    fit = ["--out", tmp_path / "run", *SIZES, *RECIPE, "--no-metrics"]
    assert "make it with 'talking-portrait train kdtalker statistics" in failed(
        run_command("fit", data, *fit)
    )
    (data / "norm.npz").write_bytes(b"no statistics")
    assert "norm.npz is not KDTalker's statistics file" in failed(run_command("fit", data, *fit))
    (tmp_path / "empty").mkdir()
    for command in (["statistics", tmp_path / "empty"], ["fit", tmp_path / "empty", *fit]):
        assert "holds no clips" in failed(run_command(*command))
    assert "nowhere" in failed(run_command("fit", tmp_path / "nowhere", *fit))


def test_a_missing_tensorboard_is_told_before_training(ready, tmp_path, run_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fit = ["fit", ready, "--out", tmp_path / "run", *SIZES, *RECIPE]
    assert "pip install tensorboard" in failed(run_command(*fit))
    assert not checkpoints_of(tmp_path / "run")
    assert run_command(*fit, "--no-metrics")[0] == 0


def test_exports_that_cannot_be(tmp_path, run_command):
    assert "holds no checkpoint" in failed(
        run_command("export", tmp_path, "--out", tmp_path / "x.safetensors")
    )


def test_extract_says_what_is_bad_on_stderr(tmp_path, run_command, monkeypatch):
    @contextmanager
    def no_networks(options):
        yield ExtractionNetworks(None, None, None), ExtractionSettings(shortest=options.shortest)

    asked = {}

    def extracted(videos, target, networks, settings, progress):
        asked.update(videos=videos, target=target, shortest=settings.shortest)
        return [
            ClipReport("a.mp4", "extracted", frames=1500),
            ClipReport("b.mp4", "bad", "b.mp4 has no sound"),
        ]

    monkeypatch.setattr(train_kdtalker_command, "extraction_networks", no_networks)
    monkeypatch.setattr("talking_portrait.training.kdtalker_extraction.extract_dataset", extracted)
    (tmp_path / "a.mp4").write_bytes(b"x")
    code, out, err = run_command("extract", tmp_path, "--out", tmp_path / "data", "--shortest", 80)
    assert (code, out) == (0, f"{tmp_path}/data")
    assert "1 extracted, 0 kept, 1 bad; 1.0 minutes of clips" in err
    assert "bad: b.mp4: b.mp4 has no sound" in err
    assert asked == {"videos": tmp_path, "target": tmp_path / "data", "shortest": 80}


def test_extract_without_videos_or_networks(tmp_path, run_command, monkeypatch):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    extract = ["extract", tmp_path / "videos", "--out", tmp_path / "data"]
    assert "videos" in failed(run_command(*extract))
    (tmp_path / "videos").mkdir()
    assert "holds no files" in failed(run_command(*extract))
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    assert "weights fetch" in failed(run_command(*extract))
