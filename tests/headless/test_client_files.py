"""Files on their way to a server and back: what is sent, under which name, and where results may land."""

import os

import pytest
from talking_portrait.headless.client import Client, Pace, ServerRunError, ServerUnreachableError
from talking_portrait.headless.graph import WorkflowError

from .fake_comfyui import GRAPH, OBJECT_INFO, SAVED, SUCCESS, running_fake

FAST = Pace(events=0.02, poll=0.02, slowest_poll=0.05, quiet_poll=0.1, ended_poll=0.01)
PICTURE = b"\x89PNG pixels"


@pytest.fixture
def comfyui():
    with running_fake() as fake:
        yield fake


@pytest.fixture
def input_folder(tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    return folder


@pytest.fixture
def client(comfyui, input_folder):
    with Client(comfyui.url, pace=FAST, input_folder=input_folder) as client:
        yield client


def sent_image(comfyui, number=-1):
    return comfyui.prompts[number]["prompt"]["1"]["inputs"]["image"]


def graph_of(image):
    return {**GRAPH, "1": {"class_type": "LoadImage", "inputs": {"image": image}}}


@pytest.mark.parametrize("how", ["assignments", "inputs"])
def test_a_file_that_the_user_names_is_sent_from_anywhere(comfyui, client, tmp_path, how):
    picture = tmp_path / "face.png"
    picture.write_bytes(PICTURE)
    given = {
        "assignments": {"assignments": [f"1.image={picture}"]},
        "inputs": {"inputs": {"LoadImage.image": str(picture)}},
    }
    client.run(GRAPH, output_folder=tmp_path / "out", **given[how])
    name = sent_image(comfyui)
    assert name.startswith("face-")
    assert name.endswith(".png")
    assert comfyui.files == {name: PICTURE}


def test_a_file_of_the_input_folder_is_sent(comfyui, client, tmp_path, input_folder):
    (input_folder / "mine.png").write_bytes(PICTURE)
    client.run(graph_of("mine.png"), output_folder=tmp_path / "out")
    client.run(graph_of("mine.png [input]"), output_folder=tmp_path / "out")
    assert sent_image(comfyui, 0) == sent_image(comfyui, 1)
    assert len(comfyui.uploads) == 1


def test_files_of_the_server_are_not_sent(comfyui, client, tmp_path, input_folder):
    (input_folder / "there.png").write_bytes(PICTURE)
    (input_folder / "x.png [output]").write_bytes(PICTURE)
    for image in ("there.png", "x.png [output]", "not here.png", "", "a\x00b"):
        client.run(graph_of(image), output_folder=tmp_path / "out")
        assert sent_image(comfyui) == image
    assert comfyui.uploads == []


@pytest.mark.parametrize("form", ["api", "page"])
def test_saved_files_name_what_the_server_has_and_no_path_of_this_machine(comfyui, client, tmp_path, form):
    picture = tmp_path / "face.png"
    picture.write_bytes(PICTURE)
    workflow = GRAPH if form == "api" else client.prepare(GRAPH).page
    client.run(workflow, inputs={"LoadImage.image": str(picture)}, output_folder=tmp_path / "out")
    [sent] = comfyui.prompts
    assert str(tmp_path) not in repr(sent)
    [shown] = [
        node
        for node in sent["extra_data"]["extra_pnginfo"]["workflow"]["nodes"]
        if node["type"] == "LoadImage"
    ]
    assert shown["widgets_values"][0] == sent_image(comfyui)


@pytest.mark.parametrize("form", ["absolute", "upwards", "link"])
def test_a_workflow_cannot_have_other_files_sent(comfyui, client, tmp_path, input_folder, form):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"private")
    (input_folder / "link.png").symlink_to(secret)
    image = {"absolute": str(secret), "upwards": "../secret.png", "link": "link.png"}[form]
    with pytest.raises(
        WorkflowError, match=r"outside of the input folder .* only sent if you name it yourself"
    ):
        client.run(graph_of(image), output_folder=tmp_path / "out")
    assert comfyui.uploads == comfyui.prompts == []


def test_equal_content_is_sent_once_and_other_content_under_the_same_name_again(comfyui, client, tmp_path):
    picture = tmp_path / "face.png"
    names = []
    for content in (PICTURE, PICTURE, b"another"):
        picture.write_bytes(content)
        client.run(GRAPH, inputs={"1.image": str(picture)}, output_folder=tmp_path / "out")
        names.append(sent_image(comfyui))
    assert names[0] == names[1] != names[2]
    assert len(comfyui.uploads) == 2
    assert comfyui.files[names[2]] == b"another"


def test_what_another_client_has_sent_is_not_sent_again(comfyui, client, tmp_path):
    (tmp_path / "face.png").write_bytes(PICTURE)
    name = client.upload(tmp_path / "face.png")
    with Client(comfyui.url) as other:
        assert other.upload(tmp_path / "face.png") == name
    assert len(comfyui.uploads) == 1


def test_a_file_that_came_in_half_is_sent_again(comfyui, client, tmp_path):
    (tmp_path / "face.png").write_bytes(PICTURE)
    name = client.upload(tmp_path / "face.png")
    comfyui.files[name] = PICTURE[:3]
    assert client.upload(tmp_path / "face.png") == name
    assert len(comfyui.uploads) == 2


def test_two_nodes_that_name_one_file_have_it_sent_once(comfyui, client, tmp_path, input_folder):
    (input_folder / "mine.png").write_bytes(PICTURE)
    comfyui.answers["/view"] = lambda handler: handler.command == "HEAD" and handler.answer(b"", 404) is None
    second = {"class_type": "LoadImage", "inputs": {"image": "mine.png"}}
    client.run({**graph_of("mine.png"), "3": second}, output_folder=tmp_path / "out")
    assert len(comfyui.uploads) == 1


