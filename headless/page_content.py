"""What a workflow in UI form says about nodes and links, checked, in both of the page's serialisations.

Node and link ids are texts here, whatever they are in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .graph import WorkflowError

MUTED, BYPASSED = 2, 4
"""Modes of a node that does not run; a bypassed one passes its inputs on."""

LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
"""Of a link, by name in schema 1, in this order in schema 0.4."""

NO_SLOT = -1


@dataclass(frozen=True)
class PageLink:
    """A link. Slots count from 0; NO_SLOT is one that the file does not tell."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(frozen=True)
class PageSocket:
    """An input of a node that is drawn with a socket. link: the link's id. is_widget: whether it has a widget too."""

    name: str
    type: Any
    link: str | None
    is_widget: bool


@dataclass(frozen=True)
class PageNode:
    """A node. title: its own, None for that of its type. values: its `widgets_values`, whatever they are.

    pack: where its type comes from, with the version, as far as the file says it: the page stores the pack's name in
    the registry as `cnr_id`, or its GitHub name as `aux_id`, and its version as `ver`.
    """

    id: str
    type: str
    mode: int
    title: str | None
    sockets: tuple[PageSocket, ...]
    output_types: tuple[Any, ...]
    values: Any
    pack: str | None

    @property
    def is_off(self) -> bool:
        """Whether it is muted or bypassed."""
        return self.mode in (MUTED, BYPASSED)

    @property
    def first_value(self) -> Any:
        """The value of its first widget, None without one."""
        return self.values[0] if isinstance(self.values, list) and self.values else None


@dataclass(frozen=True)
class PageContent:
    """The nodes and links of a graph, or of a subgraph's definition, by id. input_names: of a subgraph, by slot."""

    nodes: Mapping[str, PageNode]
    links: Mapping[str, PageLink]
    input_names: tuple[str, ...] = ()


def page_content(content: Mapping[str, Any]) -> PageContent:
    """Return the nodes and links of a graph, or of a subgraph's definition.

    Raises WorkflowError for what is not in UI form, nodes without id or type, ids that come twice, and links that do
    not say whence and whereto.
    """
    nodes = content.get("nodes")
    if not isinstance(nodes, list):
        raise WorkflowError("this is not a workflow in UI form: it has no list of nodes")
    return PageContent(
        _by_id([_node(node) for node in nodes]),
        dict(_link(link) for link in _items(content.get("links")) if link is not None),
        tuple(str(entry.get("name")) for entry in _mappings(content.get("inputs"))),
    )


def page_subgraphs(workflow: Mapping[str, Any]) -> dict[str, PageContent]:
    """Return {type of its instances: content} of the subgraphs that a workflow defines."""
    definitions = workflow.get("definitions")
    listed = _mappings(definitions.get("subgraphs")) if isinstance(definitions, Mapping) else []
    return {str(definition.get("id")): page_content(definition) for definition in listed}


def packs_of_types(contents: Iterable[PageContent]) -> dict[str, str]:
    """Return {node type: pack it comes from} as far as the file says it."""
    nodes = (node for content in contents for node in content.nodes.values())
    return {node.type: node.pack for node in nodes if node.pack is not None}


def _by_id(nodes: list[PageNode]) -> dict[str, PageNode]:
    found: dict[str, PageNode] = {}
    for node in nodes:
        if node.id in found:
            raise WorkflowError(f"the workflow is broken: two of its nodes have the id {node.id}")
        found[node.id] = node
    return found


def _node(node: Any) -> PageNode:
    if not isinstance(node, Mapping) or "id" not in node or not isinstance(node.get("type"), str):
        raise WorkflowError(
            f"this is not a workflow in UI form: its node {_shown(node)} lacks an id or a type"
        )
    number, title = _identity(node["id"], "node"), node.get("title")
    return PageNode(
        id=number,
        type=node["type"],
        mode=node["mode"] if isinstance(node.get("mode"), int) else 0,
        title=title if isinstance(title, str) and title else None,
        sockets=tuple(_socket(socket, number) for socket in _items(node.get("inputs"))),
        output_types=tuple(output.get("type", "*") for output in _mappings(node.get("outputs"))),
        values=node.get("widgets_values"),
        pack=_pack(node.get("properties")),
    )


def _pack(properties: Any) -> str | None:
    if not isinstance(properties, Mapping):
        return None
    name = properties.get("cnr_id") or properties.get("aux_id")
    return f"{_shown(name)} {_shown(properties.get('ver') or '')}".strip() if name else None


def _socket(socket: Any, node_id: str) -> PageSocket:
    if not isinstance(socket, Mapping) or not isinstance(socket.get("name"), str):
        raise WorkflowError(
            f"the workflow is broken: an input of node {node_id} is {_shown(socket)}, without a name"
        )
    link = socket.get("link")
    return PageSocket(
        name=socket["name"],
        type=socket.get("type", "*"),
        link=None if link is None else _identity(link, "link"),
        is_widget=bool(socket.get("widget")),
    )


def _link(link: Any) -> tuple[str, PageLink]:
    if isinstance(link, Mapping):
        fields = [link.get(name) for name in LINK_FIELDS]
    else:
        fields = link if isinstance(link, list) else []
    if len(fields) < len(LINK_FIELDS) or any(fields[index] is None for index in (0, 1, 3)):
        raise WorkflowError(
            f"the workflow is broken: one of its links is {_shown(link)}, expected {', '.join(LINK_FIELDS)}"
        )
    number, origin, origin_slot, target, target_slot = fields[: len(LINK_FIELDS)]
    ends = _identity(origin, "node"), _slot(origin_slot), _identity(target, "node"), _slot(target_slot)
    return _identity(number, "link"), PageLink(*ends)


def _identity(value: Any, kind: str) -> str:
    """Return an id as text; 3, 3.0 and "3" are the same."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise WorkflowError(f"the workflow is broken: {_shown(value)} is not the id of a {kind}")
    return _shown(value) if isinstance(value, int) else value


def _slot(value: Any) -> int:
    known = isinstance(value, int | float) and value == value // 1 and value >= 0
    return int(value) if known else NO_SLOT


def _items(value: Any) -> list[Any]:
    """Return a list of the file, empty where it has none; newer pages write some as objects by id."""
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in _items(value) if isinstance(item, Mapping)]


def _shown(value: Any) -> str:
    try:
        return str(value)[:80]
    except ValueError:  # a number of thousands of digits
        return "a number of very many digits"
