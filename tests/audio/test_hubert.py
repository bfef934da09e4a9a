"""HuBERT's hidden states against transformers' own, where each step is, and files that are not as they should be."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio import hubert as hubert_module
from talking_portrait.core_models.audio.decode import Sound
from talking_portrait.core_models.audio.embedding import embed_audio
from talking_portrait.core_models.audio.frame_clock import frame_count
from talking_portrait.core_models.audio.hubert import (
    SIDE_SAMPLES,
    Hubert,
    hidden_states,
    load_hubert,
    normalised,
    window_encoder,
)
from talking_portrait.core_models.audio.hubert_layers import WeightedLayers
from talking_portrait.core_models.audio.listening_windows import (
    FeatureStream,
    ListeningWindows,
    features_in_blocks,
)
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError

from .small_hubert import LAYERS, WIDTH, save_hubert, small_network, with_old_names

STATES = LAYERS + 1


@pytest.fixture(scope="module")
def large():
    return Hubert(small_network("layer"), normalises=True)


@pytest.fixture(scope="module")
def base():
    return Hubert(small_network("group"), normalises=False)


def speech_like(seconds, seed=0):
    """Noise whose loudness changes as that of syllables does."""
    count = round(seconds * 16000)
    times = np.arange(count) / 16000
    loudness = 0.02 + 0.3 * np.clip(np.sin(2 * math.pi * 2.7 * times), 0, None)
    return (np.random.default_rng(seed).standard_normal(count) * loudness).astype(np.float32)


@pytest.mark.parametrize("old_names", [False, True], ids=["new names", "old names"])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_every_published_form_gives_what_transformers_gives(norm, layout, old_names, tmp_path):
    network, sound = small_network(norm), speech_like(0.64)
    assert "masked_spec_embed" in network.state_dict()  # published files hold it
    loaded = load_hubert(save_hubert(tmp_path, network, layout, old_names=old_names))
    assert (loaded.layers, loaded.width, loaded.normalises) == (STATES, WIDTH, norm == "layer")
    heard = normalised(sound) if norm == "layer" else sound
    padded = torch.from_numpy(np.pad(heard, SIDE_SAMPLES))[None]
    with torch.no_grad():
        reference = network(padded, output_hidden_states=True)
    states = hidden_states(loaded, sound)
    assert states.shape == (32, STATES, WIDTH)
    assert states.dtype == torch.float32
    for index in range(LAYERS):
        torch.testing.assert_close(states[:, index], reference.hidden_states[index][0])
    torch.testing.assert_close(states[:, LAYERS], reference.last_hidden_state[0])


def test_the_last_state_of_the_large_model_is_after_its_last_norm(large):
    """Whatever the version of transformers: its norm, undone, has mean 0 and variance 1 across the width."""
    norm, last = large.network.encoder.layer_norm, hidden_states(large, speech_like(0.4))[:, -1]
    plain = (last - norm.bias) / norm.weight
    torch.testing.assert_close(plain.mean(dim=1), torch.zeros(len(plain)), atol=1e-4, rtol=0)
    torch.testing.assert_close(plain.var(dim=1, unbiased=False), torch.ones(len(plain)), atol=1e-2, rtol=0)


def test_a_file_may_be_named_and_its_settings_be_elsewhere(tmp_path):
    folder = save_hubert(tmp_path / "model", small_network(), preprocessor={"do_normalize": False})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).rename(elsewhere / name)
    loaded = load_hubert(
        folder / "model.safetensors",
        torch.bfloat16,
        elsewhere / "config.json",
        elsewhere / "preprocessor_config.json",
    )
    assert not loaded.normalises
    assert not loaded.training
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}
    states = hidden_states(loaded, speech_like(0.2))
    assert states.dtype == torch.float32
    assert torch.isfinite(states).all()


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_published_preprocessor_decides_whether_sound_is_normalised(norm, wanted, tmp_path):
    folder = save_hubert(tmp_path, small_network(norm), preprocessor={"do_normalize": wanted})
    assert load_hubert(folder).normalises is wanted


def test_normalised_sound():
    sound = speech_like(1.0) + 0.25
    made = normalised(sound)
    assert made.dtype == np.float32
    assert made.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert made.std(dtype=np.float64) == pytest.approx(1, abs=1e-4)
    assert not normalised(np.zeros(99, np.float32)).any()


def test_loudness_counts_only_where_sound_is_not_normalised(large):
    sound = speech_like(0.5)
    deaf = Hubert(large.network, normalises=False)
    torch.testing.assert_close(
        hidden_states(large, 0.5 * sound), hidden_states(large, sound), atol=1e-3, rtol=1e-3
    )
    assert (hidden_states(deaf, 0.1 * sound) - hidden_states(deaf, sound)).abs().max() > 1e-2


@given(samples=st.integers(1, 9000))
@settings(deadline=None, max_examples=30)
def test_two_steps_for_each_video_frame(large, samples):
    states = hidden_states(large, speech_like(1.0)[:samples])
    assert states.shape == (2 * frame_count(samples / 16000, 25), STATES, WIDTH)
    assert torch.isfinite(states).all()


def test_a_step_is_centred_on_its_time(large):
    """What its convolutions hear is 400 samples around (i + 0.5) / 50 s."""
    step, sound = 7, torch.from_numpy(np.pad(speech_like(0.4), SIDE_SAMPLES))[None].requires_grad_()
    features = large.network.feature_extractor(sound)
    (slope,) = torch.autograd.grad(features[0, :, step].sum(), sound)
    heard = torch.nonzero(slope[0])[:, 0] - SIDE_SAMPLES
    assert (heard.min().item(), heard.max().item()) == (320 * step - 40, 320 * step + 359)
    assert (heard.min() + heard.max() + 1).item() / 2 / 16000 == pytest.approx((step + 0.5) / 50)


@pytest.mark.parametrize(("norm", "most", "usual"), [("layer", 0.03, 0.005), ("group", 0.3, 0.02)])
def test_windows_change_a_long_sound_little(norm, most, usual, monkeypatch):
    """Relative to each layer's own spread. Group norm is taken over a window and not over the clip."""
    hubert, sound = Hubert(small_network(norm), normalises=norm == "layer"), speech_like(40)
    in_windows = hidden_states(hubert, sound)
    monkeypatch.setattr(hubert_module, "WHOLE_CLIP_STEPS", 10_000)
    whole = hidden_states(hubert, sound)
    assert in_windows.shape == whole.shape == (2000, STATES, WIDTH)
    difference = (in_windows - whole).abs().amax(dim=(0, 2)) / whole.std(dim=(0, 2))
    average = (in_windows - whole).abs().mean(dim=(0, 2)) / whole.std(dim=(0, 2))
    assert difference.max() < most
    assert average.max() < usual


