"""`talking-portrait run`: files in, events and saved files out, and the runner that keeps what it can."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image
from talking_portrait.headless.command_line import main
from talking_portrait.headless.local_run import LocalRunner
from talking_portrait.headless.preparation import PreparedWorkflow
from talking_portrait.headless.registry import node_classes
from talking_portrait.runtime.host import host
from talking_portrait.runtime.node_graphs import graph_builder

from .executor_nodes import NODE_CLASS_MAPPINGS


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


GRAPH = {
    "1": node("LoadImage", image="face.png") | {"_meta": {"title": "Load Image"}},
    "2": node("SaveImage", images=["1", 0], filename_prefix="x"),
    "3": node("PreviewImage", images=["1", 0]),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a picture in its input folder and the graph in graph.json."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").mkdir()
    for name, width in (("face.png", 6), ("other.png", 9)):
        Image.fromarray(np.zeros((4, width, 3), np.uint8)).save(tmp_path / "input" / name)
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    return tmp_path


def events(text):
    return [(line["type"], line["data"]) for line in map(json.loads, text.splitlines())]


def test_json_holds_the_events_and_at_last_the_files(folder, capsys):
    assert main(["run", "graph.json", "--json", "--out", "results"]) == 0
    told = events(capsys.readouterr().out)
    names = [name for name, _ in told]
    assert names[:2] == ["execution_start", "execution_cached"]
    assert names[-3:] == ["execution_success", "executing", "saved"]
    assert told[-1][1] == {"files": [str(folder / "results" / "x_00001_.png")]}
    executed = {data["node"]: data["output"] for name, data in told if name == "executed"}
    assert executed["2"]["images"] == [{"filename": "x_00001_.png", "subfolder": "", "type": "output"}]
    assert executed["3"]["images"][0]["type"] == "temp"


def test_previews_are_gone_in_the_end(folder, tmp_path_factory, capsys, monkeypatch):
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.delenv("TALKING_PORTRAIT_TEMP", raising=False)
    assert main(["run", "graph.json"]) == 0
    assert list(temporary.rglob("*.png")) == []


def test_workflow_from_a_pipe(folder, capsys, monkeypatch):
    class Pipe:
        buffer = io.BytesIO(json.dumps(GRAPH).encode())

    monkeypatch.setattr(sys, "stdin", Pipe)
    assert main(["run", "-"]) == 0
    assert capsys.readouterr().out == f"{folder}/output/x_00001_.png\n"


@pytest.mark.parametrize("command", ["check", "convert"])
def test_other_commands_read_a_pipe_too(folder, capsys, monkeypatch, command):
    class Pipe:
        buffer = io.BytesIO(json.dumps(GRAPH).encode())

    monkeypatch.setattr(sys, "stdin", Pipe)
    assert main([command, "-"]) == 0
    assert capsys.readouterr().out


def test_a_picture_through_a_pipe_is_said_to_be_one(folder, capsys, monkeypatch):
    class Pipe:
        buffer = io.BytesIO((folder / "input" / "face.png").read_bytes())

    monkeypatch.setattr(sys, "stdin", Pipe)
    assert main(["run", "-"]) == 2
    assert "- is no JSON but a file of kind png" in capsys.readouterr().err


def test_headers_without_a_server(folder, capsys):
    assert main(["run", "graph.json", "--header", "X-Token: 1"]) == 2
    assert "name it with --server" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["../x", "/etc/x", "a\nb", "."])
def test_a_bad_prefix_is_said_before_anything_runs(folder, capsys, prefix):
    assert main(["run", "graph.json", "--json", "--set", f"2.filename_prefix={prefix}"]) == 2
    [(name, data)] = events(capsys.readouterr().out)
    assert name == "error"
    assert data["node_errors"]["2"]["errors"][0]["type"] == "custom_validation_failed"


def test_inputs_from_a_file_and_set_wins(folder, capsys):
    inputs = {"Load Image.image": "other.png", "2": {"filename_prefix": "y"}}
    (folder / "inputs.json").write_text(json.dumps(inputs))
    assert main(["run", "graph.json", "--inputs", "inputs.json", "--set", "2.filename_prefix=z"]) == 0
    [saved] = (folder / "output").iterdir()
    assert saved.name == "z_00001_.png"
    assert Image.open(saved).size == (9, 4)


def test_refused_workflow_is_told_as_comfyui_answers(folder, capsys):
    assert main(["run", "graph.json", "--json", "--set", "1.image=gone.png"]) == 2
    [(name, data)] = events(capsys.readouterr().out)
    assert name == "error"
    assert data["error"]["type"] == "prompt_outputs_failed_validation"
    assert data["node_errors"]["1"]["class_type"] == "LoadImage"
    assert data["node_errors"]["1"]["errors"][0]["type"] == "custom_validation_failed"
    assert data["node_errors"]["1"]["dependent_outputs"] == ["2", "3"]


@pytest.mark.parametrize(
    "content", ["{", '{"1": {"class_type": "Nothing", "inputs": {}}}', "[]", '{"1": {"inputs": {}}}']
)
def test_bad_files_are_told_too(folder, content, capsys):
    (folder / "graph.json").write_text(content)
    assert main(["run", "graph.json", "--json"]) == 2
    captured = capsys.readouterr()
    [(name, data)] = events(captured.out)
    assert name == "error"
    assert data["error"]["message"]
    assert set(data["error"]) == {"type", "message", "details", "extra_info"}
    assert captured.err.startswith("error: ")


def test_a_file_in_the_place_of_the_folder_for_results(folder, capsys):
    assert main(["run", "graph.json", "--out", "graph.json"]) == 2
    assert "--out graph.json is a file: name a folder" in capsys.readouterr().err


def test_failing_node(folder, capsys):
    (folder / "input" / "face.png").write_bytes(b"no picture")
    assert main(["run", "graph.json", "--json"]) == 3
    told = events(capsys.readouterr().out)
    assert [name for name, _ in told][-2:] == ["execution_error", "executing"]
    assert told[-2][1]["node_id"] == "1"


def test_closed_pipe_ends_the_run(folder, monkeypatch, capsys):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with open(folder / "sink", "w") as sink:
        closed = Closed()
        monkeypatch.setattr(closed, "fileno", sink.fileno, raising=False)
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["run", "graph.json", "--json"]) == 3
    assert not (folder / "output").exists()


class TestLocalRunner:
    def test_saved_files_and_figures(self, folder):
        result = LocalRunner().run(PreparedWorkflow(GRAPH), output_folder=folder / "there")
        assert result.saved == (folder / "there" / "x_00001_.png",)
        assert set(result.executed) == {"1", "2", "3"}
        assert (result.cached, result.blocked) == ((), ())
        assert result.ui["2"]["images"][0]["filename"] == "x_00001_.png"
        assert result.seconds > 0
        assert host().output_folder == folder / "output"

    def test_next_run_uses_earlier_results(self, folder):
        runner = LocalRunner()
        runner.run(PreparedWorkflow(GRAPH), output_folder=folder / "a")
        changed = GRAPH | {"2": node("SaveImage", images=["1", 0], filename_prefix="other")}
        result = runner.run(PreparedWorkflow(changed), output_folder=folder / "b")
        assert set(result.cached) == {"1", "3"}
        assert result.saved == (folder / "b" / "other_00001_.png",)

    def test_same_workflow_into_another_folder_is_saved_again(self, folder):
        runner = LocalRunner()
        runner.run(PreparedWorkflow(GRAPH), output_folder=folder / "a")
        again = runner.run(PreparedWorkflow(GRAPH), output_folder=folder / "a")
        assert set(again.cached) == {"1", "2", "3"}
        assert again.saved == (folder / "a" / "x_00001_.png",)
        elsewhere = runner.run(PreparedWorkflow(GRAPH), output_folder=folder / "b")
        assert elsewhere.executed == ("2",)
        assert elsewhere.saved == (folder / "b" / "x_00001_.png",)
        assert elsewhere.saved[0].is_file()

    def test_file_that_is_gone_is_saved_again(self, folder):
        runner = LocalRunner()
        [saved] = runner.run(PreparedWorkflow(GRAPH)).saved
        saved.unlink()
        assert runner.run(PreparedWorkflow(GRAPH)).executed == ("2",)
        assert saved.is_file()

    def test_node_that_expands_into_one_that_saves_does_so_again(self, folder):
        class SaveInside(NODE_CLASS_MAPPINGS["XShowInside"]):
            def expand(self, value):
                graph = graph_builder()
                picture = graph.node("LoadImage", image="face.png").out(0)
                graph.node("SaveImage", images=picture, filename_prefix="inside")
                return {"result": (value,), "expand": graph.finalize()}

        runner = LocalRunner(node_classes() | {"SaveInside": SaveInside})
        prepared = PreparedWorkflow({"1": node("SaveInside", value=3)})
        for name in "ab":
            result = runner.run(prepared, output_folder=folder / name)
            assert result.saved == (folder / name / "inside_00001_.png",)
            assert result.saved[0].is_file()

    def test_own_classes_and_blocked_nodes(self):
        graph = {
            "1": node("XBlock", why="no face"),
            "2": node("XAdd", a=["1", 0], b=1),
            "9": node("XShow", value=["2", 0]),
        }
        heard = []
        result = LocalRunner(NODE_CLASS_MAPPINGS).run(
            PreparedWorkflow(graph), lambda event, data: heard.append(event)
        )
        assert result.blocked == ("node 2 (XAdd): no face",)
        assert "execution_success" in heard

    def test_user_named_files_may_lie_anywhere(self, folder, tmp_path_factory):
        away = tmp_path_factory.mktemp("away") / "face.png"
        (folder / "input" / "face.png").rename(away)
        graph = GRAPH | {"1": node("LoadImage", image=str(away))}
        result = LocalRunner().run(PreparedWorkflow(graph, files=frozenset([away])))
        assert len(result.saved) == 1
