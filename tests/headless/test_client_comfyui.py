"""The clients against a real ComfyUI: events, uploads, cancelling, lost connections.

Needs COMFYUI_DIR, a checkout of ComfyUI; see comfyui_server.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from talking_portrait.headless import AsyncClient, Client
from talking_portrait.headless.client import ServerRunError, WorkflowRefusedError
from talking_portrait.headless.graph import WorkflowError
from talking_portrait.headless.workflow_files import read_workflow_file

from ..comfyui_server import running_comfyui

SLOW_PACK = """
import time
import comfy.utils

class SlowCount:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = ("INT",), "count", "test", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"default": 1.0, "min": 0.0}), "number": ("INT", {"default": 0})}}

    def count(self, seconds, number):
        bar = comfy.utils.ProgressBar(20)
        for step in range(20):
            time.sleep(seconds / 20)
            bar.update_absolute(step + 1, 20)
        return {"ui": {"text": [str(number)]}, "result": (number,)}

NODE_CLASS_MAPPINGS = {"SlowCount": SlowCount}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A ComfyUI with a node that counts slowly: (url, base folder)."""
    base = tmp_path_factory.mktemp("comfyui")
    (base / "custom_nodes" / "slow").mkdir(parents=True)
    (base / "custom_nodes" / "slow" / "__init__.py").write_text(SLOW_PACK)
    with running_comfyui(base, base / "models") as (url, folder, _):
        yield url, folder


@pytest.fixture
def client(server, tmp_path):
    with Client(server[0], input_folder=tmp_path / "input") as client:
        yield client


def counting(seconds, number):
    """A graph that counts for a while; another number is another run."""
    return {"1": {"class_type": "SlowCount", "inputs": {"seconds": seconds, "number": number}}}


def picture(path, colour):
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


SAVING = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "face.png"}},
    "2": {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["1", 0], "upscale_method": "area", "scale_by": 2.0},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "sub/x"}},
    "4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
}


def test_a_run_with_a_file_of_this_machine(client, server, tmp_path):
    picture(tmp_path / "input" / "face.png", (200, 10, 10))
    heard = []
    result = client.run(SAVING, output_folder=tmp_path / "out", listener=lambda *event: heard.append(event))
    assert [path.parent for path in result.saved] == [tmp_path / "out" / "sub"]
    assert set(result.executed) == set(SAVING)
    assert set(result.ui) == {"3", "4"}
    names = [name for name, _ in heard if name not in ("progress_state", "progress")]
    assert names[:2] == ["execution_start", "execution_cached"]
    assert names[-2:] == ["execution_success", "executing"]
    assert names.count("executed") == 2
    again = client.run(SAVING, output_folder=tmp_path / "out")
    assert {"1", "2"} <= set(again.cached)
    assert len(list((server[1] / "input").glob("face*"))) == 1
    assert list(read_workflow_file(result.saved[0]).api) == list(SAVING), "the result carries what made it"


def test_nothing_is_sent_twice(client, server, tmp_path):
    names = {client.upload(picture(tmp_path / "same.png", (0, 0, 9))) for _ in range(3)}
    with Client(server[0]) as other:
        names.add(other.upload(tmp_path / "same.png"))
    assert len(names) == 1
    assert [name for name in os.listdir(server[1] / "input") if name.startswith("same")] == list(names)


def test_cancelling_stops_this_run_and_no_other(server, tmp_path):
    async def use():
        async with AsyncClient(server[0]) as client:
            others = asyncio.create_task(client.run(counting(1.5, 1), output_folder=tmp_path))
            await until(client, lambda queue: len(queue.running) == 1)
            waiting = asyncio.create_task(client.run(counting(60, 2), output_folder=tmp_path))
            await until(client, lambda queue: len(queue.waiting) == 1)
            await cancelled(waiting)
            assert (await client.queue()).waiting == ()
            result = await others
            running = asyncio.create_task(client.run(counting(60, 3), output_folder=tmp_path))
            await until(client, lambda queue: len(queue.running) == 1)
            await cancelled(running)
            await until(client, lambda queue: not queue.running)
            return result

    assert asyncio.run(use()).ui == {"1": {"text": ["1"]}}


async def until(client, condition):
    for _ in range(200):
        if condition(await client.queue()):
            return
        await asyncio.sleep(0.05)
    pytest.fail("the queue never became as expected")


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_interrupting_the_command_stops_the_server_too(server, tmp_path, client):
    (tmp_path / "slow.json").write_text(
        '{"1": {"class_type": "SlowCount", "inputs": {"seconds": 60, "number": 4}}}'
    )
    command = [sys.executable, "-m", "talking_portrait", "run", "slow.json", "--server", server[0]]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(400):
            if client.queue().running:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "[1/1] SlowCount" in errors
    asyncio.run(until(AsyncClient(server[0]), lambda queue: not queue.running))
    assert os.listdir(tmp_path) == ["slow.json"]


def test_a_run_that_is_stopped_on_the_page(server, tmp_path, client):
    def stop(name, _):
        if name == "executing":
            threading.Thread(target=lambda: [client.cancel(run) for run in client.queue().running]).start()

    with pytest.raises(ServerRunError, match="stopped on the server"):
        client.run(
            counting(60, 5), output_folder=tmp_path, listener=lambda n, d: d.get("node") and stop(n, d)
        )


def test_refusals_and_failures_are_told_apart(client, tmp_path):
    with pytest.raises(WorkflowRefusedError, match=r"node 1 \(SlowCount\): .*min.*") as refused:
        client.run(counting(-1.0, 6), output_folder=tmp_path)
    assert refused.value.node_errors["1"]["errors"][0]["type"] == "value_smaller_than_min"
    with pytest.raises(WorkflowError, match="Absent"):
        client.run({"1": {"class_type": "Absent", "inputs": {}}}, output_folder=tmp_path)
    broken = {
        **SAVING,
        "1": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 0}},
    }
    with pytest.raises(WorkflowRefusedError):
        client.run(broken, output_folder=tmp_path)


class CuttingProxy:
    """A line to a server that can be cut, and that can be made to refuse websockets."""

    def __init__(self, port):
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.websockets = 0
        self.blocked = False
        self._lines = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                here, _ = self._listening.accept()
            except OSError:
                return
            first = here.recv(65536)
            if first.startswith(b"GET /ws"):
                self.websockets += 1
                if self.blocked:
                    here.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                    here.close()
                    continue
            there = socket.create_connection(("127.0.0.1", self._target))
            if first.startswith(b"GET /ws"):
                self._lines += [here, there]
            there.sendall(first)
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def cut(self):
        """Cut every websocket."""
        for line in self._lines:
            try:
                line.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._lines = []

    def close(self):
        self._listening.close()
        self.cut()


@pytest.fixture
def proxy(server):
    proxy = CuttingProxy(int(server[0].rpartition(":")[2]))
    yield proxy
    proxy.close()


def test_progress_goes_on_after_the_websocket_was_cut(proxy, tmp_path):
    values = []

    def listen(name, data):
        if name == "progress":
            values.append(data["value"])
            if data["value"] == 5:
                proxy.cut()

    with Client(proxy.url) as client:
        result = client.run(counting(3, 7), output_folder=tmp_path, listener=listen)
    assert result.ui == {"1": {"text": ["7"]}}
    assert proxy.websockets == 2
    assert values[-1] == 20


def test_a_blocked_websocket_changes_nothing_but_the_progress(proxy, tmp_path):
    proxy.blocked = True
    names = []
    with Client(proxy.url) as client:
        result = client.run(
            counting(1, 8), output_folder=tmp_path, listener=lambda name, _: names.append(name)
        )
    assert result.ui == {"1": {"text": ["8"]}}
    assert names == ["execution_start", "execution_cached", "executed", "execution_success", "executing"]
