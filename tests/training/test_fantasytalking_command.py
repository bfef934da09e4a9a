"""`talking-portrait train fantasytalking`: clips and autoencoder, and what they say when something is wrong."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.video_diffusion.wan.autoencoder import (
    load_wan_autoencoder,
    wan_autoencoder_parameters,
)
from talking_portrait.headless import train_fantasytalking_command as command
from talking_portrait.headless.command_line import main
from talking_portrait.training import fantasytalking_autoencoder, fantasytalking_data
from talking_portrait.training.checkpoint_file import read_checkpoint_content
from talking_portrait.training.fantasytalking_data import (
    fitted_scale,
    read_talking_clips,
    write_talking_clips,
)
from talking_portrait.training.fantasytalking_ingredients import HELD_OUT_SEED, TRAINING_SEED
from talking_portrait.training.made_heads.clip import HELD_OUT_IDENTITIES, TRAINING_IDENTITIES
from talking_portrait.training.made_heads.performance import frames_of_seconds, wandering_performance

from .fantasytalking_clips import TINY_AUTOENCODER, talking_clip

OPTIONS = ["--steps", 2, "--batch-clips", 1, "--frames", 5, "--alone-share", 0.5, "--lips-weight", 0]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One thread on the processor, tiny networks, small portraits, performances at random in place of speech."""

    def performances(count, seed, seconds, emotion):
        return (wandering_performance(frames_of_seconds(seconds), seed + index) for index in range(count))

    monkeypatch.setenv("TALKING_PORTRAIT_DEVICE", "cpu")
    monkeypatch.setattr(fantasytalking_data, "made_performances", performances)
    monkeypatch.setattr(fantasytalking_data, "DRAWN_SIZE", 64)
    monkeypatch.setattr(fantasytalking_autoencoder, "SMALL_WAN_AUTOENCODER", TINY_AUTOENCODER)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run_command(capsys):
    def run(*arguments) -> tuple[int, str, str]:
        code = main(["train", "fantasytalking", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.strip(), captured.err

    return run


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clips.npz"
    made = [talking_clip(seed) for seed in range(3)]
    write_talking_clips(path, made, fitted_scale(made))
    return path


def failed(result) -> str:
    code, out, err = result
    assert (code, out) == (1, "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_clips_of_training_and_held_out_ones_by_their_scale(tmp_path, run_command):
    training, held_out = tmp_path / "c.npz", tmp_path / "held" / "h.npz"
    short = ["--frames", 5, "--people", 1]
    assert run_command("clips", "--out", training, *short)[:2] == (0, str(training))
    more = ["--held-out", "--scale-of", training, "--clips-each", 1]
    assert run_command("clips", "--out", held_out, *short, *more)[0] == 0
    one, other = read_talking_clips(training), read_talking_clips(held_out)
    assert [len(clip) for clip in one.clips] == [5, 5]
    assert [clip.identity_seed for clip in other.clips] == [10_000]
    assert other.scale == one.scale
    assert sorted(one.coefficients(index).face for index in range(2)) == [0, 1]


def test_the_autoencoders_run_goes_on(clips, tmp_path, run_command):
    run = tmp_path / "vae"
    arguments = ["autoencoder", "--clips", clips, "--out", run]
    target = run / "autoencoder.safetensors"
    assert run_command(*arguments, *OPTIONS, "--until", 1)[:2] == (0, str(target))
    assert "holds a run already" in failed(run_command(*arguments))
    again = [*arguments, "--resume"]
    error = failed(run_command(*again, "--batch-clips", 3, "--precision", "float32"))
    assert "--batch-clips 3 (it is 1), --precision float32 (it is bfloat16)." in error
    assert run_command(*again, *OPTIONS, "--half", "--device", "cpu")[0] == 0
    kind = fantasytalking_autoencoder.CHECKPOINT_KIND
    assert read_checkpoint_content(run / "checkpoint.pt", kind, "it")["step"] == 2
    assert np.ptp(wan_autoencoder_parameters(target).latents_std) > 0
    assert not load_wan_autoencoder(target).training


def test_a_decoder_is_trained_alone_on_a_file(clips, tmp_path, run_command):
    arguments = ["autoencoder", "--clips", clips]
    files = [tmp_path / name / "autoencoder.safetensors" for name in ("whole", "decoder")]
    assert run_command(*arguments, "--out", files[0].parent, *OPTIONS)[0] == 0
    more = ["--begin-with", files[0], "--decoder-alone"]
    assert run_command(*arguments, "--out", files[1].parent, *OPTIONS, *more)[:2] == (0, str(files[1]))
    one, other = (load_wan_autoencoder(path).state_dict() for path in files)
    moved = {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}
    assert moved == {"decoder", "post_quant_conv"}
    assert wan_autoencoder_parameters(files[0]) == wan_autoencoder_parameters(files[1])
    again = failed(run_command(*arguments, "--out", files[1].parent, "--resume", *more))
    assert "leave --begin-with out" in again


def test_defaults_are_those_of_the_embedded_model():
    parse = command.build_parser().parse_args
    plain, held = (command.people_and_seed(parse(["clips", "--out", "x", *o])) for o in ([], ["--held-out"]))
    assert plain == (TRAINING_IDENTITIES[:200], TRAINING_SEED)
    assert held == (HELD_OUT_IDENTITIES[:16], HELD_OUT_SEED)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--people", 0], "--people is 0, expected 1 to 10000"),
        (["--frames", 6], "--frames is 6, expected 1 more than a multiple of 4"),
        (["--frames", 0], "--frames is 0"),
        (["--held-out"], "name that file with --scale-of"),
        (["--scale-of", "missing.npz"], "there is no file of clips"),
        (["--out", "c.bin"], "the name is 'c.bin'"),
    ],
)
def test_bad_clips_are_refused_before_any_work(tmp_path, run_command, more, message):
    assert message in failed(run_command("clips", "--out", tmp_path / "c.npz", *more))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--frames", 4], "frames is 4, expected 1 more than a multiple of 4"),
        (["--steps", 0], "steps is 0"),
        (["--until", 0], "--until is 0"),
        (["--device", "abacus"], "'abacus' is not a torch device"),
        (["--clips", "missing.npz"], "there is no file of clips"),
        (["--resume"], "holds no checkpoint"),
        (["--decoder-alone"], "name its file with --begin-with"),
        (["--begin-with", "missing.safetensors"], "missing.safetensors"),
    ],
)
def test_bad_trainings_are_refused_before_any_work(clips, tmp_path, run_command, more, message):
    run = tmp_path / "run"
    assert message in failed(run_command("autoencoder", "--clips", clips, "--out", run, *more))
    assert not run.exists()
