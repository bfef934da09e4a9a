"""Batches on ComfyUI servers, which are made up here."""

import json
import socket

import pytest
from PIL import Image
from talking_portrait.headless import batch_run, batch_workers
from talking_portrait.headless.batch_places import server_place
from talking_portrait.headless.command_line import main
from talking_portrait.headless.graph import WorkflowError

from .batch_parts import WORKER_COMMAND
from .fake_comfyui import GRAPH, HOLD, running_fake


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with a workflow, a list beside a picture, and workers that start quickly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batch_workers, "WORKER_COMMAND", WORKER_COMMAND)
    monkeypatch.setattr(batch_run, "RESTART_SECONDS", 0.05)
    (tmp_path / "workflow.json").write_text(json.dumps(GRAPH))
    (tmp_path / "list").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "list" / "face.png")
    return tmp_path


@pytest.fixture
def comfyui():
    with running_fake() as fake:
        yield fake


def write_jobs(folder, *rows):
    (folder / "list" / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def batch(*options):
    return main(["batch", "workflow.json", "list/jobs.jsonl", "--out", "out", *options])


def statuses(folder):
    lines = (folder / "out" / "report.jsonl").read_text().splitlines()
    return {entry["name"]: entry["status"] for entry in map(json.loads, lines)}


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_rows_run_there_with_files_from_here(place, comfyui):
    write_jobs(place, {"name": "anna", "image": "face.png"}, {"name": "bo", "filename_prefix": "b"})
    assert batch("--server", comfyui.url) == 0
    assert statuses(place) == {"anna": "done", "bo": "done"}
    assert (place / "out" / "anna" / "sub" / "x_00001_.png").read_bytes() == b"png bytes"
    sent = [content["prompt"] for content in comfyui.prompts]
    assert sorted(graph["2"]["inputs"]["filename_prefix"] for graph in sent) == ["b", "x"]
    assert any(graph["1"]["inputs"]["image"].startswith("face-") for graph in sent)
    assert len(comfyui.uploads) == 1


def test_a_server_that_is_down_leaves_its_rows_to_the_others_and_no_password_is_told(place, comfyui, capfd):
    write_jobs(place, *({"name": f"row{n}", "filename_prefix": f"p{n}"} for n in range(3)))
    comfyui.wanted_headers = {"Authorization": "Basic YW5uOnNlY3JldHdvcmQ="}
    address = comfyui.url.replace("//", "//ann:secretword@")
    down = f"http://bo:hiddenword@127.0.0.1:{closed_port()}"
    assert batch("--server", down, "--json") == 3
    alone = capfd.readouterr()
    assert batch("--server", down, "--server", address, "--json") == 0
    assert set(statuses(place).values()) == {"done"}
    told = capfd.readouterr()
    files = [path.read_bytes() for path in (place / "out").rglob("*") if path.is_file()]
    for secret in ("secretword", "hiddenword", "YW5uOnNlY3JldHdvcmQ="):
        assert secret not in alone.out + alone.err + told.out + told.err
        assert not any(secret.encode() in content for content in files)


def test_headers_are_sent(place, comfyui):
    write_jobs(place, {"filename_prefix": "a"})
    comfyui.wanted_headers = {"X-Token": "t1"}
    assert batch("--server", comfyui.url) == 3
    assert batch("--server", comfyui.url, "--header", "X-Token: t1") == 0


def test_no_server_answers(place, capfd):
    write_jobs(place, {"filename_prefix": "a"})
    assert batch("--server", f"http://127.0.0.1:{closed_port()}") == 3
    assert not (place / "out").exists()


def test_rows_that_the_server_refuses_or_fails(place, comfyui):
    write_jobs(place, {"name": "anna", "filename_prefix": "a"})
    comfyui.prompt_answer = (400, {"error": {"type": "x", "message": "no such model"}, "node_errors": {}})
    assert batch("--server", comfyui.url) == 2
    assert statuses(place) == {"anna": "refused"}
    assert "no such model" in (place / "out" / "report.html").read_text()
    comfyui.prompt_answer = None
    failure = [
        "execution_error",
        {"node_id": "2", "node_type": "SaveImage", "exception_message": "disk full"},
    ]
    comfyui.history = {"outputs": {}, "status": {"status_str": "error", "messages": [failure]}}
    assert batch("--server", comfyui.url) == 3
    assert "disk full" in (place / "out" / "report.jsonl").read_text()


def test_a_row_over_its_time_is_cancelled_there(place, comfyui):
    write_jobs(place, {"name": "anna", "filename_prefix": "a"})
    comfyui.polls_before_the_end = 10**9
    comfyui.websockets = [[HOLD]]
    assert batch("--server", comfyui.url, "--time-limit", "0.5") == 3
    assert statuses(place) == {"anna": "too long"}
    cancelled = comfyui.asked_for("/queue") + comfyui.asked_for("/interrupt")
    assert any(comfyui.prompt_ids[0] in json.dumps(content) for content in cancelled if content)


def test_unknown_nodes_of_a_server(place, comfyui, capfd):
    (place / "workflow.json").write_text(json.dumps({"1": {"class_type": "Magic", "inputs": {}}}))
    write_jobs(place, {"filename_prefix": "a"})
    assert batch("--server", comfyui.url) == 2
    assert "Magic" in capfd.readouterr().err


def test_more_workers_than_servers(tmp_path):
    with pytest.raises(WorkflowError, match="a server runs one row at a time"):
        server_place(["http://a", "http://b"], tmp_path, 3)
    assert server_place(["http://a", "http://b"], tmp_path).workers == 2