def test_landmarks_go_along_with_their_picture_and_stay_beside_it(comfyui, client, tmp_path):
    (tmp_path / "face.png").write_bytes(PICTURE)
    alone = client.upload(tmp_path / "face.png")
    (tmp_path / "face.landmarks.json").write_bytes(b"{}")
    name = client.upload(tmp_path / "face.png")
    assert name != alone, "other landmarks, another result"
    assert comfyui.files[name.removesuffix(".png") + ".landmarks.json"] == b"{}"


def test_landmarks_files_are_sent_too(comfyui, client, tmp_path, input_folder):
    comfyui.object_info = {
        **OBJECT_INFO,
        "Mesh": {
            "input": {"required": {"landmarks": ["STRING", {"names_file": "input"}], "note": ["STRING", {}]}},
            "output": [],
            "output_name": [],
        },
    }
    (input_folder / "points.json").write_bytes(b"[]")
    mesh = {"class_type": "Mesh", "inputs": {"landmarks": "points.json", "note": "points.json"}}
    client.run({**GRAPH, "3": mesh}, output_folder=tmp_path / "out")
    sent = comfyui.prompts[0]["prompt"]["3"]["inputs"]
    assert list(comfyui.files) == [sent["landmarks"]]
    assert sent["note"] == "points.json"


def test_a_list_of_the_servers_output_folder_is_left_alone(comfyui, client, tmp_path, input_folder):
    options = {"image_upload": True, "image_folder": "output"}
    comfyui.object_info = {
        **OBJECT_INFO,
        "LoadImage": {**OBJECT_INFO["LoadImage"], "input": {"required": {"image": [[], options]}}},
    }
    (input_folder / "mine.png").write_bytes(PICTURE)
    client.run(graph_of("mine.png"), output_folder=tmp_path / "out")
    assert comfyui.uploads == []


@pytest.mark.parametrize(
    "name", ['a"b.png', "naïve 顔.png", "a..b.png", "100%.png", "x" * 230 + ".p", "a\nb.png"]
)
def test_odd_names_arrive_whole(comfyui, client, tmp_path, name):
    (tmp_path / name).write_bytes(PICTURE)
    sent = client.upload(tmp_path / name)
    assert comfyui.files == {sent: PICTURE}
    assert len(sent.encode()) < 200
    assert not set('"\n%') & set(sent)
    assert ".." not in sent


def test_large_files_are_sent_in_pieces(comfyui, client, tmp_path, monkeypatch):
    monkeypatch.setattr("talking_portrait.headless.http.PIECE", 1000)
    content = os.urandom(12345)
    (tmp_path / "clip.mp4").write_bytes(content)
    name = client.upload(tmp_path / "clip.mp4")
    assert comfyui.files[name] == content


def test_a_file_that_is_too_large_for_the_server(comfyui, client, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(PICTURE)
    comfyui.answers["/upload/image"] = (413, b"Request Entity Too Large")
    with pytest.raises(ServerUnreachableError, match="--max-upload-size"):
        client.upload(tmp_path / "clip.mp4")


def test_a_file_that_is_not_there(client, tmp_path):
    with pytest.raises(FileNotFoundError):
        client.upload(tmp_path / "nowhere.png")


@pytest.mark.parametrize(
    "evil",
    [
        {"filename": "x.png", "subfolder": "../.."},
        {"filename": "x.png", "subfolder": "a/../../.."},
        {"filename": "x.png", "subfolder": "..\\.."},
        {"filename": "x.png", "subfolder": "/etc"},
        {"filename": "x.png", "subfolder": "C:\\Windows"},
        {"filename": "C:x.png", "subfolder": ""},
        {"filename": "../x.png", "subfolder": ""},
        {"filename": "..\\x.png", "subfolder": ""},
        {"filename": "..", "subfolder": ""},
        {"filename": "", "subfolder": ""},
        {"filename": "a\x00.png", "subfolder": ""},
        {"filename": 5, "subfolder": ""},
        {"filename": "x.png", "subfolder": ["a"]},
    ],
)
def test_file_names_that_lead_out_of_the_folder(comfyui, client, tmp_path, evil):
    outputs = {"2": {"images": [SAVED, {**evil, "type": "output"}]}}
    comfyui.history = {**SUCCESS, "outputs": outputs}
    with pytest.raises(ServerRunError, match="the server names a file"):
        client.run(GRAPH, output_folder=tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists(), "nothing of such a server is kept"


def test_links_that_lead_out_of_the_folder(comfyui, client, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServerRunError, match="outside of the output folder"):
        client.run(GRAPH, output_folder=tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_results_never_replace_files_and_follow_no_link(client, tmp_path):
    folder = tmp_path / "out" / "sub"
    folder.mkdir(parents=True)
    (folder / "x_00001_.png").symlink_to(tmp_path / "precious")
    result = client.run(GRAPH, output_folder=tmp_path / "out")
    assert [path.name for path in result.saved] == ["x_00001_-1.png"]
    assert not (tmp_path / "precious").exists()


def test_a_file_system_without_hard_links(client, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    first = client.run(GRAPH, output_folder=tmp_path)
    second = client.run(GRAPH, output_folder=tmp_path)
    assert [path.name for path in first.saved + second.saved] == ["x_00001_.png", "x_00001_-1.png"]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_an_output_folder_that_cannot_be_made(client, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        client.run(GRAPH, output_folder=tmp_path / "file")
