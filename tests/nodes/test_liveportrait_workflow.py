"""The shipped motion-only graph on LivePortrait's networks at their published size, with made weights."""

import json
from pathlib import Path

import numpy as np
from talking_portrait.headless.executor import GraphExecutor
from talking_portrait.headless.registry import node_classes
from talking_portrait.runtime.host import host
from talking_portrait.runtime.model_cache import model_cache

ROOT = Path(__file__).resolve().parents[2]
SECONDS_DRIVEN = 0.1


def test_the_graph_runs_on_the_networks(liveportrait_files, tmp_path, monkeypatch):
    from talking_portrait.core_models.media_container import read_metadata
    from talking_portrait.core_models.video_file import read_video_frames

    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(liveportrait_files))
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