def test_what_no_window_can_cut_is_the_same_in_windows(large, monkeypatch):
    """Before its first layer the large model hears 400 samples and 16 steps."""
    sound = speech_like(30)
    in_windows = hidden_states(large, sound)[:, 0]
    monkeypatch.setattr(hubert_module, "WHOLE_CLIP_STEPS", 10_000)
    torch.testing.assert_close(in_windows, hidden_states(large, sound)[:, 0], atol=1e-5, rtol=1e-4)


def test_a_long_sound_is_heard_in_bounded_windows(large, monkeypatch):
    lengths = []
    forward = Hubert.forward

    def counted(self, waveform):
        lengths.append(waveform.shape[1])
        return forward(self, waveform)

    monkeypatch.setattr(Hubert, "forward", counted)
    told = []
    hidden_states(large, speech_like(33), progress=lambda done, total: told.append((done, total)))
    assert max(lengths) == 18 * 16000 + 2 * SIDE_SAMPLES
    assert told == [(500, 1650), (1000, 1650), (1500, 1650), (1650, 1650)]


def test_progress_ends_the_work(large):
    class Cancelled(Exception):
        pass

    def cancel(done, total):
        raise Cancelled

    with pytest.raises(Cancelled):
        hidden_states(large, speech_like(0.1), progress=cancel)


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("seconds", [0.5, 20])
def test_the_sum_on_the_fly_is_the_sum_afterwards(large, seconds, as_array):
    layers, sound = WeightedLayers(STATES), speech_like(seconds)
    with torch.no_grad():
        layers.weights.copy_(torch.tensor([0.3, -1.0, 2.0]))
    shares = layers.shares().detach().numpy() if as_array else layers.shares()
    summed = hidden_states(large, sound, layer_weights=shares)
    assert summed.shape == (2 * frame_count(seconds, 25), 1, WIDTH)
    assert not summed.requires_grad
    all_of_them = hidden_states(large, sound).transpose(0, 1)[None]
    torch.testing.assert_close(summed[:, 0], layers(all_of_them)[0].detach())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.5], r"shape \(2,\), expected \(3,\)"),
        ([[1.0, 0.0, 0.0]], r"shape \(1, 3\)"),
        ([0.0, 0.0, 0.0], "add up to 1"),
        ([1.5, -0.5, 0.0], ">= 0"),
        ([math.nan, 0.5, 0.5], "add up to 1"),
    ],
)
def test_layer_weights_that_do_not_fit(large, weights, message):
    with pytest.raises(ValueError, match=message):
        hidden_states(large, speech_like(0.1), layer_weights=torch.tensor(weights))
    with pytest.raises(ValueError, match=message):
        window_encoder(large, np.array(weights))


