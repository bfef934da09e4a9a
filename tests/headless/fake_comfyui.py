"""A server on the loopback interface that answers as ComfyUI does, or as badly as a test wants."""

import base64
import hashlib
import json
import struct
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

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
        "output_node": True,
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
EVENTS = [
    {"type": "execution_start", "data": {}},
    {"type": "executing", "data": {"node": "1", "display_node": "1"}},
    {"type": "progress", "data": {"node": "1", "value": 1, "max": 1}},
    {"type": "execution_success", "data": {}},
]
HOLD = "hold the websocket open"
CLOSE = "close the websocket"


class FakeComfyUI:
    """What the server has been asked, and how it will answer.

    answers: {path: (status, content) or a function of the handler}, in place of the usual answer.
    websockets: one script per websocket, the last one for all further ones: events (dicts), bytes of frames, seconds
    to wait, HOLD or CLOSE; None refuses.
    """

    def __init__(self):
        self.object_info = OBJECT_INFO
        self.history = SUCCESS
        self.polls_before_the_end = 1
        self.prompt_answer = None
        self.websockets = [[*EVENTS, CLOSE]]
        self.answers = {}
        self.wanted_headers = {}
        self.files = {}
        self.asked = []
        self.headers = []
        self.prompts = []
        self.uploads = []
        self.prompt_ids = []
        self.gone = set()
        self.polled = threading.Event()
        self.opened_websockets = 0
        self.shutting_down = threading.Event()

    def asked_for(self, path):
        return [content for asked, content in self.asked if urlsplit(asked).path == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    @property
    def comfyui(self):
        return self.server.comfyui

    def answer(self, content, status=200, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def special(self):
        """Answer as the test wants; say whether it wants anything special."""
        self.comfyui.headers.append((self.path, dict(self.headers)))
        if any(self.headers.get(name) != value for name, value in self.comfyui.wanted_headers.items()):
            self.answer({"error": f"not with {dict(self.headers)}"}, 401)
            return True
        special = self.comfyui.answers.get(urlsplit(self.path).path)
        if special is None:
            return False
        if callable(special):
            return special(self) is not False
        self.answer(special[1], special[0])
        return True

    def do_HEAD(self):
        if self.special():
            return
        name = parse_qs(urlsplit(self.path).query).get("filename", [""])[0]
        self.answer(self.comfyui.files.get(name, b""), 200 if name in self.comfyui.files else 404)

    def do_GET(self):
        self.comfyui.asked.append((self.path, None))
        if self.special():
            return
        path = urlsplit(self.path).path
        if path == "/ws":
            self.speak_websocket()
        elif path == "/object_info":
            self.answer(self.comfyui.object_info)
        elif path.startswith("/history/"):
            self.answer_history(path.rpartition("/")[2])
        elif path == "/view":
            self.answer(b"png bytes")
        elif path == "/queue":
            known = [[number, run] for number, run in enumerate(self.comfyui.prompt_ids)]
            self.answer(
                {"queue_running": [e for e in known if e[1] not in self.comfyui.gone], "queue_pending": []}
            )
        else:
            self.answer({"error": "no such page"}, 404)

    def answer_history(self, prompt_id):
        self.comfyui.polls_before_the_end -= 1
        self.comfyui.polled.set()
        ended = self.comfyui.polls_before_the_end < 0 and prompt_id not in self.comfyui.gone
        self.answer({prompt_id: self.comfyui.history} if ended else {})

    def do_POST(self):
        self.body = body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.special():
            return
        if self.path.startswith("/upload/image"):
            self.comfyui.uploads.append(body)
            name = body.partition(b'filename="')[2].partition(b'"')[0].decode()
            self.comfyui.files[name] = (
                body.partition(b"Content-Type")[2].partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
            )
            self.answer({"name": name, "subfolder": "", "type": "input"})
            return
        content = json.loads(body)
        self.comfyui.asked.append((self.path, content))
        if urlsplit(self.path).path == "/prompt":
            self.take_prompt(content)
        else:
            self.answer(b"")

    def take_prompt(self, content):
        self.comfyui.prompts.append(content)
        status, answer = self.comfyui.prompt_answer or (
            200,
            {"prompt_id": content["prompt_id"], "node_errors": {}},
        )
        if status == 200:
            self.comfyui.prompt_ids.append(answer["prompt_id"])
        self.answer(answer, status)

    def speak_websocket(self):
        scripts, number = self.comfyui.websockets, self.comfyui.opened_websockets
        self.comfyui.opened_websockets += 1
        script = scripts[min(number, len(scripts) - 1)]
        if script is None:
            self.answer(b"<html>no websockets here</html>", 200)
            return
        accept = self.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(accept).digest()).decode())
        self.end_headers()
        self.close_connection = True
        try:
            self.play(script)
        except OSError:
            return

    def play(self, script):
        for step in script:
            if step == HOLD:
                self.comfyui.shutting_down.wait(20)
            elif step == CLOSE:
                return
            elif isinstance(step, float):
                time.sleep(step)
            else:
                self.wfile.write(step if isinstance(step, bytes) else frame(self.with_id(step)))
                self.wfile.flush()

    def with_id(self, event):
        deadline = time.monotonic() + 2
        while not self.comfyui.prompt_ids and time.monotonic() < deadline:
            time.sleep(0.005)
        prompt_id = self.comfyui.prompt_ids[-1] if self.comfyui.prompt_ids else "?"
        return {**event, "data": {"prompt_id": prompt_id, **event["data"]}}


def frame(event):
    """An event as a frame of a websocket."""
    payload = json.dumps(event).encode()
    return bytes([0x81, 126]) + struct.pack("!H", len(payload)) + payload


@contextmanager
def running_fake(tls=None):
    """Give a FakeComfyUI that answers at its `url`. tls: an SSL context for https."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    server.comfyui = FakeComfyUI()
    server.comfyui.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.comfyui
    finally:
        server.comfyui.shutting_down.set()
        server.shutdown()
        thread.join()
        server.server_close()
