"""Running graphs by ComfyUI's rules."""

import pytest
from talking_portrait.headless.executor import GraphExecutor, NodeFailedError
from talking_portrait.headless.graph import ExecutionBlocker
from talking_portrait.headless.validation import GraphValidationError
from talking_portrait.runtime.host import StandaloneHost, WorkCancelledError, host


@pytest.fixture
def run(tiny_classes):
    """Run a graph with further classes and return its report."""

    def once(graph, *more, **options):
        executor = GraphExecutor(tiny_classes | {c.__name__: c for c in more}, **options)
        return executor.run(graph)

    return once


def shown(report, node_id="9"):
    return report.ui[node_id]["value"]


def test_chain(run, node):
    graph = {
        "1": node("Number", value=3),
        "2": node("Add", a=["1", 0], b=10),
        "3": node("Add", a=["2", 0], b=["1", 0], c=100),
        "9": node("Show", value=["3", 0]),
    }
    assert shown(run(graph)) == [116]


def test_runs_only_what_outputs_need(run, node):
    graph = {"1": node("Number", value=3), "2": node("Number", value=4), "9": node("Show", value=["1", 0])}
    assert set(run(graph).executed) == {"1", "9"}


def test_refuses_a_bad_graph_before_anything_runs(run, node):
    graph = {
        "1": node("Number", value=1000),
        "2": node("Number", value=1),
        "8": node("Show", value=["2", 0]),
        "9": node("Show", value=["1", 0]),
    }
    with pytest.raises(GraphValidationError, match="bigger than max"):
        run(graph)


def test_graph_given_stays_as_it_is(run, node):
    graph = {"1": node("Number", value="3"), "9": node("Show", value=["1", 0])}
    run(graph)
    assert graph["1"]["inputs"]["value"] == "3"


class Several:
    RETURN_TYPES = ("INT", "INT")
    OUTPUT_IS_LIST = (True, False)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {})}}

    def give(self, count):
        return list(range(count)), count


class Gather:
    RETURN_TYPES = ("INT",)
    INPUT_IS_LIST = True
    FUNCTION = "gather"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"values": ("INT",), "extra": ("INT", {"default": 0})}}

    def gather(self, values, extra):
        return (sum(values) * 100 + extra[0],)


def test_lists_are_mapped_and_shorter_ones_repeat_their_last_item(run, node):
    graph = {
        "1": node("Several", count=4),
        "2": node("Several", count=2),
        "3": node("Add", a=["1", 0], b=["2", 0]),
        "9": node("Show", value=["3", 0]),
    }
    assert shown(run(graph, Several)) == [0, 2, 3, 4]


def test_node_that_wants_lists_is_called_once_with_everything_in_lists(run, node):
    graph = {
        "1": node("Several", count=4),
        "2": node("Gather", values=["1", 0], extra=7),
        "9": node("Show", value=["2", 0]),
    }
    assert shown(run(graph, Several, Gather)) == [607]


def test_list_outputs_are_concatenated_over_calls_and_others_collected(run, node):
    graph = {
        "1": node("Several", count=3),
        "2": node("Several", count=["1", 0]),
        "8": node("Show", value=["2", 1]),
        "9": node("Show", value=["2", 0]),
    }
    report = run(graph, Several)
    assert shown(report) == [0, 0, 1]
    assert shown(report, "8") == [0, 1, 2]


def test_empty_list_into_a_mapped_node_fails(run, node):
    graph = {"1": node("Several", count=0), "9": node("Show", value=["1", 0])}
    with pytest.raises(NodeFailedError, match="list index out of range"):
        run(graph, Several)


