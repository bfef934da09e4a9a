"""The command `talking-portrait`: results, errors in one line, and Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from talking_portrait.headless import demo
from talking_portrait.headless.command_line import build_parser, main
from talking_portrait.headless.core_nodes import CORE_NODES
from talking_portrait.headless.registry import node_classes
from talking_portrait.headless.validation import validate_graph
from talking_portrait.nodes import NODE_CLASS_MAPPINGS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def graph_file(tmp_path, monkeypatch):
    """A file with a graph that loads a picture and saves it; the current folder is its own."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "face.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "nothing.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph))
    return path


def test_run_writes_the_paths_of_what_it_saved(graph_file, tmp_path, capsys):
    assert main(["run", str(graph_file), "--set", "1.image=face.png", "--output-folder", "results"]) == 0
    saved = tmp_path / "results" / "x_00001_.png"
    assert capsys.readouterr().out == f"{saved}\n"
    with Image.open(saved) as image:
        assert image.size == (6, 4)
        workflow = json.loads(image.text["workflow"])
    assert workflow["nodes"][0]["widgets_values"][0] == str(tmp_path / "face.png")


def test_run_takes_files_from_the_input_folder(graph_file, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "face.png").rename(tmp_path / "pictures" / "nothing.png")
    assert main(["run", str(graph_file), "--input-folder", "pictures"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/output/x_00001_.png\n"


def one_line(capsys):
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("[")]
    assert captured.out == ""
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["run", "none.json"], "error: there is no workflow file none.json"),
        (2, ["run", "face.png"], "error: face.png"),
        (
            *(2, ["run", "graph.json"]),
            "node 1 (LoadImage): Custom validation failed for node: image - Invalid image",
        ),
        (2, ["run", "graph.json", "--set", "7.image=x"], "error: the workflow has no node '7'"),
        (
            2,
            ["run", "graph.json", "--set", "1.picture=x"],
            "error: node 1 (LoadImage) has no input 'picture'",
        ),
        (2, ["run", "graph.json", "--inputs", "none.json"], "none.json"),
        (
            *(3, ["run", "graph.json", "--set", "1.image=graph.json"]),
            "error: node 1 (LoadImage): cannot identify image",
        ),
        (3, ["run", "graph.json", "--server", "http://127.0.0.1:9"], "http://127.0.0.1:9"),
        (1, ["demo", "--out", "x.avi"], "error: --out: videos are written as mp4"),
        (1, ["demo", "--out", "no/such/x.mp4"], "error: --out: the folder"),
        (1, ["demo", "--portrait", "nobody.jpg"], "error: --portrait: there is no file nobody.jpg"),
        (1, ["demo", "--speech", "nothing.wav"], "error: --speech: there is no file nothing.wav"),
        (
            *(1, ["demo", "--emotion", "bored"]),
            "error: node 5 (Emotion Condition): Value not in list: emotion: 'bored'",
        ),
    ],
)
def test_errors_are_one_line(graph_file, code, arguments, message, capsys):
    assert main(arguments) == code
    assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1": {"class_type": "NoSuchNode", "inputs": {}}}, "unknown node types: NoSuchNode (node 1)"),
        ({"2": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}}}, "an output 0 of node 2"),
        (
            {"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 1], "filename_prefix": "x"}}},
            "mismatch",
        ),
    ],
)
def test_impossible_graphs(graph_file, change, message, capsys):
    graph_file.write_text(json.dumps(json.loads(graph_file.read_text()) | change))
    assert main(["run", str(graph_file)]) == 2
    assert message.removeprefix("an ") in one_line(capsys).replace("a link asks for ", "")


