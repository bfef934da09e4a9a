"""Every file that a node saves carries the graph it came from in both forms, and running that file makes it again."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from talking_portrait.headless.command_line import main
from talking_portrait.headless.local_run import LocalRunner
from talking_portrait.headless.preparation import prepared_workflow
from talking_portrait.headless.workflow_files import read_workflow_file, workflow_from_object
from talking_portrait.runtime.host import host

from ..nodes.shipped_workflows import api_form, ui_form
from .page_schema import complaints

SECONDS, SIDE = 0.16, 96
"""Of the short clip that the tests make: four frames."""


def node(class_type, title=None, **inputs):
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title or class_type}}


EVERY_SAVER = {
    "1": node("LoadImage", "Bild: größer=schöner", image="dots.png"),
    "2": node("ImageBatch", image1=["1", 0], image2=["1", 0]),
    "3": node("SaveImage", images=["2", 0], filename_prefix="pictures/ä"),
    "4": node("PreviewImage", images=["1", 0]),
    "5": node("TP_FrameGrid", frames=["2", 0], fps=5.0, columns=0, gap=4),
    "6": node("SaveImage", images=["5", 0], filename_prefix="grid"),
    "7": node("CreateVideo", images=["5", 0], fps=5.0, audio=["9", 0]),
    "8": node("SaveVideo", video=["7", 0], filename_prefix="video", format="auto", codec="auto"),
    "9": node("LoadAudio", audio="hum.wav"),
    "10": node("SaveAudio", audio=["9", 0], filename_prefix="audio"),
    "11": node("PreviewAudio", audio=["9", 0]),
}
"""Pictures, a preview, grids, a video, sounds."""


@pytest.fixture
def folders(tmp_path):
    from PIL import Image

    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input" / "dots.png")
    with wave.open(str(tmp_path / "input" / "hum.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.round(9000 * np.sin(np.arange(6400) * 0.05)).astype("<i2").tobytes())
    with host().using_folders(tmp_path / "input", tmp_path / "output", tmp_path / "temp"):
        yield tmp_path


def written(folders):
    """{name: path} of everything in the output and temporary folders."""
    files = [path for name in ("output", "temp") for path in (folders / name).rglob("*") if path.is_file()]
    return {path.relative_to(folders).as_posix(): path for path in files}


def test_every_saving_node_writes_both_forms(folders):
    prepared = prepared_workflow(workflow_from_object(EVERY_SAVER))
    LocalRunner().run(prepared)
    files = written(folders)
    assert len(files) == 8, "two pictures, a preview, two grids, a video and two sounds"
    for name, path in files.items():
        carried = read_workflow_file(path)
        assert carried.api == prepared.graph, name
        assert carried.page == prepared.page, name
        assert complaints(carried.page) == []
        again = prepared_workflow(carried)
        assert (again.graph, again.page) == (prepared.graph, prepared.page), name


def frames_of(path):
    from talking_portrait.core_models.video_file import read_video_frames

    return np.stack(list(read_video_frames(path)))


def run(file, folder, capsys, *arguments):
    """Run `talking-portrait run` and return the paths that it names."""
    assert main(["run", str(file), "--output-folder", str(folder), *arguments]) == 0
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def first_video(tmp_path_factory):
    """A clip of the shipped workflow with the fewest needs, run from its UI form; its path."""
    folder = tmp_path_factory.mktemp("first")
    settings = [f"Expression Editor.duration={SECONDS}", f"Portrait.largest_side={SIDE}"]
    prepared = prepared_workflow(workflow_from_object(ui_form("expression_edit")), settings)
    (video,) = LocalRunner().run(prepared, output_folder=folder).saved
    return video


def test_a_video_run_again_is_the_same_video(first_video, tmp_path, capsys):
    (second,) = run(first_video, tmp_path / "second", capsys)
    (third,) = run(second, tmp_path / "third", capsys)
    frames = frames_of(first_video)
    assert len(frames) == 4
    np.testing.assert_array_equal(frames_of(second), frames)
    np.testing.assert_array_equal(frames_of(third), frames)
    carried = [read_workflow_file(path) for path in (first_video, second, third)]
    assert carried[0].api == carried[1].api == carried[2].api
    assert carried[0].page == carried[1].page == carried[2].page
    assert carried[0].api["19"]["inputs"]["duration"] == SECONDS, "what was set is in the file"
    drawn = ui_form("expression_edit")
    kept = {entry["id"]: (entry["pos"], entry["size"], entry.get("color")) for entry in drawn["nodes"]}
    back = {n["id"]: (n["pos"], n["size"], n.get("color")) for n in carried[2].page["nodes"]}
    assert back == kept, "places and colours that a person made come back"
    assert carried[2].page["groups"] == drawn["groups"]


def test_settings_apply_to_a_video_too(first_video, tmp_path, capsys):
    (changed,) = run(first_video, tmp_path, capsys, "--set", "Expression Editor.duration=0.08")
    assert len(frames_of(changed)) == 2
    carried = read_workflow_file(changed)
    assert carried.api["19"]["inputs"]["duration"] == 0.08
    (editor,) = [n for n in carried.page["nodes"] if n["id"] == 19]
    assert 0.08 in editor["widgets_values"]


def test_pictures_repeat_too(tmp_path, capsys, first_video):
    """A picture saved beside a video carries the same graph; running it makes both again."""
    carried = read_workflow_file(first_video)
    graph = json.loads(json.dumps(carried.api))
    graph["900"] = node("SaveImage", images=["8", 0], filename_prefix="frame")
    result = LocalRunner().run(
        prepared_workflow(workflow_from_object(graph)), output_folder=tmp_path / "first"
    )
    pictures = sorted(path for path in result.saved if path.suffix == ".png")
    again = run(pictures[2], tmp_path / "again", capsys)
    repeated = sorted(path for path in again if path.suffix == ".png")
    assert len(repeated) == len(pictures) == 4
    assert [path.read_bytes() for path in repeated] == [path.read_bytes() for path in pictures]


def test_video_written_while_rendered_carries_its_graph(tmp_path):
    graph = api_form("expression_edit")
    graph["19"]["inputs"]["duration"] = SECONDS
    graph["3"]["inputs"]["largest_side"] = SIDE
    renderer = graph["8"]
    renderer["class_type"] = "TP_RenderTalkingVideo"
    renderer["inputs"]["filename_prefix"] = "whole"
    del graph["9"], graph["10"]
    prepared = prepared_workflow(workflow_from_object(graph))
    (video,) = LocalRunner().run(prepared, output_folder=tmp_path).saved
    assert read_workflow_file(video).api == prepared.graph
    assert read_workflow_file(video).page == prepared.page