def test_a_stream_hears_what_its_windows_hear(large):
    windows, sound = ListeningWindows(8, 20, 4), speech_like(1.5)
    encode = window_encoder(large, torch.full((STATES,), 1 / STATES))
    stream = FeatureStream(encode, windows)
    made = [stream.push(piece) for piece in np.split(sound, [1, 700, 701, 9000, 15000])]
    made.append(stream.finish())
    together = torch.cat([part for part in made if part is not None])
    assert torch.equal(together, features_in_blocks(encode, sound, windows))
    assert together.shape == (76, 1, WIDTH)


def test_one_window_over_all_is_the_whole_clip(large, base):
    sound = speech_like(0.8)
    for hubert in (large, base):
        whole = features_in_blocks(window_encoder(hubert), sound, ListeningWindows(40, 0, 0))
        torch.testing.assert_close(whole, hidden_states(hubert, sound))


@pytest.mark.parametrize(
    ("sound", "settings", "message"),
    [
        (np.zeros(0), {}, "0 samples"),
        (np.full(400, np.nan), {}, "400 NaN or infinite"),
        (np.zeros((1, 400)), {}, r"shape \(1, 400\)"),
        (np.zeros(400), {"sample_rate": 44100}, "44100 Hz, but HuBERT hears 16000 Hz"),
        (np.zeros(400), {"total_frames": 0}, "total_frames is 0"),
    ],
    ids=["empty", "NaN", "channels", "rate", "frames"],
)
def test_bad_sound(large, sound, settings, message):
    with pytest.raises(ValueError, match=message):
        hidden_states(large, sound, **settings)


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        return save_hubert(tmp_path, small_network())

    def changed(self, folder, change):
        state = with_old_names(small_network().state_dict())
        change(state)
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
        return folder

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda state: state.pop("encoder.pos_conv_embed.conv.weight_g"),
                r"Missing: \['encoder.pos_conv_embed.conv.\w+[.\w]*'\]. Unexpected: none",
            ),
            (lambda state: state.update({"lm_head.bias": torch.ones(2)}), r"Unexpected: \['lm_head.bias'\]"),
            (
                lambda state: state.update({"feature_projection.projection.bias": torch.ones(9)}),
                r"feature_projection.projection.bias is \(9,\), expected \(16,\)",
            ),
        ],
        ids=["missing", "unexpected", "misshapen"],
    )
    def test_every_key_is_accounted_for(self, folder, change, message):
        with pytest.raises(WeightMismatchError, match=message):
            load_hubert(self.changed(folder, change))

    def test_both_spellings_at_once(self, folder):
        state = small_network().state_dict()
        state |= with_old_names(state)
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
        with pytest.raises(WeightMismatchError, match=r"more than one key maps to 'encoder\.pos_conv_embed"):
            load_hubert(folder)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"hidden_size": 32}, r"is \(16,\), expected \(32,\)"),
            ({"num_hidden_layers": 3}, r"Missing: \['encoder.layers.2"),
            ({"num_hidden_layers": 1}, r"Unexpected: \['encoder.layers.1"),
            ({"feat_extract_norm": "group", "do_stable_layer_norm": False}, "Unexpected: .*layer_norm"),
            ({"model_type": "wav2vec2"}, "type 'wav2vec2', expected 'hubert'"),
            ({"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, "every 160, expected 400 every 320"),
            ({"conv_kernel": "ten"}, "config.json"),
        ],
        ids=["width", "too few layers", "too many layers", "norm", "type", "rate", "nonsense"],
    )
    def test_a_configuration_of_another_model(self, tmp_path, changes, message):
        with pytest.raises(ValueError, match=message):
            load_hubert(save_hubert(tmp_path, small_network(), **changes))

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
    @pytest.mark.parametrize(
        ("text", "message"), [("{", "is not JSON"), ("[]", "holds list, expected an object")]
    )
    def test_damaged_settings(self, folder, name, text, message):
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name} {message}"):
            load_hubert(folder)

    def test_a_preprocessor_that_says_nothing_clear(self, folder):
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": "perhaps"}))
        with pytest.raises(ValueError, match="do_normalize is 'perhaps'"):
            load_hubert(folder)

    def test_what_is_missing_is_named(self, folder, tmp_path):
        (folder / "config.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"config\.json"):
            load_hubert(folder)
        (folder / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match=r"no model\.safetensors or pytorch_model\.bin"):
            load_hubert(folder)

    def test_a_pickle_that_runs_code_is_refused(self, folder):
        (folder / "model.safetensors").unlink()
        torch.save({"x": torch.ones(1), "model": Hubert}, folder / "pytorch_model.bin")
        with pytest.raises(UnreadableWeightsError, match="would run"):
            load_hubert(folder)


class TestEmbedding:
    def test_it_is_an_audio_embedding(self, large):
        wave = np.stack([speech_like(1.01), speech_like(1.01, seed=1)])
        embedding = embed_audio(Sound(wave, 44100), "hubert", large)
        seconds = wave.shape[1] / 44100
        assert (embedding.encoder, embedding.rate) == ("hubert", 50.0)
        assert embedding.duration == pytest.approx(seconds)
        assert embedding.features.shape == (2 * frame_count(seconds, 25), STATES, WIDTH)

    def test_at_16_khz_it_is_the_hidden_states(self, large):
        sound, told = speech_like(0.7), []
        shares = torch.tensor([0.2, 0.3, 0.5])
        embedding = embed_audio(
            Sound(sound[None], 16000), "hubert", large, lambda *step: told.append(step), shares
        )
        assert torch.equal(embedding.features, hidden_states(large, sound, layer_weights=shares))
        assert told == [(36, 36)]

    @pytest.mark.parametrize(
        ("encoder", "network", "weights", "message"),
        [
            ("hubert", None, None, r"'hubert' is a network, which was not given: load_hubert\(folder\)"),
            ("hubert", torch.nn.Identity(), None, "a Hubert, but a Identity was given"),
            ("log_mel", None, [1.0], "for the encoder 'hubert', not for 'log_mel'"),
        ],
    )
    def test_what_does_not_go_together(self, encoder, network, weights, message):
        with pytest.raises(ValueError, match=message):
            embed_audio(Sound(np.zeros((1, 160)), 16000), encoder, network, layer_weights=weights)
