"""Nodes that expand into further nodes, and asynchronous ones."""

import asyncio
import time

import pytest
from talking_portrait.headless.executor import GraphExecutor, NodeFailedError
from talking_portrait.runtime.host import WorkCancelledError, host
from talking_portrait.runtime.node_graphs import GraphBuilder, graph_builder

from .executor_nodes import NODE_CLASS_MAPPINGS, XValue


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture
def executor():
    return GraphExecutor(NODE_CLASS_MAPPINGS)


def shown(report, node_id="9"):
    return report.ui[node_id]["text"]


def events_of(executor, graph):
    heard = []
    executor.run(graph, listener=lambda event, data: heard.append((event, data)))
    return heard


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("times", [0, 1, 5])
def test_expanded_nodes_run_in_the_place_of_the_node(times, keep):
    graph = {
        "1": node("XPlusTimes", value=3, times=times),
        "2": node("XAdd", a=["1", 0], b=10),
        "9": node("XShow", value=["2", 0]),
    }
    report = GraphExecutor(NODE_CLASS_MAPPINGS, keep_results=keep).run(graph)
    assert shown(report) == [str(13 + times)]
    inner = [node_id for node_id in report.executed if node_id.startswith("1.0.0.")]
    assert inner == [f"1.0.0.{number}" for number in range(1, times + 1)]


@pytest.mark.parametrize("keep", [True, False])
def test_expansion_may_expand_again(keep):
    graph = {"1": node("XCountDown", left=30, done=5), "9": node("XShow", value=["1", 0])}
    report = GraphExecutor(NODE_CLASS_MAPPINGS, keep_results=keep).run(graph)
    assert shown(report) == ["35"]
    assert any(node_id.startswith("1.0.0.2.0.0.2.0.0.") for node_id in report.executed)


def test_every_call_over_a_list_expands_for_itself(executor):
    graph = {
        "1": node("XMany", count=3),
        "2": node("XPlusTimes", value=["1", 0], times=2),
        "9": node("XShow", value=["2", 0]),
    }
    report = executor.run(graph)
    assert shown(report) == ["2", "3", "4"]
    assert {node_id for node_id in report.executed if "." in node_id} == {
        f"2.{call}.0.{number}" for call in range(3) for number in (1, 2)
    }


def test_lazy_input_then_expansion(executor):
    graph = {
        "1": node("XValue", value=1),
        "2": node("XValue", value=2),
        "3": node("XChoose", first=False, a=["1", 0], b=["2", 0]),
        "9": node("XShow", value=["3", 0]),
    }
    report = executor.run(graph)
    assert shown(report) == ["3"]
    assert "1" not in report.executed


def test_output_nodes_inside_run_although_nothing_needs_them(executor):
    graph = {"1": node("XShowInside", value=4), "9": node("XShow", value=["1", 0])}
    report = executor.run(graph)
    assert shown(report) == ["7"]
    assert report.ui["1.0.0.inside"] == {"text": ["4"]}


def test_events_show_the_node_that_expands(executor):
    graph = {"1": node("XPlusTimes", value=3, times=1), "9": node("XShow", value=["1", 0])}
    told = [data for event, data in events_of(executor, graph) if event == "executing"]
    assert [(data["node"], data.get("display_node")) for data in told] == [
        *(("1", "1"), ("1.0.0.1", "1"), ("9", "9"), (None, None))
    ]


@pytest.mark.parametrize(("shown_on", "display"), [("", "1"), ("9", "9")])
def test_graph_view_of_a_node_inside(executor, shown_on, display):
    graph = {"1": node("XViewInside", shown_on=shown_on), "9": node("XShow", value=["1", 0])}
    assert shown(executor.run(graph)) == [f"1.0.0.1|{display}|1|1|True|False"]


