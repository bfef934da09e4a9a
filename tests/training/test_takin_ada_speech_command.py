"""`talking-portrait train takin-ada`, stage 2: its three actions together, and what they say when something is wrong.

The networks are tiny.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from talking_portrait.core_models.audio.embedding import HUBERT, embed_audio
from talking_portrait.core_models.audio.hubert import Hubert
from talking_portrait.core_models.keypoint_diffusion.takin_ada import TakinADAModel, TakinADAParameters
from talking_portrait.core_models.keypoint_diffusion.takin_ada_loading import STATISTICS, load_takin_ada
from talking_portrait.core_models.keypoint_diffusion.takin_ada_sampler import (
    TakinADASamplingParameters,
    sample_scores,
)
from talking_portrait.core_models.motion.motion_extractor import MotionExtractor, MotionExtractorParameters
from talking_portrait.core_models.types import IMPLICIT_KEYPOINTS, TAKIN_ADA
from talking_portrait.headless import train_takin_ada_speech_command as command
from talking_portrait.headless.command_line import main
from talking_portrait.headless.train_takin_ada_command import build_parser
from talking_portrait.runtime.keypoint_diffusion_models import (
    encoder_of,
    keypoint_diffusion_models,
    model_choices,
)
from talking_portrait.training.kdtalker_extraction import ExtractionNetworks, ExtractionSettings
from talking_portrait.training.pocket_data import SAMPLE_RATE, record, save_recordings
from talking_portrait.training.speech_synthesis import Utterance
from talking_portrait.training.stepwise_training import fit
from talking_portrait.training.takin_ada_speech_dataset import open_speech_clips, write_speech_clip
from talking_portrait.training.takin_ada_speech_run import (
    SpeechCheckpoint,
    TakinADASpeechTrainer,
    small_speech_parameters,
)
from talking_portrait.training.visemes import SILENCE, Phone

from ..audio.small_hubert import LAYERS, WIDTH, small_network
from ..keypoint_diffusion.takin_ada_models import SMALL_KEYPOINTS
from .test_kdtalker_extraction import KnownFace, noise, video
from .test_takin_ada_extraction import made_clip

RECIPE = ["--steps", "4", "--batch", "2"]


@pytest.fixture(autouse=True)
def on_the_processor(monkeypatch):
    monkeypatch.setenv("TALKING_PORTRAIT_DEVICE", "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path):
    """A folder of three random clips, two of them labelled."""
    folder = tmp_path / "data"
    folder.mkdir()
    emotions = (np.eye(7, dtype=np.float32)[1], np.eye(7, dtype=np.float32)[0], None)
    for seed, emotion in enumerate(emotions):
        write_speech_clip(folder / f"{seed}.safetensors", made_clip(frames=12, seed=seed, emotion=emotion))
    return folder


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch):
    """What --small gives, made smaller still."""

    def tiny(sizes):
        own = SMALL_KEYPOINTS
        parts = {"encoder": own.encoder, "generator": own.generator, "token_width": own.token_width}
        return TakinADAParameters(layers=sizes.layers, speech_width=sizes.speech_width, **parts)

    monkeypatch.setattr("talking_portrait.training.takin_ada_speech_run.small_speech_parameters", tiny)


@pytest.fixture
def run_command(capsys):
    def run(*arguments) -> tuple[int, str, str]:
        code = main(["train", "takin-ada", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.strip(), captured.err

    return run


@pytest.fixture
def tiny_networks(monkeypatch):
    """In place of the published networks: a face that is always there, a random motion extractor, a random HuBERT."""
    torch.manual_seed(1)
    extractor = MotionExtractor(MotionExtractorParameters(depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))).eval()
    hubert = Hubert(small_network(), normalises=True).eval().requires_grad_(False)

    @contextmanager
    def networks(options):
        settings = ExtractionSettings(shortest=options.shortest)
        yield ExtractionNetworks(KnownFace(), extractor, hubert), settings

    monkeypatch.setattr(command, "speech_extraction_networks", networks)
    return hubert


def test_from_videos_to_a_model_that_speaks(tmp_path, run_command, tiny_networks, monkeypatch):
    videos, data, run = (tmp_path / name for name in ("videos", "data", "run"))
    for index, name in enumerate(("a.mp4", "b.mp4")):
        video(videos / name, np.linspace(60, 200 - index, 14).round(), sound=noise(14 / 25))
    labels = tmp_path / "labels.csv"
    labels.write_text("file,emotion\na.mp4,happy\nb.mp4,neutral\n")
    code, out, err = run_command("extract", videos, "--out", data, "--labels", labels, "--shortest", 5)
    assert (code, out) == (0, str(data))
    assert "2 extracted, 0 kept, 0 bad" in err
    clips = open_speech_clips(data)
    assert [(clip.frames, clip.speech_model) for clip in clips] == [(14, "hubert_large")] * 2
    assert clips[0].emotion.tolist() == [0, 1, 0, 0, 0, 0, 0]

    assert run_command("speech", data, "--out", run, "--small", *RECIPE)[:2] == (0, f"{run}/checkpoint.pt")
    models = tmp_path / "models"
    (models / TAKIN_ADA).mkdir(parents=True)
    target = models / TAKIN_ADA / "own_voice.safetensors"
    assert run_command("export", run, "--out", target)[:2] == (0, str(target))

    model = load_takin_ada(target)
    p = model.parameters_used
    assert (p.layers, p.speech_width, p.layout.space) == (LAYERS + 1, WIDTH, IMPLICIT_KEYPOINTS)
    checkpoint = SpeechCheckpoint.read(run / "checkpoint.pt")
    assert checkpoint.step == 4
    assert all(torch.equal(value, checkpoint.average[name]) for name, value in model.state_dict().items())
    assert not torch.equal(checkpoint.average["output.weight"], checkpoint.weights["output.weight"])
    learnt = np.concatenate([clip.motion for clip in clips]).astype(np.float64)
    assert np.abs(model.motion_mean.numpy() - learnt.mean(axis=0)).max() < 1e-5 * np.abs(learnt).max()

    heard = embed_audio(noise(0.6), HUBERT, tiny_networks)
    source = torch.from_numpy(clips[0].source - model.source_mean.numpy()) / model.source_std
    made = sample_with_source(model, heard, source)
    assert made.shape == (1, 15, 70)
    assert torch.isfinite(made).all()
    assert torch.equal(made, sample_with_source(model, heard, source))

    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(models))
    assert "own_voice.safetensors" in model_choices()
    chosen = keypoint_diffusion_models("own_voice.safetensors")
    assert (chosen.kind, chosen.space, encoder_of(chosen)) == (TAKIN_ADA, IMPLICIT_KEYPOINTS, HUBERT)


def sample_with_source(model, heard, source):
    from talking_portrait.core_models.keypoint_diffusion.takin_ada_stream import Direction

    return sample_scores(
        model, heard, TakinADASamplingParameters(seed=5, steps=2), Direction(source=source)
    ).scores


def states_of(run):
    checkpoint = SpeechCheckpoint.read(run / "checkpoint.pt")
    moments = {
        f"{key}.{name}": torch.as_tensor(value)
        for key, entry in checkpoint.optimiser["state"].items()
        for name, value in entry.items()
    }
    return {**checkpoint.weights, **{f"average.{k}": v for k, v in checkpoint.average.items()}, **moments}


def test_stopping_and_going_on_is_equal_to_never_stopping(data, tmp_path, run_command):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_command("speech", data, "--out", whole, "--small", *RECIPE)
    run_command("speech", data, "--out", parts, "--small", *RECIPE, "--until", 1)
    assert SpeechCheckpoint.read(parts / "checkpoint.pt").step == 1
    assert run_command("speech", data, "--out", parts, "--resume", "--minutes", 1e-9)[0] == 0
    assert SpeechCheckpoint.read(parts / "checkpoint.pt").step == 2
    assert run_command("speech", data, "--out", parts, "--resume")[0] == 0
    one, other = states_of(whole), states_of(parts)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def failed(result) -> str:
    code, out, err = result
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    return err


def test_a_folder_that_holds_a_run_is_not_overwritten(data, tmp_path, run_command):
    arguments = ["speech", data, "--out", tmp_path / "run", "--small", *RECIPE, "--until", 1]
    assert run_command(*arguments)[0] == 0
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    assert "holds a run already: go on with --resume" in failed(run_command(*arguments))
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    (tmp_path / "run" / ".checkpoint.0f.part").write_bytes(b"half")
    assert run_command("speech", data, "--out", tmp_path / "run", "--resume", "--until", 1)[0] == 0
    assert not list((tmp_path / "run").glob(".*.part"))


def test_a_run_goes_on_as_it_began(data, tmp_path, run_command):
    run = tmp_path / "run"
    run_command("speech", data, "--out", run, "--small", *RECIPE, "--until", 1)
    again = ["speech", data, "--out", run, "--resume"]
    error = failed(run_command(*again, "--batch", 8, "--annealed", "--streaming", "--steps", 4))
    for part in (
        "--batch 8 (it is 2)",
        "--annealed True (it is False)",
        "--streaming (it hears whole clips)",
    ):
        assert part in error
    assert "--steps" not in error
    assert "DATA (it is --made)" not in error
    assert "--made (it is not)" in failed(run_command("speech", "--made", "--out", run, "--resume"))
    assert run_command(*again, "--small", *RECIPE)[0] == 0


def test_a_run_of_other_sizes_is_not_a_small_one(data, tmp_path, run_command):
    run, clips = tmp_path / "run", open_speech_clips(data)
    recipe = command.speech_recipe(build_parser().parse_args(["speech", "D", "--out", "R", *RECIPE]))
    fit(TakinADASpeechTrainer(SMALL_KEYPOINTS, recipe, clips), run / "checkpoint.pt", until=1)
    again = ["speech", data, "--out", run, "--resume"]
    assert "--small (it is of other sizes)" in failed(run_command(*again, "--small"))
    assert run_command(*again)[0] == 0


def test_the_run_of_other_clips_goes_on_with_a_warning_or_not_at_all(data, tmp_path, run_command, caplog):
    run = tmp_path / "run"
    run_command("speech", data, "--out", run, "--small", *RECIPE, "--until", 1)
    write_speech_clip(data / "3.safetensors", made_clip(seed=9))
    assert run_command("speech", data, "--out", run, "--resume", "--until", 2)[0] == 0
    assert "the clips are not those of the checkpoint" in caplog.text
    write_speech_clip(data / "3.safetensors", made_clip(width=9))
    assert "different speech models" in failed(run_command("speech", data, "--out", run, "--resume"))
    other = tmp_path / "other"
    other.mkdir()
    write_speech_clip(other / "a.safetensors", made_clip(width=9))
    assert "3, 8 wide" in failed(run_command("speech", other, "--out", run, "--resume"))


def sizes(*options: str) -> TakinADAParameters:
    return command.speech_sizes(build_parser().parse_args(["speech", "D", "--out", "R", *options]), 25, 1024)


def test_the_sizes_are_the_papers_unless_asked_otherwise():
    assert sizes() == TakinADAParameters()
    bounded = sizes("--streaming")
    bounded.require_streamable()
    assert (bounded.generator.width, bounded.generator.blocks) == (1024, 8)
    with torch.device("meta"):
        networks = [TakinADAModel(one) for one in (TakinADAParameters(), small_speech_parameters(sizes()))]
    paper, small = (sum(value.numel() for value in network.parameters()) for network in networks)
    assert small < paper / 20
    assert small_speech_parameters(bounded).layers == 25


def test_a_bounded_network_can_be_trained(data, tmp_path, run_command):
    run, target = tmp_path / "run", tmp_path / "x.safetensors"
    run_command("speech", data, "--out", run, "--small", "--streaming", *RECIPE, "--until", 1)
    again = ["speech", data, "--out", run, "--resume", "--small", "--streaming", "--until", 2]
    assert run_command(*again)[0] == 0
    assert run_command("export", run / "checkpoint.pt", "--out", target, "--half")[0] == 0
    load_takin_ada(target).parameters_used.require_streamable()
    average = SpeechCheckpoint.read(run / "checkpoint.pt").average
    for name, value in load_file(target).items():
        assert value.dtype == (torch.float32 if name in STATISTICS else torch.float16), name
        assert torch.equal(value, average[name].to(value.dtype)), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "holds no checkpoint"),
        (["--batch", "0"], "batch 0, expected at least 1"),
        (["--precision", "float8"], "precision is 'float8'"),
        (["--device", "toaster"], "not a torch device"),
        (["--checkpoint-every", "0"], "checkpoint_every is 0"),
        (["--log-every", "0"], "log_every is 0"),
        (["--minutes", "0"], "minutes is 0.0"),
        (["--made"], "and not both"),
        (["--recordings", "x.npz"], "--recordings is only for --made"),
    ],
)
def test_bad_options_of_speech(data, tmp_path, run_command, arguments, message):
    arguments = ["speech", data, "--out", tmp_path / "run", "--small", *RECIPE, *arguments]
    assert message in failed(run_command(*arguments))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_what_is_learnt_from_must_be_given(tmp_path, run_command):
    speech = ["speech", "--out", tmp_path / "run", *RECIPE]
    assert "or --made" in failed(run_command(*speech))
    assert "leave out --small" in failed(run_command(*speech, "--made", "--small"))
    assert "--performances is 0" in failed(run_command(*speech, "--made", "--performances", 0))
    assert "--scale is 0" in failed(run_command(*speech, "--made", "--scale", 0))
    (tmp_path / "empty").mkdir()
    assert "holds no clips" in failed(run_command("speech", tmp_path / "empty", *speech[1:]))


def test_the_small_blendshape_model_from_recordings(tmp_path, run_command):
    rng = np.random.default_rng(0)
    sound = (0.1 * rng.standard_normal(2 * SAMPLE_RATE)).astype(np.float32)
    phones = (Phone(SILENCE, 0.0, 2.0),)
    recordings = [record(Utterance(sound * loudness, phones, "silence"), rng) for loudness in (1.0, 0.5)]
    kept = tmp_path / "kept.npz"
    save_recordings(recordings, kept)
    run, target = tmp_path / "run", tmp_path / "x.safetensors"
    made = ["speech", "--made", "--recordings", kept, "--out", run, "--performances", 3]
    assert run_command(*made, *RECIPE, "--until", 1)[0] == 0
    assert run_command(*made, "--resume", "--until", 2)[0] == 0
    assert "DATA (it is --made)" in failed(run_command("speech", tmp_path, "--out", run, "--resume"))
    assert run_command("export", run, "--out", target, "--half")[0] == 0
    parameters = load_takin_ada(target).parameters_used
    assert parameters.listener is not None
    assert parameters.source_size == 0
    parameters.require_streamable()


def test_recordings_are_made_once_and_kept(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    one = record(Utterance(np.zeros(SAMPLE_RATE, np.float32), (Phone(SILENCE, 0.0, 1.0),), "silence"), rng)
    asked = []

    def made(seed, scale):
        asked.append((seed, scale))
        return [one]

    monkeypatch.setattr("talking_portrait.training.pocket_data.make_training_recordings", made)
    kept = tmp_path / "new" / "kept.npz"
    arguments = ["speech", "--made", "--out", "R", "--recordings", str(kept), "--scale", "0.1"]
    options = build_parser().parse_args(arguments)
    for _ in range(2):
        material = command.made_material(options, seed=7)
        assert len(material.clips) == command.MADE_PERFORMANCES
    assert asked == [(7, 0.1)]
    assert kept.is_file()


def test_exports_that_cannot_be(data, tmp_path, run_command):
    out = ["--out", tmp_path / "x.safetensors"]
    assert "holds no checkpoint" in failed(run_command("export", tmp_path, *out))
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    assert "not a checkpoint, or it is cut off" in failed(run_command("export", tmp_path, *out))
    torch.save({"kind": "another"}, tmp_path / "checkpoint.pt")
    assert "not a checkpoint of Takin-ADA's second stage" in failed(run_command("export", tmp_path, *out))
    run_command("speech", data, "--out", tmp_path / "run", "--small", *RECIPE, "--until", 1)
    assert "written as safetensors" in failed(
        run_command("export", tmp_path / "run", "--out", tmp_path / "x.pth")
    )


def test_labels_and_folders_are_looked_at_before_any_work(tmp_path, run_command, monkeypatch):
    @contextmanager
    def none_yet(options):
        raise AssertionError("networks were asked for")
        yield

    monkeypatch.setattr(command, "speech_extraction_networks", none_yet)
    videos, labels = tmp_path / "videos", tmp_path / "labels.csv"
    extract = ["extract", videos, "--out", tmp_path / "data", "--labels", labels]
    assert "videos" in failed(run_command(*extract))
    videos.mkdir()
    assert "holds no files" in failed(run_command(*extract))
    (videos / "a.mp4").write_bytes(b"x")
    assert "labels.csv" in failed(run_command(*extract))
    labels.write_text("file,emotion\nb.mp4,happy\n")
    assert "there is no file 'b.mp4'" in failed(run_command(*extract))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("hubert", ["large", "base"])
def test_extract_without_networks_says_how_to_get_them(
    tmp_path, run_command, monkeypatch, hubert, face_bundle
):
    from talking_portrait.runtime import renderer_models, weights

    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    extract = ["extract", tmp_path / "videos", "--out", tmp_path / "data", "--hubert", hubert]
    assert "weights fetch" in failed(run_command(*extract))
    monkeypatch.setattr(weights, "find_weight", lambda name: face_bundle)
    monkeypatch.setattr(renderer_models, "motion_extractor_handle", lambda *_: None)
    error = failed(run_command(*extract))
    assert f"weights fetch hubert_{hubert}" in error
    assert "--download" in error
