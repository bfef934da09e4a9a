"""The shipped motion-only graph on LivePortrait's networks at their published size, with made weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from talking_portrait.headless.executor import GraphExecutor
from talking_portrait.headless.registry import node_classes
from talking_portrait.runtime.host import host
from talking_portrait.runtime.model_cache import model_cache

ROOT = Path(__file__).resolve().parents[2]
SECONDS_DRIVEN = 0.1
FILES = {
    "appearance_feature_extractor": (),
    "motion_extractor": ("affine_nd",),
    "warping_module": (),
    "spade_generator": ("spectral_uv",),
}
"""File -> the rules by which its weights are made."""
STITCHING = {"stitching": "retarget_shoulder", "lip": "retarget_mouth", "eye": "retarget_eye"}


@pytest.fixture(scope="module")
def weights_folder(liveportrait_cases, liveportrait_tools, tmp_path_factory, face_bundle):
    """The five files of the safetensors repack, filled with made weights, and the face bundle."""
    from safetensors.torch import save_file

    cases, state_dict_for = liveportrait_cases, liveportrait_tools.state_dict_for
    folder = tmp_path_factory.mktemp("models")
    for name, rules in FILES.items():
        shapes = json.loads((cases / f"state_dict_{name}.json").read_text())
        state = state_dict_for(shapes, 1.0, rules)
        if name == "motion_extractor":  # faces have a size above 0 and keypoints within the crop
            state["detector.fc_scale.bias"].fill_(1.5)
            for head in ("fc_scale", "fc_kp", "fc_exp", "fc_t"):
                state[f"detector.{head}.weight"] *= 0.05
        save_file(state, folder / f"{name}.safetensors")
    small = {}
    for part, prefix in STITCHING.items():
        shapes = json.loads((cases / f"state_dict_stitching_{part}.json").read_text())
        small |= {f"{prefix}.{key}": value for key, value in state_dict_for(shapes, 0.02).items()}
    save_file(small, folder / "stitching_retargeting_module.safetensors")
    (folder / "face_landmarker.task").symlink_to(face_bundle)
    return folder


def test_the_graph_runs_on_the_networks(weights_folder, tmp_path, monkeypatch):
    from talking_portrait.core_models.media_container import read_metadata
    from talking_portrait.core_models.video_file import read_video_frames

    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(weights_folder))
    graph = json.loads((ROOT / "workflows" / "api" / "motion_only.json").read_text())
    drawn = json.loads((ROOT / "workflows" / "motion_only.json").read_text())
    graph["16"]["inputs"]["model"] = "LivePortrait"
    graph["11"]["inputs"]["duration"] = SECONDS_DRIVEN
    with host().using_folders(tmp_path, tmp_path, tmp_path):
        report = GraphExecutor(node_classes()).run(graph, drawn)
    ((driven,),) = report.values["13"]
    ((fitted,),) = report.values["17"]
    ((frames,), (fps,), _) = report.values["8"]
    assert driven.space == fitted.space == "implicit_keypoints"
    assert len(frames) == driven.frame_count == round(SECONDS_DRIVEN * fps)
    ((portrait,), _) = report.values["3"]
    picture = portrait.frame / 255
    below = np.abs(frames[0].numpy() - picture)[-50:]
    assert below.max() < 1e-6, "outside the crop is the photo"
    assert np.abs(frames[0].numpy() - picture).max() > 0.1, "made weights draw a made face"
    (saved,) = report.ui["10"]["images"]
    path = tmp_path / saved["subfolder"] / saved["filename"]
    assert sum(1 for _ in read_video_frames(path)) == len(frames)
    assert json.loads(read_metadata(path)["workflow"])["nodes"]
    names = [handle.name for handle in model_cache().loaded_bytes() if "liveportrait" in handle.name]
    assert len(names) == len(set(names)) == 4, "each network once, shared by all nodes"
    model_cache().clear()