class TestResultsOfExpansions:
    def graph(self, times, value=5):
        return {
            "1": node("XPlusTimes", value=value, times=times),
            "9": node("XShow", value=["1", 0]),
        }

    def test_node_with_the_same_inputs_does_not_expand_again(self, executor):
        executor.run(self.graph(3))
        assert executor.run(self.graph(3)).executed == []

    def test_equal_nodes_of_the_next_expansion_do_not_run_again(self, executor):
        executor.run(self.graph(3))
        assert executor.run(self.graph(4)).executed == ["1.0.0.4", "1", "9"]

    def test_nothing_is_shared_between_two_nodes(self, executor):
        graph = self.graph(2) | {"2": node("XPlusTimes", value=5, times=2)}
        graph["2"]["inputs"]["times"] = 1
        graph["8"] = node("XShow", value=["2", 0])
        executed = executor.run(graph).executed
        assert {"1.0.0.1", "2.0.0.1"} <= set(executed)

    def test_what_it_expanded_into_is_forgotten_with_the_node(self, executor):
        executor.run(self.graph(3))
        executor.run({"9": node("XShow", value=1)})
        assert not any(scope for scope, _ in executor._kept.results)

    def test_never_the_same_inside(self, executor):
        graph = {"1": node("XNeverInside", value=1), "9": node("XShow", value=["1", 0])}
        executor.run(graph)
        assert "1.0.0.2" not in executor.run(graph).executed

    def test_signatures_do_not_pile_up(self, executor):
        for value in range(20):
            executor.run(self.graph(3, value))
        assert len(executor._signatures._numbers) < 12


def expanding(graph, result=(["x", 0],)):
    """A class that expands into a given graph."""

    class Expanding(XValue):
        def give(self, value):
            return {"result": result, "expand": graph}

    return Expanding


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ([], "expands into something else than a graph"),
        ({"x": {"class_type": "XValue"}}, "expands into something else than a graph"),
        ({"x": node("Nothing")}, "expands into unknown node types: Nothing"),
        ({"9": node("XValue", value=1)}, "a node '9', which is there already"),
        ({"x": node("XAdd", a=["y", 0], b=1)}, "links a to 'y', not there"),
        ({"x": node("XAdd", a=["x", 0], b=1)}, "dependency cycle"),
        ({"x": node("XAdd", a=["1", 0], b=1)}, "dependency cycle"),
        ({"z": node("XValue", value=1)}, "there is no node 'x'"),
    ],
)
def test_expansions_that_cannot_run(graph, message):
    classes = NODE_CLASS_MAPPINGS | {"Expanding": expanding(graph)}
    outer = {"1": node("Expanding", value=1), "9": node("XShow", value=["1", 0])}
    with pytest.raises(NodeFailedError, match=message):
        GraphExecutor(classes).run(outer)


def test_error_inside_is_told_of_the_node_that_expands(executor):
    graph = {"1": node("XFailInside", value=5), "9": node("XShow", value=["1", 0])}
    with pytest.raises(NodeFailedError, match=r"node 1 \(XFailInside\): inside") as caught:
        executor.run(graph)
    assert caught.value.details["node_id"] == "1"
    assert caught.value.details["exception_type"] == "ValueError"
    assert caught.value.details["current_inputs"] == {"value": [5], "text": ["inside"]}
    assert any("fail" in line for line in caught.value.details["traceback"])


class TestGraphBuilder:
    def test_builds_a_graph(self):
        graph = GraphBuilder("p.")
        first = graph.node("XValue", value=1)
        named = graph.node("XAdd", id="sum", a=first.out(0), b=2)
        assert graph.node("XAdd", id="sum") is named
        assert graph.lookup_node("sum") is named
        assert graph.finalize() == {
            "p.1": node("XValue", value=1),
            "p.sum": node("XAdd", a=["p.1", 0], b=2),
        }

    def test_changes_inputs(self):
        graph = GraphBuilder("")
        graph.node("XValue", id="v", value=1)
        add = graph.node("XAdd", a=["v", 0], b=["v", 1])
        graph.replace_node_output("v", 0, 5)
        graph.replace_node_output("v", 1, None)
        graph.remove_node("v")
        assert graph.finalize() == {"1": node("XAdd", a=5)}
        add.set_input("b", 3)
        add.set_input("a", None)
        assert (add.get_input("b"), add.get_input("a")) == (3, None)

    def test_needs_a_prefix_outside_of_a_run(self):
        with pytest.raises(RuntimeError, match="no node is running"):
            graph_builder()

    def test_ids_differ_between_graphs_of_a_call(self):
        with host().running("Loop", call="3.1"):
            assert [graph_builder().prefix for _ in range(2)] == ["3.1.0.", "3.1.1."]


