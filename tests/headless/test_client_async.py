"""The asynchronous client: the same runs, many at once, cancelled with their tasks."""

import asyncio
import threading

import pytest
from talking_portrait.headless import AsyncClient
from talking_portrait.headless.client import (
    Pace,
    ServerRunError,
    ServerUnreachableError,
    WorkflowRefusedError,
)

from .fake_comfyui import EVENTS, GRAPH, HOLD, PREVIEW, running_fake

FAST = Pace(events=0.02, poll=0.02, slowest_poll=0.05, quiet_poll=0.1, ended_poll=0.01, known=0.3)


@pytest.fixture
def comfyui():
    with running_fake() as fake:
        yield fake


def test_runs_and_everything_else_can_be_awaited(comfyui, tmp_path):
    (tmp_path / "face.png").write_bytes(b"picture")

    async def use():
        async with AsyncClient(comfyui.url, pace=FAST) as client:
            prepared = await client.prepare(GRAPH)
            result = await client.run(prepared, output_folder=tmp_path / "out")
            assert set(await client.object_info()) == {"LoadImage", "SaveImage"}
            assert (await client.queue()).running == tuple(comfyui.prompt_ids)
            assert (await client.history("p1"))["outputs"]
            assert (await client.upload(tmp_path / "face.png")).startswith("face-")
            assert (await client.download(PREVIEW, tmp_path)).name == "p.png"
            assert await client.cancel("p1")
        return result

    result = asyncio.run(use())
    assert [path.name for path in result.saved] == ["x_00001_.png"]


def test_many_runs_at_once(comfyui, tmp_path):
    comfyui.polls_before_the_end = 0
    comfyui.websockets = [[HOLD]]

    async def use():
        async with AsyncClient(comfyui.url, pace=FAST) as client:
            return await asyncio.gather(*(client.run(GRAPH, output_folder=tmp_path) for _ in range(12)))

    results = asyncio.run(use())
    saved = [path for result in results for path in result.saved]
    assert len(saved) == len(set(saved)) == 12, "results of equal names stay apart"
    assert len(set(comfyui.prompt_ids)) == 12


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_a_listener_is_called_in_the_loop_and_in_order(comfyui, tmp_path, kind):
    heard, threads = [], set()

    def listen(name, _):
        heard.append(name)
        threads.add(threading.current_thread())

    async def listen_slowly(name, data):
        await asyncio.sleep(0.001)
        listen(name, data)

    async def use():
        async with AsyncClient(comfyui.url, pace=FAST) as client:
            await client.run(
                GRAPH, output_folder=tmp_path, listener=listen if kind == "function" else listen_slowly
            )

    asyncio.run(use())
    assert heard == ["execution_start", "executing", "progress", "executed", "execution_success", "executing"]
    assert threads == {threading.current_thread()}


def test_what_a_listener_raises_ends_the_run_here_and_there(comfyui, tmp_path):
    comfyui.polls_before_the_end = 10**6
    comfyui.websockets = [[EVENTS[1], HOLD]]

    def listen(*_):
        raise ZeroDivisionError("a listener of its own kind")

    async def use():
        async with AsyncClient(comfyui.url, pace=FAST) as client:
            await client.run(GRAPH, output_folder=tmp_path, listener=listen)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(use())
    assert comfyui.asked_for("/interrupt") == [{"prompt_id": comfyui.prompt_ids[0]}]


def test_cancelling_the_task_cancels_the_run_there_and_leaves_the_others(comfyui, tmp_path):
    comfyui.polls_before_the_end = 10**6
    comfyui.websockets = [[HOLD]]

    async def use():
        async with AsyncClient(comfyui.url, pace=FAST) as client:
            first = asyncio.create_task(client.run(GRAPH, output_folder=tmp_path))
            await until(lambda: len(comfyui.prompt_ids) == 1)
            second = asyncio.create_task(client.run(GRAPH, output_folder=tmp_path))
            await until(lambda: len(comfyui.prompt_ids) == 2)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            stopped = list(comfyui.asked_for("/interrupt"))
            comfyui.polls_before_the_end = 0
            return stopped, await second

    stopped, result = asyncio.run(use())
    assert stopped == [{"prompt_id": comfyui.prompt_ids[0]}]
    assert len(result.saved) == 1


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def test_a_time_limit_cancels_the_run_there(comfyui, tmp_path):
    comfyui.polls_before_the_end = 10**6
    comfyui.websockets = [[HOLD]]

    async def use():
        async with AsyncClient(comfyui.url, pace=FAST) as client:
            await asyncio.wait_for(client.run(GRAPH, output_folder=tmp_path), 0.3)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(use())
    assert comfyui.asked_for("/interrupt") == [{"prompt_id": comfyui.prompt_ids[0]}]


def test_errors_are_those_of_the_other_client(comfyui, tmp_path):
    async def run():
        async with AsyncClient(comfyui.url, pace=FAST) as client:
            await client.run(GRAPH, output_folder=tmp_path)

    comfyui.prompt_answer = (400, {"error": {"type": "x", "message": "no"}, "node_errors": {}})
    with pytest.raises(WorkflowRefusedError, match="no"):
        asyncio.run(run())
    comfyui.prompt_answer = None
    comfyui.history = {"outputs": {}, "status": {"status_str": "error"}}
    with pytest.raises(ServerRunError):
        asyncio.run(run())
    comfyui.answers["/object_info"] = (200, b"<html>")
    with pytest.raises(ServerUnreachableError):
        asyncio.run(run())


def test_no_thread_is_left(comfyui, tmp_path):
    async def use():
        async with AsyncClient(comfyui.url, pace=FAST) as client:
            await client.run(GRAPH, output_folder=tmp_path)

    asyncio.run(use())
    left = [thread for thread in threading.enumerate() if thread.name == "ComfyUI client"]
    for thread in left:
        thread.join(2)
    assert not [thread for thread in left if thread.is_alive()]
