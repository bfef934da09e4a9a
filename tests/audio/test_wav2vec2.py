"""wav2vec 2.0's last hidden state against transformers' own, its windows, files, and its place in Audio Embedding."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio import wav2vec2 as wav2vec2_module
from talking_portrait.core_models.audio.decode import Sound
from talking_portrait.core_models.audio.embedding import embed_audio
from talking_portrait.core_models.audio.wav2vec2 import (
    Wav2Vec2,
    load_wav2vec2,
    step_count,
    wav2vec2_features,
)
from talking_portrait.core_models.strict_loading import WeightMismatchError
from talking_portrait.nodes import NODE_CLASS_MAPPINGS
from talking_portrait.runtime.model_cache import model_cache
from talking_portrait.runtime.speech_encoders import (
    WAV2VEC2_BASE,
    WAV2VEC2_ROWS,
    wanted_encoder,
    wav2vec2_handle,
    wav2vec2_network,
)
from talking_portrait.runtime.weights import WeightNotFoundError
from talking_portrait.weights_manifest.manifest import system_rows, weight_row
from transformers import Wav2Vec2FeatureExtractor

from .small_hubert import save_hubert
from .small_hubert import small_network as small_hubert
from .small_wav2vec2 import WIDTH, WITHIN, published_state, save_wav2vec2, small_network

FOLDER = "wav2vec2-base-960h"


@pytest.fixture(scope="module")
def network():
    return Wav2Vec2(small_network())


def speech_like(seconds, seed=0):
    """Noise whose loudness changes as that of syllables does."""
    count = round(seconds * 16000)
    times = np.arange(count) / 16000
    loudness = 0.02 + 0.3 * np.clip(np.sin(2 * math.pi * 2.7 * times), 0, None)
    return (np.random.default_rng(seed).standard_normal(count) * loudness).astype(np.float32)


class TestFeatures:
    def test_are_what_the_published_chain_gives(self, network):
        """transformers' feature extractor as published (normalising, no attention mask) and its model."""
        sound = speech_like(0.73) + 0.1
        extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
        values = extractor(sound, sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            expected = network.network(values).last_hidden_state[0]
        found = wav2vec2_features(network, sound)
        assert found.shape == (step_count(len(sound)), 1, WIDTH)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found[:, 0], expected, atol=1e-5, rtol=1e-5)

    @given(samples=st.integers(1, 5000))
    @settings(deadline=None, max_examples=30)
    def test_have_the_networks_own_number_of_steps(self, network, samples):
        features = wav2vec2_features(network, speech_like(0.4)[:samples])
        assert len(features) == step_count(samples)
        last_heard = 320 * (len(features) - 1) + 400
        assert last_heard <= max(samples, 400) < last_heard + 320

    def test_of_81_frames_at_23_fps_are_175(self):
        assert step_count(int(81 / 23 * 16000)) == 175

    def test_depend_on_loudness_only_where_sound_is_used_as_it_is(self, network):
        deaf, sound = Wav2Vec2(network.network, normalises=False), speech_like(0.5)
        quiet = 0.003 * sound
        torch.testing.assert_close(
            wav2vec2_features(network, quiet - 0.2), wav2vec2_features(network, sound), atol=2e-2, rtol=0
        )
        assert (wav2vec2_features(deaf, quiet) - wav2vec2_features(deaf, sound)).abs().max() > 0.1

    def test_of_less_than_a_step_are_one(self, network):
        assert wav2vec2_features(network, speech_like(0.01)).shape == (1, 1, WIDTH)

    def test_progress_ends_the_work(self, network):
        class Cancelled(Exception):
            pass

        def cancel(done, total):
            raise Cancelled

        with pytest.raises(Cancelled):
            wav2vec2_features(network, speech_like(0.1), progress=cancel)

    @pytest.mark.parametrize(
        ("sound", "settings", "message"),
        [
            (np.zeros(0), {}, "0 samples"),
            (np.full(400, np.nan), {}, "400 NaN or infinite"),
            (np.zeros((1, 400)), {}, r"shape \(1, 400\)"),
            (np.zeros(400), {"sample_rate": 44100}, "44100 Hz, but wav2vec 2.0 hears 16000 Hz"),
        ],
        ids=["empty", "NaN", "channels", "rate"],
    )
    def test_of_bad_sound_are_refused(self, network, sound, settings, message):
        with pytest.raises(ValueError, match=message):
            wav2vec2_features(network, sound, **settings)

    def test_that_are_not_finite_are_refused(self):
        broken = small_network()
        with torch.no_grad():
            broken.encoder.layer_norm.bias.fill_(math.inf)
        with pytest.raises(ValueError, match=r"not finite in torch.float32"):
            wav2vec2_features(Wav2Vec2(broken), speech_like(0.1))


LONG = 25
"""Seconds of sound that is heard in windows."""


