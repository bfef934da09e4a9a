"""Ctrl-C and SIGTERM in a process of its own: wherever the work is, it ends and leaves nothing half done."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMAND = Path(__file__).with_name("command_with_small_nodes.py")
ENDS_WITHIN = 20
"""Seconds in which the process has to be gone, on a machine that is busy with other things too."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")


@contextmanager
def working(folder, way):
    """Give a process that is in the midst of a node's work."""
    graph = {
        "1": {"class_type": "XEndless", "inputs": {"way": way}},
        "9": {"class_type": "XShow", "inputs": {"value": ["1", 0]}},
    }
    (folder / "graph.json").write_text(json.dumps(graph))
    with subprocess.Popen(
        [sys.executable, str(COMMAND), "run", "graph.json", "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if not any(json.loads(line)["type"] == "progress" for line in process.stdout):
                pytest.fail(f"it never began to work: {process.stderr.read()}")
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("way", "number"), [("steps", signal.SIGINT), ("sleep", signal.SIGTERM), ("thread", signal.SIGINT)]
)
def test_one_signal_ends_the_work_and_leaves_nothing(tmp_path, way, number):
    with working(tmp_path, way) as process:
        process.send_signal(number)
        out, errors = process.communicate(timeout=ENDS_WITHIN)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "cancelled"
    assert "execution_interrupted" in [json.loads(line)["type"] for line in out.splitlines()]
    assert list((tmp_path / "output").iterdir()) == []


def test_second_signal_ends_what_does_not_want_to(tmp_path):
    with working(tmp_path, "stubborn") as process:
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=ENDS_WITHIN)
    assert process.returncode == -signal.SIGINT
