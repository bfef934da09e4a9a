"""A loopback server that speaks the Hugging Face hub's protocol, with all the ways in which servers go wrong."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "c0ffee" + "0" * 34


class HubHandler(BaseHTTPRequestHandler):
    """Serves `server.files` at /NAME and at /OWNER/REPOSITORY/resolve/REVISION/NAME.

    `server.faults[NAME]` may be an HTTP status, "page" (a web page instead of the file), "cut" (the next
    answer ends at half), "gated", "redirect" (to /storage/NAME), "wrong" (other bytes of the same size) or
    "no range".
    """

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        self.server.requests.append(
            (self.command, self.path, {k.title(): v for k, v in self.headers.items()})
        )
        name = self.path.split("?")[0].rsplit("/", 1)[1]
        fault = self.server.faults.get(name)
        if fault == "gated":
            self.refuse(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif isinstance(fault, int):
            self.refuse(fault)
        elif name not in self.server.files:
            self.refuse(404, {"X-Error-Code": "EntryNotFound"})
        elif fault == "redirect" and with_body and not self.path.startswith("/storage/"):
            self.refuse(302, {"Location": f"/storage/{name}"})
        else:
            self.send_file(name, fault, with_body)

    def refuse(self, code, headers=None):
        self.send_response(code)
        for key, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def send_file(self, name, fault, with_body):
        body = self.server.files[name]
        checksum = hashlib.sha256(body).hexdigest()
        if with_body and fault == "wrong":
            body = bytes(len(body))
        if with_body and fault == "page":
            self.headers.replace_header("Range", "") if "Range" in self.headers else None
            body = b"  <!DOCTYPE html><html>please log in</html>"
        same = self.headers.get("If-Range") in (None, f'"{checksum}"')
        start = self.range_start() if same and fault != "no range" else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{checksum}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(body)))
        self.send_header("X-Linked-ETag", f'"{checksum}"')
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if not with_body:
            return
        if fault == "cut":
            self.server.faults.pop(name)
            self.wfile.write(body[start : len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body[start:])

    def range_start(self):
        value = self.headers.get("Range", "")
        return int(value.removeprefix("bytes=").split("-")[0]) if value.startswith("bytes=") else 0

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub_server(monkeypatch):
    """The server; its files are in `files`, its faults in `faults`, what was asked in `requests`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.daemon_threads = True
    server.files, server.faults, server.requests = {}, {}, []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.ranges = lambda: [h["Range"] for m, _, h in server.requests if m == "GET" and "Range" in h]
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
