"""A real ComfyUI with this checkout as a pack, for tests.

Needs COMFYUI_DIR, a checkout of ComfyUI. COMFYUI_PYTHON names the interpreter that has ComfyUI's requirements
(default: this one), and COMFYUI_ARGUMENTS more arguments for it.
"""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 120
"""Seconds for ComfyUI to start."""


def comfyui_folder() -> str:
    """The checkout; skips without."""
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        pytest.skip(
            "COMFYUI_DIR is not set: point it to a checkout of ComfyUI to run the shipped graphs there"
        )
    return folder


def comfyui_python() -> str:
    """The interpreter that has ComfyUI's requirements."""
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


@contextmanager
def running_comfyui(base: Path, models: Path) -> Iterator[tuple[str, Path, Path]]:
    """Give a server's (url, base folder, log). base: of its folders; packs already there are loaded as well.

    models: a models folder of this package.
    """
    folder = comfyui_folder()
    for name in ("custom_nodes", "input", "output", "models"):
        (base / name).mkdir(exist_ok=True)
    (base / "custom_nodes" / "ComfyUI-TalkingPortrait").symlink_to(ROOT, target_is_directory=True)
    port = _free_port()
    arguments = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    arguments += ["--disable-auto-launch", "--database-url", f"sqlite:///{base}/comfyui.db"]
    arguments += shlex.split(os.environ.get("COMFYUI_ARGUMENTS", ""))
    log = base / "server.log"
    environment = {**os.environ, "TALKING_PORTRAIT_MODELS": str(models)}
    with (
        log.open("w") as output,
        subprocess.Popen(
            [comfyui_python(), "main.py", *arguments],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            _wait_for(process, port, log)
            yield f"http://127.0.0.1:{port}", base, log
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def _wait_for(process: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"ComfyUI ended while starting:\n{log.read_text()[-3000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"ComfyUI did not start within {START_TIMEOUT} s:\n{log.read_text()[-3000:]}")
