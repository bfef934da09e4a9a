"""Graphs drawn for the page turn back into the same graphs."""

import json
from pathlib import Path

import pytest
from talking_portrait.headless.conversion import convert_to_api
from talking_portrait.headless.graph import is_link
from talking_portrait.headless.page_workflow import page_workflow
from talking_portrait.headless.registry import definitions_from_object_info, object_info

from ..nodes.shipped_workflows import CORE_WAN_NODES

GRAPHS = sorted((Path(__file__).resolve().parents[2] / "workflows" / "api").glob("*.json"))


def known_info():
    """The runner's nodes, and those of ComfyUI that one graph uses and the runner lacks."""
    described = json.loads(CORE_WAN_NODES.read_text(encoding="utf-8"))
    renamed = {"inputs": "input", "outputs": "output", "output_names": "output_name"}
    core = {name: {renamed[key]: value for key, value in entry.items()} for name, entry in described.items()}
    return {**object_info(), **core}


def without_titles(graph):
    return {node_id: (node["class_type"], node["inputs"]) for node_id, node in graph.items()}


@pytest.mark.parametrize("path", GRAPHS, ids=[path.stem for path in GRAPHS])
def test_shipped_graphs_survive(path):
    graph = json.loads(path.read_text())
    drawn = page_workflow(graph, known_info())
    definitions = definitions_from_object_info(known_info())
    assert without_titles(convert_to_api(drawn, definitions)) == without_titles(graph)


@pytest.mark.parametrize("path", GRAPHS, ids=[path.stem for path in GRAPHS])
def test_links_agree_at_both_ends(path):
    drawn = page_workflow(json.loads(path.read_text()), known_info())
    nodes = {node["id"]: node for node in drawn["nodes"]}
    for number, origin, slot, target, target_slot, _ in drawn["links"]:
        assert number in nodes[origin]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][target_slot]["link"] == number
    assert drawn["version"] == 0.4
    assert drawn["last_link_id"] == len(drawn["links"])


@pytest.mark.parametrize("path", GRAPHS, ids=[path.stem for path in GRAPHS])
def test_nodes_stand_right_of_what_they_need_and_do_not_overlap(path):
    graph = json.loads(path.read_text())
    nodes = {str(node["id"]): node for node in page_workflow(graph, known_info())["nodes"]}
    for node_id, node in graph.items():
        for value in node["inputs"].values():
            if is_link(value):
                assert nodes[value[0]]["pos"][0] < nodes[node_id]["pos"][0]
    boxes = [(*node["pos"], *node["size"]) for node in nodes.values()]
    for index, (x, y, _, height) in enumerate(boxes):
        for other_x, other_y, _, other_height in boxes[index + 1 :]:
            assert x != other_x or y + height <= other_y or other_y + other_height <= y


INFO = {
    "Source": {
        "input": {"required": {"seed": ["INT", {"default": 0}], "names": ["STRING", {}]}},
        "output": ["INT", ["a", "b"]],
        "output_name": ["number", "choice"],
    },
    "Sink": {
        "input": {"required": {"value": ["INT", {"default": 5}], "image": ["IMAGE"]}},
        "output": [],
        "output_name": [],
    },
}


@pytest.fixture
def graph():
    return {
        "7": {"class_type": "Source", "inputs": {"seed": 3, "names": {"__value__": ["x"]}}},
        "40:4": {"class_type": "Sink", "inputs": {"value": ["7", 0]}},
    }


def test_linked_widgets_get_a_socket_and_other_ids_a_number(graph):
    drawn = page_workflow(graph, INFO)
    source, sink = drawn["nodes"]
    assert [source["id"], sink["id"]] == [7, 8]
    assert source["widgets_values"] == [3, "fixed", ["x"]]
    assert [output["type"] for output in source["outputs"]] == ["INT", "COMBO"]
    assert sink["inputs"] == [
        {"name": "image", "type": "IMAGE", "link": None},
        {"name": "value", "type": "INT", "link": 1, "widget": {"name": "value"}},
    ]
    converted = convert_to_api(drawn, definitions_from_object_info(INFO))
    assert converted["8"]["inputs"] == {"value": ["7", 0]}


def test_places_titles_notes_and_groups_of_the_source_are_kept(graph):
    note = {"id": 20, "type": "Note", "pos": [1, 2], "widgets_values": ["read me"]}
    placed = {"id": 7, "type": "Source", "pos": [500, 600], "size": [10, 20], "title": "mine"}
    other = {"id": 8, "type": "Other", "pos": [0, 0]}
    groups = [{"title": "all", "bounding": [0, 0, 1, 1]}]
    drawn = page_workflow(graph, INFO, {"nodes": [placed, note, other], "groups": groups})
    assert drawn["nodes"][0]["pos"] == [500, 600]
    assert drawn["nodes"][0]["title"] == "mine"
    assert drawn["nodes"][1]["pos"] != [0, 0] or drawn["nodes"][1]["type"] == "Sink"
    assert drawn["nodes"][2] == note
    assert drawn["groups"] == groups