def test_cycle(graph_file, capsys):
    batch = {"class_type": "ImageBatch", "inputs": {"image1": ["4", 0], "image2": ["4", 0]}}
    graph = json.loads(graph_file.read_text()) | {
        "3": batch,
        "4": json.loads(json.dumps(batch).replace("4", "3")),
    }
    graph["2"]["inputs"]["images"] = ["3", 0]
    graph_file.write_text(json.dumps(graph))
    assert main(["run", str(graph_file)]) == 2
    assert "Dependency cycle detected" in one_line(capsys)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_to(graph_file, tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    arguments = ["run", str(graph_file), "--set", "1.image=face.png", "--output-folder", "locked"]
    assert main(arguments) == 3
    assert "locked" in one_line(capsys)


def test_output_folder_that_is_a_file(graph_file, tmp_path, capsys):
    arguments = ["run", str(graph_file), "--set", "1.image=face.png", "--output-folder", "face.png"]
    assert main(arguments) == 2
    assert "face.png" in one_line(capsys)


def test_verbose_shows_where_an_error_comes_from(graph_file, capsys):
    assert main(["--verbose", "run", "none.json"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_nodes(capsys):
    assert main(["nodes"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert listed == set(NODE_CLASS_MAPPINGS)
    assert main(["nodes", "--all"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert listed == set(NODE_CLASS_MAPPINGS) | set(CORE_NODES)


def test_nodes_as_json(capsys):
    assert main(["nodes", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(NODE_CLASS_MAPPINGS)
    assert main(["nodes", "--json", "--all"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["SaveVideo"]["output_node"] is True
    assert info["CreateVideo"]["input_order"] == {"required": ["images", "fps"], "optional": ["audio"]}
    assert info["TP_WarpingRenderer"]["category"].startswith("TalkingPortrait/")


def test_weights_list(capsys):
    assert main(["weights", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["face_landmarker"]["licence"] == "Apache-2.0"
    assert main(["weights", "list"]) == 0
    assert "pocket.safetensors" in capsys.readouterr().out


def test_training_gets_its_own_arguments(monkeypatch):
    given = []
    monkeypatch.setattr("talking_portrait.training.pocket.main", lambda rest: given.append(rest) or 0)
    assert main(["train", "pocket", "--steps", "5", "--help"]) == 0
    assert given == [["--steps", "5", "--help"]]


def test_demo_without_its_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    assert main(["demo", "--out", str(tmp_path / "x.mp4")]) == 1
    line = one_line(capsys)
    assert 'pip install "talking-portrait[demo]"' in line
    assert "--portrait" in line


class TestDemoGraph:
    def arguments(self, *given):
        return build_parser().parse_args(["demo", *given])

    def inputs(self, graph, class_type):
        return next(node["inputs"] for node in graph.values() if node["class_type"] == class_type)

    def test_options_end_up_in_the_workflow(self):
        graph = demo.demo_graph(
            self.arguments("--emotion", "happy", "--strength", "1.5", "--seed", "3", "--fps", "30")
        )
        emotion = self.inputs(graph, "TP_EmotionCondition")
        sampler = self.inputs(graph, "TP_KeypointDiffusionSampler")
        assert (emotion["emotion"], emotion["strength"]) == ("happy", 1.5)
        assert (sampler["seed"], sampler["fps"]) == (3, 30)

    def test_without_options_it_is_the_shipped_workflow_with_the_frames_streamed(self):
        shipped = json.loads(demo.DEMO_GRAPH_FILE.read_text())
        graph = demo.demo_graph(self.arguments())
        [renderer] = [key for key, node in shipped.items() if node["class_type"] == "TP_WarpingRenderer"]
        assert set(shipped) - set(graph) == {
            key for key, node in shipped.items() if node["class_type"] in ("CreateVideo", "SaveVideo")
        }
        assert {key for key in graph if graph[key] != shipped[key]} == {renderer}
        assert graph[renderer]["class_type"] == "TP_RenderTalkingVideo"
        assert shipped[renderer]["inputs"].items() <= graph[renderer]["inputs"].items()
        assert validate_graph(graph, node_classes()).outputs == [renderer]

    def test_own_portrait_gets_a_face_detector(self, tmp_path):
        picture = tmp_path / "face.png"
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(picture)
        graph = demo.demo_graph(self.arguments("--portrait", str(picture), "--download"))
        portrait = self.inputs(graph, "TP_Portrait")
        detector = graph[portrait["face_detector"][0]]
        assert detector["class_type"] == "TP_LoadFaceDetector"
        assert detector["inputs"]["download_if_missing"] is True
        assert "landmarks" not in portrait

    def test_portrait_with_landmarks_beside_it_needs_none(self, tmp_path):
        picture = tmp_path / "face.png"
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(picture)
        (tmp_path / "face.landmarks.json").write_text("{}")
        graph = demo.demo_graph(self.arguments("--portrait", str(picture)))
        assert "face_detector" not in self.inputs(graph, "TP_Portrait")


def test_command_line_imports_nothing_heavy():
    """What a command needs is imported by that command alone, so that --help and errors come at once."""
    code = (
        "import sys, talking_portrait.headless.command_line as c; c.build_parser(); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "av", "PIL", "cv2", "scipy", "transformers", "diffusers", "soxr", "ray"}
    assert heavy.isdisjoint(result.stdout.split())


def test_usage_errors_exit_with_two(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
def test_interrupting_a_run_ends_it_at_once_and_leaves_nothing(graph_file, tmp_path):
    """A graph that would write frames for many minutes is interrupted while it writes."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "face.png"}},
        "2": {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": 4096}},
        "3": {"class_type": "RepeatImageBatch", "inputs": {"image": ["2", 0], "amount": 64}},
        "4": {"class_type": "CreateVideo", "inputs": {"images": ["3", 0], "fps": 25}},
        "5": {"class_type": "SaveVideo", "inputs": {"video": ["4", 0], "filename_prefix": "long"}},
    }
    graph["5"]["inputs"] |= {"format": "auto", "codec": "auto"}
    graph_file.write_text(json.dumps(graph))
    output = tmp_path / "output"
    command = [sys.executable, str(ROOT), "run", str(graph_file), "--input-folder", str(tmp_path)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(output.glob(".*.part")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(output.glob(".*.part")), "it never began to write"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "cancelled"
    assert list(output.iterdir()) == []


def test_checkout_runs_without_being_installed(tmp_path):
    """`python <folder>` works from anywhere, whatever the folder is called."""
    copy = tmp_path / "ComfyUI-TalkingPortrait"
    ignored = shutil.ignore_patterns(".*", "tests", "build", "*.safetensors", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", str(copy), "nodes"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "TP_WarpingRenderer" in result.stdout


def run_in_shell(command, folder, **environment):
    """Run what stands for the command in a shell line; a path to Python replaces `talking-portrait`."""
    line = command.replace("talking-portrait", f'"{sys.executable}" -m talking_portrait')
    variables = {**os.environ, **environment}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=variables, capture_output=True, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_streams_that_cannot_take_every_letter_or_anything_end_no_run(graph_file, tmp_path):
    graph = json.loads(graph_file.read_text())
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": "face.png"}, "_meta": {"title": "é日😀"}}
    graph["2"]["inputs"]["filename_prefix"] = "日本"
    graph_file.write_text(json.dumps(graph))
    (tmp_path / "input").mkdir()
    (tmp_path / "face.png").rename(tmp_path / "input" / "face.png")
    run = "talking-portrait run graph.json"
    narrow = run_in_shell(run, tmp_path, PYTHONIOENCODING="ascii")
    assert narrow.returncode == 0
    assert narrow.stdout.endswith(b"\\u65e5\\u672c_00001_.png\n")
    assert run_in_shell(f"{run} >&- 2>&-", tmp_path).returncode == 0
    assert (tmp_path / "output" / "日本_00002_.png").is_file()
    converted = run_in_shell("talking-portrait convert graph.json", tmp_path, PYTHONIOENCODING="latin-1")
    assert json.loads(converted.stdout)["1"]["_meta"]["title"] == "é日😀"