class TestAsynchronousNodes:
    def test_run_side_by_side(self, executor):
        graph = {
            "1": node("XSleep", value=1, seconds=0.2),
            "2": node("XSleep", value=5, seconds=0.2),
            "3": node("XMany", count=5),
            "4": node("XSleep", value=["3", 0], seconds=0.2),
            "5": node("XAdd", a=["1", 0], b=["2", 0]),
            "8": node("XShow", value=["4", 0]),
            "9": node("XShow", value=["5", 0]),
        }
        order = [data["node"] for event, data in events_of(executor, graph) if event == "executing"]
        assert set(order[:4]) >= {"1", "2"}
        report = executor.run(graph)
        assert (shown(report), shown(report, "8")) == (["8"], ["1", "2", "3", "4", "5"])

    def test_all_wait_at_once(self):
        """Each waits until all have begun, which is never when one waits for the other."""
        begun = asyncio.Barrier(6) if hasattr(asyncio, "Barrier") else None
        if begun is None:
            pytest.skip("asyncio.Barrier came with Python 3.11")

        class Meeting(XValue):
            async def give(self, value):
                await asyncio.wait_for(begun.wait(), 2)
                return (value,)

        graph = {
            "1": node("XMany", count=3),
            "2": node("Meeting", value=["1", 0]),
            "3": node("XMany", count=4),
            "4": node("Meeting", value=["1", 0]),
            "5": node("XAdd", a=["2", 0], b=["4", 0]),
            "9": node("XShow", value=["5", 0]),
        }
        graph["4"]["inputs"]["value"] = ["3", 0]
        begun = asyncio.Barrier(7)
        executor = GraphExecutor(NODE_CLASS_MAPPINGS | {"Meeting": Meeting})
        assert shown(executor.run(graph)) == ["0", "2", "4", "5"]

    def test_error_ends_the_others(self):
        ended = []

        class Long(XValue):
            async def give(self, value):
                try:
                    await asyncio.sleep(60)
                finally:
                    ended.append(value)

        class Failing(XValue):
            async def give(self, value):
                await asyncio.sleep(0.01)
                raise ValueError("no")

        graph = {
            "1": node("Long", value=1),
            "2": node("Failing", value=1),
            "3": node("XAdd", a=["1", 0], b=["2", 0]),
            "9": node("XShow", value=["3", 0]),
        }
        executor = GraphExecutor(NODE_CLASS_MAPPINGS | {"Long": Long, "Failing": Failing})
        with pytest.raises(NodeFailedError, match=r"node 2 \(Failing\): no"):
            executor.run(graph)
        assert ended == [1]

    def test_progress_is_told_of_the_right_node(self):
        class Slow(XValue):
            async def give(self, value):
                await asyncio.sleep(0.02 * value)
                host().progress(1).update(1)
                return (value,)

        graph = {
            "1": node("Slow", value=2),
            "2": node("Slow", value=1),
            "3": node("XAdd", a=["1", 0], b=["2", 0]),
            "9": node("XShow", value=["3", 0]),
        }
        heard = events_of(GraphExecutor(NODE_CLASS_MAPPINGS | {"Slow": Slow}), graph)
        assert [data["node"] for event, data in heard if event == "progress"] == ["2", "1"]

    def test_cancelling_from_another_thread(self):
        owner = host()

        class Long(XValue):
            async def give(self, value):
                asyncio.get_running_loop().call_later(0.02, owner.cancel)
                await asyncio.sleep(60)

        graph = {"1": node("Long", value=1), "9": node("XShow", value=["1", 0])}
        started = time.monotonic()
        try:
            with pytest.raises(WorkCancelledError):
                GraphExecutor(NODE_CLASS_MAPPINGS | {"Long": Long}).run(graph)
        finally:
            owner.allow_work()
        assert time.monotonic() - started < 30

    def test_inside_a_running_event_loop(self, executor):
        graph = {"1": node("XSleep", value=1, seconds=0), "9": node("XShow", value=["1", 0])}

        async def run(inside):
            return executor.run(graph) if inside else await asyncio.to_thread(executor.run, graph)

        with pytest.raises(NodeFailedError, match=r"asyncio\.to_thread"):
            asyncio.run(run(True))
        assert shown(asyncio.run(run(False))) == ["2"]

    def test_asynchronous_questions(self):
        class Asking(NODE_CLASS_MAPPINGS["XChoose"]):
            @classmethod
            async def IS_CHANGED(cls, **_):
                await asyncio.sleep(0)
                return "same"

            async def check_lazy_status(self, first, a, b):
                await asyncio.sleep(0)
                return ["a"] if a is None else []

        graph = {
            "1": node("XValue", value=1),
            "2": node("Asking", first=True, a=["1", 0], b=["1", 0]),
            "9": node("XShow", value=["2", 0]),
        }
        executor = GraphExecutor(NODE_CLASS_MAPPINGS | {"Asking": Asking})
        assert shown(executor.run(graph)) == ["2"]
        assert executor.run(graph).executed == []
