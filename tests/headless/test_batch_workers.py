"""Worker processes: their surroundings, and how their end is told."""

import queue
import sys
from types import SimpleNamespace

import pytest
from talking_portrait.headless.batch_worker import READY
from talking_portrait.headless.batch_workers import (
    LOST,
    ProcessWorker,
    end_workers,
    visible_cards,
    worker_environment,
)


@pytest.fixture
def cards(monkeypatch):
    """Let torch see so many graphics cards."""

    def see(count, named=None):
        fake = SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: count))
        monkeypatch.setitem(sys.modules, "torch", fake)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr("os.cpu_count", lambda: 8)
        if named is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)

    return see


def test_each_worker_has_its_card(cards):
    cards(2)
    assert [worker_environment(n, 3)["CUDA_VISIBLE_DEVICES"] for n in range(3)] == ["0", "1", "0"]


def test_only_cards_that_this_process_may_use(cards):
    cards(2, named=" 3, GPU-abc ")
    assert visible_cards() == ["3", "GPU-abc"]
    cards(0, named="")
    assert visible_cards() == []


@pytest.mark.parametrize(("workers", "threads"), [(1, None), (2, "4"), (3, "2"), (100, "1")])
def test_workers_share_the_cores(cards, workers, threads):
    cards(0)
    assert worker_environment(0, workers).get("OMP_NUM_THREADS") == threads
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(0, workers)


def test_the_users_number_of_threads_stays(cards, monkeypatch):
    cards(0)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert worker_environment(0, 2) == {}


@pytest.fixture
def messages(tmp_path):
    """Start a worker that runs a Python text; return what it tells until it has ended."""

    def told(script):
        inbox = queue.SimpleQueue()
        worker = ProcessWorker(0, inbox, tmp_path / "worker.log", command=(sys.executable, "-c", script))
        try:
            found = [inbox.get(timeout=20)]
            while found[-1].type != LOST:
                found.append(inbox.get(timeout=20))
        finally:
            end_workers([worker])
        return found

    return told


def test_how_a_worker_ended_and_what_it_wrote_last(messages):
    lost = messages("import sys; sys.stderr.write('one\\n\\ntwo\\nthree\\nmodel not found\\n'); sys.exit(7)")[
        -1
    ]
    expected = "the worker ended with exit code 7; it last wrote: two / three / model not found"
    assert lost.data["error"] == expected


def test_a_worker_that_falls_silent_first_may_say_why_it_ends(messages):
    script = "import os, sys, time; os.close(1); time.sleep(0.2); sys.stderr.write('no server'); os._exit(3)"
    assert messages(script)[-1].data["error"] == "the worker ended with exit code 3; it last wrote: no server"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_worker_that_falls_silent_and_stays_is_ended(messages, monkeypatch):
    monkeypatch.setattr("talking_portrait.headless.batch_workers.ENDING_SECONDS", 0.1)
    assert "SIGKILL" in messages("import os, time; os.close(1); time.sleep(60)")[-1].data["error"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_is_named(messages):
    lost = messages("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")[-1]
    assert lost.data["error"] == "the worker was killed by SIGTERM"


@pytest.mark.parametrize("line", [b"not JSON", b"[]", b"{}", b"3", b"\xff\xfe"])
def test_a_worker_that_speaks_nonsense_is_ended(messages, line):
    ready = f'print(\'{{"type": "{READY}", "pid": 1}}\', flush=True)'
    kinds = [
        m.type
        for m in messages(
            f"import sys, time; {ready}; sys.stdout.buffer.write({line!r} + b'\\n'); sys.stdout.flush(); time.sleep(60)"
        )
    ]
    assert kinds in ([READY, LOST], [LOST])  # bytes that are no text are read together with what comes before


def test_a_worker_gets_passing_files_of_its_own(messages, tmp_path):
    lost = messages("import os, sys; sys.stderr.write(os.environ['TALKING_PORTRAIT_TEMP'])")[-1]
    assert lost.data["error"].endswith(f"it last wrote: {tmp_path / 'worker.temp'}")
    assert (tmp_path / "worker.temp").is_dir()
