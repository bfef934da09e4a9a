"""Takin-ADA's weight files: what is written comes back, and files that are something else say so."""

import json

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.keypoint_diffusion.choices import TAKIN_ADA_ENTRY
from talking_portrait.core_models.keypoint_diffusion.takin_ada_loading import (
    STATISTICS,
    exported_tensors,
    load_takin_ada,
)
from talking_portrait.core_models.keypoint_diffusion.takin_ada_sampler import (
    TakinADASamplingParameters,
    sample_scores,
)
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError

from .takin_ada_models import SMALL, SMALL_KEYPOINTS, SMALL_LISTENING, SMALL_STREAMING, speech, takin_ada


@pytest.fixture(scope="module")
def model():
    return takin_ada(SMALL_STREAMING).float()


@pytest.fixture
def exported(model):
    return exported_tensors(model)


def scores_of(model):
    return sample_scores(model, speech(0.4), TakinADASamplingParameters(steps=3)).scores


@pytest.mark.parametrize("parameters", [SMALL, SMALL_STREAMING, SMALL_KEYPOINTS, SMALL_LISTENING])
def test_an_export_comes_back(parameters, tmp_path):
    model = takin_ada(parameters, seed=3).float()
    tensors, metadata = exported_tensors(model)
    save_file(tensors, tmp_path / "mine.safetensors", metadata)
    loaded = load_takin_ada(tmp_path / "mine.safetensors")
    assert loaded.parameters_used == parameters
    assert not loaded.training
    assert not any(value.requires_grad for value in loaded.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_it_makes_the_same_motion(model, exported, tmp_path):
    save_file(exported[0], tmp_path / "mine.safetensors", exported[1])
    scores = scores_of(model)
    loaded = scores_of(load_takin_ada(tmp_path / "mine.safetensors"))
    assert (loaded - scores).abs().max() < 1e-4 * scores.abs().max()


def test_half_of_it_is_close_and_its_statistics_are_whole(model, tmp_path):
    tensors, metadata = exported_tensors(model, half=True)
    for name, value in tensors.items():
        assert value.dtype == (torch.float32 if name in STATISTICS else torch.float16), name
    save_file(tensors, tmp_path / "half.safetensors", metadata)
    loaded = load_takin_ada(tmp_path / "half.safetensors")
    for name in STATISTICS:
        assert torch.equal(getattr(loaded, name), getattr(model, name))
    scores = scores_of(model)
    assert (scores_of(loaded) - scores).abs().max() < 0.02 * scores.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("parameters", [SMALL, SMALL_STREAMING])
def test_low_precision_makes_motion_that_does_not_tremble(tmp_path, parameters, dtype):
    """Weights are rounded, motion is not: steps of rounding would be seen as a tremor."""
    tensors, metadata = exported_tensors(takin_ada(parameters).float())
    save_file(tensors, tmp_path / "mine.safetensors", metadata)
    loaded = load_takin_ada(tmp_path / "mine.safetensors", dtype)
    assert loaded.output.weight.dtype == dtype
    scores = scores_of(loaded)
    assert torch.isfinite(scores).all()
    assert scores.dtype == loaded.denormalise(scores).dtype == torch.float32
    assert not torch.equal(scores, scores.to(dtype).float())


class TestWrongFiles:
    def test_keys_at_fault_are_all_named(self, exported, tmp_path):
        tensors, metadata = exported
        del tensors["no_emotion"], tensors["generator.blocks.1.final_norm.weight"]
        tensors["emotions.weight"] = torch.zeros(3)
        tensors["output.bias"] = torch.zeros(70)
        save_file(tensors, tmp_path / "mine.safetensors", metadata)
        with pytest.raises(WeightMismatchError) as caught:
            load_takin_ada(tmp_path / "mine.safetensors")
        for part in (
            "no_emotion",
            "generator.blocks.1.final_norm.weight",
            "emotions.weight",
            "output.bias is (70,), expected (58,)",
        ):
            assert part in str(caught.value)

    @pytest.mark.parametrize(
        "text",
        ["not json", "null", "[]", '"text"', json.dumps({"depth": 3})],
        ids=["not json", "null", "list", "text", "another model's"],
    )
    def test_sizes_that_cannot_be_read(self, exported, tmp_path, text):
        save_file(exported[0], tmp_path / "mine.safetensors", {TAKIN_ADA_ENTRY: text})
        with pytest.raises(UnreadableWeightsError, match="sizes"):
            load_takin_ada(tmp_path / "mine.safetensors")

    @pytest.mark.parametrize(
        "change",
        [
            {"listener": "pocket"},
            {"layout": None},
            {"encoder": {"width": 15}},
            {"window": 0},
            {"layers": "3"},
        ],
    )
    def test_sizes_that_are_impossible(self, exported, tmp_path, change):
        sizes = {**SMALL_STREAMING.to_dict(), **change}
        save_file(exported[0], tmp_path / "mine.safetensors", {TAKIN_ADA_ENTRY: json.dumps(sizes)})
        with pytest.raises(UnreadableWeightsError, match="sizes"):
            load_takin_ada(tmp_path / "mine.safetensors")

    def test_another_model(self, exported, tmp_path):
        save_file(exported[0], tmp_path / "mine.safetensors", {"kdtalker_parameters": "{}"})
        with pytest.raises(UnreadableWeightsError, match="not a Takin-ADA model"):
            load_takin_ada(tmp_path / "mine.safetensors")

    def test_a_file_without_metadata(self, exported, tmp_path):
        save_file(exported[0], tmp_path / "mine.safetensors")
        with pytest.raises(UnreadableWeightsError, match="not a Takin-ADA model"):
            load_takin_ada(tmp_path / "mine.safetensors")

    def test_a_damaged_file(self, exported, tmp_path):
        path = tmp_path / "mine.safetensors"
        save_file(exported[0], path, exported[1])
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(UnreadableWeightsError, match="not a whole safetensors file"):
            load_takin_ada(path)

    def test_a_web_page(self, tmp_path):
        (tmp_path / "mine.safetensors").write_text("<html>")
        with pytest.raises(UnreadableWeightsError, match="web page"):
            load_takin_ada(tmp_path / "mine.safetensors")

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no weight file"):
            load_takin_ada(tmp_path / "mine.safetensors")
