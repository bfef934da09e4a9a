"""Where weights are looked for, in which order, and what is said when they are nowhere."""

import sys
import types
from pathlib import Path

import pytest
from talking_portrait.runtime import weights
from talking_portrait.runtime.host import ComfyUIHost, StandaloneHost, user_models_folder
from talking_portrait.runtime.weights import WeightNotFoundError, fetch_weight, find_weight
from talking_portrait.weights_manifest.manifest import weight_row

SIZE = weight_row("face_landmarker").bytes


def put(folder, name="face_landmarker.task", size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def empty_machine(tmp_path, monkeypatch):
    """Nothing installed: no ComfyUI, no variable, an empty cache."""
    monkeypatch.delenv("TALKING_PORTRAIT_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(weights, "host", StandaloneHost)
    return tmp_path


@pytest.fixture
def comfyui(empty_machine, monkeypatch):
    """ComfyUI's folder_paths with an extra models path for one kind."""
    extra = empty_machine / "extra" / "mediapipe"
    module = types.ModuleType("folder_paths")
    module.models_dir = str(empty_machine / "ComfyUI" / "models")
    module.folder_names_and_paths = {"mediapipe": ([str(extra)], set())}
    module.get_folder_paths = lambda kind: module.folder_names_and_paths[kind][0]
    monkeypatch.setitem(sys.modules, "folder_paths", module)
    monkeypatch.setitem(sys.modules, "comfy.model_management", types.ModuleType("comfy.model_management"))
    monkeypatch.setattr(weights, "host", ComfyUIHost)
    return module


def test_nowhere(empty_machine):
    with pytest.raises(WeightNotFoundError) as error:
        find_weight("face_landmarker")
    message = str(error.value)
    for part in (
        "face_landmarker.task",
        str(user_models_folder()),
        "https://",
        "download_if_missing",
    ):
        assert part in message


def test_order_of_the_places(comfyui, empty_machine, monkeypatch):
    """Cache, then variable, then ComfyUI's own folder, then its extra path: each later one wins."""
    variable = empty_machine / "mine"
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(variable))
    for folder in (
        user_models_folder(),
        variable,
        empty_machine / "ComfyUI" / "models" / "mediapipe",
        empty_machine / "extra" / "mediapipe",
    ):
        path = put(folder)
        assert find_weight("face_landmarker") == path
    explicit = put(empty_machine / "elsewhere", "renamed.task", 10)
    assert find_weight("face_landmarker", explicit) == explicit


def test_several_folders_and_subfolders_in_the_variable(empty_machine, monkeypatch):
    import os

    monkeypatch.setenv(
        "TALKING_PORTRAIT_MODELS", os.pathsep.join([str(empty_machine / "a"), str(empty_machine / "b")])
    )
    path = put(empty_machine / "b" / "mediapipe")
    assert find_weight("face_landmarker") == path


def test_names_of_other_packs(comfyui, empty_machine):
    path = put(empty_machine / "extra" / "mediapipe", "face_landmarker_v2_with_blendshapes.task")
    assert find_weight("face_landmarker") == path


def test_cut_off_file_is_not_taken(empty_machine, monkeypatch):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(empty_machine / "a"))
    put(empty_machine / "a", size=1000)
    with pytest.raises(WeightNotFoundError, match=f"1000 bytes instead of {SIZE}"):
        find_weight("face_landmarker")
    whole = put(user_models_folder())
    assert find_weight("face_landmarker") == whole


def test_explicit_folder_and_missing_explicit(empty_machine):
    path = put(empty_machine / "a")
    assert find_weight("face_landmarker", empty_machine / "a") == path
    with pytest.raises(WeightNotFoundError, match=r"no file .*none\.task"):
        find_weight("face_landmarker", empty_machine / "none.task")


def test_unknown_name():
    with pytest.raises(ValueError, match="'face'"):
        find_weight("face")


def test_fetching_goes_where_finding_looks(empty_machine, monkeypatch):
    fetched = []

    def fetch_row(row, folder, progress):
        fetched.append(folder)
        return put(folder)

    monkeypatch.setattr("talking_portrait.weights_manifest.fetching.fetch_row", fetch_row)
    path = fetch_weight("face_landmarker")
    assert fetched == [user_models_folder()]
    assert find_weight("face_landmarker") == path
    assert fetch_weight("face_landmarker") == path
    assert len(fetched) == 1


