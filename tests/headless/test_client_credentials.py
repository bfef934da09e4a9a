"""Credentials reach the server, with every kind of question, and nobody else: no message, log or repr holds them."""

import base64
import json
import logging
import shutil
import ssl
import subprocess
import traceback

import pytest
from talking_portrait.headless import AsyncClient
from talking_portrait.headless.client import (
    Client,
    Pace,
    ServerAddressError,
    ServerRunError,
    ServerUnreachableError,
)
from talking_portrait.headless.command_line import main
from talking_portrait.headless.graph import WorkflowError
from talking_portrait.headless.http import Access, get_json
from talking_portrait.headless.server_address import HEADERS_VARIABLE, header_fields, server_address

from .fake_comfyui import GRAPH, running_fake

FAST = Pace(events=0.02, poll=0.02, slowest_poll=0.05, quiet_poll=0.1, ended_poll=0.01, outage=0.1)
PASSWORD = "hunter2 & more"
TOKEN = "tok-8d1f"
BASIC = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
SECRETS = ("hunter2", TOKEN, BASIC.split()[1], "hunter2%20%26%20more")


@pytest.fixture
def comfyui():
    with running_fake() as fake:
        yield fake


def secret_url(comfyui):
    return comfyui.url.replace("://", "://ann:hunter2%20%26%20more@") + f"?token={TOKEN}"


def expect_no_secrets(text):
    assert not [secret for secret in SECRETS if secret in text], text


def test_name_and_password_and_token_go_with_every_question(comfyui, tmp_path):
    comfyui.wanted_headers = {"Authorization": BASIC}
    (tmp_path / "face.png").write_bytes(b"picture")
    with Client(secret_url(comfyui), pace=FAST) as client:
        client.run(GRAPH, inputs={"1.image": str(tmp_path / "face.png")}, output_folder=tmp_path / "out")
    asked = {path.partition("?")[0].split("/")[1] for path, _ in comfyui.headers}
    assert asked == {"object_info", "view", "upload", "ws", "prompt", "history"}
    assert all(path.endswith(f"token={TOKEN}") for path, _ in comfyui.headers)
    assert all(headers["Authorization"] == BASIC for _, headers in comfyui.headers)
    assert [path for path, _ in comfyui.headers if path.startswith("/ws?clientId=")]


def test_headers_go_with_every_question(comfyui, tmp_path):
    comfyui.wanted_headers = {"X-Api-Key": TOKEN}
    with Client(comfyui.url, headers={"X-Api-Key": TOKEN}, pace=FAST) as client:
        client.run(GRAPH, output_folder=tmp_path)
    assert comfyui.opened_websockets == 1


def test_over_tls_with_the_users_own_certificate(tmp_path, monkeypatch):
    certificate, key = made_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with running_fake(context) as fake:
        fake.wanted_headers = {"Authorization": BASIC}
        with Client(secret_url(fake), pace=FAST) as client:
            with pytest.raises(ServerUnreachableError, match="certificate verify failed"):
                client.object_info()
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            assert client.run(GRAPH, output_folder=tmp_path).saved
        assert fake.opened_websockets == 1


