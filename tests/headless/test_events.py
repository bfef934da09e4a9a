"""The events of a run, and how they are shown and written."""

import io
import json
import math
import threading
from pathlib import Path

import pytest
from talking_portrait.headless.events import EventDisplay, JsonEventLines, listeners, plain
from talking_portrait.headless.executor import GraphExecutor, NodeFailedError
from talking_portrait.runtime.host import WorkCancelledError, host
from talking_portrait.runtime.model_cache import model_cache

from .executor_nodes import NODE_CLASS_MAPPINGS, XValue


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


GRAPH = {"1": node("XValue", value=1), "9": node("XShow", value=["1", 0])}


def run(graph, **more):
    """Return the events of a run, [(event, data)], and the error that ended it."""
    heard = []
    executor = GraphExecutor(NODE_CLASS_MAPPINGS | more)
    try:
        executor.run(graph, listener=lambda event, data: heard.append((event, data)))
    except (NodeFailedError, WorkCancelledError, KeyboardInterrupt) as error:
        return heard, error
    return heard, None


class TestEvents:
    def test_order_is_comfyuis(self):
        heard, _ = run(GRAPH)
        assert [event for event, _ in heard] == [
            *("execution_start", "execution_cached"),
            *("progress_state", "executing", "progress_state"),
            *("progress_state", "executing", "executed", "progress_state"),
            *("execution_success", "executing"),
        ]
        assert len({data["prompt_id"] for _, data in heard}) == 1
        assert heard[-1][1]["node"] is None

    def test_output(self):
        heard, _ = run(GRAPH)
        [executed] = [data for event, data in heard if event == "executed"]
        assert executed["node"] == executed["display_node"] == "9"
        assert executed["output"] == {"text": ["1"]}

    def test_progress_of_a_node(self):
        heard, _ = run({"1": node("XSteps", steps=3), "9": node("XShow", value=["1", 0])})
        steps = [(data["node"], data["value"], data["max"]) for event, data in heard if event == "progress"]
        assert steps[0] == ("1", 1, 3)
        assert steps[-1] == ("1", 3, 3)
        states = [data["nodes"]["1"] for event, data in heard if event == "progress_state"]
        assert [state["state"] for state in states][:1] == ["running"]
        assert states[-1] | {"prompt_id": ""} == {
            "value": 3,
            "max": 3,
            "state": "finished",
            "node_id": "1",
            "prompt_id": "",
            "display_node_id": "1",
            "parent_node_id": None,
            "real_node_id": "1",
        }

    def test_progress_from_a_thread_of_the_node(self):
        class Threaded(XValue):
            def give(self, value):
                thread = threading.Thread(target=lambda: host().progress(1).update(1))
                thread.start()
                thread.join()
                return (value,)

        heard, _ = run(GRAPH | {"1": node("Threaded", value=1)}, Threaded=Threaded)
        assert [data["node"] for event, data in heard if event == "progress"] == ["1"]

    def test_many_steps_are_told_now_and_then(self):
        heard, _ = run({"1": node("XSteps", steps=5000), "9": node("XShow", value=["1", 0])})
        steps = [data["value"] for event, data in heard if event == "progress"]
        assert steps[-1] == 5000
        assert steps == sorted(steps)
        assert len(steps) < 1000

    def test_failure(self):
        graph = GRAPH | {"1": node("XFail", value=3, text="too dark")}
        heard, error = run(graph)
        assert [event for event, _ in heard][-2:] == ["execution_error", "executing"]
        told = heard[-2][1]
        assert told["node_id"] == "1"
        assert told["node_type"] == "XFail"
        assert told["exception_type"] == "ValueError"
        assert told["exception_message"] == "too dark\n"
        assert told["current_inputs"] == {"value": [3], "text": ["too dark"]}
        assert told["executed"] == []
        assert error.details["exception_message"] == "too dark\n"
        json.dumps(told)

    def test_models_are_forgotten_when_memory_is_short(self, monkeypatch):
        class OutOfMemoryError(RuntimeError):
            pass

        class Large(XValue):
            def give(self, value):
                raise OutOfMemoryError("no memory")

        cleared = []
        monkeypatch.setattr(model_cache(), "clear", lambda: cleared.append(True))
        _, error = run(GRAPH | {"1": node("Large", value=1)}, Large=Large)
        assert "OutOfMemoryError: no memory" in str(error)
        assert cleared == [True]

    def test_blocked_node_is_told_and_the_run_goes_on(self):
        graph = {
            "1": node("XBlock", why="no face"),
            "2": node("XAdd", a=["1", 0], b=1),
            "9": node("XShow", value=["2", 0]),
        }
        heard, error = run(graph)
        [told] = [data for event, data in heard if event == "execution_error"]
        assert (told["node_id"], told["exception_type"]) == ("2", "ExecutionBlocked")
        assert told["exception_message"] == "Execution Blocked: no face"
        assert error is None
        assert "execution_success" in [event for event, _ in heard]

    @pytest.mark.parametrize("kind", [WorkCancelledError, KeyboardInterrupt])
    def test_cancelled_run(self, kind):
        class Cancelled(XValue):
            def give(self, value):
                raise kind("cancelled")

        heard, error = run(GRAPH | {"1": node("Cancelled", value=1)}, Cancelled=Cancelled)
        assert [event for event, _ in heard][-2:] == ["execution_interrupted", "executing"]
        assert heard[-2][1]["node_type"] == "Cancelled"
        assert type(error) is kind

    def test_listener_that_fails_ends_the_run_with_its_own_error(self):
        def listen(event, _):
            if event == "progress":
                raise BrokenPipeError("nobody reads")

        graph = {"1": node("XSteps", steps=3), "9": node("XShow", value=["1", 0])}
        with pytest.raises(BrokenPipeError, match="nobody reads"):
            GraphExecutor(NODE_CLASS_MAPPINGS).run(graph, listener=listen)

    def test_bars_are_drawn_when_nobody_listens(self, capsys):
        GraphExecutor(NODE_CLASS_MAPPINGS).run({"1": node("XSteps", steps=2)} | {"9": GRAPH["9"]})
        assert host().task.name == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestDisplay:
    def test_line_per_node_with_its_title(self):
        graph = {**GRAPH, "1": GRAPH["1"] | {"_meta": {"title": "Größe"}}}
        shown = io.StringIO()
        GraphExecutor(NODE_CLASS_MAPPINGS).run(graph, listener=EventDisplay(graph, shown))
        assert shown.getvalue() == "[1/2] Größe\n[2/2] XShow\n"

    def test_node_that_begins_twice_is_shown_once(self):
        graph = {
            "1": node("XValue", value=1),
            "3": node("XChoose", first=True, a=["1", 0], b=["1", 0]),
            "9": node("XShow", value=["3", 0]),
        }
        shown = io.StringIO()
        GraphExecutor(NODE_CLASS_MAPPINGS).run(graph, listener=EventDisplay(graph, shown))
        assert shown.getvalue().splitlines() == ["[1/3] XChoose", "[2/3] XValue", "[3/3] XShow"]

    def test_bar_on_a_terminal(self):
        shown = Terminal()
        display = EventDisplay({"4": node("Render")}, shown)
        for done in (1, 2, 4):
            display("progress", {"node": "4", "value": done, "max": 4})
        assert "Render: 100%" in shown.getvalue()
        assert "4/4" in shown.getvalue()

    def test_node_may_show_a_second_bar(self):
        shown = Terminal()
        display = EventDisplay({"4": node("Render")}, shown)
        for done in (4, 1, 2):
            display("progress", {"node": "4", "value": done, "max": done})
        assert shown.getvalue().count("100%") == 3

    def test_bar_of_work_that_is_cancelled_is_left_on_its_own_line(self):
        shown = Terminal()
        display = EventDisplay({"4": node("Render")}, shown)
        display("progress", {"node": "4", "value": 1, "max": 4})
        display("progress", {"node": "4", "value": 2, "max": 4})
        display("executing", {"node": None})
        assert shown.getvalue().endswith("\n")
        assert "100%" not in shown.getvalue()

    def test_reason_of_a_block(self):
        shown = io.StringIO()
        data = {
            "node_id": "1",
            "exception_type": "ExecutionBlocked",
            "exception_message": "Execution Blocked: no face",
        }
        EventDisplay(GRAPH, shown)("execution_error", data)
        assert shown.getvalue() == "blocked: node 1 (XValue): no face\n"

    @pytest.mark.parametrize(
        ("event", "data"),
        [
            ("status", {"sid": "x"}),
            ("executing", {}),
            ("executing", {"node": None}),
            ("progress", {"node": "4", "value": "a", "max": None}),
            ("progress", {}),
            ("progress", {"node": "4", "value": 1, "max": float("inf")}),
            ("progress", {"node": "4", "value": float("nan"), "max": 3}),
            ("execution_error", {"node_id": "1", "exception_type": "ValueError"}),
            ("executing", None),
        ],
    )
    def test_nothing_to_show(self, event, data):
        shown = io.StringIO()
        EventDisplay(GRAPH, shown)(event, data)
        assert shown.getvalue() == ""


