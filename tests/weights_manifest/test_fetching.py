"""Fetching from a loopback server: whole files appear under their names, nothing else does."""

import hashlib
import multiprocessing
import os
import sys
from dataclasses import replace

import pytest
from talking_portrait.weights_manifest import downloading
from talking_portrait.weights_manifest.fetching import FetchError, download, fetch_row, file_sha256
from talking_portrait.weights_manifest.lock_record import RECORD_NAME, WORK_FOLDER, verified_file
from talking_portrait.weights_manifest.manifest import WeightSource, weight_row

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def visible(folder):
    """The files a person sees; unfinished downloads and locks are in a hidden subfolder."""
    return sorted(path.name for path in folder.iterdir() if path.name != WORK_FOLDER)


def unfinished(folder):
    work = folder / WORK_FOLDER
    return [path.name for path in work.rglob("*") if path.suffix in (".partial", ".incomplete")]


@pytest.fixture
def server(hub_server, monkeypatch):
    hub_server.files["weights.bin"] = CONTENT
    monkeypatch.setattr(downloading, "RETRY_SECONDS", 0.0)
    return hub_server


@pytest.fixture
def url(server):
    return f"{server.address}/weights.bin"


@pytest.fixture
def row(url):
    source = WeightSource(kind="url", url=url)
    return replace(weight_row("face_landmarker"), source=source, bytes=len(CONTENT), sha256=SHA256)


def test_file_arrives_whole_with_progress(url, tmp_path):
    calls = []
    target = tmp_path / "new" / "weights.bin"
    path = download(url, target, len(CONTENT), SHA256, lambda *call: calls.append(call))
    assert path == target
    assert path.read_bytes() == CONTENT
    assert visible(target.parent) == ["weights.bin"]
    assert unfinished(target.parent) == []
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


@pytest.mark.parametrize(
    ("code", "advice"), [(401, "token"), (403, "licence"), (404, "no such file"), (500, "try again later")]
)
def test_http_errors_say_what_to_do(code, advice, server, url, tmp_path):
    server.faults["weights.bin"] = code
    with pytest.raises(FetchError, match=rf"weights\.bin: HTTP {code}.*{advice}"):
        download(url, tmp_path / "weights.bin")
    assert visible(tmp_path) == unfinished(tmp_path) == []


def test_web_page_in_place_of_the_file(server, url, tmp_path):
    server.faults["weights.bin"] = "page"
    with pytest.raises(FetchError, match="a web page instead of the file"):
        download(url, tmp_path / "weights.bin")
    assert visible(tmp_path) == unfinished(tmp_path) == []


