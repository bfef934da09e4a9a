"""UI form to API form, against what the page itself sends, and broken files."""

import copy
import json
from pathlib import Path

import pytest
from talking_portrait.headless.conversion import convert_to_api
from talking_portrait.headless.graph import InputSpecification, WorkflowError
from talking_portrait.headless.registry import definitions_from_object_info
from talking_portrait.headless.widgets import widget_inputs, widget_slots, widget_values

GOLDEN = json.loads((Path(__file__).parent / "conversion_golden.json").read_text())
DEFINITIONS = definitions_from_object_info(GOLDEN["object_info"])

INSIDE_STILL_SENT = {"subgraph_bypassed", "subgraph_muted"}
"""Graphs for which this page still sends the nodes inside a subgraph that is off; the converter leaves them out."""


def plain(graph):
    return {node_id: (node["class_type"], node["inputs"]) for node_id, node in graph.items()}


def with_link_objects(workflow):
    """The same workflow as schema version 1 writes its links."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in workflow["links"]]
    return {**workflow, "links": links, "version": 1}


@pytest.mark.parametrize("name", sorted(set(GOLDEN["graphs"]) - INSIDE_STILL_SENT))
@pytest.mark.parametrize("serialisation", [dict, with_link_objects], ids=["schema 0.4", "schema 1"])
def test_equals_what_the_page_sends(name, serialisation):
    golden = GOLDEN["graphs"][name]
    converted = convert_to_api(serialisation(golden["workflow"]), DEFINITIONS)
    assert plain(converted) == plain(golden["prompt"])


def test_bypassed_subgraph_passes_its_input_on():
    converted = convert_to_api(GOLDEN["graphs"]["subgraph_bypassed"]["workflow"], DEFINITIONS)
    sent = GOLDEN["graphs"]["subgraph_bypassed"]["prompt"]
    assert converted["4"]["inputs"] == sent["4"]["inputs"] == {"images": ["1", 0]}
    assert set(converted) == {"1", "4"}


def test_muted_subgraph_does_not_run():
    converted = convert_to_api(GOLDEN["graphs"]["subgraph_muted"]["workflow"], DEFINITIONS)
    assert set(converted) == {"1", "4"}
    assert converted["4"]["inputs"] == {}


@pytest.fixture
def workflow():
    return copy.deepcopy(GOLDEN["graphs"]["reroute"]["workflow"])


def test_title_is_kept(workflow):
    workflow["nodes"][0]["title"] = "a blue field"
    assert convert_to_api(workflow, DEFINITIONS)["1"]["_meta"]["title"] == "a blue field"


def test_does_not_change_the_workflow(workflow):
    before = copy.deepcopy(workflow)
    convert_to_api(workflow, DEFINITIONS)
    assert workflow == before


def test_unknown_node_types_are_all_named(workflow):
    for node, kind in zip(workflow["nodes"], ["NoSuchNode", "NorThisOne"], strict=False):
        node["type"] = kind
    with pytest.raises(ValueError, match=r"NoSuchNode \(node 1\), NorThisOne \(node 2\)"):
        convert_to_api(workflow, DEFINITIONS)


def test_unknown_node_that_is_muted_does_not_matter(workflow):
    workflow["nodes"][0].update(type="NoSuchNode", mode=2)
    assert "1" not in convert_to_api(workflow, DEFINITIONS)


def test_group_nodes_are_refused(workflow):
    workflow["nodes"][0]["type"] = "workflow>my group"
    with pytest.raises(ValueError, match="group nodes are not supported"):
        convert_to_api(workflow, DEFINITIONS)


def test_link_that_is_not_listed(workflow):
    workflow["links"] = []
    with pytest.raises(ValueError, match="broken: link"):
        convert_to_api(workflow, DEFINITIONS)


def test_link_from_a_node_that_is_gone(workflow):
    workflow["nodes"] = [node for node in workflow["nodes"] if node["type"] != "Reroute"]
    with pytest.raises(ValueError, match="which is gone"):
        convert_to_api(workflow, DEFINITIONS)


def test_reroutes_in_a_circle(workflow):
    reroutes = [node for node in workflow["nodes"] if node["type"] == "Reroute"]
    outgoing = next(link for link in workflow["links"] if link[1] == reroutes[1]["id"])
    circle = [99, reroutes[1]["id"], 0, reroutes[0]["id"], 0, "*"]
    workflow["links"].append(circle)
    reroutes[0]["inputs"][0]["link"] = 99
    assert outgoing
    with pytest.raises(ValueError, match="in a circle"):
        convert_to_api(workflow, DEFINITIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": True}, "True is not the id of a node"),
        ({"id": [1]}, r"\[1\] is not the id of a node"),
        ({"type": None}, "lacks an id or a type"),
        ({"inputs": [7]}, "an input of node 1 is 7, without a name"),
        ({"inputs": [{"name": "image", "link": {}}]}, "is not the id of a link"),
    ],
)
def test_broken_nodes(workflow, change, message):
    workflow["nodes"][0].update(change)
    with pytest.raises(WorkflowError, match=message):
        convert_to_api(workflow, DEFINITIONS)


@pytest.mark.parametrize("link", [7, [], [1, 2], {"id": 1}, [1, None, 0, 2, 0], [[], 1, 0, 2, 0]])
def test_broken_links(workflow, link):
    workflow["links"].append(link)
    with pytest.raises(WorkflowError, match="the workflow is broken: "):
        convert_to_api(workflow, DEFINITIONS)


@pytest.mark.parametrize("slot", [-1, 0.5, None, "x", float("inf")])
def test_outputs_that_cannot_be(workflow, slot):
    for link in workflow["links"]:
        link[2] = slot
    with pytest.raises(WorkflowError, match="does not say which output"):
        convert_to_api(workflow, DEFINITIONS)


def test_two_nodes_of_one_id(workflow):
    workflow["nodes"].append(dict(workflow["nodes"][0]))
    with pytest.raises(WorkflowError, match="two of its nodes have the id 1"):
        convert_to_api(workflow, DEFINITIONS)


def test_ids_may_be_texts_or_have_a_point(workflow):
    expected = plain(convert_to_api(workflow, DEFINITIONS))
    for node in workflow["nodes"]:
        node["id"] = str(node["id"])
    for link in workflow["links"]:
        link[:] = [float(link[0]), *link[1:]]
    assert plain(convert_to_api(workflow, DEFINITIONS)) == expected


def test_a_chain_of_thousands_of_reroutes_ends():
    count = 4000
    nodes = [{"id": 0, "type": "EmptyImage", "widgets_values": [8, 8, 1, 0]}]
    nodes += [
        {"id": i, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": i}]}
        for i in range(1, count)
    ]
    nodes.append({"id": count, "type": "PreviewImage", "inputs": [{"name": "images", "link": count}]})
    links = [[i, i - 1, 0, i, 0, "*"] for i in range(1, count + 1)]
    converted = convert_to_api({"nodes": nodes, "links": links}, DEFINITIONS)
    assert converted[str(count)]["inputs"]["images"] == ["0", 0]


def test_many_inputs_at_the_end_of_a_long_chain_of_reroutes_take_no_longer_than_the_chain(monkeypatch):
    from talking_portrait.headless.conversion import _Converter

    steps, step = [], _Converter._step
    monkeypatch.setattr(_Converter, "_step", lambda *given: steps.append(1) or step(*given))
    reroutes = [{"id": i, "type": "Reroute", "inputs": [{"name": "", "link": i}]} for i in range(1, 100)]
    sockets = [{"name": f"value{i}", "link": 100} for i in range(50)]
    workflow = {
        "nodes": [{"id": 0, "type": "A"}, *reroutes, {"id": 100, "type": "A", "inputs": sockets}],
        "links": [[i, i - 1, 0, i, 0, "*"] for i in range(1, 101)],
    }
    assert convert_to_api(workflow, {"A": {}})["100"]["inputs"] == {f"value{i}": ["0", 0] for i in range(50)}
    assert len(steps) == 100


def nested_subgraphs(*inside):
    """A workflow with one subgraph "a", whose definition holds nodes of the given types."""
    nodes = [{"id": i, "type": kind} for i, kind in enumerate(inside)]
    return {
        "nodes": [{"id": 1, "type": "a"}],
        "definitions": {
            "subgraphs": [{"id": "a", "nodes": nodes}, {"id": "b", "nodes": [{"id": 1, "type": "a"}]}]
        },
    }


@pytest.mark.parametrize("kind", ["a", "b"])
def test_a_subgraph_in_itself(kind):
    with pytest.raises(WorkflowError, match="subgraph a contains itself"):
        convert_to_api(nested_subgraphs("PreviewImage", kind), DEFINITIONS)


def test_subgraphs_that_multiply_are_refused():
    """Thirty of them, each with two of the next, would be a thousand million nodes."""
    subgraphs = [
        {"id": f"s{i}", "nodes": [{"id": j, "type": f"s{i + 1}"} for j in range(2)]} for i in range(30)
    ]
    workflow = {"nodes": [{"id": 1, "type": "s0"}], "definitions": {"subgraphs": subgraphs}}
    with pytest.raises(WorkflowError, match="more than 5000 nodes"):
        convert_to_api(workflow, DEFINITIONS)


def test_an_input_of_a_subgraph_that_it_does_not_list():
    workflow = copy.deepcopy(GOLDEN["graphs"]["subgraph_widget_promoted"]["workflow"])
    workflow["definitions"]["subgraphs"][0]["inputs"] = []
    with pytest.raises(WorkflowError, match="is used inside but not listed"):
        convert_to_api(workflow, DEFINITIONS)


def test_a_primitive_with_a_list_of_values():
    nodes = [
        {"id": 1, "type": "PrimitiveNode", "widgets_values": [[1, 2]]},
        {"id": 2, "type": "EmptyImage", "inputs": [{"name": "width", "type": "INT", "link": 1}]},
    ]
    converted = convert_to_api({"nodes": nodes, "links": [[1, 1, 0, 2, 0, "INT"]]}, DEFINITIONS)
    assert converted["2"]["inputs"]["width"] == {"__value__": [1, 2]}


@pytest.mark.parametrize(
    "content", [{}, {"nodes": {}}, {"nodes": "x"}, {"nodes": [None]}, {"nodes": [{"id": 1, "type": 5}]}]
)
def test_what_is_not_in_ui_form(content):
    with pytest.raises(WorkflowError, match="not a workflow in UI form"):
        convert_to_api(content, DEFINITIONS)


def test_file_without_nodes():
    with pytest.raises(ValueError, match="not a workflow in UI form"):
        convert_to_api({"nodes": [{"type": "x"}]}, DEFINITIONS)


def specification(name, kind, category="required", **options):
    return InputSpecification(name, kind, options, category)


def declared(*specifications):
    return {s.name: s for s in specifications}


def test_order_of_widgets():
    inputs = declared(
        specification("image", "IMAGE"),
        specification("file", ["a", "b"], image_upload=True),
        specification("seed", "INT"),
        specification("count", "INT", control_after_generate=True),
        specification("socket", "FLOAT", forceInput=True),
        specification("name", "STRING", "optional"),
        specification("unique", "UNIQUE_ID", "hidden"),
    )
    assert widget_slots(inputs) == ["file", "seed", None, "count", None, None, "name"]


def test_missing_values_become_defaults():
    inputs = declared(
        specification("a", "INT", default=5),
        specification("b", ["x", "y"]),
        specification("c", "STRING"),
        specification("d", "BOOLEAN"),
        specification("e", "FLOAT", default=0.5),
    )
    assert widget_inputs([7], inputs) == {"a": 7, "b": "x", "c": "", "d": False, "e": 0.5}
    assert widget_inputs({"a": 7}, inputs)["a"] == 5  # the page ignores values by name


def test_list_values_are_wrapped():
    inputs = declared(specification("a", "STRING"))
    assert widget_inputs([["x", "y"]], inputs) == {"a": {"__value__": ["x", "y"]}}
    assert widget_values({"a": {"__value__": ["x", "y"]}}, inputs) == [["x", "y"]]


def test_old_values_of_inputs_that_became_sockets_are_dropped():
    inputs = declared(
        specification("a", "INT", default=1),
        specification("b", "INT", forceInput=True),
        specification("c", "INT"),
    )
    assert widget_inputs([10, 20, 30], inputs) == {"a": 10, "c": 30}
    assert widget_inputs([10, 30], inputs) == {"a": 10, "c": 30}


def test_player_beside_an_audio_upload_is_told_by_the_number_of_values():
    inputs = declared(
        specification("audio", ["a.wav"], audio_upload=True),
        specification("gain", "FLOAT", "optional", default=1.0),
    )
    assert widget_inputs(["a.wav", None, "", 2.0], inputs)["gain"] == 2.0
    assert widget_inputs(["a.wav", "", 2.0], inputs)["gain"] == 2.0
