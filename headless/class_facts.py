"""What is asked about node classes over and over while a graph runs, found out once per run.

A class may list the files of a folder among its inputs, so that asking it costs time and may change between runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from .graph import Graph, InputSpecification, NodeClasses, input_specifications, is_output_node


class ClassFacts:
    """Facts about the classes of a graph's nodes."""

    def __init__(self, classes: NodeClasses) -> None:
        self.classes = classes
        self._specifications: dict[str, dict[str, InputSpecification]] = {}

    def specifications(self, class_type: str) -> Mapping[str, InputSpecification]:
        """Return the declared inputs of a class."""
        if class_type not in self._specifications:
            self._specifications[class_type] = input_specifications(self.classes[class_type])
        return self._specifications[class_type]

    def is_lazy(self, class_type: str, name: str) -> bool:
        """Say whether an input is evaluated only when the node asks for it."""
        specification = self.specifications(class_type).get(name)
        return specification is not None and bool(specification.options.get("lazy"))

    def takes_links(self, class_type: str, name: str) -> bool:
        """Say whether a node is given a link itself at this input, in the place of what it leads to."""
        specification = self.specifications(class_type).get(name)
        return specification is not None and bool(specification.options.get("rawLink"))

    def is_output(self, class_type: str) -> bool:
        """Say whether a node runs even if nothing needs its outputs."""
        return is_output_node(self.classes[class_type])

    def is_asynchronous(self, class_type: str) -> bool:
        """Say whether a node's function is asynchronous."""
        node_class = self.classes[class_type]
        return inspect.iscoroutinefunction(getattr(node_class, getattr(node_class, "FUNCTION", ""), None))

    def has_hidden(self, class_type: str, kind: str) -> bool:
        """Say whether a node is given a hidden input, such as "UNIQUE_ID"."""
        specifications = self.specifications(class_type).values()
        return any(entry.category == "hidden" and entry.type == kind for entry in specifications)

    def sees_graph(self, graph: Graph) -> bool:
        """Say whether a node may look at the whole graph, so that it may link to any node of it."""
        return any(self.has_hidden(node["class_type"], "DYNPROMPT") for node in graph.values())
