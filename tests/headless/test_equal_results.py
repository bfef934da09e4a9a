"""One workflow run in this process, by a batch's worker, on a Ray cluster and in a ComfyUI: the same frames."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from talking_portrait.headless.client import Client
from talking_portrait.headless.command_line import main
from talking_portrait.headless.local_run import LocalRunner
from talking_portrait.headless.preparation import prepared_workflow
from talking_portrait.headless.workflow_files import read_workflow_file

from ..comfyui_server import running_comfyui

SHIPPED = Path(__file__).resolve().parents[2] / "workflows" / "api" / "audio_only.json"
SEED = 7
FRAMES = 13
"""Half a second at 25 fps."""
LARGEST_MEAN_DIFFERENCE = 0.05
"""Grey levels between this interpreter and ComfyUI's, which may have another PyTorch."""


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    """The shipped graph on half a second of its speech; it saves frames, so that no codec comes between."""
    graph = json.loads(SHIPPED.read_text(encoding="utf-8"))
    del graph["9"], graph["10"]
    trimmed = {"audio": ["2", 0], "start_index": 0.3, "duration": 0.5}
    graph["20"] = {"class_type": "TrimAudioDuration", "inputs": trimmed}
    for node_id in ("4", "8"):
        graph[node_id]["inputs"]["audio"] = ["20", 0]
    graph["30"] = {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "frame"}}
    path = tmp_path_factory.mktemp("workflow") / "frames.json"
    path.write_text(json.dumps(graph), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def frames(workflow, tmp_path_factory):
    """What this process makes of it."""
    return frames_of(local_run(workflow, tmp_path_factory.mktemp("local"), SEED))


def local_run(workflow, folder, seed):
    prepared = prepared_workflow(read_workflow_file(workflow), [f"7.seed={seed}"])
    return LocalRunner().run(prepared, output_folder=folder).saved


def frames_of(paths):
    found = np.stack([np.asarray(Image.open(path)) for path in sorted(paths)])
    assert len(found) == FRAMES
    return found


def batch_frames(workflow, folder, *options):
    jobs = folder / "jobs.jsonl"
    jobs.write_text(json.dumps({"name": "one", "7.seed": SEED}), encoding="utf-8")
    assert main(["batch", str(workflow), str(jobs), "--out", str(folder / "out"), *options]) == 0
    return frames_of((folder / "out").rglob("frame_*.png"))


def test_again_is_the_same_and_another_seed_is_not(workflow, frames, tmp_path):
    np.testing.assert_array_equal(frames_of(local_run(workflow, tmp_path / "again", SEED)), frames)
    assert (frames_of(local_run(workflow, tmp_path / "other", SEED + 1)) != frames).any()


def test_a_batchs_worker_makes_the_same(workflow, frames, tmp_path):
    np.testing.assert_array_equal(batch_frames(workflow, tmp_path), frames)


def test_a_ray_cluster_makes_the_same(workflow, frames, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    np.testing.assert_array_equal(batch_frames(workflow, tmp_path, "--ray", "local"), frames)


def test_a_comfyui_makes_the_same(workflow, frames, tmp_path):
    with running_comfyui(tmp_path, tmp_path / "models") as (url, _, _), Client(url) as client:
        run = client.run(workflow, inputs={"7.seed": SEED}, output_folder=tmp_path / "theirs")
    difference = np.abs(frames_of(run.saved).astype(int) - frames)
    assert difference.mean() <= LARGEST_MEAN_DIFFERENCE
