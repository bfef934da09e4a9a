"""Batches as they are run: worker processes, resuming, crashes, Ctrl-C."""

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from talking_portrait.headless import batch_workers
from talking_portrait.headless.batch_folder import open_batch_folder, read_record
from talking_portrait.headless.batch_worker import DONE, FAILED, READY, work
from talking_portrait.headless.command_line import main

from .batch_parts import PROBE_GRAPH, WORKER_COMMAND, add_probe_nodes, notes, remove_probe_nodes

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with a workflow of probe nodes, which workers know too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROBE_NOTES", str(tmp_path))
    monkeypatch.setattr(batch_workers, "WORKER_COMMAND", WORKER_COMMAND)
    (tmp_path / "workflow.json").write_text(json.dumps(PROBE_GRAPH))
    add_probe_nodes()
    yield tmp_path
    remove_probe_nodes()


def write_jobs(folder, *rows):
    (folder / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def batch(*options):
    return main(["batch", "workflow.json", "jobs.jsonl", "--out", "out", *options])


def report(folder):
    return [json.loads(line) for line in (folder / "out" / "report.jsonl").read_text().splitlines()]


def statuses(folder):
    return {entry["name"]: entry["status"] for entry in report(folder)}


def text_of(folder, name):
    return (folder / "out" / name / "text" / "probe_00001_.txt").read_text()


def test_rows_run_bad_ones_are_told_and_the_second_time_only_what_is_left(place, capfd):
    rows = [
        {"name": "anna", "text": "good day", "seed": 5},
        {"name": "bo", "text": "fail"},
        {"name": "cy", "seed": 1000},
        {"name": "di", "model": "large"},
    ]
    write_jobs(place, *rows)
    assert batch() == 3
    assert statuses(place) == {"anna": "done", "bo": "failed", "cy": "refused", "di": "done"}
    assert text_of(place, "anna") == "good day 5 small"
    assert text_of(place, "di") == "hello 1 large"
    assert not (place / "out" / "bo").exists()
    told = capfd.readouterr()
    assert told.out.splitlines() == [
        str(place / "out" / name / "text" / "probe_00001_.txt") for name in ("anna", "di")
    ]
    assert "the picture is 1x1" in told.err
    assert "line 3 (cy) refused" in told.err
    assert len({pid for pid, _ in notes(place, "load")}) == 1

    rows[1]["text"] = "better"
    rows[2]["seed"] = 3
    write_jobs(place, *rows)
    before = len(notes(place, "write"))
    capfd.readouterr()
    assert batch("--json") == 0
    assert statuses(place) == {"anna": "done earlier", "bo": "done", "cy": "done", "di": "done earlier"}
    assert len(notes(place, "write")) == before + 2
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    names = [event["type"] for event in events]
    assert names[0] == "batch_start"
    assert names[-1] == "batch_end"
    assert names.count("row_finished") == 2
    assert {"execution_start", "executing", "execution_success"} <= set(names)
    assert all(event["data"]["name"] in ("bo", "cy") for event in events[1:-1])
    assert events[-1]["data"]["report"] == str(place / "out" / "report.html")


@needs_signals
def test_lost_workers_are_replaced_and_only_their_rows_begun_again(place, capfd):
    write_jobs(
        place,
        {"name": "anna", "text": "die once"},
        {"name": "bo", "text": "die"},
        {"name": "cy", "seconds": 30},
        {"name": "di", "text": "fine"},
    )
    assert batch("--retries", "1", "--time-limit", "2") == 3
    assert statuses(place) == {"anna": "done", "bo": "worker lost", "cy": "too long", "di": "done"}
    assert [entry["attempts"] for entry in report(place)] == [2, 2, 1, 1]
    assert text_of(place, "anna") == "die once 1 small"
    pids = [pid for pid, _ in notes(place, "write")]
    assert len(set(pids)) == 4
    assert pids[-1] == pids[-2]
    assert "SIGKILL, as the system does when memory runs out" in capfd.readouterr().err


class TestRefusedBeforeAnythingRuns:
    def refused(self, capfd, *options):
        assert batch(*options) == 2
        assert not Path("out").exists()
        return capfd.readouterr().err

    def test_unknown_column(self, place, capfd):
        write_jobs(place, {"text": "a"}, {"colour": "red"})
        assert "line 2: the column 'colour' sets no input" in self.refused(capfd)

    def test_list_that_is_not_there(self, place, capfd):
        assert "cannot be read" in self.refused(capfd)

    def test_workflow_that_is_none(self, place, capfd):
        write_jobs(place, {"text": "a"})
        (place / "workflow.json").write_text("{")
        assert "not JSON" in self.refused(capfd)

    def test_setting_for_all_rows_that_is_none(self, place, capfd):
        write_jobs(place, {"text": "a"})
        assert "colour" in self.refused(capfd, "--set", "2.colour=red")

    @pytest.mark.parametrize(
        "options",
        [["--workers", "0"], ["--retries", "-1"], ["--time-limit", "nan"], ["--server", "a", "--ray", "b"]],
    )
    def test_options(self, place, options):
        write_jobs(place, {"text": "a"})
        with pytest.raises(SystemExit) as ended:
            batch(*options)
        assert ended.value.code == 2


def test_somebody_elses_folder_is_left_alone(place, capfd):
    write_jobs(place, {"name": "anna"})
    (place / "out" / "anna").mkdir(parents=True)
    assert batch() == 2
    assert "is not of a batch" in capfd.readouterr().err
    assert list((place / "out" / "anna").iterdir()) == []


def start(folder, *options):
    """Start a batch as a process of its own."""
    script = [*WORKER_COMMAND[:2], "batch", "workflow.json", "jobs.jsonl", "--out", "out", *options]
    return subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, text=True)


