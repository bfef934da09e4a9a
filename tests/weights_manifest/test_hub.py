"""Rows of the hub, fetched through huggingface_hub from a loopback server that speaks its protocol."""

import hashlib
from dataclasses import replace

import pytest
from talking_portrait.weights_manifest import downloading, hub
from talking_portrait.weights_manifest.fetching import FetchError, fetch_row
from talking_portrait.weights_manifest.hub import hub_file
from talking_portrait.weights_manifest.lock_record import RECORD_NAME, WORK_FOLDER, verified_file
from talking_portrait.weights_manifest.manifest import weight_row

CONTENT = bytes(range(256)) * 8192  # 2 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c0ffee" + "0" * 34
FILE = "warping_module.safetensors"


@pytest.fixture
def row(hub_server, monkeypatch):
    monkeypatch.setattr(downloading, "RETRY_SECONDS", 0.0)
    hub_server.files[FILE] = CONTENT
    return weight_row("liveportrait_warping_module")


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != WORK_FOLDER)


def partial_files(folder):
    return [path for path in (folder / WORK_FOLDER).rglob("*") if path.suffix in (".partial", ".incomplete")]


def test_metadata(row):
    known = hub_file(row)
    assert (known.bytes, known.sha256, known.revision) == (len(CONTENT), SHA256, COMMIT)


def test_file_arrives_verified_and_recorded(row, tmp_path):
    calls = []
    path = fetch_row(row, tmp_path, lambda *call: calls.append(call))
    assert path == tmp_path / FILE
    assert path.read_bytes() == CONTENT
    assert visible(tmp_path) == [RECORD_NAME, FILE]
    entry = verified_file(path)
    assert (entry.sha256, entry.revision) == (SHA256, COMMIT)
    assert entry.source == f"hub:Kijai/LivePortrait_safetensors/{FILE}"
    assert max(calls) == (len(CONTENT), len(CONTENT))


def test_fetched_once(row, hub_server, tmp_path):
    fetch_row(row, tmp_path)
    count = len(hub_server.requests)
    fetch_row(row, tmp_path)
    assert len(hub_server.requests) == count


def test_file_in_a_subfolder(hub_server, tmp_path):
    hub_server.files["model.safetensors"] = b"weights"
    path = fetch_row(weight_row("wav2vec2_base_960h"), tmp_path)
    assert path == tmp_path / "wav2vec2-base-960h" / "model.safetensors"
    assert path.read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ("gated", "gated: open .*accept the licence, then log in"),
        (401, "needs a login.*HF_TOKEN"),
        (403, "refused access.*accept the licence"),
        (404, "has no such file warping_module"),
        (500, "HTTP 500.*try again later"),
    ],
)
def test_refusals_say_what_to_do(fault, advice, row, hub_server, tmp_path):
    hub_server.faults[FILE] = fault
    with pytest.raises(FetchError, match=rf"cannot fetch {row.name} .*{advice}"):
        fetch_row(row, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nobody_answers(row, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match=r"cannot be reached.*check the network"):
        fetch_row(row, tmp_path)


def test_right_size_wrong_bytes(row, hub_server, tmp_path):
    hub_server.faults[FILE] = "wrong"
    with pytest.raises(FetchError, match=rf"expected {SHA256}.*nothing was kept"):
        fetch_row(row, tmp_path)
    assert visible(tmp_path) == []
    assert partial_files(tmp_path) == []


def test_checksum_of_the_manifest_counts_before_the_hubs(row, tmp_path):
    with pytest.raises(FetchError, match="expected 000"):
        fetch_row(replace(row, sha256="0" * 64), tmp_path)
    assert visible(tmp_path) == []


def test_connection_cut_at_half_is_taken_up_again(row, hub_server, tmp_path):
    hub_server.faults[FILE] = "cut"
    assert fetch_row(row, tmp_path).read_bytes() == CONTENT
    assert hub_server.ranges() == [f"bytes={len(CONTENT) // 2}-"]


def test_file_that_changed_since_the_cut_starts_again(row, hub_server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    hub_server.faults[FILE] = "cut"
    with pytest.raises(FetchError, match="broke"):
        fetch_row(row, tmp_path)
    hub_server.files[FILE] = CONTENT[::-1]
    assert fetch_row(row, tmp_path).read_bytes() == CONTENT[::-1]


def test_cancelled_download_resumes(row, hub_server, tmp_path):
    class Cancelled(Exception):
        pass

    def cancel(done, total):
        if done > len(CONTENT) // 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch_row(row, tmp_path, cancel)
    assert visible(tmp_path) == []
    assert len(partial_files(tmp_path)) == 1
    assert fetch_row(row, tmp_path).read_bytes() == CONTENT
    assert int(hub_server.ranges()[0].removeprefix("bytes=").removesuffix("-")) > len(CONTENT) // 2


def test_login_is_sent_to_the_hub(row, hub_server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_row(row, tmp_path)
    assert {headers["Authorization"] for _, _, headers in hub_server.requests} == {"Bearer hf_secret"}


def test_login_is_not_sent_where_the_hub_redirects(row, hub_server, tmp_path, monkeypatch):
    """The storage behind the hub is another company's server."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub_server.faults[FILE] = "redirect"
    assert fetch_row(row, tmp_path).read_bytes() == CONTENT
    method, path, headers = hub_server.requests[-1]
    assert (method, path) == ("GET", f"/storage/{FILE}")
    assert "Authorization" not in headers


def test_disk_too_full(row, hub_server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(FetchError, match=f"needs {len(CONTENT)} bytes but only 1000 are free"):
        fetch_row(row, tmp_path)
    assert [method for method, _, _ in hub_server.requests] == ["HEAD"]


def test_folder_that_cannot_be_written(row, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match="cannot write to"):
        fetch_row(row, tmp_path / "file" / "models")


def test_no_hub_checksum_for_small_files(row, monkeypatch):
    """Files kept in git have the id of a git blob as their tag: 40 digits, not a sha256."""
    import huggingface_hub

    found = type("Metadata", (), {"etag": "a" * 40, "size": 3, "commit_hash": COMMIT})
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: found)
    assert hub.hub_file(row).sha256 is None
