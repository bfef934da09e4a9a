"""The workflow on ComfyUI's own Wan in a real ComfyUI: its files small and made up, every other node as shipped.

Wan's text encoder and CLIP have sizes that ComfyUI fixes, 12 GB together: made_conditions stands in for their loaders.
Needs COMFYUI_DIR, a checkout of ComfyUI; see comfyui_server.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from talking_portrait.headless.client import ComfyUIServer, ServerRunError, run_on_server

from .audio.small_wav2vec2 import save_wav2vec2, small_network
from .comfyui_server import comfyui_folder, comfyui_python, running_comfyui
from .nodes.shipped_workflows import CORE_WAN_NODES, ON_CORE_WAN, api_form

HERE = Path(__file__).resolve().parent / "comfyui"
PREPARATION_TIME = 300
SECONDS, FRAMES = 0.35, 9
"""Of the sound, and how many frames of video hold it at 23 frames per second, as 4 k + 1."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(url, base folder, log) of a ComfyUI with all that the workflow asks for, but for the two loaders."""
    folder, base = comfyui_folder(), tmp_path_factory.mktemp("comfyui")
    models = base / "models"
    subprocess.run(
        [comfyui_python(), str(HERE / "made_wan_files.py"), folder, str(models)],
        check=True,
        timeout=PREPARATION_TIME,
        cwd=folder,
    )
    save_wav2vec2(models / "audio_encoders" / "wav2vec2-base-960h", small_network())
    for name in ("text_encoders/umt5_xxl_fp8_e4m3fn_scaled", "clip_vision/clip_vision_h"):
        path = models / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    pack = base / "custom_nodes" / "made_conditions"
    pack.mkdir(parents=True)
    shutil.copy(HERE / "made_conditions.py", pack / "__init__.py")
    with running_comfyui(base, models) as running:
        yield running
    shutil.rmtree(models)  # 250 MB


@pytest.fixture
def short_graph():
    """The workflow's API form: little sound, few pixels and steps, frames saved as pictures, two loaders replaced."""
    graph = api_form(ON_CORE_WAN)
    graph["41"]["inputs"]["duration"] = SECONDS
    graph["49"]["inputs"] |= {"width": 32, "height": 32}
    graph["53"]["inputs"]["steps"] = 2
    graph["43"] = {"class_type": "MadeTextLoader", "inputs": {}}
    graph["44"] = {"class_type": "MadePictureLoader", "inputs": {}}
    graph["900"] = {"class_type": "SaveImage", "inputs": {"images": ["57", 0], "filename_prefix": "frame"}}
    return graph


def frames_of(server, graph, folder):
    from PIL import Image

    url, base, log = server
    shutil.rmtree(base / "output")
    (base / "output").mkdir()
    try:
        saved = run_on_server(url, graph, [], folder)
    except ServerRunError as error:
        pytest.fail(f"{error}\n{log.read_text()[-3000:]}")
    pictures = sorted(path for path in saved if path.suffix == ".png")
    assert [path.suffix for path in saved if path not in pictures] == [".mp4"]
    return np.stack([np.asarray(Image.open(path)).astype(float) for path in pictures])


def test_the_nodes_are_as_the_other_tests_take_them(server):
    listed = ComfyUIServer(server[0]).object_info()
    for name, described in json.loads(CORE_WAN_NODES.read_text()).items():
        assert listed[name]["output"] == described["outputs"]
        for category, inputs in described["inputs"].items():
            live = listed[name]["input"][category]
            assert list(live) == list(inputs), name
            for input_name, (kind, options) in inputs.items():
                declared, *rest = live[input_name]
                live_options = rest[0] if rest else {}
                choices = live_options.get("options", []) if declared == "COMBO" else declared
                assert set(kind) <= set(choices) if isinstance(kind, list) else kind == declared
                assert options.items() <= live_options.items()


def test_it_runs_as_shipped_on_small_weights(server, short_graph, tmp_path):
    """Sound matters, and the same graph gives the same frames."""
    frames = frames_of(server, short_graph, tmp_path / "first")
    assert frames.shape == (FRAMES, 32, 32, 3)
    short_graph["51"]["inputs"]["audio_scale"] = 0.0
    assert np.abs(frames_of(server, short_graph, tmp_path / "silent") - frames).max() > 1
    short_graph["51"]["inputs"]["audio_scale"] = 1.0
    short_graph["900"]["inputs"]["filename_prefix"] = "again"
    assert np.abs(frames_of(server, short_graph, tmp_path / "again") - frames).max() <= 1


def test_every_link_and_value_is_accepted(server):
    """The whole graph as shipped, its weights empty files: ComfyUI checks it and fails only when it reads them."""
    with pytest.raises(ServerRunError, match=r"failed on the server"):
        run_on_server(server[0], api_form(ON_CORE_WAN), [], Path(server[1]) / "nothing")
