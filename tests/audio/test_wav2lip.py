"""Wav2Lip's features against numbers of the released KDTalker, and their own sense."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.wav2lip_encoder import (
    BATCH_FRAMES,
    Wav2LipSpeechEncoder,
    encode_frames,
    fused,
    load_wav2lip_encoder,
)
from talking_portrait.core_models.audio.wav2lip_mel import (
    SAMPLES_PER_FRAME,
    frame_windows,
    mel_filters,
    wav2lip_mel,
)
from talking_portrait.core_models.strict_loading import WeightMismatchError

SYSTEM = "liveportrait_kdtalker"
GOLDEN = Path(os.environ.get("TALKING_PORTRAIT_GOLDEN", Path(__file__).resolve().parent.parent / "golden"))
TOLERANCE = 1e-4


def cases(pattern):
    found = sorted(path.stem for path in (GOLDEN / SYSTEM).glob(f"{pattern}.json"))
    missing = pytest.param(pattern, marks=pytest.mark.skip(reason=f"no {pattern}.json in {GOLDEN / SYSTEM}"))
    return found or [missing]


def read_case(folder, name):
    with np.load(folder / f"{name}.npz") as arrays:
        return json.loads((folder / f"{name}.json").read_text()), {key: arrays[key] for key in arrays.files}


def described_wave(text, tools):
    """Return the waveform that a case describes as a formula of t and input_for."""
    count = int(re.search(r"\((\d+),\)", text)[1])
    formula = text.split(", t = ")[0].removeprefix("float32").replace("^", "**")
    names = {
        "input_for": lambda name, shape: tools.input_for(name, shape).double().numpy(),
        "sin": np.sin,
        "cos": np.cos,
        "pi": np.pi,
        "t": np.arange(count) / 16000,
        "__builtins__": {},
    }
    return eval(formula, names).astype(np.float32)


@pytest.fixture(scope="module")
def encoder_with(liveportrait_cases, liveportrait_tools):
    shapes = json.loads((liveportrait_cases / "state_dict_wav2lip_audio_encoder.json").read_text())

    def make(weights):
        network = Wav2LipSpeechEncoder()
        network.load_state_dict(liveportrait_tools.state_dict_for(shapes, weights["gain"], weights["rules"]))
        return network.eval()

    return make


def assert_agrees(case, arrays, tools, name, value):
    assert list(value.shape) == case["outputs"][name]["shape"]
    found = tools.sample(value, case["outputs"][name]["stride"])
    assert np.abs(found - arrays[name]).max() <= TOLERANCE * case["outputs"][name]["std"], name


@pytest.mark.parametrize("name", cases("kd_mel_features*"))
def test_sound_to_features_matches_the_release(name, liveportrait_cases, liveportrait_tools, encoder_with):
    case, arrays = read_case(liveportrait_cases, name)
    wave = described_wave(case["inputs"][0]["wave"], liveportrait_tools)
    frames = len(wave) // SAMPLES_PER_FRAME
    mel = wav2lip_mel(wave[: frames * SAMPLES_PER_FRAME])
    assert frames == int(arrays["num_frames"][0])
    assert_agrees(case, arrays, liveportrait_tools, "mel_basis", mel_filters().T)
    assert_agrees(case, arrays, liveportrait_tools, "mel", mel.T)
    assert_agrees(case, arrays, liveportrait_tools, "frame_mels", frame_windows(mel, 0, frames))
    features = encode_frames(fused(encoder_with(case["weights"])), mel, frames)
    assert_agrees(case, arrays, liveportrait_tools, "features", features.numpy())


@pytest.mark.parametrize("name", cases("kd_audio_encoder*"))
def test_the_encoder_matches_the_release(name, liveportrait_cases, liveportrait_tools, encoder_with):
    case, arrays = read_case(liveportrait_cases, name)
    mel = liveportrait_tools.make_input(case["inputs"][0])
    with torch.inference_mode():
        features = encoder_with(case["weights"])(mel.flatten(0, 2))
    assert_agrees(case, arrays, liveportrait_tools, "features", features.view(*mel.shape[:2], -1).numpy())


def test_a_long_sound_is_transformed_as_one(monkeypatch):
    """Segments only bound memory: the seam between two of them does not show."""
    wave = np.random.default_rng(0).standard_normal(200 * 130).astype(np.float32)
    whole = wav2lip_mel(wave)
    monkeypatch.setattr("talking_portrait.core_models.audio.spectrogram.SEGMENT_COLUMNS", 50)
    assert np.array_equal(wav2lip_mel(wave), whole)


def test_batches_do_not_show():
    torch.manual_seed(0)
    encoder = Wav2LipSpeechEncoder().eval()
    frames = BATCH_FRAMES + 3
    mel = np.random.default_rng(1).uniform(-4, 4, (1000, 80)).astype(np.float32)
    with torch.inference_mode():
        at_once = encoder(torch.from_numpy(frame_windows(mel, 0, frames)))
    assert torch.allclose(encode_frames(encoder, mel, frames), at_once, atol=1e-5)


def test_a_frame_hears_what_surrounds_it():
    """A click at one second is in the pictures of the frames around frame 25, and in no other."""
    wave = np.zeros(2 * 16000, np.float32)
    wave[16000] = 1
    windows = frame_windows(wav2lip_mel(wave), 0, 50)
    heard = np.flatnonzero(windows.max(axis=(1, 2)) > windows.min())
    assert heard.min() >= 25 - 4
    assert heard.max() <= 25 + 3
    assert 25 in heard


@pytest.mark.parametrize("samples", [0, 1, 160, 640, 799])
def test_the_shortest_sounds_work(samples):
    mel = wav2lip_mel(np.zeros(samples, np.float32))
    assert mel.shape == (1 + samples // 200, 80)
    assert (mel == -4).all()
    assert frame_windows(mel, 0, 1).shape == (1, 80, 16)


def test_only_the_speech_encoder_of_a_published_file_is_taken(tmp_path):
    network = Wav2LipSpeechEncoder()
    for value in network.buffers():  # norms that do something
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.5)
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    state["module.output_block.0.weight"] = torch.zeros(3)
    torch.save({"state_dict": state, "optimizer": {}}, tmp_path / "wav2lip.pth")
    loaded = load_wav2lip_encoder(tmp_path / "wav2lip.pth")
    windows = torch.rand(3, 80, 16, generator=torch.Generator().manual_seed(0)) * 8 - 4
    with torch.inference_mode():
        assert torch.allclose(loaded(windows), network.eval()(windows), rtol=1e-4, atol=1e-5)
    state["module.audio_encoder.0.conv_block.0.weight"] = torch.zeros(32, 1, 5, 5)
    state["module.audio_encoder.99.weight"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    with pytest.raises(WeightMismatchError, match=r"audio_encoder\.99\.weight.*\(32, 1, 5, 5\)"):
        load_wav2lip_encoder(tmp_path / "other.pth")
