"""The client against a server on the loopback interface that answers as ComfyUI does: results, refusals, failures."""

import json
import subprocess
import sys

import pytest
from talking_portrait.headless import AsyncClient, Client
from talking_portrait.headless.client import (
    ComfyUIServer,
    Pace,
    ServerRunError,
    WorkflowRefusedError,
    run_on_server,
)
from talking_portrait.headless.graph import WorkflowError
from talking_portrait.headless.workflow_files import workflow_from_object
from talking_portrait.runtime.host import WorkCancelledError

from .fake_comfyui import CLOSE, EVENTS, GRAPH, HOLD, PREVIEW, SAVED, SUCCESS, running_fake

FAST = Pace(events=0.02, poll=0.02, slowest_poll=0.05, quiet_poll=0.1, ended_poll=0.01, known=0.3, outage=1.0)


@pytest.fixture
def comfyui():
    with running_fake() as fake:
        yield fake


@pytest.fixture
def client(comfyui, tmp_path):
    with Client(comfyui.url, pace=FAST, input_folder=tmp_path / "input") as client:
        yield client


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self):
        self.events = []

    def __call__(self, name, data):
        self.events.append((name, data))

    @property
    def names(self):
        return [name for name, _ in self.events]


def test_downloads_results_and_leaves_previews(comfyui, tmp_path):
    saved = run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert saved == [tmp_path / "sub" / "x_00001_.png"]
    assert saved[0].read_bytes() == b"png bytes"
    assert comfyui.prompts[0]["prompt"]["1"]["inputs"] == {"image": "there.png"}
    assert run_on_server(comfyui.url, GRAPH, [], tmp_path) == [tmp_path / "sub" / "x_00001_-1.png"]


def test_result_says_what_ran_and_what_was_shown(client, tmp_path):
    result = client.run(GRAPH, output_folder=tmp_path)
    assert result.saved == (tmp_path / "sub" / "x_00001_.png",)
    assert result.executed == ("1", "2")
    assert result.ui == {"2": {"images": [SAVED, PREVIEW]}}
    assert result.blocked == result.cached == ()
    assert result.seconds > 0


def test_several_outputs_are_downloaded_each_once_in_their_order(comfyui, client, tmp_path):
    second = {"filename": "clip.mp4", "subfolder": "", "type": "output"}
    outputs = {"2": {"images": [SAVED, second], "animated": [True]}, "3": {"text": ["a"], "images": [SAVED]}}
    comfyui.history = {**SUCCESS, "outputs": outputs}
    result = client.run(GRAPH, output_folder=tmp_path)
    assert result.saved == (tmp_path / "sub" / "x_00001_.png", tmp_path / "clip.mp4")
    assert result.ui == outputs


@pytest.mark.parametrize("form", ["path", "text", "object", "file", "prepared"])
def test_takes_a_workflow_in_any_form(client, tmp_path, form):
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(GRAPH))
    forms = {"path": path, "text": str(path), "object": GRAPH, "file": workflow_from_object(GRAPH)}
    workflow = client.prepare(GRAPH) if form == "prepared" else forms[form]
    assert len(client.run(workflow, output_folder=tmp_path).saved) == 1


def test_settings_change_what_is_sent_and_not_what_was_given(comfyui, client, tmp_path):
    given = json.loads(json.dumps(GRAPH))
    client.run(given, inputs={"SaveImage": {"filename_prefix": "a"}}, output_folder=tmp_path)
    client.run(given, assignments=["2.filename_prefix=b"], output_folder=tmp_path)
    sent = [prompt["prompt"]["2"]["inputs"]["filename_prefix"] for prompt in comfyui.prompts]
    assert sent == ["a", "b"]
    assert given == GRAPH


def test_settings_of_a_prepared_workflow_are_refused_and_not_left_out(client):
    with pytest.raises(WorkflowError, match="give them to `prepare`"):
        client.run(client.prepare(GRAPH), assignments=["2.filename_prefix=b"])


def test_settings_of_nodes_that_are_not_there_are_refused_before_anything_is_sent(comfyui, client):
    with pytest.raises(WorkflowError, match="no node 'Load Picture'"):
        client.run(GRAPH, assignments=["Load Picture.image=x.png"])
    assert comfyui.prompts == comfyui.uploads == []


def test_nodes_that_the_server_has_not_are_named_all_at_once(comfyui, client):
    graph = {**GRAPH, "3": {"class_type": "Absent", "inputs": {}}, "4": {"class_type": "Gone", "inputs": {}}}
    with pytest.raises(WorkflowError, match=r"Absent.*Gone"):
        client.run(graph)
    assert comfyui.prompts == []


