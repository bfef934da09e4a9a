"""What ComfyUI's page asks of a workflow file of schema 0.4 before it opens it, and what it would put right in links.

Found with frontend 1.27.10: required fields and their types, and that a link is the same in the list of links, at the
output it leaves and at the input it reaches.
"""

import uuid
from collections.abc import Iterator
from typing import Any

NUMBER = (int, float)
WORKFLOW_FIELDS = {
    "last_node_id": int,
    "last_link_id": int,
    "nodes": list,
    "links": list,
    "groups": list,
    "config": dict,
    "extra": dict,
    "version": NUMBER,
}
NODE_FIELDS = {
    "id": int,
    "type": str,
    "pos": list,
    "size": list,
    "flags": dict,
    "order": int,
    "mode": int,
    "inputs": list,
    "outputs": list,
    "properties": dict,
}
GROUP_FIELDS = {"title": str, "bounding": list, "color": str}
VERSION = 0.4
MODES = (0, 1, 2, 3, 4)


def complaints(workflow: Any) -> list[str]:
    """Everything that is wrong with a workflow in UI form; empty for one that the page takes as it is."""
    found = list(_wrong_fields("workflow", workflow, WORKFLOW_FIELDS))
    return found or [*_about_the_whole(workflow), *_about_nodes(workflow), *_about_links(workflow)]


def _wrong_fields(what: str, entry: Any, fields: dict[str, Any]) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield f"{what} is not an object"
        return
    for name, kind in fields.items():
        if not isinstance(entry.get(name), kind) or isinstance(entry.get(name), bool):
            yield f"{what}: {name} is {entry.get(name)!r}"


def _about_the_whole(workflow: dict) -> Iterator[str]:
    if workflow["version"] != VERSION:
        yield f"version is {workflow['version']}"
    if "id" in workflow and not _is_uuid(workflow["id"]):
        yield f"id is {workflow['id']!r}"
    if not isinstance(workflow.get("revision", 0), int):
        yield f"revision is {workflow['revision']!r}"
    for number, group in enumerate(workflow["groups"]):
        yield from _wrong_fields(f"group {number}", group, GROUP_FIELDS)
        if not _are_numbers(group.get("bounding"), 4):
            yield f"group {number}: bounding is {group.get('bounding')!r}"


def _is_uuid(text: Any) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except (ValueError, TypeError, AttributeError):
        return False


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(isinstance(v, NUMBER) for v in values)


def _about_nodes(workflow: dict) -> Iterator[str]:
    nodes = workflow["nodes"]
    for node in nodes:
        what = f"node {node.get('id')!r}"
        yield from _wrong_fields(what, node, NODE_FIELDS)
        if not (_are_numbers(node.get("pos"), 2) and _are_numbers(node.get("size"), 2)):
            yield f"{what}: pos and size are {node.get('pos')!r} and {node.get('size')!r}"
        if node.get("mode") not in MODES:
            yield f"{what}: mode is {node.get('mode')!r}"
        for socket in [*node.get("inputs", []), *node.get("outputs", [])]:
            if not (isinstance(socket.get("name"), str) and socket.get("type")):
                yield f"{what}: a socket is {socket!r}"
    ids = [node.get("id") for node in nodes]
    if len(set(ids)) != len(ids):
        yield "two nodes have one id"
    if ids and workflow["last_node_id"] < max(ids):
        yield "last_node_id is below an id"


def _about_links(workflow: dict) -> Iterator[str]:
    nodes = {node["id"]: node for node in workflow["nodes"]}
    listed = set()
    for link in workflow["links"]:
        if not (isinstance(link, list) and len(link) == 6 and all(isinstance(end, int) for end in link[:5])):
            yield f"link {link!r} is not [id, from, slot, to, slot, type]"
            continue
        listed.add(link[0])
        yield from _wrong_ends(link, nodes)
    if len(listed) != len(workflow["links"]):
        yield "two links have one id"
    if listed and workflow["last_link_id"] < max(listed):
        yield "last_link_id is below an id"
    yield from _unlisted_links(nodes.values(), listed)


def _wrong_ends(link: list, nodes: dict[int, dict]) -> Iterator[str]:
    number, origin, origin_slot, target, target_slot, kind = link
    outputs = nodes.get(origin, {}).get("outputs", [])
    inputs = nodes.get(target, {}).get("inputs", [])
    if origin_slot >= len(outputs) or number not in (outputs[origin_slot]["links"] or []):
        yield f"link {number} does not leave node {origin}"
    elif outputs[origin_slot]["type"] != kind:
        yield f"link {number} is {kind}, but leaves {outputs[origin_slot]['type']}"
    if target_slot >= len(inputs) or inputs[target_slot]["link"] != number:
        yield f"link {number} does not reach node {target}"
    elif inputs[target_slot]["type"] not in (kind, "*"):
        yield f"link {number} is {kind}, but reaches {inputs[target_slot]['type']}"


def _unlisted_links(nodes: Any, listed: set[int]) -> Iterator[str]:
    for node in nodes:
        at_inputs = {entry["link"] for entry in node["inputs"]} - {None}
        at_outputs = {number for entry in node["outputs"] for number in entry["links"] or []}
        for number in sorted((at_inputs | at_outputs) - listed):
            yield f"node {node['id']} uses link {number}, which is not listed"
