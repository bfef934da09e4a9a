"""KDTalker's files: published and our own, and files that are something else."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.keypoint_diffusion.denoiser import Denoiser, DenoiserParameters
from talking_portrait.core_models.keypoint_diffusion.kdtalker import exported_tensors, load_kdtalker
from talking_portrait.core_models.keypoint_diffusion.motion_vectors import statistics_entries
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError

from .conftest import SMALL, made_statistics


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file of the published layout, with training state beside the weights, and its statistics."""
    folder = tmp_path_factory.mktemp("kdtalker")
    torch.manual_seed(0)
    state = Denoiser(DenoiserParameters()).state_dict()
    content = {
        "model": {f"point_model.model.{name}": value for name, value in state.items()},
        "optimizer": {"state": {}, "param_groups": []},
        "scheduler": {"last_epoch": 3},
        "epoch": 3,
        "best_val": torch.tensor(1.0),
        "model_ema": {},
    }
    torch.save(content, folder / "KDTalker.pth")
    np.savez(folder / "norm.npz", **statistics_entries(made_statistics()))
    return folder


def test_the_published_file(published):
    model = load_kdtalker(published / "KDTalker.pth", published / "norm.npz")
    assert model.parameters_used == DenoiserParameters()
    assert not model.training
    assert not any(value.requires_grad for value in model.parameters())
    assert np.allclose(model.statistics.motion_std, made_statistics().motion_std, rtol=1e-6)


def test_half_precision_leaves_the_statistics_alone(published):
    model = load_kdtalker(published / "KDTalker.pth", published / "norm.npz").to(torch.float16)
    assert model.statistics.motion_mean.dtype == np.float64


def test_the_published_file_needs_its_statistics(published):
    with pytest.raises(ValueError, match=r"norm\.npz is needed"):
        load_kdtalker(published / "KDTalker.pth")


def test_our_export_comes_back(small_kdtalker, tmp_path):
    tensors, metadata = exported_tensors(small_kdtalker)
    save_file(tensors, tmp_path / "mine.safetensors", metadata)
    loaded = load_kdtalker(tmp_path / "mine.safetensors")
    assert loaded.parameters_used == SMALL
    for name, value in small_kdtalker.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    for name in ("motion_mean", "motion_std", "canonical_mean", "canonical_std"):
        assert np.array_equal(getattr(loaded.statistics, name), getattr(small_kdtalker.statistics, name))


class TestWrongFiles:
    def test_a_checkpoint_of_another_size_lists_every_key(self, published, tmp_path):
        state = Denoiser(DenoiserParameters(width=384, layers=5)).state_dict()
        path = tmp_path / "KDTalker.pth"
        torch.save({"model": {f"point_model.model.{name}": value for name, value in state.items()}}, path)
        with pytest.raises(WeightMismatchError) as caught:
            load_kdtalker(path, published / "norm.npz")
        text = str(caught.value)
        assert "layers.5.0.block1.proj.weight" in text
        assert "input_projection.weight is (384, 70), expected (768, 70)" in text

    def test_an_export_without_statistics(self, small_kdtalker, tmp_path):
        tensors, metadata = exported_tensors(small_kdtalker)
        del tensors["statistics.canonical_std"]
        save_file(tensors, tmp_path / "mine.safetensors", metadata)
        with pytest.raises(UnreadableWeightsError, match=r"statistics\.canonical_std"):
            load_kdtalker(tmp_path / "mine.safetensors")

    @pytest.mark.parametrize("text", ["not json", json.dumps({"depth": 3}), json.dumps({"rotary_size": 7})])
    def test_an_export_whose_sizes_cannot_be_read(self, small_kdtalker, tmp_path, text):
        tensors, metadata = exported_tensors(small_kdtalker)
        save_file(tensors, tmp_path / "mine.safetensors", dict.fromkeys(metadata, text))
        with pytest.raises(UnreadableWeightsError, match="sizes"):
            load_kdtalker(tmp_path / "mine.safetensors")

    def test_a_file_that_is_no_weights(self, published, tmp_path):
        (tmp_path / "KDTalker.pth").write_text("<html>")
        with pytest.raises(UnreadableWeightsError, match="web page"):
            load_kdtalker(tmp_path / "KDTalker.pth", published / "norm.npz")