@pytest.fixture(scope="module")
def in_windows(network):
    """Features of long sound, the numbers of samples heard, and what progress was told."""
    lengths, told = [], []
    hook = network.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    made = wav2vec2_features(network, speech_like(LONG), progress=lambda *step: told.append(step))
    hook.remove()
    return made, lengths, told


class TestLongSound:
    def test_is_heard_in_bounded_windows(self, in_windows):
        steps = step_count(LONG * 16000)
        made, lengths, told = in_windows
        assert len(made) == steps == 1249
        assert max(lengths) == (500 + 200 + 200) * 320 + 80
        assert told == [(500, steps), (1000, steps), (steps, steps)]

    def test_differs_little_from_the_whole(self, in_windows, network, monkeypatch):
        """Group norm takes its statistics from a window; relative to the features' spread."""
        monkeypatch.setattr(wav2vec2_module, "WHOLE_CLIP_STEPS", 10_000)
        whole = wav2vec2_features(network, speech_like(LONG))
        made = in_windows[0]
        assert made.shape == whole.shape
        assert (made - whole).abs().mean() < 0.02 * whole.std()
        assert (made - whole).abs().max() < 0.3 * whole.std()

    def test_of_the_kind_with_layer_norm_hears_the_same_sound(self, monkeypatch):
        """Without group norm and positions, a step before its first layer hears 400 samples wherever windows begin."""
        layer = Wav2Vec2(small_network(feat_extract_norm="layer", num_hidden_layers=0, conv_bias=True))
        made = wav2vec2_features(layer, speech_like(19))
        monkeypatch.setattr(wav2vec2_module, "WHOLE_CLIP_STEPS", 10_000)
        torch.testing.assert_close(made, wav2vec2_features(layer, speech_like(19)), atol=1e-4, rtol=1e-4)


