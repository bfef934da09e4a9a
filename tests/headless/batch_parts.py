"""Nodes to try batches with, in this process, in workers, and on a Ray cluster.

As a script it is the command line with these nodes: python batch_parts.py batch WORKFLOW JOBS ...
"""

import contextlib
import os
import runpy
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]


LOADED = set()
"""Models that are in this process, as the model cache has them."""


class ProbeLoader:
    """A model; who loads it is written into the folder that PROBE_NOTES names."""

    RETURN_TYPES = ("PROBE_MODEL",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": (["small", "large"],), "download_if_missing": ("BOOLEAN", {})}}

    def load(self, model, download_if_missing):
        if model not in LOADED:
            LOADED.add(model)
            note("load", model)
        return (model,)


class ProbeWriter:
    """An output node that does what its text says and saves a text file."""

    RETURN_TYPES = ()
    FUNCTION = "write"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("PROBE_MODEL",),
                "text": ("STRING", {"default": ""}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 100}),
                "seconds": ("FLOAT", {"default": 0.0}),
            },
            "optional": {"file": ("STRING", {"image_upload": True})},
        }

    def write(self, model, text, seed, seconds, file=None):
        from talking_portrait.runtime.host import host
        from talking_portrait.runtime.input_files import input_path
        from talking_portrait.runtime.output_files import next_output_file

        note("write", text)
        print("printed by a node")  # noqa: T201 - what some nodes do
        if file is not None:
            text += input_path(file).read_text(encoding="utf-8")
            note("read", str(input_path(file)))
        saved = next_output_file("text/probe", ".txt")
        saved.path.write_text("half", encoding="utf-8")
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            host().check_cancelled()
            time.sleep(0.02)
        if text == "die" or (text == "die once" and note("died", text) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "fail":
            raise ValueError("the picture is 1x1")
        if text == "hang":
            time.sleep(60)
        saved.path.write_text(f"{text} {seed} {model}", encoding="utf-8")
        return {"ui": {"text": [saved.reference]}}


def note(what, text):
    """Write down that something happened; return how often it has."""
    folder = os.environ.get("PROBE_NOTES")
    if not folder:
        return 0
    with Path(folder, what).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {text}\n")
    return len(notes(folder, what))


def notes(folder, what):
    """Return (process id, text) of everything that was noted."""
    path = Path(folder, what)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [tuple(line.split(" ", 1)) for line in lines]


def prepare_worker():
    """What a worker of a Ray cluster does first."""
    do_without_torch()
    add_probe_nodes()


def add_probe_nodes():
    """Make the runner of this process know the nodes above."""
    if find_spec("talking_portrait") is None:
        runpy.run_path(str(ROOT / "conftest.py"))
    from talking_portrait.headless.core_nodes import CORE_NODES
    from talking_portrait.headless.registry import node_classes

    CORE_NODES.update(ProbeLoader=ProbeLoader, ProbeWriter=ProbeWriter)
    node_classes.cache_clear()


def remove_probe_nodes():
    """Undo `add_probe_nodes`, and forget what was loaded."""
    LOADED.clear()
    from talking_portrait.headless.core_nodes import CORE_NODES
    from talking_portrait.headless.registry import node_classes

    for name in ("ProbeLoader", "ProbeWriter"):
        CORE_NODES.pop(name, None)
    node_classes.cache_clear()


WORKER_COMMAND = (sys.executable, str(Path(__file__).resolve()), "batch-worker")

PROBE_GRAPH = {
    "1": {
        "class_type": "ProbeLoader",
        "inputs": {"model": "small", "download_if_missing": False},
        "_meta": {"title": "Load Probe"},
    },
    "2": {
        "class_type": "ProbeWriter",
        "inputs": {"model": ["1", 0], "text": "hello", "seed": 1, "seconds": 0.0},
        "_meta": {"title": "Write Probe"},
    },
}


def do_without_torch():
    """Let what only asks torch whether there is a graphics card do without it: importing it takes seconds."""
    torch = ModuleType("torch")
    torch.inference_mode = contextlib.nullcontext
    torch.cuda = SimpleNamespace(device_count=lambda: 0)
    sys.modules["torch"] = torch


def main(arguments):
    """Run the command line with the nodes above."""
    prepare_worker()
    from talking_portrait.headless import batch_workers
    from talking_portrait.headless.command_line import main as command_line

    batch_workers.WORKER_COMMAND = WORKER_COMMAND
    return command_line(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
