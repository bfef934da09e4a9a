"""KDTalker in the graph: its files, its errors, and the shipped workflow on made weights of the published sizes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from talking_portrait.core_models.types import (
    IMPLICIT_KEYPOINTS,
    FaceMotion,
    KeypointDiffusionModels,
    ModelHandle,
    RendererModels,
)
from talking_portrait.runtime import keypoint_diffusion_models, weight_files
from talking_portrait.runtime.weights import WeightNotFoundError

ROOT = Path(__file__).resolve().parents[2]
HANDLE = ModelHandle(name="kdtalker", path="nowhere")
KDTALKER = KeypointDiffusionModels("kdtalker", HANDLE, HANDLE)
SETTINGS = {"seed": 0, "steps": 0, "fps": 25.0}


def graph(name: str) -> dict:
    return json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())


def silence(seconds: float, rate: int = 16000, channels: int = 1) -> dict:
    return {"waveform": torch.zeros(1, channels, round(seconds * rate)), "sample_rate": rate}


@pytest.fixture
def no_models(monkeypatch, tmp_path):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weight_files, "find_weight", _nowhere)
    return tmp_path


def _nowhere(name, explicit=None):
    raise WeightNotFoundError(name)


class TestLoad:
    def load(self, nodes, **settings):
        return nodes["TP_LoadKeypointDiffusion"]().load(**settings)[0]

    def test_the_embedded_model_needs_nothing(self, nodes, no_models):
        models = self.load(nodes, model="pocket (embedded)")
        assert (models.kind, models.speech_encoder) == ("pocket", None)

    def test_missing_files_are_named_with_the_command_that_fetches_them(self, nodes, no_models):
        with pytest.raises(WeightNotFoundError, match="'talking-portrait weights fetch kdtalker'") as missing:
            self.load(nodes, model="KDTalker")
        for part in ("KDTalker.pth", "norm.npz", "wav2lip.pth", "choose 'pocket (embedded)'"):
            assert part in str(missing.value)

    def test_a_file_of_the_wrong_size_is_told_apart_from_a_missing_one(self, nodes, monkeypatch, tmp_path):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        (tmp_path / "norm.npz").write_bytes(b"half a fi")
        with pytest.raises(
            WeightNotFoundError, match=r"norm\.npz has 9 bytes instead of 5580 and was not taken"
        ):
            self.load(nodes, model="KDTalker")

    def test_precision_and_compiling_are_passed_on(self, nodes, monkeypatch, tmp_path):
        monkeypatch.setattr(weight_files, "find_weight", lambda name, explicit=None: tmp_path / name)
        models = self.load(nodes, model="KDTalker", precision="bfloat16", compile=True)
        assert (models.denoiser.dtype, models.compiled) == ("bfloat16", True)
        assert models.denoiser.further_paths == (str(tmp_path / "kdtalker_norm"),)
        assert models.speech_encoder.dtype == "float32"

    def test_models_trained_here_are_offered(self, nodes, monkeypatch, tmp_path):
        """Those that our training exported, whatever else lies there, and anew when the file is another."""
        from safetensors.torch import save_file

        folder = tmp_path / "kdtalker"
        folder.mkdir()
        entry = {keypoint_diffusion_models.PARAMETERS_ENTRY: "{}"}
        save_file({"x": torch.zeros(1)}, folder / "my voice.safetensors", entry)
        save_file({"x": torch.zeros(1)}, folder / "KDTalker.safetensors")
        save_file({"x": torch.zeros(1)}, tmp_path / "motion_extractor.safetensors", {"format": "pt"})
        (folder / "broken.safetensors").write_bytes(b"\x09\x00\x00\x00\x00\x00\x00\x00{")
        (folder / "notes.txt").touch()
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
        loader = nodes["TP_LoadKeypointDiffusion"]
        choices = loader.INPUT_TYPES()["required"]["model"][0]
        assert choices == ["pocket (embedded)", "KDTalker", "my voice.safetensors"]
        monkeypatch.setattr(weight_files, "find_weight", lambda name, explicit=None: tmp_path / name)
        models = self.load(nodes, model="my voice.safetensors")
        assert models.denoiser.path == str(folder / "my voice.safetensors")
        assert models.denoiser.further_paths == ()
        before = loader.IS_CHANGED("my voice.safetensors")
        save_file({"x": torch.zeros(9)}, folder / "my voice.safetensors", entry)
        assert loader.IS_CHANGED("my voice.safetensors") != before
        assert self.load(nodes, model="my voice.safetensors").denoiser != models.denoiser
        assert loader.IS_CHANGED("KDTalker") == ""

    def test_a_model_that_went_away_is_named(self, nodes, no_models):
        with pytest.raises(ValueError, match=r"no model 'gone\.safetensors'; here are: pocket"):
            self.load(nodes, model="gone.safetensors")

    def test_every_row_is_in_the_manifest(self):
        from talking_portrait.weights_manifest.manifest import weight_row

        for names in keypoint_diffusion_models.KDTALKER_ROWS.values():
            for name in names:
                assert weight_row(name).name == name


class TestAudioEmbedding:
    def embed(self, nodes, audio, encoder, model=None):
        return nodes["TP_AudioEmbedding"]().embed(audio, encoder, model)[0]

    def test_automatic_listens_as_the_model_needs(self, nodes):
        assert self.embed(nodes, silence(1), "automatic").encoder == "log_mel"
        assert keypoint_diffusion_models.encoder_of(KDTALKER) == "wav2lip"

    def test_a_missing_encoder_says_how_to_get_it(self, nodes, no_models):
        with pytest.raises(WeightNotFoundError, match="weights fetch kdtalker_wav2lip"):
            self.embed(nodes, silence(1), "wav2lip")

    @pytest.mark.parametrize(
        ("audio", "frames"),
        [
            (silence(1 / 16000), 1),
            (silence(0.01), 1),
            (silence(1.0, 8000), 25),
            (silence(1.02, 96000, 8), 26),
        ],
        ids=["one sample", "10 ms", "8 kHz mono", "96 kHz of 8 channels"],
    )
    def test_sounds_of_any_kind(self, nodes, speech_encoder_file, audio, frames):
        models = replace(KDTALKER, speech_encoder=ModelHandle("kdtalker_wav2lip", speech_encoder_file))
        embedding = self.embed(nodes, audio, "automatic", models)
        assert embedding.features.shape == (frames + 64, 1, 512)
        assert torch.isfinite(embedding.features).all()
        assert embedding.duration == pytest.approx(audio["waveform"].shape[2] / audio["sample_rate"])

    def test_silence_sounds_the_same_everywhere(self, nodes, speech_encoder_file):
        models = replace(KDTALKER, speech_encoder=ModelHandle("kdtalker_wav2lip", speech_encoder_file))
        features = self.embed(nodes, silence(2.0), "wav2lip", models).features
        assert torch.allclose(features, features[:1].expand_as(features), atol=1e-5)

    @pytest.mark.parametrize("encoder", ["log_mel", "wav2lip"])
    @pytest.mark.parametrize(
        ("wave", "word"),
        [
            (torch.zeros(1, 1, 0), "no samples|empty|0 samples"),
            (torch.full((1, 1, 999), float("nan")), "NaN"),
        ],
        ids=["no samples", "NaN"],
    )
    def test_sounds_that_are_none_are_refused(self, nodes, encoder, wave, word, speech_encoder_file):
        models = replace(KDTALKER, speech_encoder=ModelHandle("kdtalker_wav2lip", speech_encoder_file))
        with pytest.raises(ValueError, match=word):
            self.embed(nodes, {"waveform": wave, "sample_rate": 16000}, encoder, models)


@pytest.fixture(scope="module")
def speech_encoder_file(tmp_path_factory):
    """A published Wav2Lip file with random weights."""
    from talking_portrait.core_models.audio.wav2lip_encoder import Wav2LipSpeechEncoder

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("wav2lip") / "wav2lip.pth"
    state = Wav2LipSpeechEncoder().state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return str(path)


class TestSampler:
    def sample(self, nodes, **inputs):
        return nodes["TP_KeypointDiffusionSampler"]().sample(**{"model": KDTALKER, **SETTINGS, **inputs})

    @pytest.mark.parametrize("renderer", [None, RendererModels()])
    def test_it_needs_liveportrait(self, nodes, renderer, astronaut_portrait):
        with pytest.raises(ValueError, match="KDTalker needs LivePortrait: connect a Load LivePortrait node"):
            self.sample(nodes, audio_embeds=None, portrait=astronaut_portrait, renderer=renderer)

    def test_a_film_is_refused_before_it_is_read(self, astronaut_portrait):
        from talking_portrait.core_models.keypoint_diffusion.kdtalker_performance import speaking_portrait
        from talking_portrait.core_models.types import AudioEmbedding, PortraitVideo

        def extractor(_):
            raise AssertionError("the film is read")

        film = PortraitVideo((astronaut_portrait,) * 3, 25.0)
        heard = AudioEmbedding(torch.zeros(25, 1, 512), 25.0, 1.0, "wav2lip")
        with pytest.raises(ValueError, match="film of 3 frames"):
            speaking_portrait(None, film, extractor, heard)

    def test_it_needs_a_portrait(self, nodes):
        renderer = RendererModels("liveportrait", HANDLE, HANDLE, HANDLE, HANDLE)
        with pytest.raises(ValueError, match="connect a Portrait node"):
            self.sample(nodes, audio_embeds=None, renderer=renderer)

    def test_the_pocket_model_takes_poses_gains_and_variations(self, nodes):
        (model,) = nodes["TP_LoadKeypointDiffusion"]().load("pocket (embedded)")
        (embedding,) = nodes["TP_AudioEmbedding"]().embed(silence(1.0), "automatic", model)
        inputs = {"audio_embeds": embedding, "model": model, "blinks_per_minute": 0.0}
        (motions,) = self.sample(nodes, **inputs, seed=5, variations=2)
        ((second,),) = self.sample(nodes, **inputs, seed=6)
        assert len(motions) == 2
        assert np.allclose(motions[1].rotation, second.rotation, atol=1e-3)
        ((level,),) = self.sample(nodes, **inputs, seed=5, roll=0.0)
        assert np.allclose(level.rotation, motions[0].rotation * [1, 1, 0], atol=1e-4)
        nod = replace(FaceMotion.at_rest(25, 25.0), rotation=np.tile([[5.0, 0, 0]], (25, 1)))
        ((given,),) = self.sample(nodes, **inputs, pose=nod)
        assert np.allclose(given.rotation, nod.rotation, atol=1e-4)

    def test_options_and_settings_meet(self, nodes):
        defaults = {
            name: spec[1]["default"]
            for name, spec in nodes["TP_KDTalkerOptions"].INPUT_TYPES()["required"].items()
        }
        (options,) = nodes["TP_KDTalkerOptions"]().collect(**{**defaults, "overlap": 0, "strength": 0.5})
        met = options.with_settings({"seed": 3, "mouth": 0.2, "gaze": True})
        assert (met.sampling.overlap, met.sampling.seed) == (0, 3)
        assert (met.performance.strength, met.performance.mouth) == (0.5, 0.2)


@pytest.fixture(scope="module")
def kdtalker_folder(liveportrait_files, liveportrait_cases, liveportrait_tools, speech_encoder_file):
    """The folder of LivePortrait's made files, and KDTalker's beside them, at the published sizes."""
    from talking_portrait.core_models.keypoint_diffusion.motion_vectors import (
        MotionStatistics,
        statistics_entries,
    )

    folder = liveportrait_files
    (folder / "wav2lip.pth").symlink_to(speech_encoder_file)
    shapes = json.loads((liveportrait_cases / "state_dict_kdtalker.json").read_text())
    state = liveportrait_tools.state_dict_for(shapes, 0.7, ("affine_nd", "rotary_freqs"))
    torch.save({"model": state}, folder / "KDTalker.pth")
    std = np.concatenate([[0.1, 1, 1, 1, 0.01, 0.01, 1], np.full(63, 0.001)])
    statistics = MotionStatistics(np.zeros(70), std, np.zeros(63), np.ones(63))
    unread = {
        f"c_{part}_{kind}": np.ones(1 + (part == "eye"), np.float32)
        for part in ("lip", "eye")
        for kind in ("mean", "std")
    }
    np.savez(
        folder / "norm.npz", **statistics_entries(statistics), **unread
    )  # as many bytes as the published one
    return folder


def test_the_shipped_graph_runs_on_kdtalker(kdtalker_folder, tmp_path, monkeypatch, host_folders):
    """With KDTalker and LivePortrait chosen; the speech is one frame long, because a frame takes seconds here."""
    from talking_portrait.core_models.video_file import read_video_frames
    from talking_portrait.headless.executor import GraphExecutor
    from talking_portrait.headless.registry import node_classes

    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(kdtalker_folder))
    write_wav(host_folders / "input" / "word.wav", seconds=0.03)
    chosen = graph("kdtalker_driven_pose")
    chosen["6"]["inputs"]["model"] = "KDTalker"
    chosen["16"]["inputs"]["model"] = "LivePortrait"
    chosen["2"]["inputs"]["audio"] = "word.wav"
    chosen["7"]["inputs"]["steps"] = 2
    chosen["11"]["inputs"]["duration"] = 0.1
    report = GraphExecutor(node_classes()).run(chosen, None)
    ((motion,),) = report.values["7"]
    ((frames,), (fps,), (audio,)) = report.values["8"]
    assert motion.space == IMPLICIT_KEYPOINTS
    assert (len(frames), fps) == (1, 25.0)
    assert audio["waveform"].shape[2] * 25 == len(frames) * audio["sample_rate"]
    ((pose,),) = report.values["13"]
    assert np.allclose(motion.rotation[0], pose.rotation[0], atol=1e-2)
    (saved,) = report.ui["10"]["images"]
    path = host_folders / "output" / saved["subfolder"] / saved["filename"]
    assert sum(1 for _ in read_video_frames(path)) == 1


def write_wav(path: Path, seconds: float, rate: int = 16000) -> None:
    import wave

    samples = (np.sin(np.arange(round(seconds * rate)) * 0.1) * 8000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


@pytest.mark.parametrize("name", ["kdtalker_audio_only", "kdtalker_driven_pose"])
def test_the_graph_with_missing_weights_is_valid_and_says_what_is_missing(
    name, no_models, host_folders, face_bundle
):
    from talking_portrait.headless.executor import GraphExecutor, NodeFailedError
    from talking_portrait.headless.registry import node_classes
    from talking_portrait.headless.validation import validate_graph

    (no_models / "face_landmarker.task").symlink_to(face_bundle)
    chosen = graph(name)
    chosen["6"]["inputs"]["model"] = "KDTalker"
    validate_graph(chosen, node_classes()).raise_if_failed(chosen)
    with pytest.raises(NodeFailedError, match=r"node 6 .*'talking-portrait weights fetch kdtalker'"):
        GraphExecutor(node_classes()).run(chosen, None)


def test_the_python_guide_runs_on_the_published_networks(
    kdtalker_folder, tmp_path, monkeypatch, astronaut_portrait
):
    """Its code that needs them, as written, on speech and motion of one frame."""
    import runpy

    import talking_portrait

    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(kdtalker_folder))
    guide = runpy.run_path(str(ROOT / "docs" / "make_python_guide.py"), run_name="guide")
    write_wav(tmp_path / "word.wav", seconds=0.03)
    names = {"tp": talking_portrait, "portrait": astronaut_portrait, "motion": FaceMotion.at_rest(1, 25.0)}
    names["sound"], lengths = talking_portrait.load_sound(tmp_path / "word.wav"), []
    blocks = [
        block for block in guide["blocks_of"](guide["GUIDE"].read_text(encoding="utf-8")) if block.needs
    ]
    for block in blocks:
        if block.needs != "face_landmarker":
            assert guide["can_run"](block), block.needs
            guide["run_block"](block, names)
            lengths.append(names["film"].frame_count)
    assert lengths == [2, 1]
    assert names["spoken"].space == IMPLICIT_KEYPOINTS
    assert next(iter(names["film"])).shape == astronaut_portrait.frame.shape
