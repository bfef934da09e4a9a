"""Batches on a Ray cluster."""

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from talking_portrait.headless import ray_actor
from talking_portrait.headless.batch_folder import DONE as NOTED_DONE
from talking_portrait.headless.batch_folder import JOURNAL_FILE, Journal
from talking_portrait.headless.batch_worker import DONE, RowOrder
from talking_portrait.headless.command_line import main
from talking_portrait.headless.preparation import PreparedWorkflow
from talking_portrait.headless.ray_actor import RowActor
from talking_portrait.headless.ray_workers import ActorResources, actors_for, lost_text
from talking_portrait.runtime.host import TEMP_VARIABLE

from .batch_parts import PROBE_GRAPH, add_probe_nodes, notes, remove_probe_nodes

LARGE_PIECES = 100_000


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROBE_NOTES", str(tmp_path))
    add_probe_nodes()
    yield tmp_path
    remove_probe_nodes()


def node(**resources):
    return {"Alive": True, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "workers", "rows", "count", "cards", "cores"),
    [
        ([node(CPU=8.0, GPU=2.0), node(CPU=8.0, GPU=1.0)], None, 100, 3, 1, 1),
        ([node(CPU=8.0, GPU=2.0)], 1, 100, 1, 1, 1),
        ([node(CPU=4.0), node(CPU=4.0)], None, 100, 8, 0, 1),
        ([node(CPU=4.0), node(CPU=4.0)], None, 3, 3, 0, 2),
        ([node(CPU=4.0), node(CPU=4.0)], 2, 100, 2, 0, 4),
        ([node(CPU=2.0), node(CPU=6.0)], 2, 100, 2, 0, 2),
        ([node(CPU=0.0), node(CPU=4.0), {"Alive": False, "Resources": {"CPU": 64.0}}], None, 9, 4, 0, 1),
        ([node()], None, 9, 1, 0, 1),
    ],
)
def test_actors_for_a_cluster(nodes, workers, rows, count, cards, cores):
    assert actors_for(nodes, workers, rows) == (count, ActorResources(cards, cores))


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (
            "died in creation\n  File x\nModuleNotFoundError: No module named 'talking_portrait'",
            "install talking-portrait",
        ),
        (
            "ray::run()\n   ^^^\nOSError: [Errno 28] No space left on device\n",
            "OSError: [Errno 28] No space left on device",
        ),
        ("", "RuntimeError"),
    ],
)
def test_what_is_told_about_a_lost_actor(report, told):
    assert told in lost_text(RuntimeError(report))


class TestActor:
    """What an actor does, in this process."""

    @pytest.fixture
    def actor(self, place, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(place / "tmp"))
        monkeypatch.setenv(TEMP_VARIABLE, "")
        return RowActor()

    def order(self, **inputs):
        graph = {**PROBE_GRAPH, "2": {**PROBE_GRAPH["2"], "inputs": {**PROBE_GRAPH["2"]["inputs"], **inputs}}}
        return RowOrder(PreparedWorkflow(graph), Path("unused")).as_json()

    def test_files_go_in_and_results_come_out_in_pieces(self, actor, place, monkeypatch):
        monkeypatch.setattr(ray_actor, "PIECE_BYTES", 4)
        assert actor.missing(["d1", "d2"]) == ["d1", "d2"]
        actor.receive("d1", b" of ", False)
        assert actor.missing(["d1"]) == ["d1"]
        actor.receive("d1", b"anna", True)
        assert actor.missing(["d1", "d2"]) == ["d2"]
        answer = actor.run(self.order(file="2/face.txt"), {"2/face.txt": "d1"})
        assert (answer["type"], answer["saved"]) == (DONE, ["text/probe_00001_.txt"])
        pieces, offset = [], 0
        while piece := actor.read(answer["saved"][0], offset):
            pieces.append(piece)
            offset += len(piece)
        assert max(map(len, pieces)) == 4
        assert b"".join(pieces) == b"hello of anna 1 small"
        assert notes(place, "read")[0][1].startswith(str(place / "tmp"))

    def test_results_of_the_last_row_are_gone_and_its_model_stays(self, actor, place):
        for text in ("one", "two"):
            assert actor.run(self.order(text=text), {})["saved"] == ["text/probe_00001_.txt"]
        assert actor.read("text/probe_00001_.txt", 0) == b"two 1 small"
        assert len(notes(place, "load")) == 1

    def test_files_are_forgotten_when_they_are_too_many(self, actor, monkeypatch):
        for digest in ("d1", "d2"):
            actor.receive(digest, b"content", True)
        actor.run(self.order(), {"face.txt": "d2"})
        assert actor.missing(["d1", "d2"]) == []
        monkeypatch.setattr(ray_actor, "KEPT_BYTES", 10)
        actor.run(self.order(), {"face.txt": "d2"})
        assert actor.missing(["d1", "d2"]) == ["d1"]

    def test_nothing_stays_after_the_end(self, actor, place):
        actor.receive("d1", b"content", True)
        actor.close()
        assert list((place / "tmp" / f"talking_portrait_ray_{ray_actor._user()}").iterdir()) == []

    def test_what_killed_actors_left_is_removed(self, actor, place):
        base = place / "tmp" / f"talking_portrait_ray_{ray_actor._user()}"
        (base / "999999999" / "kept").mkdir(parents=True)
        RowActor()
        assert [path.name for path in base.iterdir()] == [str(os.getpid())]