class Choose:
    """Evaluates only the branch that is wanted."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "choose"

    @classmethod
    def INPUT_TYPES(cls):
        lazy = ("INT", {"lazy": True})
        return {"required": {"first": ("BOOLEAN", {}), "a": lazy, "b": lazy}}

    def check_lazy_status(self, first, a, b):
        wanted, value = ("a", a) if first else ("b", b)
        return [wanted] if value is None else []

    def choose(self, first, a, b):
        return (a if first else b,)


@pytest.mark.parametrize(("first", "value", "origin"), [(True, 1, "1"), (False, 2, "2")])
@pytest.mark.parametrize("keep", [True, False])
def test_lazy_inputs_run_only_when_asked_for(run, node, first, value, origin, keep):
    graph = {
        "1": node("Number", value=1),
        "2": node("Number", value=2),
        "3": node("Choose", first=first, a=["1", 0], b=["2", 0]),
        "9": node("Show", value=["3", 0]),
    }
    report = run(graph, Choose, keep_results=keep)
    assert shown(report) == [value]
    assert set(report.executed) == {origin, "3", "9"}


class Told:
    """Gives its hidden inputs."""

    RETURN_TYPES = ("*",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        hidden = {"me": "UNIQUE_ID", "graph": "PROMPT", "extra": "EXTRA_PNGINFO", "view": "DYNPROMPT"}
        return {"required": {}, "hidden": hidden}

    def give(self, me, graph, extra, view):
        return ((me, graph[me]["class_type"], extra, view.get_node(me)["class_type"]),)


def test_hidden_inputs(tiny_classes, node):
    graph = {"5": node("Told"), "9": node("Show", value=["5", 0])}
    executor = GraphExecutor(tiny_classes | {"Told": Told})
    report = executor.run(graph, {"nodes": []})
    assert shown(report) == [("5", "Told", {"workflow": {"nodes": []}}, "Told")]
    assert shown(GraphExecutor(tiny_classes | {"Told": Told}).run(graph))[0][2] is None


class TestResultsKeptBetweenRuns:
    @pytest.fixture
    def executor(self, tiny_classes):
        return GraphExecutor(tiny_classes | {c.__name__: c for c in (Told, Dated, Forgetful)})

    def graph(self, node, value=3, ids=("1", "2", "9")):
        first, second, last = ids
        return {
            first: node("Number", value=value),
            second: node("Add", a=[first, 0], b=1),
            last: node("Show", value=[second, 0]),
        }

    def test_same_graph_runs_nothing_and_still_shows(self, executor, node):
        executor.run(self.graph(node))
        again = executor.run(self.graph(node))
        assert again.executed == []
        assert shown(again) == [4]

    def test_ids_do_not_matter(self, executor, node):
        executor.run(self.graph(node))
        assert executor.run(self.graph(node, ids=("a", "b", "c"))).executed == []

    def test_change_runs_what_is_downstream(self, executor, node):
        executor.run(self.graph(node) | {"8": node("Show", value=7)})
        again = executor.run(self.graph(node, value=4) | {"8": node("Show", value=7)})
        assert set(again.executed) == {"1", "2", "9"}
        assert shown(again) == [5]

    def test_only_the_last_graph_is_remembered(self, executor, node):
        executor.run(self.graph(node))
        executor.run(self.graph(node, value=4))
        assert executor.run(self.graph(node)).executed != []

    def test_node_that_knows_its_id_runs_again_under_another(self, executor, node):
        executor.run({"5": node("Told"), "9": node("Show", value=["5", 0])})
        assert executor.run({"6": node("Told"), "9": node("Show", value=["6", 0])}).executed == ["6", "9"]

    def test_is_changed(self, executor, node):
        graph = {"1": node("Dated", key="same"), "9": node("Show", value=["1", 0])}
        executor.run(graph)
        assert executor.run(graph).executed == []
        graph["1"]["inputs"]["key"] = "always"
        executor.run(graph)
        assert executor.run(graph).executed == ["1", "9"]

    def test_is_changed_that_fails_runs_the_node(self, executor, node):
        graph = {"1": node("Dated", key="broken"), "9": node("Show", value=["1", 0])}
        executor.run(graph)
        assert executor.run(graph).executed == ["1", "9"]

    def test_nodes_keep_their_objects(self, executor, node):
        graph = {"1": node("Forgetful"), "9": node("Show", value=["1", 0])}
        assert shown(executor.run(graph)) == [1]
        assert shown(executor.run(graph)) == [2]


class Dated:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"key": ("STRING", {})}}

    @classmethod
    def IS_CHANGED(cls, key):
        if key == "broken":
            raise OSError("gone")
        return float("NaN") if key == "always" else key

    def give(self, key):
        return (key,)


class Forgetful:
    """Counts its calls; never the same."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "count"

    def __init__(self):
        self.calls = 0

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls):
        return float("NaN")

    def count(self):
        self.calls += 1
        return (self.calls,)


