"""The shipped graphs in a real ComfyUI, through its HTTP interface: the same frames as the headless runner's.

Needs COMFYUI_DIR, a checkout of ComfyUI; see comfyui_server.
"""

import shutil

import numpy as np
import pytest
from talking_portrait.core_models.video_file import read_video_frames
from talking_portrait.headless.client import Client, ServerRunError, run_on_server
from talking_portrait.headless.conversion import convert_to_api
from talking_portrait.headless.local_run import LocalRunner
from talking_portrait.headless.preparation import prepared_workflow
from talking_portrait.headless.registry import definitions_from_object_info
from talking_portrait.headless.workflow_files import read_workflow_file, workflow_from_object

from .comfyui_server import running_comfyui
from .nodes.shipped_workflows import RUNNABLE, api_form, ui_form

LARGEST_MEAN_DIFFERENCE = 0.05
"""Grey levels between frames of the two runners: the same code on the same machine."""

FRAMES_COMPARED = 12


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory, face_bundle):
    """A ComfyUI server with this checkout as a pack: (url, its base folder, its log)."""
    with running_comfyui(tmp_path_factory.mktemp("comfyui"), face_bundle.parent) as server:
        yield server


@pytest.fixture
def models(monkeypatch, face_bundle):
    """The headless runner finds the face detector, as the server does."""
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(face_bundle.parent))


def with_saved_frames(graph):
    """The graph with a SaveImage node on some of the frames that go into its video, in place of SaveVideo."""
    frames = next(node["inputs"]["images"] for node in graph.values() if node["class_type"] == "CreateVideo")
    kept = {
        node_id: node
        for node_id, node in graph.items()
        if node["class_type"] not in ("CreateVideo", "SaveVideo")
    }
    return kept | {
        "900": {"class_type": "SaveImage", "inputs": {"images": frames, "filename_prefix": "frame"}}
    }


def pictures(paths):
    from PIL import Image

    step = max(1, len(paths) // FRAMES_COMPARED)
    return [np.asarray(Image.open(path)).astype(float) for path in sorted(paths)[::step]]


def emptied_output(base):
    shutil.rmtree(base / "output")
    (base / "output").mkdir()


def run_here(graph, folder):
    """Run a graph without ComfyUI and return what it saved."""
    return LocalRunner().run(prepared_workflow(workflow_from_object(graph)), output_folder=folder).saved


def expect_same_frames(ours, theirs):
    assert len(ours) == len(theirs) > 10
    for ours_frame, theirs_frame in zip(pictures(ours), pictures(theirs), strict=True):
        assert np.abs(ours_frame - theirs_frame).mean() <= LARGEST_MEAN_DIFFERENCE


@pytest.mark.parametrize("name", RUNNABLE)
def test_both_forms_give_the_frames_of_headless(comfyui, models, tmp_path, name):
    """The UI form, converted by what this server says of its nodes, is the API form; both run as they are."""
    url, base, _ = comfyui
    definitions = definitions_from_object_info(Client(url).object_info())
    from_page = convert_to_api(ui_form(name), definitions)
    assert from_page == api_form(name)
    emptied_output(base)
    graph = with_saved_frames(api_form(name))
    theirs = run_on_server(url, graph, [], tmp_path / "theirs")
    assert read_workflow_file(theirs[0]).api == graph
    expect_same_frames(run_here(graph, tmp_path / "ours"), theirs)
    (video,) = run_on_server(url, ui_form(name), [], tmp_path / "video")
    assert sum(1 for _ in read_video_frames(video)) == len(theirs)
    carried = read_workflow_file(video)
    assert carried.api == api_form(name)
    assert carried.page["nodes"]


def test_a_video_that_comfyui_saved_runs_here_with_the_same_frames(comfyui, models, tmp_path):
    url, base, _ = comfyui
    emptied_output(base)
    settings = ["Portrait.largest_side=128"]
    (video,) = run_on_server(url, ui_form("expression_edit"), settings, tmp_path / "video")
    carried = read_workflow_file(video)
    assert carried.api["3"]["inputs"]["largest_side"] == 128
    graph = with_saved_frames(carried.api)
    theirs = run_on_server(url, graph, [], tmp_path / "theirs")
    expect_same_frames(run_here(graph, tmp_path / "ours"), theirs)
    (again,) = run_on_server(url, read_workflow_file(video), [], tmp_path / "again")
    assert read_workflow_file(again).api == carried.api


@pytest.mark.parametrize("name", ["kdtalker_audio_only", "kdtalker_driven_pose"])
def test_kdtalker_chosen_and_missing_says_what_to_fetch(comfyui, models, tmp_path, name):
    graph = api_form(name)
    graph["6"]["inputs"]["model"] = "KDTalker"
    graph["16"]["inputs"]["model"] = "LivePortrait"
    with pytest.raises(ServerRunError, match=r"talking-portrait weights fetch (kdtalker|liveportrait)"):
        run_on_server(comfyui[0], graph, [], tmp_path)


def test_variations_become_a_video_each(comfyui, models, tmp_path):
    graph = api_form("audio_only")
    graph["7"]["inputs"]["variations"] = 2
    saved = run_on_server(comfyui[0], graph, [], tmp_path)
    assert len(saved) == 2
    sizes = {path.stat().st_size for path in saved}
    assert len(sizes) == 2, "two performances, not one twice"


def test_pack_loads_without_complaint(comfyui):
    _, _, log = comfyui
    lines = log.read_text().splitlines()
    assert not [line for line in lines if "IMPORT FAILED" in line and "TalkingPortrait" in line]
    assert [line for line in lines if "seconds" in line and "ComfyUI-TalkingPortrait" in line]


def test_server_knows_every_node(comfyui):
    from talking_portrait.nodes import NODE_CLASS_MAPPINGS

    listed = Client(comfyui[0]).object_info()
    assert set(NODE_CLASS_MAPPINGS) <= set(listed)


def test_server_and_runner_report_the_same_errors(comfyui):
    """The same bad graphs are refused with the same types and details."""
    from talking_portrait.headless.graph import copied_graph
    from talking_portrait.headless.http import HttpError, post_json
    from talking_portrait.headless.registry import node_classes
    from talking_portrait.headless.validation import validate_graph

    url, _, _ = comfyui
    good = api_form("audio_only")
    sampler = next(key for key, node in good.items() if node["class_type"] == "TP_KeypointDiffusionSampler")
    changes = [
        {"seed": "many"},
        {"fps": 0},
        {"fps": 1e9},
        {"model": good["8"]["inputs"]["portrait"]},
        {"audio_embeds": ["3"]},
        {"model": None},
    ]
    for change in changes:
        graph = copied_graph(good)
        graph[sampler]["inputs"].update(change)
        if change.get("model", 1) is None:
            del graph[sampler]["inputs"]["model"]
        with pytest.raises(HttpError) as refused:
            post_json(f"{url}/prompt", {"prompt": graph})
        ours = validate_graph(graph, node_classes())
        assert summary(ours.node_errors) == summary(refused.value.content["node_errors"])
        assert ours.error["type"] == refused.value.content["error"]["type"]


def summary(node_errors):
    return {
        node_id: sorted((e["type"], e["message"], e["details"]) for e in report["errors"])
        for node_id, report in node_errors.items()
    }