def test_real_bundle_is_found_through_the_variable(face_bundle, monkeypatch, empty_machine):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(face_bundle.parent))
    assert find_weight("face_landmarker") == face_bundle


def put_in_hub_cache(hub, repository, file, revision="main", commit="abc123"):
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    return put((folder / "snapshots" / commit / file).parent, Path(file).name, 5)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", None])
def test_hub_cache(variable, empty_machine, monkeypatch):
    hub = {"HF_HUB_CACHE": "hub", "HF_HOME": "home/hub", None: "cache/huggingface/hub"}[variable]
    if variable:
        monkeypatch.setenv(variable, str(empty_machine / hub.split("/")[0]))
    path = put_in_hub_cache(empty_machine / hub, "facebook/wav2vec2-base-960h", "model.safetensors")
    assert find_weight("wav2vec2_base_960h") == path
    own = put(user_models_folder() / "wav2vec2-base-960h", "model.safetensors", 5)
    assert find_weight("wav2vec2_base_960h") == own


def test_hub_cache_of_another_revision_is_not_taken(empty_machine):
    put_in_hub_cache(
        empty_machine / "cache" / "huggingface" / "hub",
        "openai/whisper-tiny",
        "model.safetensors",
        "refs-pr-1",
    )
    with pytest.raises(WeightNotFoundError, match="weights fetch whisper_tiny"):
        find_weight("whisper_tiny")


def test_files_of_kijais_packs(comfyui, empty_machine):
    """ComfyUI-LivePortraitKJ and ComfyUI-WanVideoWrapper: what they fetched is found where they keep it."""
    models = empty_machine / "ComfyUI" / "models"
    for row, place in {
        "liveportrait_warping_module": "liveportrait/warping_module.safetensors",
        "insightface_det_10g": "insightface/models/buffalo_l/det_10g.onnx",
        "wav2vec2_base_960h": "transformers/facebook/wav2vec2-base-960h/model.safetensors",
        "wan21_i2v_14b_kijai_fp8": "diffusion_models/Wan2_1-I2V-14B-720P_fp8_e4m3fn.safetensors",
        "wan21_i2v_14b_text_encoder_kijai_bf16": "text_encoders/umt5-xxl-enc-bf16.safetensors",
        "wan21_i2v_14b_vae_kijai_bf16": "vae/wanvideo/Wan2_1_VAE_bf16.safetensors",
    }.items():
        path = models / place
        put(path.parent, path.name, 5)
        assert find_weight(row) == path


def test_users_own_subfolders(comfyui, empty_machine):
    models = empty_machine / "ComfyUI" / "models"
    path = put(models / "diffusion_models" / "Wan" / "2.1", "wan2.1_i2v_720p_14B_bf16.safetensors", 5)
    assert find_weight("wan21_i2v_14b_bf16") == path


def test_animals_are_not_taken_for_people(comfyui, empty_machine):
    """kijai's pack keeps the animal models under the same names in a subfolder."""
    put(empty_machine / "ComfyUI" / "models" / "liveportrait" / "animal", "warping_module.safetensors", 5)
    with pytest.raises(WeightNotFoundError):
        find_weight("liveportrait_warping_module")


def test_original_layout_in_the_variable(empty_machine, monkeypatch):
    """LivePortrait's own pretrained_weights folder may be named as it is."""
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(empty_machine / "pretrained_weights"))
    folder = empty_machine / "pretrained_weights" / "liveportrait" / "base_models"
    path = put(folder, "warping_module.pth", 5)
    assert find_weight("liveportrait_warping_module_pth") == path


def test_file_without_a_source_says_how_to_get_it(empty_machine):
    with pytest.raises(WeightNotFoundError, match=r"OneDrive.*unet-136000\.pth.*put it into"):
        find_weight("actalker_unet")
    with pytest.raises(WeightNotFoundError, match="OneDrive"):
        fetch_weight("actalker_unet")
