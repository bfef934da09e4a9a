"""What makes a graph impossible to run: ComfyUI's error types and messages."""

import pytest
from talking_portrait.headless.graph import copied_graph, is_ui_format
from talking_portrait.headless.validation import GraphValidationError, types_match, validate_graph


def problems_of(graph, classes):
    """{node id: [(type, details)]}"""
    validation = validate_graph(graph, classes)
    return {
        node_id: [(problem["type"], problem["details"]) for problem in report["errors"]]
        for node_id, report in validation.node_errors.items()
    }


@pytest.fixture
def text(node):
    def build(**changes):
        inputs = {"text": "hi", "style": "bold", "loud": True, "size": 1.0} | changes
        return {"1": node("Text", **inputs), "2": node("Show", value=["1", 0])}

    return build


def test_good_graph_has_its_outputs(text, tiny_classes):
    validation = validate_graph(text(), tiny_classes)
    assert (validation.outputs, validation.error, validation.node_errors) == (["2"], None, {})


def test_constants_are_converted_in_place(text, tiny_classes):
    graph = text(text=5, loud="false", size="1.5")
    assert validate_graph(graph, tiny_classes).error is None
    assert graph["1"]["inputs"] == {"text": "5", "style": "bold", "loud": True, "size": 1.5}


def test_wrapped_lists_are_unwrapped(text, tiny_classes):
    graph = text(text={"__value__": ["a", "b"]})
    validate_graph(graph, tiny_classes)
    assert graph["1"]["inputs"]["text"] == "['a', 'b']"


def test_a_link_wrapped_as_a_value_is_checked_as_the_link_that_it_becomes(node, tiny_classes):
    wrapped = {"1": node("Show", value={"__value__": ["gone", 0]})}
    validation = validate_graph(wrapped, tiny_classes)
    assert "'gone', which is not there" in str(GraphValidationError(validation, wrapped))


@pytest.mark.parametrize(("link", "reason"), [(["gone", 0], "not there"), (["1", 7], "output 7")])
def test_links_at_inputs_that_are_not_declared_have_to_lead_somewhere(text, tiny_classes, link, reason):
    graph = text()
    graph["2"]["inputs"]["left_over"] = link
    assert reason in str(GraphValidationError(validate_graph(graph, tiny_classes), graph))


def test_a_circle_through_an_input_that_is_not_declared(text, tiny_classes):
    graph = text(left_over=["1", 0])
    assert [kind for kind, _ in problems_of(graph, tiny_classes)["1"]] == ["dependency_cycle"]


@pytest.mark.parametrize("value", [None, 5, {"__value__": ["a.png"]}])
def test_a_choice_that_is_no_text_is_refused_though_its_class_takes_further_names(node, value):
    class Picture:
        RETURN_TYPES = ()
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"image": (["a.png"],)}}

        @classmethod
        def VALIDATE_INPUTS(cls, image):
            return True

    problems = problems_of({"1": node("Picture", image=value)}, {"Picture": Picture})
    assert [kind for kind, _ in problems["1"]] == ["value_not_in_list"]
    assert not problems_of({"1": node("Picture", image="folder/b.png")}, {"Picture": Picture})


@pytest.mark.parametrize(
    ("change", "kind", "details"),
    [
        ({"size": 0.1}, "value_smaller_than_min", "size"),
        ({"size": 3}, "value_bigger_than_max", "size"),
        ({"style": "wild"}, "value_not_in_list", "style: 'wild' not in ['plain', 'bold']"),
        ({"size": "big"}, "invalid_input_type", "size, big, could not convert string to float: 'big'"),
        ({"text": ["1", 0, 0]}, "bad_linked_input", "text"),
    ],
)
def test_bad_values(text, tiny_classes, change, kind, details):
    graph = text(**change)
    assert problems_of(graph, tiny_classes) == {"1": [(kind, details)]}
    validation = validate_graph(graph, tiny_classes)
    assert validation.error["type"] == "prompt_outputs_failed_validation"
    assert validation.node_errors["1"]["dependent_outputs"] == ["2"]
    assert validation.node_errors["1"]["class_type"] == "Text"


