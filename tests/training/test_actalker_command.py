"""`talking-portrait train actalker`: its six actions together, and what they say when something is wrong.

The networks are tiny.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.video_diffusion.actalker.controlled_transformer import LAYERS
from talking_portrait.core_models.video_diffusion.actalker.loading import load_actalker
from talking_portrait.core_models.video_diffusion.autoencoder import (
    autoencoder_parameters,
    load_video_autoencoder,
)
from talking_portrait.headless import train_actalker_command as command
from talking_portrait.headless import train_actalker_ingredients_command as ingredients
from talking_portrait.headless.command_line import main
from talking_portrait.runtime.host import StandaloneHost
from talking_portrait.training import actalker_autoencoder, actalker_data, actalker_run
from talking_portrait.training.actalker import ACTalkerTrainingParameters
from talking_portrait.training.actalker_autoencoder import AutoencoderTrainer, export_autoencoder
from talking_portrait.training.actalker_data import read_clips, write_clips
from talking_portrait.training.actalker_evaluation import SETTINGS
from talking_portrait.training.actalker_ingredients import AUTOENCODER_RECIPE, HELD_OUT_SEED, TRAINING_SEED
from talking_portrait.training.actalker_readers import FrameReader, load_frame_reader, write_frame_reader
from talking_portrait.training.actalker_run import ACTalkerCheckpoint
from talking_portrait.training.checkpoint_file import read_checkpoint_content
from talking_portrait.training.kdtalker_run import only_process
from talking_portrait.training.made_heads.clip import HELD_OUT_IDENTITIES, TRAINING_IDENTITIES
from talking_portrait.training.made_heads.performance import frames_of_seconds, wandering_performance

from .actalker_clips import TINY_AUTOENCODER, clip, tiny_parameters

RECIPE = ["--steps", 4, "--batch", 1, "--frames", 2]
AUTOENCODER_OPTIONS = ["--steps", 2, "--batch-clips", 1, "--frames", 3, "--alone-share", 0.5]


@pytest.fixture(autouse=True)
def on_the_processor(monkeypatch):
    monkeypatch.setenv("TALKING_PORTRAIT_DEVICE", "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch):
    monkeypatch.setattr(actalker_run, "small_parameters", tiny_parameters)
    monkeypatch.setattr(actalker_autoencoder, "SMALL_AUTOENCODER", TINY_AUTOENCODER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random clips, and an autoencoder and a reader that learned nothing."""
    folder = tmp_path_factory.mktemp("ingredients")
    clips = [clip(seed, 4) for seed in range(3)]
    write_clips(folder / "clips.npz", clips)
    trainer = AutoencoderTrainer(TINY_AUTOENCODER, AUTOENCODER_RECIPE, clips)
    export_autoencoder(trainer, folder / "autoencoder.safetensors")
    write_frame_reader(FrameReader(), folder / "reader.safetensors")
    return folder


