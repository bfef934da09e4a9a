"""The client against a server on the loopback interface that answers as ComfyUI does."""

import base64
import hashlib
import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from talking_portrait.headless.client import ComfyUIServer, ServerRunError, run_on_server
from talking_portrait.headless.websocket import BINARY, TEXT, WebSocket

OBJECT_INFO = {
    "LoadImage": {
        "input": {"required": {"image": [["there.png"], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
        "output_name": ["IMAGE", "MASK"],
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "x"}]}},
        "output": [],
        "output_name": [],
    },
}
GRAPH = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "there.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}
SAVED = {"filename": "x_00001_.png", "subfolder": "sub", "type": "output"}
PREVIEW = {"filename": "p.png", "subfolder": "", "type": "temp"}
SUCCESS = {
    "outputs": {"2": {"images": [SAVED, PREVIEW]}},
    "status": {"status_str": "success", "completed": True, "messages": []},
}


class FakeComfyUI:
    """What the server has been asked, and how it will answer."""

    def __init__(self):
        self.history = SUCCESS
        self.polls_before_the_end = 1
        self.prompt_answer = (200, {"prompt_id": "p1", "node_errors": {}})
        self.events = [
            {"type": "executing", "data": {"node": "1", "display_node": "1"}},
            {"type": "progress", "data": {"node": "1", "value": 1, "max": 1}},
            {"type": "execution_success", "data": {}},
        ]
        self.asked = []
        self.prompts = []
        self.uploads = []
        self.polled = threading.Event()

    def asked_for(self, path):
        return [content for asked, content in self.asked if asked == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    @property
    def comfyui(self):
        return self.server.comfyui

    def answer(self, content, status=200):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.comfyui.asked.append((self.path, None))
        if self.path.startswith("/ws"):
            self.speak_websocket()
        elif self.path == "/object_info":
            self.answer(OBJECT_INFO)
        elif self.path.startswith("/history/"):
            self.comfyui.polls_before_the_end -= 1
            self.comfyui.polled.set()
            self.answer({"p1": self.comfyui.history} if self.comfyui.polls_before_the_end < 0 else {})
        elif self.path.startswith("/view"):
            self.answer(b"png bytes")
        elif self.path == "/queue":
            self.answer({"queue_running": [[0, "p1"]], "queue_pending": []})
        else:
            self.answer({"error": "no such page"}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/upload/image":
            self.comfyui.uploads.append(body)
            self.answer({"name": "face (1).png", "subfolder": "", "type": "input"})
            return
        content = json.loads(body)
        self.comfyui.asked.append((self.path, content))
        if self.path == "/prompt":
            self.comfyui.prompts.append(content)
            status, answer = self.comfyui.prompt_answer
            self.answer(answer, status)
        else:
            self.answer(b"")

    def speak_websocket(self):
        accept = self.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(accept).digest()).decode())
        self.end_headers()
        for event in self.comfyui.events:
            payload = json.dumps(event).encode()
            self.wfile.write(bytes([0x81, 126]) + struct.pack("!H", len(payload)) + payload)
        self.wfile.flush()
        self.close_connection = True


@pytest.fixture
def comfyui():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.comfyui = FakeComfyUI()
    server.comfyui.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.comfyui
    server.shutdown()
    thread.join()
    server.server_close()


def test_downloads_results_and_leaves_previews(comfyui, tmp_path):
    saved = run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert saved == [tmp_path / "sub" / "x_00001_.png"]
    assert saved[0].read_bytes() == b"png bytes"
    assert comfyui.prompts[0]["prompt"]["1"]["inputs"] == {"image": "there.png"}
    assert run_on_server(comfyui.url, GRAPH, [], tmp_path) == [tmp_path / "sub" / "x_00001_-1.png"]


def test_progress_is_shown(comfyui, tmp_path, capsys):
    comfyui.polls_before_the_end = 2
    run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert "[1/2] LoadImage" in capsys.readouterr().err