def test_missing_input(node, tiny_classes):
    graph = {"1": node("Add", b=1), "2": node("Show", value=["1", 0])}
    assert problems_of(graph, tiny_classes) == {"1": [("required_input_missing", "a")]}


def test_wrong_type_of_link_hides_what_is_behind_it(node, tiny_classes):
    graph = {
        "1": node("Text", text="", style="wild", loud=False, size=9),
        "2": node("Add", a=["1", 0], b=1),
        "3": node("Show", value=["2", 0]),
    }
    expected = "a, received_type(STRING) mismatch input_type(INT)"
    assert problems_of(graph, tiny_classes) == {"2": [("return_type_mismatch", expected)]}


@pytest.mark.parametrize(
    ("received", "wanted", "fits"),
    [
        ("INT", "INT", True),
        ("INT", "FLOAT", False),
        ("INT", "FLOAT,INT", True),
        ("FLOAT, INT", "INT", True),
        ("*", "IMAGE", True),
        ("IMAGE", "*", True),
        (["a"], ["a"], True),
        ("STRING", ["a"], False),
    ],
)
def test_types(received, wanted, fits):
    assert types_match(received, wanted) is fits


def test_missing_node_type(node, tiny_classes):
    validation = validate_graph({"7": node("NoSuchNode")}, tiny_classes)
    assert validation.error["type"] == "missing_node_type"
    assert validation.error["message"] == "Cannot execute because node NoSuchNode does not exist."
    assert validation.error["details"] == "Node ID '#7'"


def test_missing_class_type(tiny_classes):
    assert validate_graph({"7": {"inputs": {}}}, tiny_classes).error["type"] == "invalid_prompt"


def test_no_outputs(node, tiny_classes):
    assert validate_graph({"1": node("Number", value=1)}, tiny_classes).error["type"] == "prompt_no_outputs"


def test_link_to_a_node_that_is_not_there(node, tiny_classes):
    graph = {"2": node("Show", value=["99", 0])}
    [(kind, details)] = problems_of(graph, tiny_classes)["2"]
    assert kind == "exception_during_validation"
    assert "'99'" in details


def test_link_to_an_output_that_is_not_there(node, tiny_classes):
    graph = {
        "1": node("Number", value=1),
        "2": node("Add", a=["1", 4], b=1),
        "3": node("Show", value=["2", 0]),
    }
    [(kind, details)] = problems_of(graph, tiny_classes)["2"]
    assert kind == "exception_during_inner_validation"
    assert "output 4 of node 1, which has 1" in details


def test_cycle(node, tiny_classes):
    graph = {
        "1": node("Add", a=["2", 0], b=1),
        "2": node("Add", a=["1", 0], b=1),
        "3": node("Show", value=["2", 0]),
    }
    [(kind, details)] = problems_of(graph, tiny_classes)["1"]
    assert kind == "dependency_cycle"
    assert "2 -> 1 -> 2" in details


def test_other_outputs_still_run_and_the_report_names_the_bad_one(node, tiny_classes):
    graph = {
        "1": node("Number", value=500),
        "2": node("Show", value=["1", 0]),
        "3": node("Number", value=5),
        "4": node("Show", value=["3", 0]),
    }
    validation = validate_graph(graph, tiny_classes)
    assert validation.outputs == ["4"]
    assert validation.error is None
    assert list(validation.node_errors) == ["1"]
    with pytest.raises(
        GraphValidationError, match=r"node 1 \(Number\): Value 500 bigger than max of 100: value"
    ):
        validation.raise_if_failed(graph)


def test_nodes_nothing_needs_are_not_checked(node, tiny_classes):
    graph = {"1": node("Number", value=500), "2": node("Show", value=3)}
    assert validate_graph(graph, tiny_classes).outputs == ["2"]


