"""`talking-portrait convert`."""

import json
from pathlib import Path

import pytest
from talking_portrait.headless.command_line import main

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


def inputs_of(graph):
    return {node_id: (node["class_type"], node["inputs"]) for node_id, node in graph.items()}


@pytest.mark.parametrize("name", ["audio_only", "emotion_grid"])
def test_equals_the_file_in_api_form(name, capsys):
    assert main(["convert", str(WORKFLOWS / f"{name}.json")]) == 0
    converted = json.loads(capsys.readouterr().out)
    assert inputs_of(converted) == inputs_of(json.loads((WORKFLOWS / "api" / f"{name}.json").read_text()))


def test_out_is_written_whole_or_not_at_all(tmp_path, capsys):
    target = tmp_path / "x.json"
    assert main(["convert", str(WORKFLOWS / "emotion.json"), "--out", str(target)]) == 0
    assert "TP_Portrait" in {node["class_type"] for node in json.loads(target.read_text()).values()}
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    (tmp_path / "bad.json").write_text("{")
    assert main(["convert", str(tmp_path / "bad.json"), "--out", str(tmp_path / "y.json")]) == 2
    assert not (tmp_path / "y.json").exists()


def test_errors(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "none.json")]) == 2
    assert "there is no workflow file" in capsys.readouterr().err
    core = WORKFLOWS / "fantasytalking_core_wan.json"
    assert main(["convert", str(core)]) == 2
    assert "UNETLoader (node" in capsys.readouterr().err