def made_certificate(folder):
    """A certificate for 127.0.0.1 that nobody trusts, and its key."""
    command = shutil.which("openssl")
    if command is None:
        pytest.skip("the command openssl makes the certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    made = [command, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*made, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return certificate, key


def test_no_proxy_is_asked_for_this_machine(comfyui, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert Client(comfyui.url).object_info()


def test_headers_of_the_environment(comfyui, monkeypatch):
    monkeypatch.setenv(HEADERS_VARIABLE, f"X-Api-Key: {TOKEN}\n\nAuthorization: Bearer abc")
    comfyui.wanted_headers = {"X-Api-Key": TOKEN, "Authorization": "Bearer abc"}
    assert Client(comfyui.url).object_info()
    with pytest.raises(ServerUnreachableError, match="HTTP 401"):
        Client(comfyui.url, headers={}).object_info()


def echo(handler):
    """What a badly made server answers: all that it was sent."""
    handler.answer({"error": f"no {handler.path} {dict(handler.headers)}"}, 500)


def html(handler):
    handler.answer(f"<html>{handler.path} {dict(handler.headers)}</html>".encode())


def lose(handler):
    handler.close_connection = True


FAILURE = {
    "node_id": "1",
    "node_type": "LoadImage",
    "exception_message": f"no {TOKEN}",
    "exception_type": "ValueError",
    "traceback": [f"at {BASIC}"],
    "current_inputs": {"image": [TOKEN]},
}


@pytest.mark.parametrize("websockets", [[None], [[{"type": "execution_error", "data": FAILURE}]]])
def test_a_node_that_tells_them_is_not_quoted(comfyui, tmp_path, websockets):
    messages = [["execution_error", FAILURE]]
    comfyui.history = {"outputs": {}, "status": {"status_str": "error", "messages": messages}}
    comfyui.websockets, told = websockets, []
    client = Client(secret_url(comfyui), pace=FAST)
    with pytest.raises(ServerRunError, match=r"no \*\*\*") as failed:
        client.run(GRAPH, output_folder=tmp_path, listener=lambda name, data: told.append((name, data)))
    assert told[-2][0] == "execution_error"
    expect_no_secrets(f"{failed.value} {failed.value.data} {told}")


def test_a_part_that_is_refused_is_told_without_them(comfyui, tmp_path):
    errors = {"1": {"class_type": "LoadImage", "errors": [{"message": "bad", "details": TOKEN}]}}
    comfyui.prompt_answer = (200, {"prompt_id": "p", "node_errors": errors})
    with pytest.raises(WorkflowError, match="bad") as refused:
        Client(secret_url(comfyui), pace=FAST).run(GRAPH, output_folder=tmp_path)
    expect_no_secrets(f"{refused.value} {refused.value.node_errors}")


def redirect(handler):
    handler.answer(b"", 302, [("Location", f"http://127.0.0.1:1{handler.path}")])


@pytest.mark.parametrize(
    "answer", [echo, html, lose, redirect, (401, b"no"), (400, {"error": BASIC + TOKEN})]
)
@pytest.mark.parametrize("path", ["/object_info", "/prompt", "/ws", "/view", "/queue"])
def test_nothing_that_is_said_about_a_failure_holds_them(
    comfyui, tmp_path, caplog, capfd, monkeypatch, path, answer
):
    monkeypatch.setattr("talking_portrait.headless.client.DOWNLOAD_PAUSE", 0.01)
    comfyui.answers[path] = answer
    caplog.set_level(logging.DEBUG)
    said = []
    try:
        with Client(secret_url(comfyui), headers={"X-Api-Key": TOKEN}, pace=FAST) as client:
            result = client.run(
                GRAPH, output_folder=tmp_path, stopped=lambda: path == "/queue" and bool(comfyui.prompts)
            )
            said.append(repr(result))
    except Exception as error:  # noqa: BLE001 - whatever comes
        while error is not None:
            said += [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
            error = error.__context__
    expect_no_secrets("\n".join([*said, caplog.text, *capfd.readouterr()]))


def test_no_repr_holds_them(comfyui):
    address = server_address(secret_url(comfyui), {"X-Api-Key": TOKEN})
    client = Client(secret_url(comfyui), headers={"X-Api-Key": TOKEN})
    shown = [address, Access(address), client, client._server, AsyncClient(secret_url(comfyui)), vars(client)]
    expect_no_secrets("\n".join(repr(thing) for thing in shown))
    assert repr(client) == f"Client({comfyui.url!r})"
    assert repr(AsyncClient(secret_url(comfyui))) == f"AsyncClient({comfyui.url!r})"


def test_no_run_carries_them_in_its_files(comfyui, tmp_path):
    with Client(secret_url(comfyui), headers={"X-Api-Key": TOKEN}, pace=FAST) as client:
        client.run(GRAPH, output_folder=tmp_path)
    expect_no_secrets(repr(comfyui.prompts))


def test_another_server_that_a_server_sends_on_to_gets_none(comfyui):
    with running_fake() as other:
        comfyui.answers["/object_info"] = lambda handler: handler.answer(
            b"", 302, [("Location", f"{other.url}/object_info")]
        )
        client = Client(secret_url(comfyui), headers={"X-Api-Key": TOKEN})
        assert client.object_info()
    [(path, headers)] = other.headers
    expect_no_secrets(f"{path} {headers}")


def test_the_same_server_gets_them_again_when_it_sends_on(comfyui):
    comfyui.wanted_headers = {"X-Api-Key": TOKEN}
    comfyui.answers["/old"] = lambda handler: handler.answer(b"", 302, [("Location", "/object_info")])
    address = server_address(comfyui.url, {"X-Api-Key": TOKEN})
    assert get_json(f"{comfyui.url}/old", Access(address))


def test_a_workflow_is_never_sent_on(comfyui, tmp_path):
    comfyui.answers["/prompt"] = lambda handler: handler.answer(b"", 301, [("Location", "/elsewhere?x=1")])
    with pytest.raises(ServerUnreachableError, match=r"sends on to .*/elsewhere: give the server's URL"):
        Client(comfyui.url, pace=FAST).run(GRAPH, output_folder=tmp_path)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("localhost", "http://localhost"),
        ("https://pod.example/comfy/", "https://pod.example/comfy"),
        ("wss://pod.example", "https://pod.example"),
        ("http://[::1]:8188", "http://[::1]:8188"),
        ("HTTP://Ann:pw@Host.example:80/a b", "http://host.example:80/a%20b"),
    ],
)
def test_urls_that_mean_a_server(url, base):
    assert server_address(url, {}).base == base


@pytest.mark.parametrize(
    "url",
    [
        *("", "http://", "ftp://host", "file:///etc/passwd", "javascript:alert(1)", "http://h:0"),
        *("http://host:port", "http://host:99999", "http://[::1", "http://a b", "http://a..b"),
        "http://x:secret-word@:80",
    ],
)
def test_urls_that_mean_none(url):
    with pytest.raises(ServerAddressError, match=r"give one such as http://127\.0\.0\.1:8188") as refused:
        server_address(url, {})
    assert "secret-word" not in "".join(traceback.format_exception(refused.value))
    assert isinstance(refused.value, WorkflowError)


def test_header_lines():
    assert header_fields(["Authorization: Bearer a:b", "", " X-Key :  v "]) == {
        "Authorization": "Bearer a:b",
        "X-Key": "v",
    }


@pytest.mark.parametrize(
    "line",
    ["secret-word", ": secret-word", "Na me: secret-word", "X: secret-word\r\nEvil: 1", "X: secret-word 顔"],
)
def test_headers_that_cannot_be_sent_are_refused_without_showing_them(line):
    with pytest.raises(ServerAddressError) as refused:
        header_fields([line])
    assert "secret-word" not in "".join(traceback.format_exception(refused.value))


def test_short_words_are_not_struck_out_of_every_message():
    address = server_address("http://a:b@host?x=1", {"X-Flag": "1"})
    assert address.hidden("a message about 1 b") == "a message about 1 b"
    assert address.hidden("the key hunter") == "the key hunter"


@pytest.mark.parametrize("answer", [echo, html, (401, b"no"), None])
def test_the_command_shows_none_even_when_it_tells_more(comfyui, tmp_path, capfd, answer):
    if answer is not None:
        comfyui.answers["/object_info"] = answer
    (tmp_path / "workflow.json").write_text(json.dumps({"1": {"class_type": "Absent", "inputs": {}}}))
    run = ["--verbose", "run", str(tmp_path / "workflow.json"), "--server", secret_url(comfyui)]
    code = main([*run, "--header", f"X-Api-Key: {TOKEN}", "--json"])
    assert code == (2 if answer is None else 3)
    shown = "".join(capfd.readouterr())
    assert "error" in shown
    expect_no_secrets(shown)
