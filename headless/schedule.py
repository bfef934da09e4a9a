"""Which node runs next."""

from __future__ import annotations

from .graph import Graph, NodeClasses, input_specifications, is_output_node, links_of


class Schedule:
    """The nodes still to run and what each waits for. Lazy inputs are waited for only when asked for."""

    def __init__(self, graph: Graph, node_classes: NodeClasses, done: set[str]) -> None:
        """done: nodes whose results are there already; the caller adds to it as nodes finish."""
        self._graph, self._classes, self._done = graph, node_classes, done
        self._waits_for: dict[str, set[str]] = {}

    def add(self, node_id: str) -> None:
        """Add a node and all that it needs."""
        waiting = [node_id]
        while waiting:
            current = waiting.pop()
            if current in self._waits_for:
                continue
            node_class = self._classes[self._graph[current]["class_type"]]
            specifications = input_specifications(node_class)
            eager = {
                origin
                for name, origin, _ in links_of(self._graph[current])
                if not (name in specifications and specifications[name].options.get("lazy"))
            }
            self._waits_for[current] = eager - self._done
            waiting += sorted(self._waits_for[current])

    def wait_for_input(self, node_id: str, name: str) -> None:
        """Make a node wait for the origin of one of its lazy inputs."""
        origins = {link_name: origin for link_name, origin, _ in links_of(self._graph[node_id])}
        if name not in origins:
            raise ValueError(f"check_lazy_status asks for input {name!r}, which is not linked to anything")
        if origins[name] not in self._done:
            self._waits_for[node_id].add(origins[name])
            self.add(origins[name])

    def __bool__(self) -> bool:
        return bool(self._waits_for)

    @property
    def pending(self) -> list[str]:
        """The nodes still to run."""
        return list(self._waits_for)

    def next_node(self) -> str:
        """Return a node that waits for nothing: an output node first, then one that feeds an output node.

        Raises ValueError when all that is left waits in a circle.
        """
        ready = [node_id for node_id, waits in self._waits_for.items() if not waits]
        if not ready:
            raise ValueError(f"dependency cycle among nodes {', '.join(self._waits_for)}")
        feeding = {
            origin
            for node_id, waits in self._waits_for.items()
            if self._is_output(node_id)
            for origin in waits
        }
        return min(ready, key=lambda node_id: (not self._is_output(node_id), node_id not in feeding))

    def finish(self, node_id: str) -> None:
        """Note that a node has run."""
        del self._waits_for[node_id]
        for waits in self._waits_for.values():
            waits.discard(node_id)

    def _is_output(self, node_id: str) -> bool:
        return is_output_node(self._classes[self._graph[node_id]["class_type"]])