def test_events_come_in_comfyuis_names_and_with_the_id_of_the_run(comfyui, client, tmp_path):
    heard = Heard()
    client.run(GRAPH, output_folder=tmp_path, listener=heard)
    assert heard.names == [
        *("execution_start", "executing", "progress", "executed", "execution_success", "executing")
    ]
    assert {data["prompt_id"] for _, data in heard.events} == set(comfyui.prompt_ids)
    assert heard.events[3][1]["output"] == {"images": [SAVED, PREVIEW]}
    assert heard.events[-1][1]["node"] is None


def test_progress_is_shown(comfyui, tmp_path, capsys):
    comfyui.polls_before_the_end = 2
    run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert "[1/2] LoadImage" in capsys.readouterr().err


def test_blocked_nodes_are_told_and_the_run_counts_as_done(comfyui, client, tmp_path):
    blocked = {
        "node_id": "2",
        "exception_type": "ExecutionBlocked",
        "exception_message": "Execution Blocked: no face",
    }
    comfyui.websockets = [[EVENTS[0], {"type": "execution_error", "data": blocked}, EVENTS[-1], CLOSE]]
    heard = Heard()
    result = client.run(GRAPH, output_folder=tmp_path, listener=heard)
    assert result.blocked == ("no face",)
    assert heard.names.index("execution_error") < heard.names.index("execution_success")


def test_saved_files_get_a_workflow_that_the_page_can_restore(comfyui, tmp_path):
    run_on_server(comfyui.url, GRAPH, ["2.filename_prefix=y"], tmp_path)
    workflow = comfyui.prompts[0]["extra_data"]["extra_pnginfo"]["workflow"]
    assert [node["widgets_values"] for node in workflow["nodes"]] == [["there.png", "image"], ["y"]]
    assert [link[1:5] for link in workflow["links"]] == [[1, 0, 2, 0]]


NODE_ERRORS = {
    "1": {
        "errors": [
            {"type": "value_not_in_list", "message": "Value not in list", "details": "image: 'no.png'"}
        ],
        "class_type": "LoadImage",
        "dependent_outputs": ["2"],
    }
}
NOT_VALID = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}


def test_refused_workflow_names_the_node(comfyui, tmp_path):
    comfyui.prompt_answer = (400, {"error": NOT_VALID, "node_errors": NODE_ERRORS})
    with pytest.raises(
        WorkflowRefusedError, match=r"node 1 \(LoadImage\): Value not in list: image: 'no\.png'"
    ) as refused:
        run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert refused.value.error == NOT_VALID
    assert refused.value.node_errors == NODE_ERRORS
    assert comfyui.asked_for("/queue") == [], "a run that was not taken needs no cancelling"


def test_a_refusal_is_the_workflows_fault_and_a_failure_of_the_run():
    assert issubclass(WorkflowRefusedError, WorkflowError)
    assert issubclass(WorkflowRefusedError, ServerRunError)
    assert not issubclass(ServerRunError, WorkflowError)


def test_outputs_that_the_server_would_leave_out_are_a_failure_and_the_rest_is_stopped(comfyui, tmp_path):
    comfyui.prompt_answer = (200, {"prompt_id": "p1", "node_errors": NODE_ERRORS})
    with pytest.raises(WorkflowRefusedError, match="Value not in list"):
        run_on_server(comfyui.url, GRAPH, [], tmp_path)
    assert comfyui.asked_for("/queue")[0] == {"delete": ["p1"]}
    assert comfyui.asked_for("/interrupt") == [{"prompt_id": "p1"}]


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "no"},
        {"error": ["no"], "node_errors": {}},
        {"error": {"type": "x"}, "node_errors": []},
        {"node_errors": {"1": "broken"}},
        {"error": {"message": 5}, "node_errors": {"1": {"errors": [{}]}}},
    ],
)
def test_refusals_in_other_forms(comfyui, client, answer):
    comfyui.prompt_answer = (400, answer)
    with pytest.raises(WorkflowRefusedError, match=r"the server refused the workflow: ."):
        client.run(GRAPH)


FAILURE = {
    "node_id": "1",
    "node_type": "LoadImage",
    "exception_type": "ValueError",
    "exception_message": "no face in picture 0\n",
    "traceback": ["somewhere"],
}


def failed(event, data):
    status = {"status_str": "error", "completed": False, "messages": [[event, data]]}
    return {"outputs": {}, "status": status}


def test_failed_node(comfyui, client, tmp_path):
    comfyui.history = failed("execution_error", FAILURE)
    heard = Heard()
    with pytest.raises(
        ServerRunError, match=r"node 1 \(LoadImage\) failed on the server: no face in picture 0$"
    ) as failure:
        client.run(GRAPH, output_folder=tmp_path / "out", listener=heard)
    assert failure.value.data["exception_type"] == "ValueError"
    assert heard.names[-2:] == ["execution_error", "executing"]
    assert not (tmp_path / "out").exists()
    assert comfyui.asked_for("/interrupt") == []


