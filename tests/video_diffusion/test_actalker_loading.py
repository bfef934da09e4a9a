"""ACTalker's files: ours in one, the published ones part by part; strict, with the scan's parameters in float32."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError
from talking_portrait.core_models.video_diffusion.actalker import loading
from talking_portrait.core_models.video_diffusion.actalker.loading import (
    KEPT_IN_FLOAT32,
    PUBLISHED_PARTS,
    exported_tensors,
    in_precision,
    load_actalker,
    load_published_actalker,
)
from talking_portrait.core_models.video_diffusion.actalker.model import ACTalkerModel, ACTalkerParameters
from talking_portrait.core_models.video_diffusion.actalker.unet import UNetParameters

from .actalker_models import SMALL_MODEL, new_model


def written(path, model=None, half=False):
    tensors, metadata = exported_tensors(model or new_model(), half)
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("half", [False, True])
def test_a_model_comes_back_as_it_was_written(tmp_path, half):
    model = new_model()
    found = load_actalker(written(tmp_path / "a.safetensors", model, half))
    assert found.parameters_used == SMALL_MODEL
    assert not found.training
    for name, value in model.state_dict().items():
        wanted = value.half().float() if half and not name.endswith(KEPT_IN_FLOAT32) else value
        assert torch.equal(found.state_dict()[name], wanted), name


def test_the_scans_parameters_stay_in_float32_in_any_precision(tmp_path):
    found = load_actalker(written(tmp_path / "a.safetensors", half=True), torch.bfloat16)
    kinds = {name: value.dtype for name, value in found.state_dict().items()}
    kept = {name for name, kind in kinds.items() if kind == torch.float32}
    assert kept == {name for name in kinds if name.endswith(KEPT_IN_FLOAT32)}
    assert len(kept) > 0


def test_parameters_survive_json():
    text = json.dumps(SMALL_MODEL.to_dict())
    assert ACTalkerParameters.from_dict(json.loads(text)) == SMALL_MODEL
    published = ACTalkerParameters()
    assert ACTalkerParameters.from_dict(json.loads(json.dumps(published.to_dict()))) == published


def test_every_fault_of_a_file_is_named(tmp_path):
    tensors, metadata = exported_tensors(new_model())
    tensors.pop("unet.conv_in.weight")
    tensors["strange"] = torch.zeros(1)
    tensors["unet.conv_out.bias"] = torch.zeros(7)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(WeightMismatchError) as error:
        load_actalker(tmp_path / "a.safetensors")
    assert all(name in str(error.value) for name in ("unet.conv_in.weight", "strange", "unet.conv_out.bias"))


@pytest.mark.parametrize("metadata", [{}, {"actalker": "nonsense"}, {"actalker": "[]"}, {"actalker": "{}"}])
def test_a_file_of_another_kind_is_refused(tmp_path, metadata):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(UnreadableWeightsError, match=r"not an ACTalker model|cannot be read"):
        load_actalker(tmp_path / "a.safetensors")


@pytest.fixture
def small_published(monkeypatch):
    """The published loader, for a model of a size that a test can write."""
    monkeypatch.setattr(
        loading, "ACTalkerModel", lambda: ACTalkerModel(replace(SMALL_MODEL, portrait_encoder=None))
    )
    model = new_model(replace(SMALL_MODEL, portrait_encoder=None))

    def write(folder, half=False):
        paths = {}
        for part in PUBLISHED_PARTS:
            state = model.get_submodule(part).state_dict()
            paths[part] = folder / f"{part}.pth"
            torch.save(in_precision(state, torch.float16) if half else state, paths[part])
        return paths

    return model, write


def test_the_published_parts_come_together(tmp_path, small_published):
    model, write = small_published
    found = load_published_actalker(write(tmp_path))
    assert found.portrait_encoder is None
    assert all(torch.equal(found.state_dict()[name], value) for name, value in model.state_dict().items())
    half = load_published_actalker(write(tmp_path, half=True), torch.float16)
    scan = next(name for name in half.state_dict() if name.endswith("A_logs"))
    assert half.state_dict()[scan].dtype == torch.float32
    assert half.unet.conv_in.weight.dtype == torch.float16


def test_a_missing_part_is_named(tmp_path, small_published):
    paths = small_published[1](tmp_path)
    del paths["pose_guider"], paths["audio_projection"]
    with pytest.raises(ValueError, match="missing for audio_projection, pose_guider"):
        load_published_actalker(paths)


def test_a_part_in_the_place_of_another_is_refused_by_its_keys(tmp_path, small_published):
    paths = small_published[1](tmp_path)
    paths["motion_projection"] = paths["pose_guider"]
    with pytest.raises(WeightMismatchError, match="the file of another model"):
        load_published_actalker(paths)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fps": 0.0}, "fps is 0.0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"window": 0}, "window is 0, expected at least 1"),
        ({"shift": -1}, "shift is -1, expected at least 0"),
        ({"steps": 0}, "steps is 0"),
        ({"image_size": 0}, "image_size is 0"),
        ({"sigma_min": 0.0}, "sigma_min is 0.0"),
        ({"sigma_max": 0.05}, "sigma_max 0.05"),
        ({"sigma_max": float("inf")}, "sigma_max inf"),
    ],
)
def test_defaults_out_of_range_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL_MODEL.defaults, **changed)


@pytest.mark.parametrize(("rows", "before"), [(0, 0), (4, 4), (4, -1)])
def test_a_listening_window_without_its_own_row_is_refused(rows, before):
    with pytest.raises(ValueError, match=f"hears {rows} rows, {before} of them before"):
        replace(SMALL_MODEL.listening, rows=rows, before=before)


def test_a_file_whose_defaults_make_no_sense_is_refused(tmp_path):
    tensors, metadata = exported_tensors(new_model())
    metadata["actalker"] = metadata["actalker"].replace('"steps": 3', '"steps": 0')
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(UnreadableWeightsError, match="steps is 0"):
        load_actalker(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"unet": UNetParameters((32, 32), (2, 2), 24, 8, layers=1)}, "differ in width"),
        ({"unet": UNetParameters((64, 64), (2, 2), 16, 8, layers=1)}, "pose guider gives 32 channels"),
        ({"motion_kind": "dance"}, "unknown kind of motion 'dance'"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL_MODEL, **changed)
