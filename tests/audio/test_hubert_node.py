"""HuBERT in Audio Embedding: found in the models folders, and what is missing named."""

import pytest
import torch
from talking_portrait.nodes import NODE_CLASS_MAPPINGS
from talking_portrait.runtime.model_cache import model_cache
from talking_portrait.runtime.speech_encoders import (
    HUBERT_BASE,
    HUBERT_LARGE,
    hubert_handle,
    hubert_network,
    hubert_rows,
)
from talking_portrait.runtime.weights import WeightNotFoundError
from talking_portrait.weights_manifest.manifest import alternatives, system_rows, weight_row

from .small_hubert import LAYERS, WIDTH, save_hubert, small_network

LARGE_FOLDER, BASE_FOLDER = "hubert-large-ll60k", "hubert-base-ls960"


@pytest.fixture
def models(monkeypatch, tmp_path):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    model_cache().clear()


def silence(seconds):
    return {"waveform": torch.zeros(1, 1, round(seconds * 16000)), "sample_rate": 16000}


def embed(audio, encoder="hubert"):
    return NODE_CLASS_MAPPINGS["TP_AudioEmbedding"]().embed(audio, encoder)[0]


def test_the_node_offers_it():
    assert "hubert" in NODE_CLASS_MAPPINGS["TP_AudioEmbedding"].INPUT_TYPES()["required"]["encoder"][0]


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
@pytest.mark.parametrize("place", [LARGE_FOLDER, f"transformers/facebook/{LARGE_FOLDER}"])
def test_files_are_found_and_heard(models, layout, place):
    save_hubert(models / place, small_network(), layout)
    embedding = embed(silence(0.5))
    assert embedding.features.shape == (26, LAYERS + 1, WIDTH)
    assert (embedding.encoder, embedding.rate, embedding.duration) == ("hubert", 50.0, 0.5)


def test_missing_files_are_named_with_the_command_that_fetches_them(models):
    with pytest.raises(WeightNotFoundError, match="'talking-portrait weights fetch hubert_large'") as missing:
        embed(silence(0.5))
    message = str(missing.value)
    for part in ("pytorch_model.bin", "config.json", str(models / LARGE_FOLDER), "another encoder"):
        assert part in message
    assert "download_if_missing" not in message


def test_a_configuration_alone_is_missing(models):
    folder = save_hubert(models / LARGE_FOLDER, small_network())
    (folder / "config.json").unlink()
    with pytest.raises(WeightNotFoundError, match=r"not on this computer: config\.json\. Run"):
        embed(silence(0.5))


def test_the_preprocessor_counts_when_it_is_here(models):
    folder = models / BASE_FOLDER
    save_hubert(folder, small_network("group"), "bin", {"do_normalize": True})
    handle = hubert_handle(HUBERT_BASE, "bfloat16")
    assert handle.dtype == "bfloat16"
    assert handle.further_paths == tuple(
        str(folder / name) for name in ("config.json", "preprocessor_config.json")
    )
    with hubert_network(handle) as hubert:
        assert hubert.normalises
        assert next(hubert.parameters()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="no HuBERT 'huge'"):
        hubert_handle("huge")


@pytest.mark.parametrize("waveform", [torch.zeros(1, 1, 0), torch.full((1, 1, 99), float("nan"))])
def test_sounds_that_are_none_are_refused_before_anything_is_loaded(models, waveform):
    with pytest.raises(ValueError, match=r"0 samples|NaN"):
        embed({"waveform": waveform, "sample_rate": 16000})


@pytest.mark.parametrize(
    ("system", "repository"),
    [(HUBERT_LARGE, f"facebook/{LARGE_FOLDER}"), (HUBERT_BASE, f"facebook/{BASE_FOLDER}")],
)
def test_the_manifest_has_every_file(system, repository):
    rows = system_rows(system)
    published = {row.source.file for row in rows if row.source.kind == "hub"}
    assert published == {"pytorch_model.bin", "config.json", "preprocessor_config.json"}
    assert {row.source.repository for row in rows if row.source.kind == "hub"} == {repository}
    assert {row.licence for row in rows} == {"Apache-2.0"}
    assert {weight_row(name).system for names in hubert_rows(system).values() for name in names} == {system}
    assert sorted(len(layouts) for layouts in alternatives(rows)) == [1, 1, 2]


def test_takin_ada_stands_on_the_large_one():
    assert set(system_rows(HUBERT_LARGE)) <= set(system_rows("takin_ada"))
