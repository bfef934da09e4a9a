"""`talking-portrait train fantasytalking`: its actions together, and what those of the run say when something is wrong.

The networks are tiny.
"""

import json

import pytest
import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.loading import load_fantasytalking_file
from talking_portrait.core_models.video_diffusion.fantasytalking.scene_options import HEARINGS
from talking_portrait.core_models.video_diffusion.wan.autoencoder import exported_wan_autoencoder
from talking_portrait.headless import train_fantasytalking_command as main_command
from talking_portrait.headless import train_fantasytalking_run_command as command
from talking_portrait.headless.command_line import main
from talking_portrait.training import fantasytalking_autoencoder, fantasytalking_data, fantasytalking_run
from talking_portrait.training.fantasytalking import BASES, FantasyTalkingTrainingParameters
from talking_portrait.training.fantasytalking_data import read_talking_clips, write_talking_clips
from talking_portrait.training.fantasytalking_evaluation import SETTINGS, TRUTH
from talking_portrait.training.fantasytalking_readers import TalkingReader, write_talking_reader
from talking_portrait.training.fantasytalking_run import FantasyTalkingCheckpoint
from talking_portrait.training.kdtalker_run import only_process
from talking_portrait.training.made_heads.performance import frames_of_seconds, wandering_performance
from talking_portrait.training.stepwise_training import write_safetensors

from ..training.fantasytalking_training_clips import (
    FRAMES,
    SCALE,
    TINY_AUTOENCODER,
    clip,
    tiny_autoencoder,
    tiny_parameters,
)

RECIPE = ["--steps", 3, "--clip-level-steps", 1, "--batch", 1]
DEVICE = ["--device", "cpu"]
FULL_SIZE = fantasytalking_run.small_parameters


