"""What an executor keeps from run to run: results of nodes, and the nodes' own objects."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from .expanding_graph import Scope
from .node_call import NodeOutput

ResultKey = tuple[Scope, int]
"""Where a node belongs and its signature: what expanded from two nodes is never shared between them."""


class KeptResults:
    """Results by the nodes' signatures, objects by the nodes' ids.

    As with ComfyUI's classic cache, only what the last graph had is kept; what a node expanded into is kept as long
    as that node is there.
    """

    def __init__(self) -> None:
        self.results: dict[ResultKey, NodeOutput] = {}
        self._objects: dict[tuple[Scope, tuple[str, str]], Any] = {}

    def node_object(self, scope: Scope, name: tuple[str, str], make: Callable[[], Any]) -> Any:
        """Return the object of a node, name = (id, class), made when there is none."""
        if (scope, name) not in self._objects:
            self._objects[scope, name] = make()
        return self._objects[scope, name]

    def keep_only(self, scope: Scope, names: Collection[tuple[str, str]], numbers: Collection[int]) -> None:
        """Forget what is in a scope but not of these nodes, (id, class), or of what they expanded into.

        numbers: the nodes' signatures.
        """
        for key in list(self.results):
            if not _stays(key[0], scope, names, key[1] in numbers):
                del self.results[key]
        for key in list(self._objects):
            if not _stays(key[0], scope, names, key[1] in names):
                del self._objects[key]

    def clear_results(self, needed: Collection[ResultKey] = ()) -> None:
        """Forget all results but these."""
        for key in set(self.results).difference(needed):
            del self.results[key]

    def forget(self, unwanted: Callable[[NodeOutput], bool]) -> None:
        """Forget the results that are unwanted; all of them if one came from inside of a node that expanded.

        The expanded node would have to expand again, and which one that is cannot be told from a signature.
        """
        keys = {key for key, result in self.results.items() if unwanted(result)}
        self.clear_results([] if any(scope for scope, _ in keys) else set(self.results) - keys)

    @property
    def numbers(self) -> set[int]:
        """Signatures of all that is kept."""
        return {number for _, number in self.results}


def _stays(place: Scope, scope: Scope, names: Collection[tuple[str, str]], wanted: bool) -> bool:
    """Say whether something at `place` stays when only `names` remain in `scope`."""
    if place[: len(scope)] != scope:
        return True
    return wanted if len(place) == len(scope) else place[len(scope)] in names
