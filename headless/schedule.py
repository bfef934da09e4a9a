"""Which node runs next."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from .class_facts import ClassFacts
from .expanding_graph import ExpandingGraph
from .graph import links_of


class DependencyCycleError(ValueError):
    """Nodes wait for each other, so that none of them can run."""


class Schedule:
    """The nodes still to run and what each waits for. Lazy inputs are waited for only when asked for."""

    def __init__(self, graph: ExpandingGraph, facts: ClassFacts, is_done: Callable[[str], bool]) -> None:
        """is_done: says whether a node's result is there already."""
        self._graph, self._facts, self._is_done = graph, facts, is_done
        self._waits_for: dict[str, set[str]] = {}
        self._ready: set[str] = set()
        self._places: dict[str, int] = {}
        self._added = itertools.count()
        self._needed_by: dict[str, dict[str, None]] = {}
        self._held: set[str] = set()

    def add(self, node_id: str) -> None:
        """Add a node and all that it needs."""
        waiting = [node_id]
        while waiting:
            current = waiting.pop()
            if current in self._waits_for:
                continue
            self._waits_for[current] = set()
            self._ready.add(current)
            self._places[current] = next(self._added)
            self._needed_by.setdefault(current, {})
            for origin in self._eager_origins(current):
                self._link(origin, current)
                waiting.append(origin)

    def _eager_origins(self, node_id: str) -> list[str]:
        node = self._graph.get_node(node_id)
        return [
            origin
            for name, origin, _ in links_of(node)
            if not self._facts.is_lazy(node["class_type"], name) and not self._is_done(origin)
        ]

    def _link(self, origin: str, node_id: str) -> None:
        self._waits_for[node_id].add(origin)
        self._ready.discard(node_id)
        self._needed_by.setdefault(origin, {})[node_id] = None

    def wait_for(self, node_id: str, origin: str) -> None:
        """Make a node wait for another one, unless that one's result is there."""
        if not self._is_done(origin):
            self.add(origin)
            self._link(origin, node_id)

    def wait_for_input(self, node_id: str, name: str) -> None:
        """Make a node wait for the origin of one of its lazy inputs."""
        origins = {link_name: origin for link_name, origin, _ in links_of(self._graph.get_node(node_id))}
        if name not in origins:
            raise ValueError(f"check_lazy_status asks for input {name!r}, which is not linked to anything")
        self.wait_for(node_id, origins[name])

    def hold(self, node_id: str) -> None:
        """Keep a node from coming up until `release`: its work goes on elsewhere."""
        self._held.add(node_id)

    def release(self, node_id: str) -> None:
        """Let a held node come up again."""
        self._held.discard(node_id)

    def __bool__(self) -> bool:
        return bool(self._waits_for)

    @property
    def pending(self) -> list[str]:
        """The nodes still to run."""
        return list(self._waits_for)

    def next_node(self) -> str | None:
        """Return a node that waits for nothing; None when all such nodes are held.

        Output nodes and asynchronous ones come first, then those that feed an output node, then those that feed
        one of these: as in ComfyUI, results show as soon as they can.
        Raises DependencyCycleError when all that is left waits in a circle.
        """
        ready = self._ready - self._held
        if ready:
            return min(ready, key=lambda node_id: (self._rank(node_id), self._places[node_id]))
        if self._held:
            return None
        raise DependencyCycleError(f"dependency cycle among nodes {', '.join(self._waits_for)}")

    def _rank(self, node_id: str) -> int:
        class_type = self._graph.get_node(node_id)["class_type"]
        if self._facts.is_output(class_type) or self._facts.is_asynchronous(class_type):
            return 0
        following = self._needed_by[node_id]
        if any(map(self._is_output, following)):
            return 1
        return 2 if any(self._is_output(far) for near in following for far in self._needed_by[near]) else 3

    def finish(self, node_id: str) -> None:
        """Note that a node has run."""
        del self._waits_for[node_id], self._places[node_id]
        self._ready.discard(node_id)
        for following in self._needed_by.pop(node_id):
            self._waits_for[following].discard(node_id)
            if not self._waits_for[following]:
                self._ready.add(following)

    def _is_output(self, node_id: str) -> bool:
        return self._facts.is_output(self._graph.get_node(node_id)["class_type"])
