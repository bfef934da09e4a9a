"""Whisper's hidden states and windows: the release's numbers, 30 s at a time, and files that are wrong."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.audio.decode import Sound
from talking_portrait.core_models.audio.embedding import embed_audio
from talking_portrait.core_models.audio.frame_clock import frame_count
from talking_portrait.core_models.audio.listening_windows import STEPS_PER_FRAME
from talking_portrait.core_models.audio.whisper import (
    CHUNK_SAMPLES,
    ROWS_PER_CHUNK,
    WhisperParameters,
    encode_mel,
    load_whisper,
    new_whisper,
    whisper_features,
)
from talking_portrait.core_models.strict_loading import WeightMismatchError
from talking_portrait.core_models.video_diffusion.actalker.clip_conditions import windows_of_frames
from talking_portrait.core_models.video_diffusion.actalker.model import ListeningWindow
from talking_portrait.nodes import NODE_CLASS_MAPPINGS
from talking_portrait.runtime.model_cache import model_cache
from talking_portrait.runtime.speech_encoders import whisper_handle, whisper_network
from talking_portrait.runtime.weights import WeightNotFoundError
from talking_portrait.weights_manifest.manifest import system_rows
from transformers import WhisperConfig, WhisperModel

from ..video_diffusion.actalker_golden import assert_agrees, case_names, filled, read_case

LISTENING = ListeningWindow()
SMALL = WhisperParameters(width=16, layers=2, heads=2, feed_forward=32, mel_bands=80)
STATES = 3


def small_whisper(seed=0):
    torch.manual_seed(seed)
    return new_whisper(SMALL)


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def whisper():
    return small_whisper()


@pytest.mark.parametrize("name", case_names("whisper_windows*"))
def test_states_and_windows_are_the_releases(name):
    case, arrays, inputs = read_case(name)
    sizes, step = case["constructor"], case["step"]
    network = new_whisper(
        WhisperParameters(
            width=sizes["d_model"],
            layers=sizes["encoder_layers"],
            heads=sizes["encoder_attention_heads"],
            feed_forward=sizes["encoder_ffn_dim"],
            mel_bands=sizes["num_mel_bins"],
        )
    )
    filled(network.network, case, skip=("embed_positions.weight",))
    features = encode_mel(network, inputs["mel"][0])[: 2 * case["audio_len"]]
    rows, before = LISTENING.rows, LISTENING.before
    silent = features.new_zeros(rows, *features.shape[1:])
    hidden = torch.cat([silent[:before], features, silent[before:]])[None]
    starts = STEPS_PER_FRAME * step * torch.tensor(case["window_frames"])
    windows = windows_of_frames(features, starts, rows, before)
    outputs = {"hidden": hidden, "windows": windows, "last_layer": hidden[:, :, -1]}
    assert_agrees(case, arrays, outputs)


class TestFeatures:
    @pytest.mark.parametrize("samples", [1, 639, 640, 641, 16000, 20001])
    def test_two_rows_for_each_video_frame(self, whisper, samples):
        features = whisper_features(whisper, noise(samples))
        assert features.shape == (2 * frame_count(samples / 16000, 25), STATES, 16)
        assert features.dtype == torch.float32
        assert torch.isfinite(features).all()

    def test_they_are_what_transformers_gives(self, whisper):
        from transformers import WhisperFeatureExtractor

        sound = noise(8000)
        mel = WhisperFeatureExtractor()(sound, sampling_rate=16000, return_tensors="pt").input_features
        with torch.no_grad():
            heard = whisper.network(mel, output_hidden_states=True)
        features = whisper_features(whisper, sound)
        torch.testing.assert_close(features[:, 0], heard.hidden_states[0][0, :26])
        torch.testing.assert_close(features[:, -1], heard.last_hidden_state[0, :26])

    def test_the_last_state_is_after_the_norm(self, whisper):
        """The norm of an untrained encoder leaves mean 0 and variance 1."""
        last = whisper_features(whisper, noise(8000))[:, -1]
        torch.testing.assert_close(last.mean(dim=1), torch.zeros(26), atol=1e-5, rtol=0)
        torch.testing.assert_close(last.var(dim=1, unbiased=False), torch.ones(26), atol=1e-2, rtol=0)

    def test_each_chunk_of_30_s_is_heard_by_itself(self, whisper):
        sound, told = noise(CHUNK_SAMPLES + 3200), []
        features = whisper_features(whisper, sound, progress=lambda *numbers: told.append(numbers))
        assert torch.equal(features[:ROWS_PER_CHUNK], whisper_features(whisper, sound[:CHUNK_SAMPLES]))
        assert torch.equal(features[ROWS_PER_CHUNK:], whisper_features(whisper, sound[CHUNK_SAMPLES:]))
        assert told == [(ROWS_PER_CHUNK, 1510), (1510, 1510)]

    def test_silence_is_heard_too_and_sound_may_end_before_its_frames(self, whisper):
        features = whisper_features(whisper, np.zeros(3200, np.float32), total_frames=9)
        assert features.shape == (18, STATES, 16)
        assert torch.isfinite(features).all()

    def test_more_frames_than_sound_need_not_end_with_a_chunk(self, whisper):
        features = whisper_features(whisper, noise(3200), total_frames=760)
        assert len(features) == 1520
        silent = whisper_features(whisper, np.zeros(640, np.float32))
        torch.testing.assert_close(features[ROWS_PER_CHUNK : ROWS_PER_CHUNK + 2], silent)

    def test_the_same_sound_gives_the_same_numbers(self, whisper):
        sound = noise(5000)
        before = sound.copy()
        assert torch.equal(whisper_features(whisper, sound), whisper_features(whisper, sound))
        assert np.array_equal(sound, before)

    @pytest.mark.parametrize(
        ("sound", "message"),
        [
            (np.zeros(0), "0 samples"),
            (np.array([0.0, np.nan, 0.0]), "1 NaN or infinite samples"),
            (np.zeros((2, 99)), "one channel"),
        ],
    )
    def test_what_is_no_sound_is_refused(self, whisper, sound, message):
        with pytest.raises(ValueError, match=message):
            whisper_features(whisper, sound)

    def test_states_that_overflow_are_refused(self):
        network = small_whisper()
        network.network.conv1.weight.mul_(float("inf"))
        with pytest.raises(ValueError, match=r"not finite in torch\.float32"):
            whisper_features(network, noise(640))

    @pytest.mark.parametrize("shape", [(80, 2999), (80, 0), (40, 3000), (1, 80, 3000)])
    def test_log_mel_of_another_shape_is_refused(self, whisper, shape):
        with pytest.raises(ValueError, match="a multiple of 3000"):
            encode_mel(whisper, torch.zeros(shape))


def published(folder, head=True, seed=0):
    """Write model.safetensors as Whisper's is, decoder and all; return the model."""
    torch.manual_seed(seed)
    model = WhisperModel(
        WhisperConfig(
            d_model=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            vocab_size=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    ).eval()
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "model." if head else ""
    state = {prefix + name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return model


class TestLoading:
    @pytest.mark.parametrize("head", [True, False])
    def test_the_encoder_of_a_published_file(self, tmp_path, head):
        model = published(tmp_path, head)
        loaded = load_whisper(tmp_path / "model.safetensors", parameters=SMALL)
        assert (loaded.layers, loaded.width, loaded.training) == (STATES, 16, False)
        mel = torch.randn(1, 80, 3000)
        with torch.no_grad():
            expected = model.encoder(mel).last_hidden_state
        torch.testing.assert_close(encode_mel(loaded, mel[0])[:, -1], expected[0])

    def test_all_faults_are_listed(self, tmp_path):
        model = published(tmp_path)
        state = {"model." + name: value.contiguous() for name, value in model.state_dict().items()}
        del state["model.encoder.conv1.bias"]
        state |= {"model.encoder.novel": torch.zeros(1), "model.encoder.conv2.bias": torch.zeros(3)}
        save_file(state, tmp_path / "model.safetensors")
        with pytest.raises(WeightMismatchError) as fault:
            load_whisper(tmp_path / "model.safetensors", parameters=SMALL)
        for part in (
            "Missing: ['conv1.bias']",
            "Unexpected: ['novel']",
            "conv2.bias is (3,), expected (16,)",
        ):
            assert part in str(fault.value)

    def test_another_whisper_is_refused(self, tmp_path):
        published(tmp_path)
        with pytest.raises(WeightMismatchError, match="Misshapen: \\['conv1"):
            load_whisper(tmp_path / "model.safetensors")


@pytest.fixture
def models(monkeypatch, tmp_path):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    model_cache().clear()


class TestEmbedding:
    def test_sound_of_any_rate_becomes_features(self, whisper):
        sound = Sound(noise(44100)[None], 44100)
        embedding = embed_audio(sound, "whisper", whisper)
        assert (embedding.encoder, embedding.rate, embedding.duration) == ("whisper", 50.0, 1.0)
        assert embedding.features.shape == (50, STATES, 16)

    def test_another_network_is_refused(self):
        with pytest.raises(ValueError, match="is a Whisper, but a Linear"):
            embed_audio(Sound(noise(640)[None], 16000), "whisper", torch.nn.Linear(1, 1))
        with pytest.raises(ValueError, match="load_whisper"):
            embed_audio(Sound(noise(640)[None], 16000), "whisper")

    def test_missing_files_are_named_with_the_command_that_fetches_them(self, models):
        node = NODE_CLASS_MAPPINGS["TP_AudioEmbedding"]()
        assert "whisper" in node.INPUT_TYPES()["required"]["encoder"][0]
        sound = {"waveform": torch.zeros(1, 1, 8000), "sample_rate": 16000}
        with pytest.raises(WeightNotFoundError, match="weights fetch whisper_tiny'") as missing:
            node.embed(sound, "whisper")
        for part in ("Whisper tiny", "model.safetensors", str(models / "whisper-tiny"), "another encoder"):
            assert part in str(missing.value)

    def test_a_file_is_found_by_the_node_and_must_be_whisper_tinys(self, models):
        published(models / "whisper-tiny")
        assert whisper_handle("bfloat16").dtype == "bfloat16"
        with pytest.raises(WeightMismatchError, match="Misshapen"), whisper_network():
            pass

    def test_the_manifest_has_the_file(self):
        (row,) = system_rows("whisper_tiny")
        assert (row.source.repository, row.source.file) == ("openai/whisper-tiny", "model.safetensors")
        assert (row.layout, row.licence) == ("whisper_transformers", "Apache-2.0")
