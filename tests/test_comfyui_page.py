"""Every shipped workflow on the real page of a real ComfyUI: opened without complaint, run, restored from its video.

Needs COMFYUI_DIR (see comfyui_server), Chromium and playwright (see comfyui_page). TALKING_PORTRAIT_SCREENSHOTS may
name a folder for a picture of every finished run.
"""

import os
from pathlib import Path
from urllib.parse import urlencode

import pytest
from talking_portrait.headless.local_run import LocalRunner
from talking_portrait.headless.preparation import prepared_workflow
from talking_portrait.headless.workflow_files import WorkflowFile, workflow_from_object

from .comfyui_page import chromium_path, comfyui_page
from .comfyui_server import running_comfyui
from .nodes.shipped_workflows import ON_CORE_WAN, RUNNABLE, WORKFLOWS, api_form, ui_form

LAST_THAT_CHECKS = (1, 27, 10)
"""Of the page's versions tried, the last that says so when it puts a file right; 1.58.1 does it without a word."""

CONTENT_TYPES = {".mp4": "video/mp4", ".png": "image/png"}

MODEL_FOLDERS = {"42": "diffusion_models", "43": "text_encoders", "44": "clip_vision", "45": "vae"}
"""Loader's node id in the workflow on ComfyUI's own Wan -> the folder of its file."""


@pytest.fixture(scope="module")
def server(tmp_path_factory, face_bundle):
    """A ComfyUI server with this checkout as a pack: (url, its base folder, its log)."""
    pytest.importorskip("playwright.sync_api")
    chromium_path()
    base = tmp_path_factory.mktemp("comfyui")
    for node_id, folder in MODEL_FOLDERS.items():  # empty: the page only looks for their names
        place = base / "models" / folder
        place.mkdir(parents=True)
        (place / next(iter(api_form(ON_CORE_WAN)[node_id]["inputs"].values()))).touch()
    with running_comfyui(base, face_bundle.parent) as running:
        yield running


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    """Its page."""
    with comfyui_page(server[0], tmp_path_factory.mktemp("chromium")) as window:
        yield window


def content(graph):
    """What runs; the player below an upload button, which some pages send too, left out."""
    return {
        key: (node["class_type"], {n: v for n, v in node["inputs"].items() if n != "audioUI"})
        for key, node in graph.items()
    }


def titles(graph):
    return {key: node["_meta"]["title"] for key, node in graph.items()}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_opens_without_complaint_as_its_twin(page, name):
    """The page draws what the file says and would send the API form beside it."""
    workflow = ui_form(name)
    assert page.open(workflow, name) == []
    sent = page.prompt()
    assert content(sent) == content(api_form(name))
    assert titles(sent) == titles(api_form(name))
    drawn = page.described()
    assert len(drawn["nodes"]) == len(workflow["nodes"])
    assert len(drawn["links"]) == len(workflow["links"])
    assert drawn["groups"] == sorted(group["title"] for group in workflow["groups"])


@pytest.mark.parametrize("name", RUNNABLE)
def test_it_runs_by_the_button_and_its_video_restores_it(page, name):
    page.open(ui_form(name), name)
    before = page.described()
    entry = page.run()
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    assert page.complaints() == []
    if os.environ.get("TALKING_PORTRAIT_SCREENSHOTS"):
        page.photograph(Path(os.environ["TALKING_PORTRAIT_SCREENSHOTS"]) / f"{name}.jpg")
    (video,) = entry["outputs"]["10"]["images"]
    page.clear()
    page.drop(f"/view?{urlencode(video)}", video["filename"], "video/mp4")
    assert page.described() == before
    assert page.complaints() == []


@pytest.mark.parametrize("form", [ui_form, api_form], ids=["UI form", "API form"])
def test_files_of_the_runner_restore_their_graph_too(server, page, form):
    """A video and pictures that `talking-portrait run` saved, dropped on the canvas."""
    file = workflow_from_object(form("expression_edit"))
    graph = prepared_workflow(file, ["Expression Editor.duration=0.08", "Portrait.largest_side=96"]).graph
    graph["900"] = {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "frame"}}
    prepared = prepared_workflow(WorkflowFile(file.source, graph, file.page))
    folder = server[1] / "output" / "of the runner"
    saved = LocalRunner().run(prepared, output_folder=folder).saved
    assert sorted(path.suffix for path in saved) == [".mp4", ".png", ".png"]
    assert page.open(prepared.page, "drawn") == []
    drawn = page.described()
    for path in saved:
        place = {"filename": path.name, "subfolder": str(path.parent.relative_to(server[1] / "output"))}
        page.clear()
        page.drop(f"/view?{urlencode({**place, 'type': 'output'})}", path.name, CONTENT_TYPES[path.suffix])
        assert page.complaints() == []
        assert page.described() == drawn, path.name


def test_the_page_does_complain_about_broken_files(page):
    """So that no complaint above means something. The last one: what the page says stays on it."""
    unknown, cut, misshapen, unversioned = (ui_form("audio_only") for _ in range(4))
    unknown["nodes"][0]["type"] = "NotThere"
    assert any("NotThere" in said for said in page.open(unknown, "unknown"))
    if page.version > LAST_THAT_CHECKS:
        return
    cut["nodes"][1]["inputs"][0]["link"] = 99
    misshapen["nodes"][0]["size"] = "large"
    del unversioned["version"]
    expected = {"Workflow Validation": cut, "Invalid workflow": misshapen, "valid version": unversioned}
    for words, workflow in expected.items():
        page.dismiss()
        assert any(words in said for said in page.open(workflow, "broken")), words
