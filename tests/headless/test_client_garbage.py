"""Whatever a server answers, the client makes sense of it or refuses it: no answer breaks it."""

import contextlib
import json
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.headless import server_api
from talking_portrait.headless.client import Client, ComfyUIServer, ServerRunError, ServerUnreachableError
from talking_portrait.headless.graph import WorkflowError
from talking_portrait.headless.server_events import RunTelling, event_of
from talking_portrait.headless.server_files import saved_references
from talking_portrait.headless.server_run import refusal
from talking_portrait.headless.websocket import BINARY, TEXT, WebSocket

from .fake_comfyui import GRAPH, OBJECT_INFO

WORDS = st.sampled_from(
    [
        "nodes",
        "node",
        "output",
        "images",
        "filename",
        "subfolder",
        "type",
        "input",
        "required",
        "messages",
        "x",
    ]
) | st.text(max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)
EVENT_NAMES = st.sampled_from(
    [
        *("execution_start", "execution_cached", "executing", "progress", "progress_state", "executed"),
        *("execution_success", "execution_error", "execution_interrupted", "status"),
    ]
)
MANY = settings(max_examples=60, deadline=None)


@MANY
@given(
    kind=st.sampled_from([TEXT, BINARY]),
    payload=st.binary(max_size=40) | JSON.map(lambda x: json.dumps(x).encode()),
)
def test_any_message_is_an_event_or_none(kind, payload):
    event = event_of(kind, payload)
    assert event is None or (isinstance(event[0], str) and isinstance(event[1], dict))


@MANY
@given(
    events=st.lists(st.tuples(EVENT_NAMES, st.dictionaries(WORDS, JSON, max_size=4)), max_size=6),
    entry=st.fixed_dictionaries({"outputs": st.dictionaries(WORDS, JSON, max_size=3), "status": JSON}),
    messages=st.lists(st.tuples(EVENT_NAMES, JSON), max_size=3),
)
def test_any_events_and_any_history_end_once(events, entry, messages):
    told = []
    telling = RunTelling("run", lambda name, data: told.append((name, data)))
    for name, data in events:
        event = event_of(TEXT, json.dumps({"type": name, "data": data}).encode())
        if event is not None:
            telling.hear(*event)
    telling.finish({**entry, "status": {"messages": messages}} if messages else entry)
    names = [name for name, _ in told]
    assert told[-1] == ("executing", {"node": None, "prompt_id": "run"})
    endings = ("execution_success", "execution_interrupted", "execution_error")
    assert names[-2] in endings
    blocked = [data for name, data in told if data.get("exception_type") == "ExecutionBlocked"]
    assert sum(name in endings for name in names) <= 1 + len(blocked)
    assert all(data["prompt_id"] == "run" for _, data in told)
    for name, data in told:
        if name == "progress":
            assert all(not isinstance(data[key], bool) for key in ("value", "max"))


@MANY
@given(outputs=st.dictionaries(WORDS, JSON, max_size=4))
def test_any_outputs_name_files_inside_or_are_refused(outputs):
    with contextlib.suppress(ServerRunError):
        for found in saved_references(outputs):
            assert "/" not in found.filename
            assert ".." not in found.subfolder.split("/")
            assert not found.subfolder.startswith("/")


@MANY
@given(content=st.fixed_dictionaries({"error": JSON, "node_errors": JSON}))
def test_any_refusal_becomes_a_sentence(content):
    assert str(refusal(content, GRAPH)).startswith("the server refused the workflow: ")


@MANY
@given(
    declared=JSON,
    described=JSON,
    saving=st.fixed_dictionaries(
        {"input": st.dictionaries(st.sampled_from(["required", "optional", "hidden"]), JSON), "output": JSON}
    ),
)
def test_any_list_of_nodes_is_read_or_refused(declared, described, saving):
    classes = {
        **OBJECT_INFO,
        "SaveImage": saving,
        "Odd": {"input": {"required": {"x": declared}}, "output": declared, "output_name": described},
        "Odder": described,
    }
    with pytest.MonkeyPatch.context() as patched, contextlib.suppress(WorkflowError):
        patched.setattr(server_api, "get_json", lambda *_: classes)
        Client("http://127.0.0.1:1").prepare(GRAPH)


@MANY
@given(answer=JSON)
def test_any_answer_to_a_question_is_understood_or_refused(answer):
    server = ComfyUIServer("http://127.0.0.1:1")
    questions = [
        server.object_info,
        server.queue,
        lambda: server.history("run"),
        lambda: server.submit(GRAPH, None, "client", "run"),
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(server_api, "get_json", lambda *_: answer)
        patched.setattr(server_api, "post_json", lambda *_: answer)
        for ask in questions:
            with contextlib.suppress(ServerUnreachableError):
                ask()


@MANY
@given(received=st.binary(max_size=60))
def test_any_bytes_on_a_websocket_are_messages_or_a_lost_connection(received):
    here, there = socket.socketpair()
    with here, there:
        there.sendall(received)
        there.close()
        websocket = WebSocket(here)
        messages = []
        with contextlib.suppress(ConnectionError):
            while len(messages) <= len(received):
                messages.append(websocket.receive(1))
    assert len(messages) <= len(received), "every message has a frame of two bytes at least"
    assert all(kind in (TEXT, BINARY) and isinstance(payload, bytes) for kind, payload in messages)