def test_connection_cut_at_half_is_taken_up_again(server, url, tmp_path):
    server.faults["weights.bin"] = "cut"
    path = download(url, tmp_path / "weights.bin", len(CONTENT), SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [f"bytes={len(CONTENT) // 2}-"]


def test_download_that_gave_up_continues_next_time(server, url, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    server.faults["weights.bin"] = "cut"
    with pytest.raises(FetchError, match=r"broke.*fetch again to continue"):
        download(url, tmp_path / "weights.bin", len(CONTENT), SHA256)
    assert visible(tmp_path) == []
    assert unfinished(tmp_path) == ["weights.bin.partial"]
    assert download(url, tmp_path / "weights.bin").read_bytes() == CONTENT
    assert server.ranges() == [f"bytes={len(CONTENT) // 2}-"]
    assert unfinished(tmp_path) == []


def test_file_that_changed_since_the_cut_starts_again(server, url, tmp_path, monkeypatch):
    """No checksum is known: the server's own tag tells that the beginning belongs to another file."""
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    server.faults["weights.bin"] = "cut"
    with pytest.raises(FetchError):
        download(url, tmp_path / "weights.bin")
    server.files["weights.bin"] = CONTENT[::-1]
    assert download(url, tmp_path / "weights.bin").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("fault", [503, "page", 403])
def test_what_came_is_kept_through_a_servers_bad_day(fault, server, url, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    server.faults["weights.bin"] = "cut"
    with pytest.raises(FetchError):
        download(url, tmp_path / "weights.bin", len(CONTENT), SHA256)
    server.faults["weights.bin"] = fault
    with pytest.raises(FetchError):
        download(url, tmp_path / "weights.bin", len(CONTENT), SHA256)
    server.faults.clear()
    server.requests.clear()
    assert download(url, tmp_path / "weights.bin", len(CONTENT), SHA256).read_bytes() == CONTENT
    assert server.ranges() == [f"bytes={len(CONTENT) // 2}-"]


def test_beginning_that_is_longer_than_the_file(server, url, tmp_path):
    server.faults["weights.bin"] = 416
    (tmp_path / WORK_FOLDER).mkdir()
    (tmp_path / WORK_FOLDER / "weights.bin.partial").write_bytes(CONTENT * 2)
    with pytest.raises(FetchError, match=r"HTTP 416.*was deleted: fetch again"):
        download(url, tmp_path / "weights.bin")
    server.faults.clear()
    assert download(url, tmp_path / "weights.bin").read_bytes() == CONTENT


def test_server_that_cannot_resume_sends_all(server, url, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    server.faults["weights.bin"] = "cut"
    with pytest.raises(FetchError):
        download(url, tmp_path / "weights.bin")
    server.faults["weights.bin"] = "no range"
    assert download(url, tmp_path / "weights.bin", len(CONTENT), SHA256).read_bytes() == CONTENT


def test_cancelling_leaves_no_file_and_the_rest_can_be_resumed(server, url, tmp_path):
    def cancel(done, total):
        if done > len(CONTENT) // 2:
            raise InterruptedError("cancelled")

    with pytest.raises(InterruptedError, match="cancelled"):
        download(url, tmp_path / "weights.bin", progress=cancel)
    assert visible(tmp_path) == []
    assert download(url, tmp_path / "weights.bin").read_bytes() == CONTENT


def test_wrong_size_and_wrong_bytes(server, url, tmp_path):
    with pytest.raises(FetchError, match=rf"bytes is {len(CONTENT)}, expected 7"):
        download(url, tmp_path / "weights.bin", 7)
    with pytest.raises(FetchError, match=f"sha256 is {SHA256}, expected 000"):
        download(url, tmp_path / "weights.bin", len(CONTENT), "0" * 64)
    server.faults["weights.bin"] = "wrong"
    with pytest.raises(FetchError, match=f"expected {SHA256}.*nothing was kept"):
        download(url, tmp_path / "weights.bin", len(CONTENT), SHA256)
    assert visible(tmp_path) == unfinished(tmp_path) == []


def test_nobody_answers(tmp_path):
    with pytest.raises(FetchError, match=r"cannot reach http://127\.0\.0\.1:9/"):
        download("http://127.0.0.1:9/weights", tmp_path / "weights.bin")


def test_failed_fetch_keeps_the_old_file(server, url, tmp_path):
    target = tmp_path / "weights.bin"
    target.write_bytes(b"old")
    server.faults["weights.bin"] = 404
    with pytest.raises(FetchError):
        download(url, target)
    assert target.read_bytes() == b"old"


def test_disk_too_full_is_seen_before(server, url, tmp_path):
    with pytest.raises(FetchError, match="are free"):
        download(url, tmp_path / "weights.bin", 1 << 60)
    assert server.requests == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_disk_that_becomes_full(url, tmp_path):
    (tmp_path / WORK_FOLDER).mkdir()
    (tmp_path / WORK_FOLDER / "weights.bin.partial").symlink_to("/dev/full")
    with pytest.raises(FetchError, match=r"became full while fetching .*nothing was kept"):
        download(url, tmp_path / "weights.bin")
    assert visible(tmp_path) == unfinished(tmp_path) == []


def test_folder_that_cannot_be_written(url, tmp_path):
    """A folder below a regular file: unwritable even for root."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match=r"cannot write to .*file/models.*--to"):
        download(url, tmp_path / "file" / "models" / "weights.bin")


def test_row_is_fetched_once_and_recorded(row, server, tmp_path):
    first = fetch_row(row, tmp_path)
    assert first.name == "face_landmarker.task"
    assert file_sha256(fetch_row(row, tmp_path)) == SHA256
    assert len(server.requests) == 1
    assert visible(tmp_path) == ["face_landmarker.task", RECORD_NAME]
    entry = verified_file(first)
    assert (entry.row, entry.sha256, entry.bytes) == (row.name, SHA256, len(CONTENT))
    first.write_bytes(CONTENT)
    os.utime(first, (1, 1))
    assert verified_file(first) is None


def test_damaged_file_is_fetched_again(row, server, tmp_path):
    (tmp_path / row.file).write_bytes(CONTENT[:-1] + b"\0")
    assert fetch_row(row, tmp_path).read_bytes() == CONTENT
    (tmp_path / row.file).write_bytes(CONTENT[:100])
    assert fetch_row(row, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize("name", ["pocket", "actalker_unet"])
def test_row_without_an_address(name, tmp_path):
    with pytest.raises(ValueError, match=rf"'{name}' cannot be fetched.*(embedded|README)"):
        fetch_row(weight_row(name), tmp_path)


def _fetch_in_another_process(url, target, queue):
    try:
        download(url, target, len(CONTENT), SHA256)
        queue.put("fetched")
    except BaseException as error:
        queue.put(repr(error))
        raise


@pytest.mark.skipif(sys.platform == "win32", reason="the test forks")
def test_two_processes_fetch_the_same_file(server, url, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    target = tmp_path / "weights.bin"
    processes = [
        context.Process(target=_fetch_in_another_process, args=(url, target, queue)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert [queue.get(timeout=30) for _ in processes] == ["fetched", "fetched"]
    for process in processes:
        process.join()
    assert target.read_bytes() == CONTENT
    assert unfinished(tmp_path) == []
