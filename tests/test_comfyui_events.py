"""The events of a run: the same names, order and data from the headless executor and from a real ComfyUI.

Needs COMFYUI_DIR, a checkout of ComfyUI; see comfyui_server.
"""

import contextlib
import json
import shutil
import time
import uuid
from pathlib import Path

import pytest
from talking_portrait.headless.client import ComfyUIServer
from talking_portrait.headless.executor import GraphExecutor, NodeFailedError
from talking_portrait.headless.websocket import TEXT

from .comfyui_server import running_comfyui
from .headless import executor_nodes

VARYING = ("prompt_id", "timestamp", "traceback")
"""Data that differs between two runs of the same thing, or names files."""
UNORDERED = ("executed", "current_outputs")
"""Lists that ComfyUI makes of sets."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a ComfyUI that has the small nodes."""
    base = tmp_path_factory.mktemp("comfyui")
    pack = base / "custom_nodes" / "executor_nodes"
    pack.mkdir(parents=True)
    shutil.copyfile(Path(executor_nodes.__file__), pack / "__init__.py")
    with running_comfyui(base, base / "models") as (url, _, _):
        yield url


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


CASES = {
    "plain": {
        "1": node("XValue", value=3),
        "2": node("XAdd", a=["1", 0], b=1),
        "4": node("XAdd", a=["2", 0], b=["1", 0]),
        "9": node("XShow", value=["4", 0]),
    },
    "equal nodes": {
        "1": node("XAdd", a=3, b=1),
        "2": node("XAdd", a=3, b=1),
        "4": node("XAdd", a=["2", 0], b=["1", 0]),
        "9": node("XShow", value=["4", 0]),
    },
    "progress": {"1": node("XSteps", steps=1), "9": node("XShow", value=["1", 0])},
    "never the same": {"1": node("XNever", value=1), "9": node("XShow", value=["1", 0])},
    "never the same inside": {"1": node("XNeverInside", value=1), "9": node("XShow", value=["1", 0])},
    "two asynchronous": {
        "1": node("XSleep", value=1, seconds=0.2),
        "2": node("XSleep", value=["1", 0], seconds=0.05),
        "3": node("XSleep", value=5, seconds=0.1),
        "4": node("XAdd", a=["2", 0], b=["3", 0]),
        "9": node("XShow", value=["4", 0]),
    },
    "asynchronous over a list": {
        "1": node("XMany", count=3),
        "2": node("XSleep", value=["1", 0], seconds=0.05),
        "9": node("XShow", value=["2", 0]),
    },
    "lists": {
        "1": node("XMany", count=3),
        "2": node("XPlusTimes", value=["1", 0], times=2),
        "9": node("XShow", value=["2", 0]),
    },
    "expansion": {
        "1": node("XPlusTimes", value=5, times=3),
        "2": node("XPlusTimes", value=["1", 0], times=1),
        "9": node("XShow", value=["2", 0]),
    },
    "recursion": {"1": node("XCountDown", left=3, done=0), "9": node("XShow", value=["1", 0])},
    "lazy": {
        "1": node("XValue", value=1),
        "2": node("XValue", value=2),
        "3": node("XChoose", first=False, a=["1", 0], b=["2", 0]),
        "9": node("XShow", value=["3", 0]),
    },
    "silent block": {
        "1": node("XBlock", why=""),
        "2": node("XAdd", a=["1", 0], b=1),
        "9": node("XShow", value=["2", 0]),
    },
    "block": {
        "1": node("XBlock", why="no face"),
        "2": node("XPlusTimes", value=["1", 0], times=1),
        "9": node("XShow", value=["2", 0]),
    },
    "failure": {"1": node("XFail", value=5, text="bad"), "9": node("XShow", value=["1", 0])},
    "failure inside": {"1": node("XFailInside", value=5), "9": node("XShow", value=["1", 0])},
    "view": {"1": node("XViewInside", shown_on=""), "9": node("XShow", value=["1", 0])},
    "view shown elsewhere": {"1": node("XViewInside", shown_on="9"), "9": node("XShow", value=["1", 0])},
    "asynchronous": {"1": node("XSleep", value=1, seconds=0.05), "9": node("XShow", value=["1", 0])},
}