def test_titles_and_ids_of_any_kind_are_one_line_without_commands_to_the_terminal():
    shown = io.StringIO()
    title = "Sieh\x1b]52;c;ZXZpbA==\x07\nerror: faked\u2028日本"
    display = EventDisplay({"1": {**GRAPH["1"], "_meta": {"title": title}}}, shown)
    display("executing", {"node": "1"})
    display("executing", {"node": ["1"]})
    display("progress", {"node": ["1"], "value": 1, "max": 3})
    assert shown.getvalue() == "[1/1] Sieh ]52;c;ZXZpbA==  error: faked 日本\n[2/2] ['1']\n"


def test_lines_of_json():
    written = io.StringIO()
    lines = JsonEventLines(written)
    lines("executed", {"node": "9", "output": {"x": [float("nan"), Path("a/b"), {1: (True, None)}, "ü\n"]}})
    lines("executing", {"node": None})
    first, second = written.getvalue().splitlines()
    assert json.loads(first) == {
        "type": "executed",
        "data": {"node": "9", "output": {"x": [None, str(Path("a/b")), {"1": [True, None]}, "ü\n"]}},
    }
    assert json.loads(second) == {"type": "executing", "data": {"node": None}}


def test_plain_values():
    assert plain([math.inf, 1, 1.5, {2}, b"x"]) == [None, 1, 1.5, [2], "b'x'"]


def test_several_listeners_are_told_in_order():
    heard = []
    tell = listeners(
        lambda event, data: heard.append((1, event)), lambda event, data: heard.append((2, event))
    )
    tell("a", {})
    assert heard == [(1, "a"), (2, "a")]
