"""The pocket model's ear as an encoder: what the pocket model itself hears, with nothing downloaded."""

import copy

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.decode import Sound
from talking_portrait.core_models.audio.embedding import embed_audio
from talking_portrait.core_models.audio.listening_blocks import heard_layers
from talking_portrait.core_models.audio.mel import (
    FLOOR_DB,
    floored_log_mel,
    levelled_decibels,
    mel_decibels,
    normalised_log_mel,
    scale_decibels,
)
from talking_portrait.core_models.keypoint_diffusion.loading import load_pocket
from talking_portrait.core_models.keypoint_diffusion.pocket_listener import (
    load_pocket_listener,
    pocket_listener,
)
from talking_portrait.nodes import NODE_CLASS_MAPPINGS
from talking_portrait.runtime.model_cache import model_cache


def buzz(samples):
    times = np.arange(samples) / 16000
    tone = sum(np.sin(2 * np.pi * 110 * k * times) for k in range(1, 12)) * 0.03
    return (tone * (times % 0.4 < 0.2)).astype(np.float32)


@pytest.fixture(scope="module")
def pocket():
    return load_pocket()


@pytest.fixture(scope="module")
def listener():
    return load_pocket_listener()


def test_it_is_the_first_part_of_the_pocket_models_encoder(pocket, listener):
    mel = torch.randn(1, 40, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = pocket.encoder.fine(pocket.encoder.stem(mel.transpose(1, 2)))
    assert torch.equal(listener(mel)[0, -1], expected[0].T)
    assert torch.equal(pocket_listener(pocket)(mel), listener(mel))
    assert not any(one.requires_grad for one in listener.parameters())


@pytest.mark.parametrize("samples", [1, 640, 641, 16000])
def test_two_rows_for_each_video_frame(listener, samples):
    embedding = embed_audio(Sound(buzz(samples)[None], 16000), "pocket_listener", listener)
    assert embedding.features.shape == (2 * -(-samples // 640), 6, 192)
    assert (embedding.encoder, embedding.rate, embedding.duration) == (
        "pocket_listener",
        50.0,
        samples / 16000,
    )
    assert torch.isfinite(embedding.features).all()


def test_silence_sounds_the_same_in_every_block(listener):
    """Within a block of 10 rows it does not: what lies beyond what the block hears is no sound at all."""
    sound = Sound(np.zeros((1, 16000), np.float32), 16000)
    blocks = embed_audio(sound, "pocket_listener", listener).features.unflatten(0, (5, 10))
    torch.testing.assert_close(blocks, blocks[:1].expand_as(blocks), atol=1e-4, rtol=1e-4)


def test_loudness_does_not_count_and_the_same_sound_gives_the_same_numbers(listener):
    sound = buzz(32000)
    features = [
        embed_audio(Sound(gain * sound[None], 16000), "pocket_listener", listener).features
        for gain in (1.0, 1.0, 0.25)
    ]
    assert torch.equal(features[0], features[1])
    assert (features[0] - features[2]).abs().mean() < 0.05 * features[0].std()


def test_what_is_heard_of_a_block_does_not_depend_on_what_comes_much_later(listener):
    decibels = levelled_decibels(mel_decibels(buzz(48000)))
    changed = decibels.copy()
    changed[200:] = -40.0
    heard, other = heard_layers(listener, decibels), heard_layers(listener, changed)
    assert heard.shape == (150, 6, 192)
    assert torch.equal(heard[:80], other[:80])
    assert not torch.equal(heard[100:], other[100:])


def test_a_listener_of_another_type_hears_the_same(listener):
    decibels = levelled_decibels(mel_decibels(buzz(16000)))
    other = heard_layers(copy.deepcopy(listener).double(), decibels)
    assert other.dtype == torch.float32
    torch.testing.assert_close(other, heard_layers(listener, decibels), atol=1e-3, rtol=1e-3)


def test_levelled_and_floored_decibels_are_the_normalised_log_mel():
    decibels = mel_decibels(buzz(8000))
    assert np.array_equal(floored_log_mel(levelled_decibels(decibels)), normalised_log_mel(decibels))
    quiet = floored_log_mel(np.full((2, 80), -130.0, np.float32))
    assert (quiet == scale_decibels(FLOOR_DB)).all()


def test_the_node_needs_no_download(monkeypatch, tmp_path):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
    node = NODE_CLASS_MAPPINGS["TP_AudioEmbedding"]()
    sound = {"waveform": torch.from_numpy(buzz(8000))[None, None], "sample_rate": 16000}
    (embedding,) = node.embed(sound, "pocket_listener")
    assert embedding.features.shape == (26, 6, 192)
    model_cache().clear()


def test_it_must_be_given():
    with pytest.raises(ValueError, match=r"load_pocket_listener\(\)"):
        embed_audio(Sound(buzz(640)[None], 16000), "pocket_listener")