def test_works_without_live_progress(comfyui, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise ConnectionError("no websocket here")

    monkeypatch.setattr("talking_portrait.headless.client.open_websocket", refuse)
    assert run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert "no live progress: no websocket here" in capsys.readouterr().err


def test_saved_files_get_a_workflow_that_the_page_can_restore(comfyui, tmp_path):
    run_on_server(comfyui.url, GRAPH, ["2.filename_prefix=y"], tmp_path)
    workflow = comfyui.prompts[0]["extra_data"]["extra_pnginfo"]["workflow"]
    assert [node["widgets_values"] for node in workflow["nodes"]] == [["there.png", "image"], ["y"]]
    assert workflow["links"] == [[1, 1, 0, 2, 0, "IMAGE"]]


def test_files_of_this_machine_are_uploaded(comfyui, tmp_path):
    picture = tmp_path / "face.png"
    picture.write_bytes(b"\x89PNG pixels")
    run_on_server(comfyui.url, GRAPH, [f"1.image={picture}"], tmp_path)
    [form] = comfyui.uploads
    assert b'filename="face.png"' in form
    assert b"\x89PNG pixels" in form
    assert comfyui.prompts[0]["prompt"]["1"]["inputs"]["image"] == "face (1).png"


def test_files_of_the_server_are_not_uploaded(comfyui, tmp_path):
    run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert comfyui.uploads == []


NODE_ERRORS = {
    "1": {
        "errors": [
            {"type": "value_not_in_list", "message": "Value not in list", "details": "image: 'no.png'"}
        ],
        "class_type": "LoadImage",
        "dependent_outputs": ["2"],
    }
}


def test_refused_workflow_names_the_node(comfyui, tmp_path):
    error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
    comfyui.prompt_answer = (400, {"error": error, "node_errors": NODE_ERRORS})
    with pytest.raises(ServerRunError, match=r"node 1 \(LoadImage\): Value not in list: image: 'no\.png'"):
        run_on_server(comfyui.url, GRAPH, [], tmp_path)


def test_outputs_that_the_server_would_leave_out_are_a_failure_and_the_rest_is_stopped(comfyui, tmp_path):
    comfyui.prompt_answer = (200, {"prompt_id": "p1", "node_errors": NODE_ERRORS})
    with pytest.raises(ServerRunError, match="Value not in list"):
        run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert comfyui.asked_for("/queue")[0] == {"delete": ["p1"]}
    assert comfyui.asked_for("/interrupt") == [{"prompt_id": "p1"}]


def test_failed_node(comfyui, tmp_path):
    failure = {"node_id": "1", "node_type": "LoadImage", "exception_message": "no face in picture 0\n"}
    status = {"status_str": "error", "completed": False, "messages": [["execution_error", failure]]}
    comfyui.history = {"outputs": {}, "status": status}
    with pytest.raises(
        ServerRunError, match=r"node 1 \(LoadImage\) failed on the server: no face in picture 0$"
    ):
        run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_run_stopped_by_somebody_else(comfyui, tmp_path):
    status = {"status_str": "error", "completed": False, "messages": [["execution_interrupted", {}]]}
    comfyui.history = {"outputs": {}, "status": status}
    with pytest.raises(ServerRunError, match="stopped on the server"):
        run_on_server(comfyui.url, GRAPH, [], tmp_path)


def test_interrupting_stops_the_server_too(comfyui, tmp_path, monkeypatch):
    comfyui.polls_before_the_end = 10**6

    def press(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("talking_portrait.headless.client._Pause.wait", press)
    with pytest.raises(KeyboardInterrupt):
        run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert comfyui.asked_for("/queue")[0] == {"delete": ["p1"]}
    assert comfyui.asked_for("/interrupt") == [{"prompt_id": "p1"}]


def test_file_names_that_lead_out_of_the_folder(comfyui, tmp_path):
    evil = {"filename": "x.png", "subfolder": "../..", "type": "output"}
    comfyui.history = {**SUCCESS, "outputs": {"2": {"images": [evil]}}}
    with pytest.raises(ServerRunError, match="outside of the output folder"):
        run_on_server(comfyui.url, GRAPH, [], tmp_path / "deep" / "out")


def test_no_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ConnectionError, match="is ComfyUI running there"):
        ComfyUIServer(f"127.0.0.1:{port}").object_info()


def test_another_kind_of_server(comfyui):
    with pytest.raises(OSError, match="HTTP 404"):
        ComfyUIServer(f"{comfyui.url}/elsewhere").object_info()


@pytest.fixture
def connection():
    """A websocket and the other end of its line."""
    here, there = socket.socketpair()
    with here, there:
        yield WebSocket(here), there


def test_websocket_puts_fragments_together_and_answers_pings(connection):
    websocket, there = connection
    there.sendall(bytes([0x01, 2]) + b"ab" + bytes([0x89, 1]) + b"!" + bytes([0x80, 1]) + b"c")
    assert websocket.receive(1) == (TEXT, b"abc")
    pong = there.recv(100)
    assert pong[:2] == bytes([0x8A, 0x81])
    assert bytes([pong[6] ^ pong[2]]) == b"!"


def test_websocket_keeps_what_came_in_pieces(connection):
    websocket, there = connection
    message = bytes([0x82, 127]) + struct.pack("!Q", 70000) + bytes(70000)
    there.sendall(message[:5])
    assert websocket.receive(0.01) is None
    there.sendall(message[5:])
    assert websocket.receive(1) == (BINARY, bytes(70000))


def test_websocket_notices_the_end(connection):
    websocket, there = connection
    there.close()
    with pytest.raises(ConnectionError):
        websocket.receive(1)