def test_without_ray_what_to_install_is_told(place, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "ray", None)
    write_batch(place, {"text": "a"})
    assert batch() == 3
    assert "pip install 'talking-portrait[ray]'" in capfd.readouterr().err


def write_batch(folder, *rows):
    (folder / "workflow.json").write_text(json.dumps(PROBE_GRAPH))
    (folder / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def batch(*options):
    return main(["batch", "workflow.json", "jobs.jsonl", "--out", "out", "--ray", "auto", *options])


@pytest.fixture
def cluster(place):
    """A Ray cluster of two machines with one core each, on this one; its workers know the probe nodes."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    if not sys.platform.startswith("linux"):
        pytest.skip("Ray joins several nodes on one machine only under Linux")
    size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    settings = {
        "worker_niceness": 0,
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 200,
        "health_check_timeout_ms": 1000,
        "health_check_failure_threshold": 3,
    }
    head = {**size, "include_dashboard": False, "_system_config": settings}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(**size)
    (place / "elsewhere").mkdir()
    variables = {
        "PYTHONPATH": str(Path(__file__).parent),
        "PROBE_NOTES": str(place),
        "TMPDIR": str(place / "elsewhere"),
    }
    runtime = {"env_vars": variables, "worker_process_setup_hook": "batch_parts.prepare_worker"}
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR", runtime_env=runtime)
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_killed_worker_and_a_lost_machine_cost_no_row_and_none_is_done_twice(cluster, place, capfd):
    (place / "face.txt").write_text(" of anna" * LARGE_PIECES)
    rows = [
        {"name": "anna", "text": "die once"},
        {"name": "bo", "text": "good day", "2.file": "face.txt"},
        {"name": "cy", "text": "fail"},
        *({"name": f"row{n}", "seed": n, "seconds": 0.5} for n in range(8)),
    ]
    write_batch(place, *rows)
    remover = threading.Thread(target=remove_a_machine, args=(cluster, place))
    remover.start()
    assert batch("--retries", "3", "--json") == 3
    remover.join()
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert [event["type"] for event in events].count("row_finished") == len(rows)
    report = [json.loads(line) for line in (place / "out" / "report.jsonl").read_text().splitlines()]
    statuses = {entry["name"]: entry["status"] for entry in report}
    assert statuses == {row["name"]: "failed" if row["name"] == "cy" else "done" for row in rows}
    assert report[0]["attempts"] >= 2
    assert len(cluster.worker_nodes) == 0
    done = [e["name"] for e in Journal(place / "out" / JOURNAL_FILE).entries() if e["state"] == NOTED_DONE]
    assert sorted(done) == sorted(name for name, status in statuses.items() if status == "done")
    for n in range(8):
        assert (place / "out" / f"row{n}" / "text" / "probe_00001_.txt").read_text() == f"hello {n} small"
    saved = (place / "out" / "bo" / "text" / "probe_00001_.txt").read_text()
    assert saved == "good day" + " of anna" * LARGE_PIECES + " 1 small"
    assert notes(place, "read")[0][1].startswith(str(place / "elsewhere"))


def remove_a_machine(cluster, folder):
    """Take the second machine away once rows run on both again, or most rows have run."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        written = notes(folder, "write")
        if len({pid for pid, _ in written}) == 3 or len(written) == 8:
            break
        time.sleep(0.05)
    with contextlib.suppress(Exception):
        cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False)
