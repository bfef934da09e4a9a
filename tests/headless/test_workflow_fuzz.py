"""Workflow files damaged at random end in a documented error or run; nothing crashes, hangs or writes."""

import contextlib
import copy
import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from talking_portrait.headless.conversion import convert_to_api
from talking_portrait.headless.executor import GraphExecutor
from talking_portrait.headless.graph import WorkflowError
from talking_portrait.headless.preparation import prepared_workflow
from talking_portrait.headless.registry import definitions_from_object_info, node_classes, object_info
from talking_portrait.headless.workflow_files import workflow_from_bytes

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
FILES = sorted(
    path for path in (*WORKFLOWS.glob("*.json"), *WORKFLOWS.glob("api/*.json")) if "core_wan" not in path.name
)
GOLDEN = json.loads((Path(__file__).parent / "conversion_golden.json").read_text())
CONTENTS = [
    *(json.loads(path.read_text()) for path in FILES),
    *(golden["workflow"] for golden in GOLDEN["graphs"].values()),
]
"""All shipped workflows in both forms, and graphs with reroutes, primitives, subgraphs, muted and bypassed nodes."""

ODD_VALUES = [
    *(None, True, -1, 0, 1, 2, 4, 1e308, -1e308, float("nan"), float("inf"), 10**30, 0.5),
    *(
        "",
        "1",
        "\0",
        "\u202e\U0001f600 ü",
        "../../../etc/passwd",
        "*",
        "INT",
        "Reroute",
        "PrimitiveNode",
        "x" * 3000,
    ),
    *(
        [],
        {},
        [[]],
        ["1", 0],
        ["1", -1],
        ["1", 99],
        [1, 0],
        ["none", 0],
        ["1", "0"],
        {"__value__": [1, 2]},
        [None, None],
    ),
    *({"class_type": "SaveVideo"}, {"name": "image", "link": 1}, [1, 1, 0, 1, 0, "*"]),
]


class _Nothing:
    """A node that gives None for each of its outputs."""

    RETURN_TYPES = ()
    FUNCTION = "give"

    def give(self, **_inputs):
        lists = getattr(self, "OUTPUT_IS_LIST", [False] * len(self.RETURN_TYPES))
        return tuple([None] if is_list else None for is_list in lists)


def _stub(node_class):
    kept = ("RETURN_TYPES", "OUTPUT_NODE", "OUTPUT_IS_LIST", "INPUT_IS_LIST")
    members = {name: getattr(node_class, name) for name in kept if hasattr(node_class, name)}
    for name in ("INPUT_TYPES", "VALIDATE_INPUTS"):
        if hasattr(node_class, name):
            members[name] = staticmethod(getattr(node_class, name))
    return type(node_class.__name__, (_Nothing,), members)


class EmptyImage(_Nothing):
    """Stands for each of ComfyUI's nodes that only the graphs of the converter's tests have."""

    RETURN_TYPES = ("IMAGE", "MASK", "INT")

    @classmethod
    def INPUT_TYPES(cls):
        return {"optional": {"image": ("IMAGE",)}}


STUBS = {name: _stub(node_class) for name, node_class in node_classes().items()}
STUBS |= {name: EmptyImage for name in GOLDEN["object_info"] if name not in STUBS}
KNOWN = {
    **{name: {**info, "output": EmptyImage.RETURN_TYPES} for name, info in GOLDEN["object_info"].items()},
    **object_info(),
}


def _places(content):
    """Return every (container, key) of a JSON value."""
    found, waiting = [], [content]
    while waiting:
        value = waiting.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            found.append((value, key))
            if isinstance(value[key], dict | list):
                waiting.append(value[key])
    return found


def _damage(content, chance):
    """Change one place: drop, duplicate, swap, replace, rename, or point somewhere else."""
    places = _places(content)
    if not places:
        return
    container, key = chance.choice(places)
    other_container, other_key = chance.choice(places)
    action = chance.choice(["drop", "odd", "odd", "copy", "swap", "double", "rename", "grow"])
    if action == "drop":
        del container[key]
    elif action == "odd":
        container[key] = copy.deepcopy(chance.choice(ODD_VALUES))
    elif action == "copy":
        container[key] = copy.deepcopy(other_container[other_key])
    elif action == "swap":
        first, second = copy.deepcopy(container[key]), copy.deepcopy(other_container[other_key])
        container[key] = second
        if (
            other_key in other_container
            if isinstance(other_container, dict)
            else other_key < len(other_container)
        ):
            other_container[other_key] = first
    elif action == "double" and isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    elif action == "rename" and isinstance(container, dict):
        container[str(chance.choice(ODD_VALUES))[:50]] = container.pop(key)
    elif action == "grow" and isinstance(container[key], list):
        container[key] = [copy.deepcopy(item) for item in container[key] * 3]


def _run(content):
    """Do with a file what `talking-portrait run` does, with nodes that do nothing."""
    prepared = prepared_workflow(workflow_from_bytes(content), object_info=KNOWN)
    if prepared.page is not None:
        page = json.loads(json.dumps(prepared.page))
        convert_to_api(page, definitions_from_object_info(KNOWN))
    GraphExecutor(STUBS, keep_results=False).run(prepared.graph, prepared.page)


def test_undamaged_files_run():
    for content in CONTENTS[: len(FILES)]:
        _run(json.dumps(content).encode())


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(CONTENTS), st.integers(0, 2**32), st.integers(1, 6))
def test_damaged_values(content, seed, count):
    chance = random.Random(seed)
    content = copy.deepcopy(content)
    for _ in range(count):
        _damage(content, chance)
    with contextlib.suppress(WorkflowError):
        _run(json.dumps(content).encode())


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(CONTENTS), st.floats(0, 1), st.binary(max_size=4), st.booleans())
def test_damaged_bytes(content, place, inserted, cut):
    text = json.dumps(content).encode()
    index = int(place * len(text))
    with contextlib.suppress(WorkflowError):
        _run(text[:index] + inserted + (b"" if cut else text[index + len(inserted) :]))


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(CONTENTS),
    st.text(max_size=30),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(["", "1.", "2.", "Save Video.", "SaveVideo.", "1.image", "10.filename_prefix"]),
)
def test_settings(content, text, value, start):
    file = workflow_from_bytes(json.dumps(content).encode())
    for arguments in (([start + text],), ([f"{start}={text}"],), ((), {start + text: value})):
        with contextlib.suppress(WorkflowError):
            prepared_workflow(file, *arguments, object_info=KNOWN)


@pytest.mark.parametrize("length", [1, 2, 1000])
def test_circles(length):
    graph = {
        str(i): {
            "class_type": "RepeatImageBatch",
            "inputs": {"image": [str((i + 1) % length), 0], "amount": 1},
        }
        for i in range(length)
    }
    graph["save"] = {"class_type": "SaveImage", "inputs": {"images": ["0", 0], "filename_prefix": "x"}}
    with pytest.raises(WorkflowError, match="Dependency cycle detected"):
        _run(json.dumps(graph).encode())


def test_a_chain_longer_than_calls_may_be_nested():
    graph = {
        str(i): {"class_type": "RepeatImageBatch", "inputs": {"image": [str(i + 1), 0], "amount": 1}}
        for i in range(1100)
    }
    portrait = "demo: made head (drawn by this project)"
    graph["1100"] = {"class_type": "TP_LoadPortraitImage", "inputs": {"image": portrait}}
    graph["save"] = {"class_type": "SaveImage", "inputs": {"images": ["0", 0], "filename_prefix": "x"}}
    _run(json.dumps(graph).encode())