@pytest.fixture(autouse=True)
def on_the_processor(monkeypatch):
    monkeypatch.setenv("TALKING_PORTRAIT_DEVICE", "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch):
    monkeypatch.setattr(fantasytalking_run, "small_parameters", tiny_parameters)
    monkeypatch.setattr(fantasytalking_autoencoder, "SMALL_WAN_AUTOENCODER", TINY_AUTOENCODER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random clips, and an autoencoder and a reader that learned nothing."""
    folder = tmp_path_factory.mktemp("ingredients")
    clips = [clip(seed, person=seed // 2) for seed in range(4)]
    write_talking_clips(folder / "clips.npz", clips, SCALE)
    exported = exported_wan_autoencoder(tiny_autoencoder(), TINY_AUTOENCODER)
    write_safetensors(folder / "autoencoder.safetensors", *exported)
    write_talking_reader(TalkingReader(), folder / "reader.safetensors")
    return folder


@pytest.fixture
def run_command(capsys):
    def run(*arguments) -> tuple[int, str, str]:
        code = main(["train", "fantasytalking", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.strip(), captured.err

    return run


def training(folder, run, *more) -> list:
    sources = ["--clips", folder / "clips.npz", "--autoencoder", folder / "autoencoder.safetensors"]
    return ["run", *sources, "--out", run, *DEVICE, *more]


def failed(result) -> str:
    code, out, err = result
    assert (code, out) == (1, "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_from_nothing_to_measures(tmp_path, run_command, monkeypatch):
    def performances(count, seed, seconds, emotion):
        return (wandering_performance(frames_of_seconds(seconds), seed + index) for index in range(count))

    monkeypatch.setattr(fantasytalking_data, "made_performances", performances)
    clips, held_out, model, reader = (
        tmp_path / name for name in ("c.npz", "held.npz", "m.safetensors", "r.safetensors")
    )
    short = ["--frames", FRAMES]
    assert run_command("clips", "--out", clips, "--people", 2, *short)[:2] == (0, str(clips))
    held = ["--held-out", "--scale-of", clips, "--people", 2, "--clips-each", 1]
    assert run_command("clips", "--out", held_out, *held, *short)[0] == 0
    assert len(read_talking_clips(clips).clips) == 4

    vae = ["--steps", 2, "--batch-clips", 1, "--frames", 5, "--alone-share", 0.5, "--lips-weight", 0]
    made = run_command("autoencoder", "--clips", clips, "--out", tmp_path / "vae", *vae, *DEVICE)
    autoencoder = tmp_path / "vae" / "autoencoder.safetensors"
    assert made[:2] == (0, str(autoencoder)), made[2]

    sources = ["--clips", clips, "--autoencoder", autoencoder, *DEVICE]
    run = tmp_path / "run"
    assert run_command("run", *sources, "--out", run, *RECIPE)[:2] == (0, f"{run}/checkpoint.pt")
    assert (tmp_path / "c.latents.npz").is_file()
    assert run_command("export", run, "--out", model, "--half")[:2] == (0, str(model))
    assert load_fantasytalking_file(model).parameters_used == tiny_parameters(6, 192)

    result = run_command("reader", *sources, "--out", reader, "--steps", 2, "--held-out", held_out, "--json")
    assert result[:2] == (0, str(reader))
    assert {"mouth_opening", "neck x"} < set(json.loads(result[2][result[2].index("{") :]))

    given = ["--model", model, "--autoencoder", autoencoder, "--reader", reader, "--clips", held_out]
    code, out, _ = run_command("evaluate", *given, "--trials", 1, "--steps", 1, "--json", *DEVICE)
    assert code == 0
    assert list(json.loads(out)) == [TRUTH, *SETTINGS]

    further = ["--begin-with", model, "--base", "lora", "--rank", 2]
    again = run_command("run", *sources, "--out", tmp_path / "lora", *RECIPE, *further)
    assert again[0] == 0, again[2]
    assert run_command("export", tmp_path / "lora", "--out", tmp_path / "lora.safetensors")[0] == 0
    one, other = (
        load_fantasytalking_file(path).state_dict() for path in (model, tmp_path / "lora.safetensors")
    )
    assert one.keys() == other.keys()
    kept = "transformer.patch_embedding.weight"
    assert torch.equal(one[kept], other[kept])


def test_stopping_and_going_on_is_equal_to_never_stopping(folder, tmp_path, run_command):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_command(*training(folder, whole, *RECIPE))
    assert run_command(*training(folder, parts, *RECIPE, "--until", 1))[0] == 0
    assert FantasyTalkingCheckpoint.read(parts / "checkpoint.pt").step == 1
    (parts / ".checkpoint.0f.part").write_bytes(b"half")
    assert run_command(*training(folder, parts, "--resume"))[0] == 0
    assert not list(parts.glob(".*.part"))
    one, other = (FantasyTalkingCheckpoint.read(place / "checkpoint.pt") for place in (whole, parts))
    assert one.step == other.step == 3
    for name in ("weights", "average"):
        for key, value in getattr(one, name).items():
            assert torch.equal(value, getattr(other, name)[key]), key


@pytest.fixture(scope="module")
def begun(folder, tmp_path_factory):
    """A run after one step. Nobody writes into it."""
    run = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fantasytalking_run, "small_parameters", tiny_parameters)
        arguments = training(folder, run, *RECIPE, "--until", 1)
        assert main(["train", "fantasytalking", *map(str, arguments)]) == 0
    return run


def test_a_run_goes_on_as_it_began(folder, begun, run_command):
    again = training(folder, begun, "--resume")
    error = failed(run_command(*again, "--batch", 8, "--no-annealed", "--heads", 4, "--steps", 3))
    for part in ("--batch 8 (it is 1)", "--annealed False (it is True)", "--heads 4 (it is 2)"):
        assert part in error
    assert "--steps" not in error
    before = (begun / "checkpoint.pt").read_bytes()
    assert "holds a run already: go on with --resume" in failed(run_command(*training(folder, begun)))
    error = failed(run_command(*again, "--begin-with", folder / "reader.safetensors"))
    assert "leave --begin-with out" in error
    with only_process(begun):
        assert "another process trains in" in failed(run_command(*again))
    assert (begun / "checkpoint.pt").read_bytes() == before


def test_measures_are_printed_as_a_table(folder, begun, tmp_path, run_command):
    model = tmp_path / "m.safetensors"
    run_command("export", begun, "--out", model)
    parts = [folder / "autoencoder.safetensors", "--reader", folder / "reader.safetensors"]
    given = [
        "--model",
        model,
        "--autoencoder",
        *parts,
        "--clips",
        folder / "clips.npz",
        *DEVICE,
        "--steps",
        1,
    ]
    code, out, _ = run_command("evaluate", *given, "--trials", 1, "--hearing", "clip")
    assert code == 0
    assert len(out.splitlines()) == 7
    assert all(setting in out.splitlines()[0] for setting in SETTINGS)
    assert "there are 4 clips for 5 trials" in failed(run_command("evaluate", *given, "--trials", 5))
    assert "--trials is 0" in failed(run_command("evaluate", *given, "--trials", 0))
    error = failed(run_command("evaluate", *given, "--model", parts[0]))
    assert "not a FantasyTalking model" in error
    error = failed(run_command("evaluate", *given, "--reader", parts[0]))
    assert "reader" in error or "another model" in error


def test_defaults_are_those_of_the_recipe():
    parse = main_command.build_parser().parse_args
    plain = parse(["run", "--clips", "C", "--autoencoder", "A", "--out", "R"])
    assert command.training_recipe(plain) == FantasyTalkingTrainingParameters()
    assert command.BASES == BASES
    assert command.HEARINGS == HEARINGS


class TestBadInput:
    def test_files_that_are_not_there_or_of_another_kind(self, folder, tmp_path, run_command):
        arguments = training(folder, tmp_path / "run", *RECIPE)
        missing = tmp_path / "no.npz"
        assert "there is no file of clips" in failed(run_command(*arguments, "--clips", missing))
        assert "no.npz" in failed(run_command(*arguments, "--autoencoder", missing))
        other = folder / "autoencoder.safetensors"
        assert "not a whole file of FantasyTalking clips" in failed(run_command(*arguments, "--clips", other))
        assert "not a FantasyTalking model" in failed(run_command(*arguments, "--begin-with", other))
        assert "holds no checkpoint" in failed(run_command(*arguments, "--resume"))
        assert not list(tmp_path.iterdir())

    def test_parts_that_do_not_fit(self, folder, tmp_path, run_command, monkeypatch):
        monkeypatch.setattr(fantasytalking_run, "small_parameters", lambda *_: tiny_parameters(3, 3))
        arguments = training(folder, tmp_path / "run", *RECIPE)
        error = failed(run_command(*arguments))
        assert "hold 2 layers of 3 channels of the listener, but the model hears 3 of 3" in error
        monkeypatch.setattr(fantasytalking_run, "small_parameters", FULL_SIZE)
        error = failed(run_command(*arguments))
        assert "gives 4 channels, 4 frames and 8 pixels to a latent, but the model takes 16, 4 and 8" in error

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--steps", 0], "steps is 0"),
            (["--learning-rate", -1], "learning_rate is -1.0"),
            (["--lip-share", 2], "lip_share is 2.0"),
            (["--until", 0], "--until is 0"),
            (["--heads", 0], "--heads is 0"),
            (["--base", "frozen"], "give a trained model with --begin-with"),
            (["--begin-with", "m.safetensors", "--heads", 2], "--heads: the sizes are those of the model"),
            (["--device", "abacus"], "'abacus' is not a torch device"),
        ],
    )
    def test_bad_numbers_are_refused_before_any_work(self, tmp_path, run_command, more, message):
        error = failed(run_command(*training(tmp_path, tmp_path / "run", *more)))
        assert message in error
        assert not list(tmp_path.iterdir())

    def test_a_reader_that_cannot_be_written(self, folder, tmp_path, run_command):
        sources = training(folder, "x")[1:5]
        assert "the name is 'r.bin'" in failed(run_command("reader", *sources, "--out", tmp_path / "r.bin"))
        away = tmp_path / "no" / "r.safetensors"
        assert "does not exist: create it" in failed(run_command("reader", *sources, "--out", away))
        error = failed(run_command("reader", *sources, "--out", tmp_path / "r.safetensors", "--count", 0))
        assert "--count is 0" in error
