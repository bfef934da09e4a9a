"""NODE.input=value from the command line."""

import pytest
from talking_portrait.headless.graph import InputSpecification
from talking_portrait.headless.overrides import OverrideError, apply_overrides, find_node, input_changes

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
        ("9.image=x", r"no node '9'; it has 3 \(Loader, 'Face'\), 40:4 \(Unknown\)"),
        ("Unknown.strength=1", "2 nodes are called 'Unknown': use an id, 40:4, 5"),
        ("3.strength=1", r"node 3 \(Loader\) has no input 'strength'; it has image, name"),
        ("3.me=1", "has no input 'me'"),
        ("40:4.x=1", "has no input 'x'; it has from, strength"),
        ("no dots here=3", "not of the form NODE.input=value"),
        ("", "not of the form NODE.input=value"),
        ('40:4.from=["9", 0]', "is a list, which has to be a link"),
        ('40:4.from=["5", -1]', "is a list, which has to be a link"),
        ("40:4.from=[1, 2, 3]", "is a list, which has to be a link"),
        ('40:4.from={"a": 1}', "is an object, expected a text, number"),
    ],
)
def test_errors(graph, assignment, message):
    with pytest.raises(OverrideError, match=message):
        apply_overrides(graph, [assignment], DEFINITIONS)


TITLES = {
    "1": {"class_type": "Loader", "inputs": {"image": "a"}, "_meta": {"title": "v1.5 = best"}},
    "2": {"class_type": "Loader", "inputs": {"image": "a"}, "_meta": {"title": "caf\u00e9 \u8a9e"}},
    "3": {"class_type": "Loader", "inputs": {"image": "a"}, "_meta": {"title": "v1"}},
    "4": {"class_type": "Loader", "inputs": {"image": "a", "5.image": 1}, "_meta": {"title": "twin"}},
    "5": {"class_type": "Loader", "inputs": {"image": "a"}, "_meta": {"title": "twin"}},
    "6": {"class_type": "Loader", "inputs": {"image": "a"}},
}


@pytest.mark.parametrize(
    ("assignment", "node_id", "value"),
    [
        ("v1.5 = best.image=x.png", "1", "x.png"),
        ("v1.5 = best.image=a=b.c=d", "1", "a=b.c=d"),
        ("v1.image=x", "3", "x"),
        ("cafe\u0301 \u8a9e.image=x", "2", "x"),
        ("4.image=5.image=x", "4", "5.image=x"),
        ("Load It.image=x", "6", "x"),
    ],
)
def test_titles_with_dots_equals_signs_and_accents(assignment, node_id, value):
    (change,) = input_changes(TITLES, DEFINITIONS, [assignment], display_names={"Loader": "Load It"})
    assert (change.node_id, change.name, change.value) == (node_id, "image", value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("twin.image=x", "2 nodes are called 'twin': use an id, 4, 5"),
        ("V1.image=x", "has no node 'V1'; it has 1 .*'v1'"),
        ("Loader.image=x", "6 nodes are called 'Loader': use an id, 1, 2, 3, 4, 5, 6"),
        ("v1.5 = best.nothing=x", "has no input"),
    ],
)
def test_titles_that_name_no_one_node(assignment, message):
    with pytest.raises(OverrideError, match=message):
        input_changes(TITLES, DEFINITIONS, [assignment])


def test_dots_that_may_mean_two_inputs():
    graph = {
        "1": {"class_type": "X", "inputs": {"b.c": 0}, "_meta": {"title": "a"}},
        "2": {"class_type": "X", "inputs": {"c": 0}, "_meta": {"title": "a.b"}},
    }
    with pytest.raises(OverrideError, match=r"may mean input 'b\.c' of node 1 or input 'c' of node 2"):
        input_changes(graph, {}, ["a.b.c=1"])


class TestValuesFromJson:
    def test_both_spellings_and_types(self, graph):
        inputs = {"40:4": {"strength": 0.5, "from": ["3", 1]}, "Face.name": "7", "5": {}}
        changes = input_changes(graph, DEFINITIONS, inputs=inputs)
        assert [(c.node_id, c.name, c.value) for c in changes] == [
            ("40:4", "strength", 0.5),
            ("40:4", "from", ["3", 1]),
            ("3", "name", "7"),
        ]

    def test_texts_are_not_read_again(self, graph):
        (change,) = input_changes(graph, DEFINITIONS, inputs={"40:4.strength": "0.5"})
        assert change.value == "0.5"

    def test_wrapped_lists(self, graph):
        value = {"__value__": [1, 2]}
        (change,) = input_changes(graph, DEFINITIONS, inputs={"40:4.strength": value})
        assert change.value == value

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"Face": {"nothing": 1}}, "has no input 'nothing'"),
            ({"Nobody": {"image": 1}}, "has no node 'Nobody'"),
            ({"image": "x"}, "'image' is not of the form NODE.input"),
            ({"40:4.from": ["9", 0]}, "has to be a link"),
            ({"40:4.from": [["3", 0]]}, "has to be a link"),
            ({"40:4": {"from": {"a": 1}}}, "is an object"),
        ],
    )
    def test_errors(self, graph, inputs, message):
        with pytest.raises(OverrideError, match=message):
            input_changes(graph, DEFINITIONS, inputs=inputs)


def test_broken_meta_is_no_title():
    graph = {
        "1": {"class_type": "A", "inputs": {}, "_meta": 7},
        "2": {"class_type": "B", "inputs": {}, "_meta": {"title": []}},
    }
    assert find_node(graph, "A") == "1"
    assert find_node(graph, "B") == "2"


def test_a_whole_path_to_nothing_is_said_to_be_that(graph):
    message = "there is no file /nowhere/face.jpg, which is given for 'image' of node 3"
    with pytest.raises(OverrideError, match=message):
        apply_overrides(graph, ["3.image=/nowhere/face.jpg"], DEFINITIONS)


def test_values_that_no_file_could_be_called(graph):
    for text in ("~nobody-here/x", "a\0b", "x" * 5000, ""):
        (change,) = input_changes(graph, DEFINITIONS, [f"3.image={text}"])
        assert (change.value, change.file) == (text, None)
