"""The shipped workflows as files: what the page asks of them, what they say to their reader, and their API twins."""

import copy
import re

import pytest

from ..nodes.shipped_workflows import DRAWN_ONLY, ROOT, WORKFLOWS, api_form, known_nodes, ui_form
from .page_schema import complaints

TITLE_HEIGHT = 30
"""Pixels of the canvas above a node's box."""

NOTE_ID = 15
CHANGE_FIRST = ("#232", "#353")
"""Colours of the nodes whose values one changes first, and of their boxes."""

NEED_DETECTOR = ("combined", "video_edit", "motion_only", "kdtalker_audio_only", "kdtalker_driven_pose")

FILE_INPUT_OF = {"TP_LoadPortraitImage": "image", "TP_LoadSpeech": "audio", "TP_LoadDrivingVideo": "video"}
"""Loader -> its input that names a file."""

each_workflow = pytest.mark.parametrize("name", WORKFLOWS)


@each_workflow
def test_the_page_takes_the_file_as_it_is(name):
    workflow = ui_form(name)
    assert complaints(workflow) == []
    assert {"id", "revision"} <= set(workflow)
    assert sorted(node["order"] for node in workflow["nodes"]) == list(range(len(workflow["nodes"])))


def test_no_two_workflows_have_one_id():
    assert len({ui_form(name)["id"] for name in WORKFLOWS}) == len(WORKFLOWS)


@each_workflow
def test_what_the_runner_draws_of_the_api_form_is_a_file_too(name):
    """So that a video made from an API file opens as well."""
    from talking_portrait.headless.page_workflow import page_workflow
    from talking_portrait.headless.registry import object_info

    graph, classes = api_form(name), object_info()
    if all(node["class_type"] in classes for node in graph.values()):
        assert complaints(page_workflow(graph, classes)) == []
        assert complaints(page_workflow(graph, classes, ui_form(name))) == []


BREAKS = {
    "no version": lambda w: w.pop("version"),
    "another version": lambda w: w.update(version=0.3),
    "an id that is no uuid": lambda w: w.update(id="audio"),
    "a node without a size": lambda w: w["nodes"][0].pop("size"),
    "a node with a mode of its own": lambda w: w["nodes"][0].update(mode=7),
    "two nodes of one id": lambda w: w["nodes"][0].update(id=w["nodes"][1]["id"]),
    "a link that is gone": lambda w: w["links"].pop(),
    "a link that its output does not know": lambda w: w["nodes"][0]["outputs"][0].update(links=[]),
    "a link that its input does not know": lambda w: w["nodes"][1]["inputs"][0].update(link=None),
    "a link of another type": lambda w: w["links"][0].__setitem__(5, "MASK"),
    "a link to another slot": lambda w: w["links"][0].__setitem__(4, 3),
    "a link from an absent node": lambda w: w["links"][0].__setitem__(1, 99),
    "a counter behind": lambda w: w.update(last_link_id=1),
}


@pytest.mark.parametrize("what", BREAKS)
def test_the_check_sees_what_is_broken(what):
    broken = copy.deepcopy(ui_form("audio_only"))
    BREAKS[what](broken)
    assert complaints(broken)


@each_workflow
def test_nodes_do_not_overlap_and_lie_in_groups(name):
    workflow = ui_form(name)
    boxes = {
        node["id"]: (*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1])
        for node in workflow["nodes"]
    }
    for first, (left, top, right, bottom) in boxes.items():
        for second, (other_left, other_top, other_right, other_bottom) in boxes.items():
            apart = right <= other_left or other_right <= left
            apart = apart or bottom <= other_top - TITLE_HEIGHT or other_bottom <= top - TITLE_HEIGHT
            assert first == second or apart, f"nodes {first} and {second} overlap"
    for node in workflow["nodes"]:
        if node["type"] not in DRAWN_ONLY:
            left, top, right, bottom = boxes[node["id"]]
            assert any(
                x <= left and y <= top - TITLE_HEIGHT and right <= x + width and bottom <= y + height
                for x, y, width, height in (group["bounding"] for group in workflow["groups"])
            ), f"node {node['id']} lies in no group"


@each_workflow
def test_groups_have_titles_and_do_not_overlap(name):
    groups = ui_form(name)["groups"]
    titles = [group["title"] for group in groups]
    assert all(titles)
    assert len(set(titles)) == len(titles)
    for number, first in enumerate(groups):
        for second in groups[:number]:
            (x, y, width, height), (other_x, other_y, other_width, other_height) = (
                first["bounding"],
                second["bounding"],
            )
            beside = x + width <= other_x or other_x + other_width <= x
            assert beside or y + height <= other_y or other_y + other_height <= y, titles


@each_workflow
def test_every_node_draws_all_its_sockets(name):
    """In the declared order and with their types, so that the page has nothing to add and no node grows."""
    from talking_portrait.headless.graph import input_specifications
    from talking_portrait.headless.widgets import is_widget

    classes = known_nodes()
    for node in ui_form(name)["nodes"]:
        if node["type"] in DRAWN_ONLY:
            continue
        node_class = classes[node["type"]]
        outputs = [(output["name"], output["type"]) for output in node["outputs"]]
        names = getattr(node_class, "RETURN_NAMES", node_class.RETURN_TYPES)
        assert outputs == list(zip(names, node_class.RETURN_TYPES, strict=True)), node["type"]
        drawn = [entry["name"] for entry in node["inputs"]]
        declared = input_specifications(node_class).values()
        shown = [s for s in declared if s.category != "hidden" and (not is_widget(s) or s.name in drawn)]
        assert drawn == [s.name for s in shown], node["type"]
        widgets = {entry["name"] for entry in node["inputs"] if "widget" in entry}
        assert widgets == {s.name for s in shown if is_widget(s)}, node["type"]