def test_run_stopped_by_somebody_else(comfyui, client, tmp_path):
    comfyui.history = failed("execution_interrupted", {"node_id": "1"})
    with pytest.raises(ServerRunError, match="stopped on the server"):
        client.run(GRAPH, output_folder=tmp_path)


def test_a_blocked_node_in_the_history_is_no_failure(comfyui, client, tmp_path):
    blocked = ["execution_error", {"exception_type": "ExecutionBlocked", "exception_message": "no face"}]
    comfyui.history = {**SUCCESS, "status": {**SUCCESS["status"], "messages": [blocked]}}
    assert len(client.run(GRAPH, output_folder=tmp_path).saved) == 1


def test_failure_without_a_reason(comfyui, client, tmp_path):
    comfyui.history = {"outputs": {}, "status": {"status_str": "error"}}
    with pytest.raises(ServerRunError, match="its log says why"):
        client.run(GRAPH, output_folder=tmp_path)


def test_interrupting_stops_the_server_too(comfyui, client, tmp_path):
    comfyui.polls_before_the_end = 10**6
    comfyui.websockets = [[EVENTS[1], HOLD]]

    def press(name, _):
        if name == "executing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.run(GRAPH, output_folder=tmp_path / "out", listener=press)
    [run] = comfyui.prompt_ids
    assert comfyui.asked_for("/queue")[0] == {"delete": [run]}
    assert comfyui.asked_for("/interrupt") == [{"prompt_id": run}]
    assert not (tmp_path / "out").exists()


def test_interrupted_while_the_server_takes_the_workflow(comfyui, client, tmp_path, monkeypatch):
    submit = ComfyUIServer.submit

    def press(*arguments):
        submit(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(ComfyUIServer, "submit", press)
    with pytest.raises(KeyboardInterrupt):
        client.run(GRAPH, output_folder=tmp_path)
    assert comfyui.asked_for("/interrupt") == [{"prompt_id": comfyui.prompt_ids[0]}]


def test_a_run_that_still_waits_is_taken_out_of_the_queue_and_nobody_elses_is_stopped(comfyui, client):
    comfyui.polls_before_the_end = 10**6
    comfyui.websockets = [[HOLD]]
    comfyui.answers["/queue"] = lambda handler: (
        handler.answer({"queue_running": [[0, "another"]], "queue_pending": [[1, comfyui.prompt_ids[-1]]]})
        if handler.command == "GET"
        else False
    )
    with pytest.raises(WorkCancelledError):
        client.run(GRAPH, stopped=lambda: bool(comfyui.prompt_ids))
    assert comfyui.asked_for("/queue")[0] == {"delete": comfyui.prompt_ids}
    assert comfyui.asked_for("/interrupt") == []


def test_cancelled_while_downloading_leaves_nothing(comfyui, client, tmp_path):
    outputs = {"2": {"images": [SAVED, {**SAVED, "filename": "second.png"}]}}
    comfyui.history = {**SUCCESS, "outputs": outputs}
    asked = []
    comfyui.answers["/view"] = lambda handler: asked.append(handler.path) or False
    with pytest.raises(WorkCancelledError):
        client.run(GRAPH, output_folder=tmp_path / "out", stopped=lambda: len(asked) > 1)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_closed_client_runs_nothing(comfyui, client):
    client.close()
    with pytest.raises(WorkCancelledError, match="the client was closed"):
        client.run(GRAPH)
    assert comfyui.asked == []


def test_one_run_can_be_cancelled_by_its_id(comfyui, client):
    comfyui.prompt_ids.append("p7")
    assert client.cancel("p7")
    assert comfyui.asked_for("/interrupt") == [{"prompt_id": "p7"}]
    assert client.queue().running == ("p7",)


def test_history_and_previews_can_be_had(client, tmp_path):
    client.run(GRAPH, output_folder=tmp_path)
    assert client.history("p1")["outputs"] == SUCCESS["outputs"]
    assert client.download(PREVIEW, tmp_path / "previews").read_bytes() == b"png bytes"


def test_list_of_nodes(client, comfyui):
    assert set(client.object_info()) == {"LoadImage", "SaveImage"}
    comfyui.answers["/object_info/LoadImage"] = (200, {"LoadImage": {}})
    assert set(client.object_info("LoadImage")) == {"LoadImage"}
    comfyui.answers["/object_info/KSampler%20%28A%2FB%29%3F"] = (200, {"KSampler (A/B)?": {}})
    assert set(client.object_info("KSampler (A/B)?")) == {"KSampler (A/B)?"}


def test_the_package_offers_both_clients_without_loading_anything_heavy():
    code = (
        "import sys; import talking_portrait.headless as h; "
        "assert 'talking_portrait.headless.client' not in sys.modules; h.Client; h.AsyncClient; "
        "assert not {'torch', 'av', 'PIL', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert AsyncClient.__name__ == "AsyncClient"
    with pytest.raises(ImportError):
        from talking_portrait.headless import NoSuchClient  # noqa: F401
