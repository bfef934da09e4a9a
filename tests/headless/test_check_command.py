"""`talking-portrait check`: what is wrong with a workflow and which weights are missing."""

import json
from pathlib import Path

import pytest
from talking_portrait.headless.command_line import main

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """A computer without any weight files but those of the package."""
    for variable in ("TALKING_PORTRAIT_MODELS", "XDG_CACHE_HOME", "LOCALAPPDATA", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    return tmp_path


def check(capsys, *arguments):
    """(exit code, what was found)"""
    code = main(["check", "--json", *map(str, arguments)])
    return code, json.loads(capsys.readouterr().out)


def test_a_workflow_that_can_run(no_weights, capsys):
    code, found = check(capsys, WORKFLOWS / "audio_only.json")
    assert (code, found["ready"], found["missing_weights"], found["node_errors"]) == (0, True, [], {})
    assert len(found["outputs"]) == 1
    assert main(["check", str(WORKFLOWS / "audio_only.json")]) == 0
    assert "audio_only.json can run: 10 nodes, outputs Save Video" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "setting", "commands"),
    [
        ("audio_only", "TP_LoadKeypointDiffusion.model=KDTalker", {"kdtalker"}),
        ("video_edit", "TP_LoadLivePortrait.model=LivePortrait", {"liveportrait", "face_landmarker"}),
        ("actalker_audio", "TP_LoadACTalker.model=ACTalker", {"actalker", "whisper_tiny"}),
        (
            "fantasytalking_audio",
            "TP_LoadWan.model=Wan 2.1 I2V 14B",
            {"wan21_i2v_14b", "fantasytalking", "wav2vec2_base_960h"},
        ),
        ("audio_only", "TP_AudioEmbedding.encoder=hubert", {"hubert_large"}),
    ],
)
def test_missing_weights_come_with_the_command_that_fetches_them(no_weights, capsys, file, setting, commands):
    code, found = check(capsys, WORKFLOWS / f"{file}.json", "--set", setting)
    missing = found["missing_weights"]
    assert {one["command"] for one in missing} == {f"talking-portrait weights fetch {c}" for c in commands}
    assert all(one["files"] for one in missing)
    assert code == (0 if all(one["is_fetched"] for one in missing) else 2)


def test_what_a_loader_fetches_itself_is_no_reason_against(no_weights, capsys):
    choose = "TP_LoadKeypointDiffusion.model=KDTalker"
    fetch = "TP_LoadKeypointDiffusion.download_if_missing=true"
    code, found = check(capsys, WORKFLOWS / "audio_only.json", "--set", choose, "--set", fetch)
    assert (code, found["ready"]) == (0, True)
    assert sorted(found["missing_weights"][0]["files"]) == ["KDTalker.pth", "norm.npz", "wav2lip.pth"]
    assert main(["check", str(WORKFLOWS / "audio_only.json"), "--set", choose]) == 2
    text = capsys.readouterr().out
    assert "missing for node" in text
    assert "\n  talking-portrait weights fetch kdtalker\n" in text
    assert "cannot run yet" in text


def test_files_that_only_a_person_can_get(no_weights, capsys):
    settings = ["TP_LoadACTalker.model=ACTalker", "TP_LoadACTalker.download_if_missing=true"]
    file = WORKFLOWS / "actalker_audio.json"
    code, found = check(capsys, file, *(part for text in settings for part in ("--set", text)))
    first = next(one for one in found["missing_weights"] if one["system"] == "actalker")
    assert (code, first["is_fetched"]) == (2, False)
    assert "unet-136000.pth" in first["by_hand"]


def test_loaders_that_do_not_run_miss_nothing(no_weights, capsys, tmp_path):
    graph = json.loads((WORKFLOWS / "api" / "audio_only.json").read_text())
    graph["99"] = {"class_type": "TP_LoadLivePortrait", "inputs": {"model": "LivePortrait"}}
    path = tmp_path / "w.json"
    path.write_text(json.dumps(graph))
    assert check(capsys, path)[1]["missing_weights"] == []


def test_everything_that_is_wrong_is_told_at_once(no_weights, capsys, tmp_path):
    values = {"TP_KeypointDiffusionSampler": {"seed": -1, "fps": "x"}}
    (tmp_path / "inputs.json").write_text(json.dumps(values))
    code, found = check(capsys, WORKFLOWS / "audio_only.json", "--inputs", tmp_path / "inputs.json")
    (report,) = found["node_errors"].values()
    assert code == 2
    assert {problem["type"] for problem in report["errors"]} == {
        "value_smaller_than_min",
        "invalid_input_type",
    }


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["none.json"], "invalid_prompt", "there is no workflow file"),
        ([WORKFLOWS / "fantasytalking_core_wan.json"], "missing_node_type", "UNETLoader"),
        ([WORKFLOWS / "audio_only.json", "--set", "99.x=1"], "invalid_prompt", "has no node '99'"),
        ([WORKFLOWS / "audio_only.json", "--inputs", "none.json"], "invalid_prompt", "cannot be read"),
    ],
)
def test_files_and_settings_that_are_wrong(no_weights, capsys, arguments, kind, message):
    code, found = check(capsys, *arguments)
    assert (code, found["ready"], found["error"]["type"]) == (2, False, kind)
    assert message in found["error"]["message"]


def test_a_file_that_is_not_there_is_a_node_error(no_weights, capsys):
    file = WORKFLOWS / "audio_only.json"
    code, found = check(capsys, file, "--set", "TP_LoadSpeech.audio=none.wav", "--input-folder", no_weights)
    assert code == 2
    (report,) = found["node_errors"].values()
    assert "there is no file 'none.wav'" in report["errors"][0]["details"]


def test_a_link_to_nowhere_at_an_input_that_no_class_declares_is_told(tmp_path, capsys):
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png", "left_over": ["gone", 0]}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    (tmp_path / "w.json").write_text(json.dumps(graph))
    (tmp_path / "x.png").touch()
    code, found = check(capsys, tmp_path / "w.json", "--input-folder", tmp_path)
    assert code == 2
    assert "'gone', which is not there" in json.dumps(found["node_errors"])