def wait_for(condition, seconds=20):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split() if Path("/proc").exists() else True


@needs_signals
def test_stopping_leaves_nothing_half_and_goes_on_later(place):
    write_jobs(place, {"name": "anna"}, {"name": "bo", "seconds": 30}, {"name": "cy"})
    process = start(place, "--workers", "1")
    wait_for(lambda: len(notes(place, "write")) == 2)
    worker = int(notes(place, "write")[1][0])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode == 130
    wait_for(lambda: not is_running(worker), 2)
    assert statuses(place) == {"anna": "done", "bo": "not run", "cy": "not run"}
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        *(".lock", "anna", "journal.jsonl", "report.html", "report.jsonl"),
    ]
    write_jobs(place, {"name": "anna"}, {"name": "bo", "seconds": 0}, {"name": "cy"})
    assert batch() == 0
    assert statuses(place) == {"anna": "done earlier", "bo": "done", "cy": "done"}


@needs_signals
def test_a_killed_batch_takes_its_workers_along_and_frees_its_folder(place):
    write_jobs(place, {"name": "anna"}, {"name": "bo", "seconds": 30})
    process = start(place, "--workers", "1")
    wait_for(lambda: len(notes(place, "write")) == 2)
    worker = int(notes(place, "write")[1][0])
    process.kill()
    process.communicate(timeout=10)
    wait_for(lambda: not is_running(worker), 6)
    assert not (place / "out" / "bo").exists()
    with open_batch_folder(place / "out") as folder:
        assert read_record(place / "out" / "anna").key
        assert list(folder.unfinished.iterdir()) == []


def test_results_are_those_of_a_single_run(place):
    write_jobs(place, {"name": "anna", "text": "same", "seed": 9})
    assert batch() == 0
    settings = ["--set", "2.text=same", "--set", "2.seed=9"]
    assert main(["run", "workflow.json", *settings, "--out", "single"]) == 0
    assert (place / "single" / "text" / "probe_00001_.txt").read_text() == text_of(place, "anna")
    assert read_record(place / "out" / "anna").settings == {"text": "same", "seed": 9}


class TestWorker:
    """The protocol, spoken over pipes within this process."""

    @pytest.fixture
    def worker(self, place):
        order_end, orders = (
            os.fdopen(end, mode, encoding="utf-8") for end, mode in zip(os.pipe(), "rw", strict=True)
        )
        answers, answer_end = (
            os.fdopen(end, mode, encoding="utf-8") for end, mode in zip(os.pipe(), "rw", strict=True)
        )
        thread = threading.Thread(target=work, args=(order_end, answer_end))
        thread.start()

        def say(**content):
            orders.write(json.dumps(content) + "\n")
            orders.flush()

        def hear(*kinds):
            while True:
                answer = json.loads(answers.readline())
                if answer["type"] in kinds:
                    return answer

        say()
        assert hear(READY)["pid"] == os.getpid()
        yield say, hear
        orders.close()
        thread.join(timeout=5)
        for stream in (order_end, answers, answer_end):
            stream.close()

    def order(self, folder, **inputs):
        graph = copy.deepcopy(PROBE_GRAPH)
        graph["2"]["inputs"].update(inputs)
        return {"graph": graph, "page": None, "files": [], "output": str(folder), "input": None}

    def test_rows_one_after_another(self, worker, tmp_path):
        say, hear = worker
        say(**self.order(tmp_path / "a", text="one"))
        answer = hear(DONE, FAILED)
        assert answer["saved"] == ["text/probe_00001_.txt"]
        assert answer["seconds"] > 0
        say(**self.order(tmp_path / "b", text="fail"))
        answer = hear(DONE, FAILED)
        assert (answer["type"], answer["reason"]) == (FAILED, "broken")
        assert "the picture is 1x1" in answer["error"]
        assert "Traceback" in answer["traceback"]
        say(**self.order(tmp_path / "c", seed=1000))
        assert hear(DONE, FAILED)["reason"] == "refused"
        assert len(notes(tmp_path, "load")) == 1

    def test_cancelling_stops_a_row_and_not_the_next(self, worker, tmp_path):
        say, hear = worker
        say(**self.order(tmp_path / "a", seconds=30))
        wait_for(lambda: notes(tmp_path, "write"))
        say(cancel=True)
        assert hear(DONE, FAILED)["reason"] == "cancelled"
        say(**self.order(tmp_path / "b"))
        assert hear(DONE, FAILED)["type"] == DONE
