"""Fetching from a loopback server: whole files appear, nothing else does."""

import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from talking_portrait.weights_manifest.fetching import FetchError, download, fetch_row, file_sha256
from talking_portrait.weights_manifest.manifest import WeightSource, weight_row

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, errors by number, a web page, or a connection cut at half."""

    def do_GET(self):
        self.server.requests.append(self.path)
        name = self.path.strip("/")
        if name.isdigit():
            self.send_error(int(name))
            return
        body = b"  <!DOCTYPE html><html>please log in</html>" if name == "page" else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if name == "cut" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def row(server):
    source = WeightSource(kind="url", url=f"{server.address}/weights")
    return replace(weight_row("face_landmarker"), source=source, bytes=len(CONTENT), sha256=SHA256)


def test_file_arrives_whole_with_progress(server, tmp_path):
    calls = []
    target = tmp_path / "new" / "weights.bin"
    path = download(
        f"{server.address}/weights", target, len(CONTENT), SHA256, lambda *call: calls.append(call)
    )
    assert path == target
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in target.parent.iterdir()] == ["weights.bin"]
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


@pytest.mark.parametrize(
    ("code", "advice"), [(401, "token"), (403, "licence"), (404, "no such file"), (500, "try again later")]
)
def test_http_errors_say_what_to_do(code, advice, server, tmp_path):
    with pytest.raises(FetchError, match=rf"{code}.*HTTP {code}.*{advice}"):
        download(f"{server.address}/{code}", tmp_path / "weights.bin")
    assert list(tmp_path.iterdir()) == []


def test_web_page_in_place_of_the_file(server, tmp_path):
    with pytest.raises(FetchError, match="a web page instead of the file"):
        download(f"{server.address}/page", tmp_path / "weights.bin")
    assert list(tmp_path.iterdir()) == []


def test_connection_cut_at_half(server, tmp_path):
    with pytest.raises(FetchError, match=r"broke|incomplete"):
        download(f"{server.address}/cut", tmp_path / "weights.bin", len(CONTENT), SHA256)
    assert list(tmp_path.iterdir()) == []


def test_wrong_size_and_wrong_bytes(server, tmp_path):
    with pytest.raises(FetchError, match=rf"bytes is {len(CONTENT)}, expected 7"):
        download(f"{server.address}/weights", tmp_path / "weights.bin", 7)
    with pytest.raises(FetchError, match=f"sha256 is {SHA256}, expected 000"):
        download(f"{server.address}/weights", tmp_path / "weights.bin", len(CONTENT), "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_nobody_answers(tmp_path):
    with pytest.raises(FetchError, match=r"cannot reach http://127\.0\.0\.1:9/"):
        download("http://127.0.0.1:9/weights", tmp_path / "weights.bin")


def test_cancelling_leaves_nothing(server, tmp_path):
    def cancel(done, total):
        raise InterruptedError("cancelled")

    with pytest.raises(InterruptedError, match="cancelled"):
        download(f"{server.address}/weights", tmp_path / "weights.bin", progress=cancel)
    assert list(tmp_path.iterdir()) == []


def test_failed_fetch_keeps_the_old_file(server, tmp_path):
    target = tmp_path / "weights.bin"
    target.write_bytes(b"old")
    with pytest.raises(FetchError):
        download(f"{server.address}/404", target)
    assert target.read_bytes() == b"old"


def test_disk_too_full(server, tmp_path):
    with pytest.raises(FetchError, match="are free"):
        download(f"{server.address}/weights", tmp_path / "weights.bin", 1 << 60)
    assert server.requests == []


def test_row_is_fetched_once(row, server, tmp_path):
    first = fetch_row(row, tmp_path)
    assert first.name == "face_landmarker.task"
    assert file_sha256(fetch_row(row, tmp_path)) == SHA256
    assert len(server.requests) == 1


def test_damaged_file_is_fetched_again(row, server, tmp_path):
    (tmp_path / row.file).write_bytes(CONTENT[:-1] + b"\0")
    assert fetch_row(row, tmp_path).read_bytes() == CONTENT
    (tmp_path / row.file).write_bytes(CONTENT[:100])
    assert fetch_row(row, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_row_without_an_address(tmp_path):
    with pytest.raises(ValueError, match=r"'pocket' cannot be fetched.*embedded"):
        fetch_row(weight_row("pocket"), tmp_path)
