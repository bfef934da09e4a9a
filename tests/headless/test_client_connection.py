"""The client and servers that are down, slow, restarted, half blocked, or that answer garbage."""

import json
import socket
import struct
import threading

import pytest
from talking_portrait.headless.client import (
    Client,
    ComfyUIServer,
    Pace,
    ServerRunError,
    ServerUnreachableError,
)

from .fake_comfyui import CLOSE, EVENTS, GRAPH, HOLD, SUCCESS, frame, running_fake

FAST = Pace(events=0.02, poll=0.02, slowest_poll=0.05, quiet_poll=0.1, ended_poll=0.01, known=0.3, outage=0.3)


@pytest.fixture
def comfyui():
    with running_fake() as fake:
        yield fake


@pytest.fixture
def client(comfyui, tmp_path, monkeypatch):
    monkeypatch.setattr("talking_portrait.headless.server_events.FIRST_REOPENING", 0.02)
    monkeypatch.setattr("talking_portrait.headless.client.DOWNLOAD_PAUSE", 0.01)
    with Client(comfyui.url, pace=FAST, input_folder=tmp_path / "input", timeout=1.0) as client:
        yield client


def run(client, folder):
    heard = []
    result = client.run(GRAPH, output_folder=folder, listener=lambda name, data: heard.append((name, data)))
    return result, heard