@pytest.fixture
def run_command(capsys):
    def run(*arguments) -> tuple[int, str, str]:
        code = main(["train", "actalker", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.strip(), captured.err

    return run


@pytest.fixture
def no_synthesiser(monkeypatch):
    """Performances at random in place of speech."""

    def performances(count, seed, seconds, emotion):
        return (wandering_performance(frames_of_seconds(seconds), seed + index) for index in range(count))

    monkeypatch.setattr(actalker_data, "made_performances", performances)


def training(folder, run, *more) -> list:
    sources = ["--clips", folder / "clips.npz", "--autoencoder", folder / "autoencoder.safetensors"]
    return ["run", *sources, "--out", run, *more]


def failed(result) -> str:
    code, out, err = result
    assert (code, out) == (1, "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_from_nothing_to_measures(tmp_path, run_command, no_synthesiser):
    clips, held_out, model, reader = (
        tmp_path / name for name in ("c.npz", "held.npz", "m.safetensors", "r.safetensors")
    )
    short = ["--seconds", 0.24]
    assert run_command("clips", "--out", clips, "--people", 1, *short)[:2] == (0, str(clips))
    assert (
        run_command("clips", "--out", held_out, "--held-out", "--people", 3, "--clips-each", 1, *short)[0]
        == 0
    )
    assert [len(one) for one in read_clips(clips)] == [3, 3]
    assert [one.identity_seed for one in read_clips(held_out)] == [10_000, 10_001, 10_002]

    made = run_command("autoencoder", "--clips", clips, "--out", tmp_path / "vae", *AUTOENCODER_OPTIONS)
    autoencoder = tmp_path / "vae" / "autoencoder.safetensors"
    assert made[:2] == (0, str(autoencoder)), made[2]
    assert autoencoder_parameters(autoencoder).scaling_factor != TINY_AUTOENCODER.scaling_factor

    sources = ["--clips", clips, "--autoencoder", autoencoder]
    run = tmp_path / "run"
    assert run_command("run", *sources, "--out", run, *RECIPE)[:2] == (0, f"{run}/checkpoint.pt")
    assert (tmp_path / "c.latents.npz").is_file()
    assert run_command("export", run, "--out", model, "--half")[:2] == (0, str(model))
    assert load_actalker(model).parameters_used == tiny_parameters(6, 192)

    result = run_command("reader", *sources, "--out", reader, "--steps", 2, "--held-out", held_out)
    assert result[:2] == (0, str(reader))
    assert result[2].count("within clips") == 4

    given = ["--model", model, "--autoencoder", autoencoder, "--reader", reader, "--clips", held_out]
    code, out, _ = run_command("evaluate", *given, "--trials", 1, "--steps", 1, "--json")
    assert code == 0
    assert list(json.loads(out)) == list(SETTINGS)


def test_stopping_and_going_on_is_equal_to_never_stopping(folder, tmp_path, run_command, monkeypatch):
    """Whether it was told to stop, or cancelled after its last checkpoint."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_command(*training(folder, whole, *RECIPE))
    assert run_command(*training(folder, parts, *RECIPE, "--until", 1))[0] == 0
    assert ACTalkerCheckpoint.read(parts / "checkpoint.pt").step == 1

    class Cancelled:
        def update(self, done, total):
            if done == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as cancelled:
        cancelled.setattr(StandaloneHost, "progress", lambda *_: Cancelled())
        code, out, err = run_command(*training(folder, parts, "--resume", "--checkpoint-every", 2))
    assert (code, out, err.strip()) == (130, "", "cancelled")
    assert ACTalkerCheckpoint.read(parts / "checkpoint.pt").step == 2
    (parts / ".checkpoint.0f.part").write_bytes(b"half")
    assert run_command(*training(folder, parts, "--resume", *RECIPE))[0] == 0
    assert not list(parts.glob(".*.part"))
    one, other = (ACTalkerCheckpoint.read(place / "checkpoint.pt") for place in (whole, parts))
    for name in ("weights", "average"):
        for key, value in getattr(one, name).items():
            assert torch.equal(value, getattr(other, name)[key]), key


@pytest.fixture(scope="module")
def begun(folder, tmp_path_factory):
    """A run after one step. Nobody writes into it."""
    run = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(actalker_run, "small_parameters", tiny_parameters)
        arguments = training(folder, run, *RECIPE, "--until", 1, "--layer", "none", "--device", "cpu")
        assert main(["train", "actalker", *map(str, arguments)]) == 0
    return run


def test_a_run_goes_on_as_it_began(folder, begun, run_command):
    again = training(folder, begun, "--resume")
    error = failed(run_command(*again, "--batch", 8, "--no-annealed", "--layer", "joint", "--steps", 4))
    for part in ("--batch 8 (it is 1)", "--annealed False (it is True)", "--layer joint (it is none)"):
        assert part in error
    assert "--steps" not in error
    before = (begun / "checkpoint.pt").read_bytes()
    assert "holds a run already: go on with --resume" in failed(run_command(*training(folder, begun)))
    with only_process(begun):
        assert "another process trains in" in failed(run_command(*again))
    assert (begun / "checkpoint.pt").read_bytes() == before


def test_other_clips_go_on_with_a_warning_or_not_at_all(folder, begun, tmp_path, run_command, caplog):
    run, clips = tmp_path / "run", tmp_path / "clips.npz"
    run.mkdir()
    for path in begun.glob("[a-z]*"):
        (run / path.name).write_bytes(path.read_bytes())
    write_clips(clips, [clip(7, 4), clip(8, 4)])
    again = training(folder, run, "--resume", "--until", 1, "--clips", clips)
    assert run_command(*again)[0] == 0
    assert "no longer the same run" in caplog.text
    caplog.clear()
    assert run_command(*again)[0] == 0
    assert not caplog.records
    one = clip(7, 4)
    clips.unlink()
    write_clips(clips, [replace(one, heard=np.zeros((*one.heard.shape[:2], 9), np.float16))])
    assert "2 layers of 9 channels" in failed(run_command(*again))


def test_the_autoencoders_run_goes_on_too(folder, tmp_path, run_command):
    clips, run = folder / "clips.npz", tmp_path / "vae"
    arguments = ["autoencoder", "--clips", clips, "--out", run]
    target = run / "autoencoder.safetensors"
    assert run_command(*arguments, *AUTOENCODER_OPTIONS, "--until", 1)[:2] == (0, str(target))
    first = target.read_bytes()
    assert "holds a run already" in failed(run_command(*arguments))
    again = [*arguments, "--resume"]
    error = failed(run_command(*again, "--batch-clips", 3, "--precision", "float32", "--frames", 3))
    assert "--batch-clips 3 (it is 1), --precision float32 (it is bfloat16)." in error
    assert target.read_bytes() == first
    assert run_command(*again, *AUTOENCODER_OPTIONS, "--half")[0] == 0
    content = read_checkpoint_content(run / "checkpoint.pt", actalker_autoencoder.CHECKPOINT_KIND, "it")
    assert content["step"] == 2
    assert len(target.read_bytes()) < 0.7 * len(first)
    assert not load_video_autoencoder(target).training
    model = ["run", "--clips", clips, "--autoencoder", target, "--out", run, "--resume"]
    assert "not a checkpoint of ACTalker's training" in failed(run_command(*model))


def test_defaults_are_those_of_the_embedded_model():
    parse = command.build_parser().parse_args
    plain = parse(["run", "--clips", "C", "--autoencoder", "A", "--out", "R"])
    assert command.training_recipe(plain) == ACTalkerTrainingParameters()
    people = [["clips", "--out", "x.npz"], ["clips", "--out", "x.npz", "--held-out"]]
    training_people, held_out = (ingredients.people_and_seed(parse(arguments)) for arguments in people)
    assert training_people == (TRAINING_IDENTITIES[:200], TRAINING_SEED)
    assert held_out == (HELD_OUT_IDENTITIES[:16], HELD_OUT_SEED)
    assert set(command.LAYER_FORMS) == set(LAYERS)


def test_the_table_has_a_row_for_each_measure():
    found = {"audio only": {"sound": 0.71239}, "both": {"sound": 0.5, "mouth changed": 12.0}}
    assert command.measures_table(found).splitlines() == [
        "               audio only    both",
        "sound               0.712   0.500",
        "mouth changed           -  12.000",
    ]


def test_measures_are_printed_as_a_table(folder, begun, tmp_path, run_command):
    model = tmp_path / "m.safetensors"
    run_command("export", begun, "--out", model)
    parts = [folder / "autoencoder.safetensors", "--reader", folder / "reader.safetensors"]
    given = ["--model", model, "--autoencoder", *parts, "--clips", folder / "clips.npz", "--steps", 1]
    code, out, _ = run_command("evaluate", *given, "--trials", 1)
    assert code == 0
    assert len(out.splitlines()) == 8
    assert all(setting in out.splitlines()[0] for setting in SETTINGS)
    assert "there are 3 clips for 4 trials" in failed(run_command("evaluate", *given, "--trials", 4))
    assert "--trials is 0" in failed(run_command("evaluate", *given, "--trials", 0))
    other = [*given, "--model", parts[0]]
    assert "not an ACTalker model" in failed(run_command("evaluate", *other))
    other = [*given, "--reader", parts[0]]
    assert "it is the file of another model" in failed(run_command("evaluate", *other))


class TestBadInput:
    def test_clips(self, folder, tmp_path, run_command, no_synthesiser):
        out = ["clips", "--out", tmp_path / "c.npz"]
        assert "--people is 0, expected 1 to 10000" in failed(run_command(*out, "--people", 0))
        assert "--people is 1001" in failed(run_command(*out, "--held-out", "--people", 1001))
        assert "--clips-each is 0" in failed(run_command(*out, "--clips-each", 0))
        assert "seconds is 0.0" in failed(run_command(*out, "--people", 1, "--seconds", 0))
        assert "the name is 'c.bin'" in failed(run_command("clips", "--out", tmp_path / "c.bin"))
        assert "is there already" in failed(run_command("clips", "--out", folder / "clips.npz"))
        assert not list(tmp_path.iterdir())

    def test_files_that_are_not_there_or_of_another_kind(self, folder, tmp_path, run_command):
        run = tmp_path / "run"
        arguments = training(folder, run, *RECIPE)
        missing = tmp_path / "no.npz"
        assert "there is no file of clips" in failed(run_command(*arguments, "--clips", missing))
        assert "there is no weight file" in failed(run_command(*arguments, "--autoencoder", missing))
        other = folder / "autoencoder.safetensors"
        assert "not a whole file of ACTalker clips" in failed(run_command(*arguments, "--clips", other))
        assert "holds no checkpoint" in failed(run_command(*arguments, "--resume"))
        assert not run.exists()

    def test_an_autoencoder_of_another_reduction(self, folder, tmp_path, run_command, monkeypatch):
        monkeypatch.setattr(actalker_run, "small_parameters", lambda *a: tiny_parameters(*a, stride=4))
        error = failed(run_command(*training(folder, tmp_path / "run", *RECIPE)))
        assert "gives 4 channels, 8 times smaller than pictures, but the model takes 4, 4 times" in error

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--steps", 0], "steps is 0"),
            (["--learning-rate", -1], "learning_rate is -1.0"),
            (["--dropped", 0.5], "dropped is 0.5"),
            (["--until", 0], "--until is 0"),
            (["--checkpoint-every", 0], "--checkpoint-every is 0"),
            (["--device", "abacus"], "'abacus' is not a torch device"),
        ],
    )
    def test_bad_numbers_are_refused_before_any_work(self, tmp_path, run_command, more, message):
        error = failed(run_command(*training(tmp_path, tmp_path / "run", *more)))
        assert message in error
        assert not list(tmp_path.iterdir())

    def test_what_argparse_refuses(self, run_command):
        for arguments in (["run"], ["clips"], ["walk"], ["run", "--layer", "both"]):
            with pytest.raises(SystemExit) as ended:
                run_command(*arguments)
            assert ended.value.code == 2

    def test_readers(self, folder, tmp_path, run_command):
        sources = ["--clips", folder / "clips.npz", "--autoencoder", folder / "autoencoder.safetensors"]
        out = ["reader", *sources, "--out"]
        good = tmp_path / "r.safetensors"
        assert "the name is 'r.pt'" in failed(run_command(*out, tmp_path / "r.pt"))
        assert "does not exist" in failed(run_command(*out, tmp_path / "no" / "r.safetensors"))
        assert "--count is 0" in failed(run_command(*out, good, "--count", 0))
        assert "--steps is 0" in failed(run_command(*out, good, "--steps", 0))
        assert not list(tmp_path.iterdir())
        assert run_command(*out, good, "--count", 2, "--steps", 1)[0] == 0
        assert not load_frame_reader(good).training

    def test_exports(self, begun, tmp_path, run_command):
        out = ["--out", tmp_path / "x.safetensors"]
        assert "holds no checkpoint" in failed(run_command("export", tmp_path, *out))
        (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
        assert "not a checkpoint, or it is cut off" in failed(run_command("export", tmp_path, *out))
        torch.save({"kind": "another"}, tmp_path / "checkpoint.pt")
        assert "not a checkpoint of ACTalker's training" in failed(run_command("export", tmp_path, *out))
        wrong = ["export", begun, "--out", tmp_path / "x.pth"]
        assert "written as safetensors" in failed(run_command(*wrong))