@each_workflow
def test_every_node_has_a_title_of_its_own(name):
    """The same in both forms, so that --set finds a node by it in either."""
    drawn = {str(node["id"]): node["title"] for node in ui_form(name)["nodes"] if node["id"] != NOTE_ID}
    assert drawn == {node_id: node["_meta"]["title"] for node_id, node in api_form(name).items()}
    assert len(set(drawn.values())) == len(drawn)
    assert not [title for title in drawn.values() if title.startswith("TP_")]


@each_workflow
def test_the_note_says_what_to_change_first(name):
    """And the nodes it means are the green ones: each is named in the note, by its title or by what it holds."""
    nodes = ui_form(name)["nodes"]
    (note,) = [node for node in nodes if node["type"] in DRAWN_ONLY]
    assert (note["id"], note["title"]) == (NOTE_ID, "About this workflow")
    text = note["widgets_values"][0]
    assert text.startswith("# ")
    (advice,) = [part for part in text.split("\n\n") if part.startswith("**Change first**")]
    green = [node for node in nodes if (node.get("color"), node.get("bgcolor")) == CHANGE_FIRST]
    assert 2 <= len(green) <= 4
    things = {
        "Load Portrait Image": "picture",
        "Load Speech": "speech|new words",
        "Load Driving Video": "video|film",
        "ACTalker Sampler": "ACTalker Sampler",
    }
    for node in green:
        assert re.search(things.get(node["title"], node["title"]), advice), node["title"]
    named = set(re.findall(r"\*([A-Z][\w' -]+)\*", advice)) - {"Change first"}
    assert named <= {node["title"] for node in nodes}, "the note names a node that is not there"


@each_workflow
def test_the_first_view_shows_the_note(name):
    workflow = ui_form(name)
    view = workflow["extra"]["ds"]
    (note,) = [node for node in workflow["nodes"] if node["id"] == NOTE_ID]
    left, top = ((note["pos"][axis] + view["offset"][axis]) * view["scale"] for axis in (0, 1))
    assert left > 60, "right of the page's bar"
    assert top > 50


@each_workflow
def test_example_values_work_in_a_fresh_install(name):
    """Inputs that come with the pack; what has to be fetched and is small fetches itself and the note says so."""
    graph = api_form(name)
    files = [
        node["inputs"][FILE_INPUT_OF[node["class_type"]]]
        for node in graph.values()
        if node["class_type"] in FILE_INPUT_OF
    ]
    assert files
    assert all(file.startswith("demo: ") for file in files)
    detectors = [node for node in graph.values() if node["class_type"] == "TP_LoadFaceDetector"]
    assert bool(detectors) == (name in NEED_DETECTOR)
    assert all(node["inputs"]["download_if_missing"] is True for node in detectors)
    (note,) = [node for node in ui_form(name)["nodes"] if node["type"] in DRAWN_ONLY]
    assert ("Needs the face detector" in note["widgets_values"][0]) == bool(detectors)


def test_an_id_means_the_same_node_everywhere():
    classes: dict[str, set[str]] = {}
    readme = (ROOT / "workflows" / "README.md").read_text(encoding="utf-8")
    for name in WORKFLOWS:
        for node_id, node in api_form(name).items():
            classes.setdefault(node_id, set()).add(node["class_type"])
            assert f"\n| {node_id} | " in readme
        assert f"| `{name}` |" in readme
    assert all(len(names) == 1 for names in classes.values()), classes
    assert str(NOTE_ID) not in classes


def test_every_file_has_its_other_form():
    for folder in ("workflows", "workflows/api"):
        assert {path.stem for path in (ROOT / folder).glob("*.json")} == set(WORKFLOWS)
    assert {path.stem for path in (ROOT / "workflows").glob("*.jpg")} == set(WORKFLOWS), "template pictures"


@each_workflow
def test_api_form_fits_the_live_schemas(name):
    from talking_portrait.headless.validation import validate_graph

    graph, classes = api_form(name), known_nodes()
    validate_graph(graph, classes).raise_if_failed(graph)
    for node_id, node in graph.items():
        types = classes[node["class_type"]].INPUT_TYPES()
        declared = {**types.get("required", {}), **types.get("optional", {})}
        assert set(node["inputs"]) <= set(declared), f"node {node_id} sets inputs that do not exist"
        assert set(types.get("required", {})) <= set(node["inputs"])


@each_workflow
def test_both_forms_are_one_graph(name):
    from talking_portrait.headless.conversion import convert_to_api
    from talking_portrait.headless.graph import input_specifications

    definitions = {kind: input_specifications(node_class) for kind, node_class in known_nodes().items()}
    converted = convert_to_api(ui_form(name), definitions)
    assert converted == api_form(name)