class Judge:
    """Looks at its own inputs."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"level": ("INT", {"max": 10}), "other": ("INT", {"max": 10})}}

    @classmethod
    def VALIDATE_INPUTS(cls, level):
        if level is None:
            return True
        return True if level % 2 == 0 else f"{level} is odd"


def test_own_check_replaces_the_built_in_one_for_what_it_names(node, tiny_classes):
    classes = tiny_classes | {"Judge": Judge}
    assert problems_of({"1": node("Judge", level=100, other=1)}, classes) == {}
    assert problems_of({"1": node("Judge", level=7, other=11)}, classes)["1"] == [
        ("value_bigger_than_max", "other"),
        ("custom_validation_failed", "level - 7 is odd"),
    ]


def test_own_check_gets_none_for_a_link(node, tiny_classes):
    graph = {"1": node("Number", value=3), "2": node("Judge", level=["1", 0], other=1)}
    assert problems_of(graph, tiny_classes | {"Judge": Judge}) == {}


class Broken(Judge):
    @classmethod
    def VALIDATE_INPUTS(cls, **inputs):
        raise ZeroDivisionError("oh")


def test_own_check_that_breaks_down(node, tiny_classes):
    [(kind, details)] = problems_of({"1": node("Broken", level=1, other=1)}, {"Broken": Broken})["1"]
    assert (kind, details) == ("exception_during_validation", "oh")


class TypeJudge(Judge):
    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True if input_types.get("level") == "STRING" else f"got {input_types}"


def test_own_check_of_types(node, tiny_classes):
    graph = {
        "1": node("Text", text="", style="bold", loud=False, size=1),
        "2": node("TypeJudge", level=["1", 0], other=1),
    }
    assert problems_of(graph, tiny_classes | {"TypeJudge": TypeJudge}) == {}


def test_forms():
    assert is_ui_format({"nodes": []})
    assert not is_ui_format({"1": {"class_type": "x"}})
    with pytest.raises(ValueError, match="not a workflow in API form: node 'version'"):
        copied_graph({"version": 1})


def test_long_chains_are_checked_without_running_out_of_stack(node, tiny_classes):
    count = 1500
    graph = {"0": node("Number", value=1)}
    graph |= {str(i): node("Add", a=[str(i - 1), 0], b=1) for i in range(1, count)}
    graph["show"] = node("Show", value=[str(count - 1), 0])
    assert problems_of(graph, tiny_classes) == {}
    graph["0"]["inputs"]["value"] = -5
    assert [kind for kind, _ in problems_of(graph, tiny_classes)["0"]] == ["value_smaller_than_min"]
    graph["1"]["inputs"]["a"] = [str(count - 1), 0]
    (problem,) = [p for problems in problems_of(graph, tiny_classes).values() for p in problems]
    assert problem[0] == "dependency_cycle"


@pytest.mark.parametrize("slot", ["0", None, 0.5, float("nan"), float("inf"), [], -1, 7])
def test_outputs_that_cannot_be(node, tiny_classes, slot):
    graph = {"1": node("Number", value=1), "2": node("Show", value=["1", slot])}
    ((kind, details),) = problems_of(graph, tiny_classes)["2"]
    assert kind == "exception_during_validation"
    assert "a link asks for output" in details


@pytest.mark.parametrize("kind", [None, [], {}, 7, "Nothing"])
def test_classes_that_cannot_be(tiny_classes, kind):
    validation = validate_graph({"1": {"class_type": kind, "inputs": {}}}, tiny_classes)
    assert validation.error["type"] == "missing_node_type"


def test_errors_of_a_large_value_stay_readable(node, tiny_classes):
    graph = {
        "1": node("Text", text="", style="x" * 100_000, loud=False, size=1),
        "2": node("Show", value=["1", 0]),
    }
    validation = validate_graph(graph, tiny_classes)
    with pytest.raises(GraphValidationError) as caught:
        validation.raise_if_failed(graph)
    assert len(str(caught.value)) < 2000


def test_texts_where_a_range_is_declared(node, tiny_classes):
    class Odd:
        RETURN_TYPES = ()
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"level": ("LEVEL", {"min": 0, "max": 3})}}

    graph = {"1": node("Odd", level="high")}
    assert problems_of(graph, tiny_classes | {"Odd": Odd}) == {}


def test_links_whose_node_is_a_number_get_its_text():
    graph = {7: {"class_type": "Show", "inputs": {"value": [3, 0], "list": [3, 0, 1]}}}
    assert copied_graph(graph) == {
        "7": {"class_type": "Show", "inputs": {"value": ["3", 0], "list": [3, 0, 1]}}
    }