class TestFiles:
    @pytest.mark.parametrize("form", ["published", "new names", "alone", "alone, new names"])
    def test_every_form_gives_the_same(self, network, tmp_path, form):
        own = network.network.state_dict()
        assert "masked_spec_embed" in own
        states = {
            "published": published_state(network.network),
            "new names": {WITHIN + name: value for name, value in own.items()},
            "alone": {
                name.removeprefix(WITHIN): value
                for name, value in published_state(network.network).items()
                if name.startswith(WITHIN)
            },
            "alone, new names": {name: value for name, value in own.items() if name != "masked_spec_embed"},
        }
        loaded = load_wav2vec2(save_wav2vec2(tmp_path, network.network, states[form]))
        assert (loaded.width, loaded.normalises, loaded.training) == (WIDTH, True, False)
        assert not any(value.requires_grad for value in loaded.parameters())
        sound = speech_like(0.3)
        torch.testing.assert_close(wav2vec2_features(loaded, sound), wav2vec2_features(network, sound))

    @pytest.mark.parametrize("wanted", [True, False])
    def test_the_published_preprocessor_decides_whether_sound_is_normalised(self, tmp_path, wanted):
        folder = save_wav2vec2(tmp_path, small_network(), preprocessor={"do_normalize": wanted})
        assert load_wav2vec2(folder, torch.bfloat16).normalises is wanted

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda state: state.pop("wav2vec2.encoder.pos_conv_embed.conv.weight_g"),
                r"Missing: \['encoder.pos_conv_embed.conv.\w+[.\w]*'\]. Unexpected: none",
            ),
            (
                lambda state: state.update({"project_q.bias": torch.ones(2)}),
                r"Unexpected: \['project_q.bias'\]",
            ),
            (
                lambda state: state.update({"wav2vec2.encoder.layer_norm.bias": torch.ones(9)}),
                r"encoder.layer_norm.bias is \(9,\), expected \(16,\)",
            ),
        ],
        ids=["missing", "unexpected", "misshapen"],
    )
    def test_every_key_is_accounted_for(self, tmp_path, change, message):
        state = published_state(small_network())
        change(state)
        with pytest.raises(WeightMismatchError, match=message):
            load_wav2vec2(save_wav2vec2(tmp_path, small_network(), state))

    def test_a_hubert_is_another_model(self, tmp_path):
        with pytest.raises(ValueError, match="type 'hubert', expected 'wav2vec2'"):
            load_wav2vec2(save_hubert(tmp_path, small_hubert()))

    def test_convolutions_of_another_rate_are_refused(self, tmp_path):
        folder = save_wav2vec2(tmp_path, small_network(), conv_stride=[5, 2, 2, 2, 2, 2, 1])
        with pytest.raises(ValueError, match="every 160, expected 400 every 320"):
            load_wav2vec2(folder)

    def test_what_is_missing_is_named(self, tmp_path):
        folder = save_wav2vec2(tmp_path, small_network())
        (folder / "config.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"config\.json: wav2vec 2\.0's configuration"):
            load_wav2vec2(folder)
        (folder / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match=r"holds no wav2vec 2\.0 weights"):
            load_wav2vec2(folder)


class TestEmbedding:
    def test_it_is_an_audio_embedding(self, network):
        wave = np.stack([speech_like(1.01), speech_like(1.01, seed=1)])
        embedding = embed_audio(Sound(wave, 44100), "wav2vec2", network)
        seconds = wave.shape[1] / 44100
        assert (embedding.encoder, embedding.rate) == ("wav2vec2", 50.0)
        assert embedding.duration == pytest.approx(seconds)
        assert embedding.features.shape == (step_count(round(seconds * 16000)), 1, WIDTH)

    def test_at_16_khz_it_is_the_features(self, network):
        sound, told = speech_like(0.7), []
        embedding = embed_audio(
            Sound(sound[None], 16000), "wav2vec2", network, lambda *step: told.append(step)
        )
        assert torch.equal(embedding.features, wav2vec2_features(network, sound))
        assert told == [(34, 34)]

    @pytest.mark.parametrize(
        ("network", "message"),
        [
            (None, r"'wav2vec2' is a network, which was not given: load_wav2vec2\(folder\)"),
            (torch.nn.Identity(), "a Wav2Vec2, but a Identity was given"),
        ],
    )
    def test_another_network_is_refused(self, network, message):
        with pytest.raises(ValueError, match=message):
            embed_audio(Sound(np.zeros((1, 160)), 16000), "wav2vec2", network)


class TestNode:
    @pytest.fixture
    def models(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield tmp_path
        model_cache().clear()

    @pytest.fixture
    def listening(self, monkeypatch):
        """A stand-in for the module that knows what a FantasyTalking listens with: the model is its answer."""
        name = "talking_portrait.runtime.fantasytalking_models"
        module = types.ModuleType(name)
        module.listening_encoder = lambda models: models.encoder
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(
            sys.modules["talking_portrait.runtime"], "fantasytalking_models", module, raising=False
        )
        return lambda encoder: types.SimpleNamespace(encoder=encoder)

    def embed(self, encoder="wav2vec2", **connected):
        sound = {"waveform": torch.from_numpy(speech_like(0.5))[None, None], "sample_rate": 16000}
        return NODE_CLASS_MAPPINGS["TP_AudioEmbedding"]().embed(sound, encoder, **connected)[0]

    @pytest.mark.parametrize(
        "place", [FOLDER, f"transformers/facebook/{FOLDER}", f"wav2vec2/facebook/{FOLDER}"]
    )
    def test_files_are_found_and_heard(self, models, place):
        save_wav2vec2(models / place, small_network())
        embedding = self.embed()
        assert embedding.features.shape == (24, 1, WIDTH)
        assert embedding.encoder == "wav2vec2"

    def test_missing_files_are_named_with_the_command_that_fetches_them(self, models):
        with pytest.raises(
            WeightNotFoundError, match=f"'talking-portrait weights fetch {WAV2VEC2_BASE}'"
        ) as missing:
            self.embed()
        for part in ("model.safetensors", "config.json", str(models / FOLDER), "another encoder"):
            assert part in str(missing.value)

    def test_the_preprocessor_counts_when_it_is_here(self, models):
        save_wav2vec2(models / FOLDER, small_network(), preprocessor={"do_normalize": False})
        handle = wav2vec2_handle("bfloat16")
        assert handle.further_paths == tuple(
            str(models / FOLDER / name) for name in ("config.json", "preprocessor_config.json")
        )
        with wav2vec2_network(handle) as loaded:
            assert not loaded.normalises
            assert next(loaded.parameters()).dtype == torch.bfloat16

    def test_automatic_takes_what_the_connected_model_listens_with(self, models, listening):
        save_wav2vec2(models / FOLDER, small_network())
        published = self.embed("automatic", fantasytalking=listening("wav2vec2"))
        assert published.encoder == "wav2vec2"
        assert (
            self.embed("automatic", fantasytalking=listening("pocket_listener")).encoder == "pocket_listener"
        )
        assert self.embed("log_mel", fantasytalking=listening("wav2vec2")).encoder == "log_mel"

    def test_two_models_do_not_listen_at_once(self, listening):
        for others in ({"models": object()}, {"actalker": object()}):
            with pytest.raises(ValueError, match="either model or actalker or fantasytalking"):
                wanted_encoder(**others, fantasytalking=listening("wav2vec2"))


def test_the_manifest_has_every_file():
    rows = system_rows(WAV2VEC2_BASE)
    assert {row.source.file for row in rows} == {
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
    }
    assert {row.source.repository for row in rows} == {"facebook/wav2vec2-base-960h"}
    assert {row.licence for row in rows} == {"Apache-2.0"}
    assert {weight_row(name).system for names in WAV2VEC2_ROWS.values() for name in names} == {WAV2VEC2_BASE}
    assert set(rows) <= set(system_rows("fantasytalking"))
