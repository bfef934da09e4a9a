"""The workflow on ComfyUI's own Wan, without ComfyUI and its weights: settings, note, and what the runner says."""

import json
import re

from .shipped_workflows import CORE_WAN_NODES, ON_CORE_WAN, ROOT, api_form, ui_form


def test_the_runner_says_what_it_lacks_and_where_to_run_it(capsys):
    from talking_portrait.headless.command_line import main

    lacking = {
        node_id: node["class_type"]
        for node_id, node in api_form(ON_CORE_WAN).items()
        if node["class_type"] in json.loads(CORE_WAN_NODES.read_text())
    }
    for folder in ("workflows", "workflows/api"):
        assert main(["run", str(ROOT / folder / f"{ON_CORE_WAN}.json")]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: unknown node types: ")
        assert all(name in said for name in lacking.values())
        assert set(re.findall(r"\d+", said)) >= set(lacking)
        assert "a ComfyUI that has them all, with --server" in said
        assert ("from comfy-core" in said) == (folder == "workflows"), (
            "only the page's file says whose they are"
        )


def test_our_part_of_it_is_the_release():
    graph = api_form(ON_CORE_WAN)
    assert graph["53"]["inputs"] == {"steps": 30, "shift": 5.0}
    assert graph["54"]["inputs"] == {"noise_seed": 1111}
    assert graph["55"]["inputs"] == {"sampler_name": "euler"}
    assert graph["48"]["inputs"]["crop"] == "none", "the release squashes the picture for CLIP"
    assert (graph["52"]["inputs"]["prompt_guidance"], graph["52"]["inputs"]["audio_guidance"]) == (5, 5)
    assert graph["49"]["inputs"]["length"] == ["51", 1]
    assert round(graph["41"]["inputs"]["duration"] * graph["51"]["inputs"]["fps"] + 0.5) == 81


def test_the_note_says_where_every_file_belongs():
    (note,) = [node for node in ui_form(ON_CORE_WAN)["nodes"] if node["type"] == "MarkdownNote"]
    folders = {"42": "diffusion_models", "43": "text_encoders", "44": "clip_vision", "45": "vae"}
    for node_id, folder in folders.items():
        file = next(iter(api_form(ON_CORE_WAN)[node_id]["inputs"].values()))
        assert f"`{folder}/{file}`" in note["widgets_values"][0]
