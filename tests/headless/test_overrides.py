"""NODE.input=value from the command line."""

import pytest
from talking_portrait.headless.graph import InputSpecification
from talking_portrait.headless.overrides import apply_overrides

DEFINITIONS = {
    "Loader": {
        "image": InputSpecification("image", ["a.png"], {"image_upload": True}, "required"),
        "name": InputSpecification("name", "STRING", {}, "optional"),
        "me": InputSpecification("me", "UNIQUE_ID", {}, "hidden"),
    }
}


@pytest.fixture
def graph():
    return {
        "3": {"class_type": "Loader", "inputs": {"image": "a.png"}, "_meta": {"title": "Face"}},
        "40:4": {"class_type": "Unknown", "inputs": {"strength": 1.0, "from": ["3", 0]}},
        "5": {"class_type": "Unknown", "inputs": {}},
    }


@pytest.mark.parametrize(
    ("assignment", "node_id", "name", "value"),
    [
        ("40:4.strength=0.5", "40:4", "strength", 0.5),
        ("40:4.strength=true", "40:4", "strength", True),
        ('40:4.from=["5", 1]', "40:4", "from", ["5", 1]),
        ("40:4.from=some text = more", "40:4", "from", "some text = more"),
        ("3.name=123", "3", "name", "123"),
        ('3.name="123"', "3", "name", "123"),
        ("3.name=", "3", "name", ""),
        ("Loader.image=b.png", "3", "image", "b.png"),
        ("Face.image=b.png", "3", "image", "b.png"),
    ],
)
def test_values(graph, assignment, node_id, name, value):
    apply_overrides(graph, [assignment], DEFINITIONS)
    assert graph[node_id]["inputs"][name] == value


def test_files_of_the_current_folder_get_their_whole_path(graph, tmp_path, monkeypatch):
    (tmp_path / "face.jpg").touch()
    monkeypatch.chdir(tmp_path)
    apply_overrides(graph, ["3.image=face.jpg"], DEFINITIONS)
    assert graph["3"]["inputs"]["image"] == str(tmp_path / "face.jpg")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("3.image", "not of the form NODE.input=value"),
        ("image=3", "not of the form NODE.input=value"),
        (".image=3", "not of the form NODE.input=value"),
        ("9.image=x", r"no node '9'; it has 3 \(Loader\), 40:4 \(Unknown\)"),
        ("Unknown.strength=1", "2 nodes are called 'Unknown': use an id, 40:4, 5"),
        ("3.strength=1", r"node 3 \(Loader\) has no input 'strength'; it has image, name"),
        ("3.me=1", "has no input 'me'"),
        ("40:4.x=1", "has no input 'x'; it has from, strength"),
    ],
)
def test_errors(graph, assignment, message):
    with pytest.raises(ValueError, match=message):
        apply_overrides(graph, [assignment], DEFINITIONS)