class Anywhere(dict):
    """One answer for every path."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def get(self, path, default=None):
        return self.function


def unused_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def test_no_server():
    with pytest.raises(ServerUnreachableError, match="is ComfyUI running there"):
        ComfyUIServer(f"127.0.0.1:{unused_port()}").object_info()


def test_no_such_host():
    with pytest.raises(ServerUnreachableError, match=r"cannot reach http://nowhere\.invalid/"):
        ComfyUIServer("http://nowhere.invalid").object_info()


def test_another_kind_of_server(comfyui):
    with pytest.raises(ServerUnreachableError, match="HTTP 404"):
        ComfyUIServer(f"{comfyui.url}/elsewhere").object_info()


def test_something_that_is_no_http_server():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(ServerUnreachableError, match="did not answer in HTTP"):
            ComfyUIServer(f"127.0.0.1:{server.getsockname()[1]}").object_info()
        thread.join()


def test_a_server_that_does_not_answer_in_time():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(ServerUnreachableError, match=r"did not answer within 0\.1 s"),
    ):
        ComfyUIServer(f"127.0.0.1:{server.getsockname()[1]}", timeout=0.1).object_info()


def test_an_answer_that_never_ends(comfyui, monkeypatch):
    monkeypatch.setattr("talking_portrait.headless.http.LARGEST_ANSWER", 10)
    with pytest.raises(ServerUnreachableError, match="answered with more than"):
        ComfyUIServer(comfyui.url).object_info()


def test_an_answer_that_breaks_off(comfyui):
    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"{")
        handler.close_connection = True

    comfyui.answers["/object_info"] = cut
    with pytest.raises(ServerUnreachableError, match="ended after 1 of 1000 bytes"):
        ComfyUIServer(comfyui.url).object_info()


GARBAGE = [
    (200, b"<html>Sign in</html>"),
    (200, b""),
    (200, [1, 2]),
    (200, None),
    (200, {"a": 1}),
    (200, b'{"a":' * 50_000),
    (200, b"\xff\xfe\x00"),
    (502, b"<html>Bad Gateway</html>"),
    (404, {"detail": "Not Found"}),
]


@pytest.mark.parametrize("answer", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("path", ["/object_info", "/prompt"])
def test_garbage_in_place_of_an_answer(comfyui, client, tmp_path, path, answer):
    comfyui.answers[path] = answer
    with pytest.raises(ServerUnreachableError):
        run(client, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", GARBAGE[:2] + GARBAGE[-2:], ids=["html", "empty", "502", "404"])
def test_garbage_in_place_of_an_upload_or_a_result(comfyui, client, tmp_path, answer):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "face.png").write_bytes(b"picture")
    comfyui.answers["/upload/image"] = answer
    with pytest.raises(ServerUnreachableError):
        client.upload(tmp_path / "input" / "face.png")
    if answer[0] != 200:
        comfyui.answers["/view"] = answer
        with pytest.raises(ServerUnreachableError):
            run(client, tmp_path / "out")
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_garbage_while_the_run_goes_on_is_borne_for_a_while_and_then_said(comfyui, client, tmp_path):
    def garbage(handler):
        if comfyui.prompt_ids and "/history" in handler.path:
            handler.answer(b"<html>starting</html>")
            return True
        return False

    comfyui.answers = Anywhere(garbage)
    with pytest.raises(ServerUnreachableError, match=r"did not answer for 0\.3 s while the run .* went on"):
        run(client, tmp_path)
    assert comfyui.asked_for("/interrupt"), "what cannot be followed is cancelled"


def test_a_server_that_is_away_for_a_moment(comfyui, client, tmp_path, caplog):
    failures = iter([503, 500, 502])
    comfyui.polls_before_the_end = 2
    comfyui.websockets = [[HOLD]]

    def stumble(handler):
        status = next(failures, None) if "/history" in handler.path else None
        if status is None:
            return False
        handler.answer(b"wait", status)
        return True

    comfyui.answers = Anywhere(stumble)
    result, _ = run(client, tmp_path)
    assert len(result.saved) == 1
    assert "HTTP 503" in caplog.text


def test_a_server_that_wants_credentials_all_of_a_sudden_is_an_error_at_once(comfyui, client, tmp_path):
    comfyui.answers = Anywhere(
        lambda handler: "/history" in handler.path and handler.answer(b"", 401) is None
    )
    with pytest.raises(ServerUnreachableError, match=r"HTTP 401.*--header"):
        run(client, tmp_path)


def test_a_restarted_server_has_forgotten_the_run(comfyui, client, tmp_path):
    comfyui.polls_before_the_end = 10**6

    def restart(handler):
        comfyui.gone.update(comfyui.prompt_ids)
        return False

    comfyui.websockets = [[EVENTS[0], 0.1, CLOSE], [HOLD]]
    comfyui.answers["/ws"] = lambda handler: restart(handler) if comfyui.opened_websockets else False
    with pytest.raises(ServerRunError, match=r"no longer knows the run .* run the workflow again"):
        run(client, tmp_path)


def test_a_server_that_goes_on_telling_of_a_run_it_does_not_know(comfyui, client, tmp_path):
    comfyui.polls_before_the_end = 10**6
    comfyui.websockets = [[EVENTS[0], 0.05, CLOSE]]
    comfyui.answers["/queue"] = (200, {"queue_running": [], "queue_pending": []})
    with pytest.raises(ServerRunError, match="no longer knows the run"):
        run(client, tmp_path)


def test_a_run_that_somebody_took_out_of_the_queue(comfyui, client, tmp_path):
    comfyui.polls_before_the_end = 10**6
    comfyui.websockets = [[HOLD]]
    comfyui.answers["/queue"] = (200, {"queue_running": [], "queue_pending": []})
    with pytest.raises(ServerRunError, match="its queue was cleared"):
        run(client, tmp_path)


def test_a_run_whose_history_was_cleared_is_known_by_its_events(comfyui, client, tmp_path):
    comfyui.polls_before_the_end = 10**6
    executed = {"type": "executed", "data": {"node": "2", "output": SUCCESS["outputs"]["2"]}}
    comfyui.websockets = [[executed, EVENTS[-1], HOLD]]
    comfyui.answers["/queue"] = (200, {"queue_running": [], "queue_pending": []})
    result, heard = run(client, tmp_path)
    assert [path.name for path in result.saved] == ["x_00001_.png"]
    assert [name for name, _ in heard] == ["executed", "execution_success", "executing"]


def test_a_lost_websocket_is_opened_again_under_the_same_name(comfyui, client, tmp_path):
    comfyui.polls_before_the_end = 10**6
    comfyui.websockets = [[EVENTS[0], EVENTS[1], CLOSE], [EVENTS[1], EVENTS[2], 0.3, EVENTS[3], HOLD]]

    def end(handler):
        if comfyui.opened_websockets > 1:
            comfyui.polls_before_the_end = 0
        return False

    comfyui.answers["/queue"] = end
    _, heard = run(client, tmp_path)
    opened = [path for path, _ in comfyui.asked if path.startswith("/ws")]
    assert len(opened) == 2
    assert opened[0] == opened[1]
    names = [name for name, _ in heard]
    assert names.count("executing") == 2, "the node that is told again is told once"
    assert "progress" in names


@pytest.mark.parametrize("script", [None, [CLOSE]], ids=["blocked", "always lost"])
def test_polls_when_websockets_are_blocked_and_tells_the_end_all_the_same(
    comfyui, client, tmp_path, script, caplog
):
    comfyui.websockets = [script]
    comfyui.polls_before_the_end = 3
    messages = [
        ["execution_start", {"timestamp": 1}],
        ["execution_cached", {"nodes": ["1"]}],
        ["execution_success", {"timestamp": 2}],
    ]
    comfyui.history = {**SUCCESS, "status": {**SUCCESS["status"], "messages": messages}}
    result, heard = run(client, tmp_path)
    assert (result.cached, result.executed) == (("1",), ("2",))
    assert [name for name, _ in heard] == [
        *("execution_start", "execution_cached", "executed", "execution_success", "executing")
    ]
    assert caplog.text.count("no live progress") == 1
    assert comfyui.opened_websockets <= 8


HUGE_FRAME = bytes([0x82, 127]) + struct.pack("!Q", 2**40)
BAD_FRAMES = {
    "huge": HUGE_FRAME,
    "masked": bytes([0x81, 0x81]) + b"maska",
    "reserved bits": bytes([0xF1, 1]) + b"a",
    "continued nothing": bytes([0x80, 1]) + b"a",
    "no meaning": bytes([0x83, 1]) + b"a",
}


@pytest.mark.parametrize("bad", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_broken_frames_only_cost_the_live_progress(comfyui, client, tmp_path, bad):
    comfyui.websockets = [[EVENTS[0], bad, HOLD]]
    comfyui.polls_before_the_end = 2
    result, _ = run(client, tmp_path)
    assert len(result.saved) == 1


NO_EVENTS = [
    bytes([0x81, 3]) + b"\xff\xfe{",
    bytes([0x81, 2]) + b"[]",
    bytes([0x82, 4]) + b"jpeg",
    frame({"type": ["executing"], "data": {}}),
    frame({"type": "executing", "data": {"node": ["1"]}}),
    frame({"type": "progress", "data": {"node": "1", "value": "half", "max": None}}),
    frame({"type": "progress", "data": {"node": "1", "value": True, "max": 1}}),
    frame({"type": "execution_cached", "data": {"nodes": 3}}),
    frame({"type": "executed", "data": {"node": "2", "output": [1]}}),
    frame({"type": "executing", "data": {"node": "1", "prompt_id": "of somebody else"}}),
    frame({"type": "crystools.monitor", "data": {"cpu": 5}}),
]


def test_messages_that_are_no_events_are_passed_over(comfyui, client, tmp_path):
    comfyui.websockets = [[*NO_EVENTS, EVENTS[-1], HOLD]]
    _, heard = run(client, tmp_path)
    assert [name for name, _ in heard] == ["executed", "execution_success", "executing"]


def test_an_answer_that_was_lost_does_not_run_the_workflow_twice(comfyui, client, tmp_path):
    def lose(handler):
        comfyui.prompt_ids.append(json.loads(handler.body)["prompt_id"])
        handler.close_connection = True

    comfyui.answers["/prompt"] = lose
    result, _ = run(client, tmp_path)
    assert len(result.saved) == 1
    assert len(comfyui.prompt_ids) == 1


def test_a_server_that_went_away_before_it_took_the_workflow(comfyui, client, tmp_path):
    comfyui.polls_before_the_end = 10**6

    def lose(handler):
        handler.close_connection = True

    comfyui.answers["/prompt"] = lose
    with pytest.raises(ServerUnreachableError, match=r"the connection to .*/prompt broke"):
        run(client, tmp_path)


def test_a_download_that_breaks_off_is_tried_again(comfyui, client, tmp_path):
    attempts = []

    def cut(handler):
        attempts.append(handler.path)
        if len(attempts) > 1:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", "9")
        handler.end_headers()
        handler.wfile.write(b"png")
        handler.close_connection = True
        return True

    comfyui.answers["/view"] = cut
    result, _ = run(client, tmp_path)
    assert result.saved[0].read_bytes() == b"png bytes"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x_00001_.png"]