class Block:
    RETURN_TYPES = ("INT",)
    FUNCTION = "block"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"why": ("STRING", {})}}

    def block(self, why):
        return ExecutionBlocker(why or None)


def test_blocker_skips_what_it_reaches_and_nothing_else(run, node):
    graph = {
        "1": node("Block", why=""),
        "2": node("Add", a=["1", 0], b=1),
        "8": node("Show", value=["2", 0]),
        "9": node("Show", value=5),
    }
    report = run(graph, Block)
    assert shown(report) == [5]
    assert "8" not in report.ui
    assert report.blocked == []


def test_blocker_with_a_message_is_told_once(run, node):
    graph = {
        "1": node("Block", why="no face"),
        "2": node("Add", a=["1", 0], b=1),
        "9": node("Show", value=["2", 0]),
    }
    assert run(graph, Block).blocked == ["node 2 (Add): no face"]


class Failing:
    RETURN_TYPES = ("INT",)
    FUNCTION = "fail"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": ("STRING", {})}}

    def fail(self, kind):
        if kind == "wrong":
            raise ValueError("the picture is 1x1")
        if kind == "cancel":
            raise WorkCancelledError("cancelled")
        if kind == "expand":
            return {"result": (1,), "expand": {"x": {"class_type": "Nothing", "inputs": {}}}}
        if kind == "short":
            return ()
        raise KeyError("x")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("wrong", r"node 4 \(a title\): the picture is 1x1"),
        ("odd", r"node 4 \(a title\): KeyError: 'x'"),
        ("expand", "expands into unknown node types: Nothing"),
        ("short", "expected a tuple of 1 values"),
    ],
)
def test_first_error_ends_the_run_and_names_the_node(run, node, kind, message):
    graph = {"4": node("Failing", kind=kind), "9": node("Show", value=["4", 0])}
    graph["4"]["_meta"] = {"title": "a title"}
    with pytest.raises(NodeFailedError, match=message) as caught:
        run(graph, Failing)
    assert caught.value.node_id == "4"
    assert caught.value.__cause__ is not None


def test_cancelling_is_not_an_error_of_the_node(run, node):
    with pytest.raises(WorkCancelledError):
        run({"4": node("Failing", kind="cancel"), "9": node("Show", value=["4", 0])}, Failing)


def test_cancelled_host_runs_nothing(run, node):
    owner = host()
    assert isinstance(owner, StandaloneHost)
    owner.cancel()
    try:
        with pytest.raises(WorkCancelledError):
            run({"9": node("Show", value=1)})
    finally:
        owner.allow_work()


class Slowly:
    RETURN_TYPES = ("INT",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {})}}

    async def give(self, value):
        return (value + 1,)


def test_asynchronous_node(run, node):
    assert shown(run({"1": node("Slowly", value=1), "9": node("Show", value=["1", 0])}, Slowly)) == [2]


def test_results_nobody_waits_for_are_dropped(tiny_classes, node):
    graph = {
        "1": node("Number", value=1),
        "2": node("Add", a=["1", 0], b=1),
        "3": node("Add", a=["2", 0], b=["1", 0]),
        "9": node("Show", value=["3", 0]),
    }
    kept = GraphExecutor(tiny_classes).run(graph)
    assert set(kept.values) == {"1", "2", "3", "9"}
    held = []
    executor = GraphExecutor(
        tiny_classes,
        listener=lambda event, data: held.append((event, len(executor._kept.results))),
        keep_results=False,
    )
    report = executor.run(graph)
    assert shown(report) == [3]
    assert report.values == {}
    assert max(count for event, count in held if event == "executing") <= 2


def test_output_nodes_run_as_soon_as_they_can(tiny_classes, node):
    graph = {
        "1": node("Number", value=1),
        "2": node("Add", a=["1", 0], b=1),
        "8": node("Show", value=["2", 0]),
        "9": node("Show", value=["1", 0]),
    }
    order = GraphExecutor(tiny_classes).run(graph).executed
    assert order.index("9") < order.index("2")


def test_nodes_run_in_inference_mode(run, node):
    import torch

    class Mode(Show):
        def show(self, value):
            return {"ui": {"value": [torch.is_inference_mode_enabled()]}}

    assert shown(run({"9": node("Mode", value=1)}, Mode)) == [True]


class Show:
    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*",)}}
