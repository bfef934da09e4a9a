"""Names for saved files, the graph stored in them, and files found in the input folder."""

import json
import sys
from types import SimpleNamespace

import pytest
from talking_portrait.runtime.host import host
from talking_portrait.runtime.input_files import input_files, input_path, landmarks_beside
from talking_portrait.runtime.output_files import next_output_file, prefix_validity, workflow_metadata


@pytest.fixture
def folders(tmp_path):
    with host().using_folders(tmp_path / "input", tmp_path / "output", tmp_path / "temp"):
        yield tmp_path


def test_names_count_up_and_never_collide(folders):
    first = next_output_file("video/me", ".mp4")
    assert first.path == folders / "output" / "video" / "me_00001_.mp4"
    first.path.touch()
    (first.path.parent / "me_00041_.png").touch()
    (first.path.parent / "memory_00099_.mp4").touch()
    assert next_output_file("video/me", ".mp4").path.name == "me_00042_.mp4"


def test_placeholders_are_filled_in(folders):
    name = next_output_file("%width%x%height%_%year%_%nothing%", ".mp4", (640, 480)).path.name
    assert name.startswith("640x480_2")
    assert "%nothing%" in name


@pytest.mark.parametrize("prefix", ["", "  ", "clips/"])
def test_a_prefix_without_a_name_gets_one(folders, prefix):
    assert prefix_validity(prefix) is True
    assert next_output_file(prefix, ".csv").path.name.endswith("TalkingPortrait_00001_.csv")


@pytest.mark.parametrize("prefix", ["../escape", "/etc/escape", "a/../../escape"])
def test_a_prefix_may_not_leave_the_output_folder(folders, prefix):
    with pytest.raises(ValueError, match="leads out of the output folder"):
        next_output_file(prefix, ".mp4")
    assert not (folders / "escape_00001_.mp4").exists()


@pytest.mark.parametrize("prefix", [".", "clips/..", "../output"])
def test_a_prefix_that_names_the_output_folder_itself_saves_nothing_beside_it(folders, prefix):
    with pytest.raises(ValueError, match="names the output folder"):
        next_output_file(prefix, ".mp4")
    assert not (folders / "output_00001_.mp4").exists()


@pytest.mark.parametrize("prefix", ["me\n/etc/passwd", "me\x1b[2J", "clips\r/me"])
def test_a_prefix_may_not_break_the_list_of_saved_files(folders, prefix):
    with pytest.raises(ValueError, match="control characters"):
        next_output_file(prefix, ".mp4")


@pytest.mark.parametrize("prefix", ["../escape", ".", "me\n"])
def test_bad_prefixes_are_told_to_a_nodes_check_and_nothing_is_made(folders, prefix):
    assert "filename_prefix" in prefix_validity(prefix)
    assert prefix_validity("new/folder/me") is prefix_validity(None) is True
    assert not (folders / "output" / "new").exists()


def test_an_unwritable_output_folder_is_an_error(folders):
    (folders / "output").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="output"):
        next_output_file("me", ".mp4")


def test_reference_is_what_the_page_asks_for(folders):
    assert next_output_file("a/b/me", ".mp4").reference == {
        "filename": "me_00001_.mp4",
        "subfolder": "a/b",
        "type": "output",
    }
    assert next_output_file("me", ".mp4").reference["subfolder"] == ""


def test_metadata_is_the_graph_as_json(monkeypatch):
    tags = workflow_metadata({"1": {}}, {"workflow": {"version": 0.4}, "more": [1]})
    assert {key: json.loads(value) for key, value in tags.items()} == {
        "prompt": {"1": {}},
        "workflow": {"version": 0.4},
        "more": [1],
    }
    assert workflow_metadata(None, None) == {}
    settings = SimpleNamespace(args=SimpleNamespace(disable_metadata=True))
    monkeypatch.setitem(sys.modules, "comfy.cli_args", settings)
    assert workflow_metadata({"1": {}}, None) == {}


def test_input_files_are_listed_by_kind(folders):
    assert input_files("image") == []
    (folders / "input").mkdir()
    for name in ("b.PNG", "a.jpg", "c.wav", "d.mp4", "e.txt", "f.flac", "g.webp"):
        (folders / "input" / name).touch()
    (folders / "input" / "folder.png").mkdir()
    assert input_files("image") == ["a.jpg", "b.PNG", "g.webp"]
    assert input_files("audio", "video") == ["c.wav", "d.mp4", "f.flac"]


def test_a_name_is_looked_up_in_the_folder_it_says(folders):
    for kind in ("input", "output"):
        (folders / kind).mkdir()
        (folders / kind / "x.png").write_text(kind)
    assert input_path("x.png").read_text() == "input"
    assert input_path("x.png [output]").read_text() == "output"
    assert input_path(str(folders / "output" / "x.png")).read_text() == "output"
    for missing in ("y.png", "", "x.png [temp]"):
        with pytest.raises(FileNotFoundError, match="upload it"):
            input_path(missing)


def test_landmarks_lie_beside_their_picture(tmp_path):
    picture = tmp_path / "photo.of.me.jpg"
    assert landmarks_beside(picture) is None
    (tmp_path / "photo.of.me.landmarks.json").write_text("[]")
    assert landmarks_beside(picture).name == "photo.of.me.landmarks.json"