def told(events):
    """What is compared of the events: their order and data, without times and ids of runs."""
    kept = []
    for event, data in events:
        if event == "status":
            continue
        data = {name: value for name, value in data.items() if name not in VARYING}
        if event == "progress_state":
            data["nodes"] = {
                key: {name: value for name, value in state.items() if name != "prompt_id"}
                for key, state in data["nodes"].items()
            }
        lists = {
            name: sorted({_own(node_id) for node_id in data[name]}) for name in UNORDERED if name in data
        }
        kept.append((event, data | lists))
    return kept


def _own(node_id):
    """The graph's own node: ComfyUI also lists what an earlier run expanded into."""
    return node_id.partition(".")[0]


@pytest.fixture(scope="module")
def executor():
    """One executor for all cases, as the server is one for all: both keep what the last run had."""
    return GraphExecutor(executor_nodes.NODE_CLASS_MAPPINGS)


def events_of_server(url, graph):
    """Run a graph and return all that the websocket says about it, unchanged."""
    server, client_id = ComfyUIServer(url), uuid.uuid4().hex
    heard = []
    with server.events(client_id) as socket:
        server.submit(graph, None, client_id, str(uuid.uuid4()))
        deadline = time.monotonic() + 30
        while ("executing", None) not in [(event, data.get("node")) for event, data in heard]:
            assert time.monotonic() < deadline, "the run did not end"
            kind, payload = socket.receive(1.0) or (None, b"")
            if kind == TEXT:
                message = json.loads(payload)
                heard.append((message["type"], message["data"]))
    return heard


def events_here(executor, graph):
    heard = []
    with contextlib.suppress(NodeFailedError):
        executor.run(graph, listener=lambda event, data: heard.append((event, data)))
    return heard


TWO_OUTPUTS = {
    "plain": {
        "1": node("XValue", value=3),
        "2": node("XAdd", a=["1", 0], b=1),
        "8": node("XShow", value=["2", 0]),
        "9": node("XShow", value=["1", 0]),
    },
    "output inside": {"1": node("XShowInside", value=4), "9": node("XShow", value=["1", 0])},
}


@pytest.mark.parametrize("name", TWO_OUTPUTS)
def test_same_events_of_two_outputs(server, executor, name):
    """ComfyUI begins with either output, so that only what is told is compared, not the order."""
    for _ in range(2):
        ours = told(events_here(executor, TWO_OUTPUTS[name]))
        theirs = told(events_of_server(server, TWO_OUTPUTS[name]))
        assert executed(ours) == executed(theirs)
        assert sorted(event for event, _ in ours) == sorted(event for event, _ in theirs)


def executed(events):
    return sorted(repr(data) for event, data in events if event == "executed")


def test_results_inside_expansions_are_kept(server, executor):
    """The second run expands again, and what it expands into begins as in the first run."""
    for times in (3, 2, 4, 4):
        graph = {"1": node("XPlusTimes", value=50, times=times), "9": node("XShow", value=["1", 0])}
        assert told(events_here(executor, graph)) == told(events_of_server(server, graph))


def test_results_are_kept_by_what_they_come_from(server, executor):
    """Other ids, a changed constant, and back again."""
    for value, ids in ((70, "129"), (70, "abc"), (71, "abc"), (70, "abc"), (70, "129")):
        first, second, last = ids
        graph = {
            first: node("XValue", value=value),
            second: node("XAdd", a=[first, 0], b=1),
            last: node("XShow", value=[second, 0]),
        }
        assert told(events_here(executor, graph)) == told(events_of_server(server, graph))


@pytest.mark.parametrize("name", CASES)
def test_same_events(server, executor, name):
    """Twice each, so that the second run's use of earlier results is compared too."""
    for _ in range(2):
        ours = told(events_here(executor, CASES[name]))
        theirs = told(events_of_server(server, CASES[name]))
        assert [event for event, _ in ours] == [event for event, _ in theirs]
        assert ours == theirs
