"""What the headless runner itself costs: time per node of graphs whose nodes do nothing, and of starting the command.

    python benchmarks/headless_overhead.py [--nodes 30] [--runs 200]

Results go to standard output, one line each: a chain of trivial nodes whose results are all kept from the run
before, the same with a constant changed so that all run, with events written as lines of JSON, one node that expands
into the chain, and shipped workflows with every result kept, where asking the classes costs most.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from talking_portrait.headless.class_facts import ClassFacts
from talking_portrait.headless.events import JsonEventLines
from talking_portrait.headless.executor import GraphExecutor
from talking_portrait.headless.expanding_graph import ExpandingGraph
from talking_portrait.headless.registry import node_classes
from talking_portrait.headless.signatures import Signatures
from talking_portrait.headless.validation import validate_graph
from talking_portrait.runtime.node_graphs import graph_builder

ROOT = Path(__file__).resolve().parent.parent
Graph = dict[str, dict[str, Any]]


class Plus:
    """Adds two numbers."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"a": ("INT", {}), "b": ("INT", {"default": 1, "min": -(10**9), "max": 10**9})}}

    def run(self, a: int, b: int) -> tuple[int]:
        return (a + b,)


class Chain(Plus):
    """Expands into `b` additions."""

    def run(self, a: int, b: int) -> Any:
        graph, last = graph_builder(), a
        for _ in range(b):
            last = graph.node("Plus", a=last, b=1).out(0)
        return {"result": (last,), "expand": graph.finalize()}


class Show(Plus):
    """The output node."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True

    def run(self, a: int, b: int) -> dict[str, Any]:
        return {"ui": {"text": [a]}}


CLASSES = {node_class.__name__: node_class for node_class in (Plus, Chain, Show)}


def chain(count: int, first: int = 0) -> Graph:
    """Return a graph of `count` nodes, each linked to the one before."""
    graph: Graph = {"0": {"class_type": "Plus", "inputs": {"a": first, "b": 1}}}
    for number in range(1, count - 1):
        graph[str(number)] = {"class_type": "Plus", "inputs": {"a": [str(number - 1), 0], "b": 1}}
    graph["show"] = {"class_type": "Show", "inputs": {"a": [str(count - 2), 0], "b": 1}}
    return graph


def expanding(count: int, first: int = 0) -> Graph:
    """Return a graph whose first node expands into `count` nodes."""
    return {
        "0": {"class_type": "Chain", "inputs": {"a": first, "b": count}},
        "show": {"class_type": "Show", "inputs": {"a": ["0", 0], "b": 1}},
    }


def median_milliseconds(work: Callable[[int], Any], runs: int) -> float:
    """Return the median time of `work`, given the number of the run."""
    times = []
    for run in range(runs):
        started = time.perf_counter()
        work(run)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def report(name: str, milliseconds: float, nodes: int) -> None:
    """Write one result."""
    sys.stdout.write(
        f"{name:48} {milliseconds / nodes:8.4f} ms per node ({nodes} nodes, {milliseconds:.2f} ms)\n"
    )


def measure_chains(nodes: int, runs: int) -> None:
    """Measure graphs of trivial nodes."""
    executor = GraphExecutor(CLASSES)
    graph = chain(nodes)
    executor.run(graph)
    report("kept results", median_milliseconds(lambda _: executor.run(graph), runs), nodes)
    changed = median_milliseconds(lambda run: executor.run(chain(nodes, run + 1)), runs)
    report("all run", changed, nodes)
    dropping = GraphExecutor(CLASSES, keep_results=False)
    report("all run, nothing kept", median_milliseconds(lambda _: dropping.run(graph), runs), nodes)
    lines = JsonEventLines(io.StringIO())
    told = median_milliseconds(lambda run: executor.run(chain(nodes, -run - 1), listener=lines), runs)
    report("all run, events as lines of JSON", told, nodes)
    grown = median_milliseconds(lambda run: executor.run(expanding(nodes, run)), runs)
    report("all run, expanded from one node", grown, nodes)


def measure_shipped(runs: int) -> None:
    """Measure checking and signing of shipped workflows, which is all that happens when every result is kept."""
    classes = node_classes()
    for path in sorted((ROOT / "workflows" / "api").glob("*.json")):
        graph = json.loads(path.read_text())
        if any(node["class_type"] not in classes for node in graph.values()):
            continue

        def prepare(_: int, graph: Graph = graph) -> None:
            validation = validate_graph(graph, classes)
            Signatures().add(validation.outputs, ExpandingGraph(graph), ClassFacts(classes), {})

        report(f"checking and signing {path.stem}", median_milliseconds(prepare, runs), len(graph))


def measure_start(runs: int) -> None:
    """Measure how long a fresh process takes to import the command line and build its parser."""
    code = "import talking_portrait.headless.command_line as c; c.build_parser()"
    for name, text in (("an empty process", "pass"), ("import of the command line", code)):
        command = [sys.executable, "-c", text]
        took = median_milliseconds(lambda _, command=command: subprocess.run(command, check=True), runs)
        sys.stdout.write(f"{name:48} {took:8.0f} ms\n")


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    measure_chains(options.nodes, options.runs)
    measure_shipped(max(3, options.runs // 20))
    measure_start(max(3, options.runs // 20))


if __name__ == "__main__":
    main()
