"""A shared workflow reads and writes nothing outside of the folders; what the user names himself may lie anywhere."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from talking_portrait.headless.graph import input_specifications
from talking_portrait.headless.preparation import prepared_workflow
from talking_portrait.headless.registry import local_definitions, node_classes
from talking_portrait.headless.validation import validate_graph
from talking_portrait.headless.workflow_files import WorkflowFile
from talking_portrait.runtime import input_files
from talking_portrait.runtime.host import StandaloneHost, host
from talking_portrait.runtime.input_files import ForbiddenPathError, input_path, named_model_path
from talking_portrait.runtime.output_files import next_output_file

FILE_INPUTS = {
    ("TP_LoadPortraitImage", "image"),
    ("TP_LoadSpeech", "audio"),
    ("TP_LoadDrivingVideo", "video"),
    ("TP_Portrait", "landmarks"),
    ("TP_MotionFromCSV", "file"),
    ("TP_RetargetMotion", "calibration"),
    ("TP_LoadWan", "transformer_file"),
    ("TP_WanLoRA", "lora"),
    ("LoadImage", "image"),
    ("LoadImageMask", "image"),
    ("LoadAudio", "audio"),
    ("LoadVideo", "file"),
}
"""Every input that names a file to read."""

MODEL_FILE_INPUTS = {("TP_LoadWan", "transformer_file"), ("TP_WanLoRA", "lora")}
"""Those of model files, which are looked for in the models folders too."""

PATH_WORDS = ("path", "file", "folder", "directory")

NAMES_NO_PATH = {("TP_LoadFantasyTalking", "weights"), ("TP_LoadFantasyTalkingAdapter", "weights")}
"""Inputs whose tooltips speak of files, but that choose from a list."""

OTHER_ARGUMENTS = {
    "TP_MotionFromCSV": {"fps": 0.0},
    "LoadImageMask": {"channel": "red"},
    "TP_LoadDrivingVideo": {"largest_side": 0, "start": 0.0, "duration": 0.0},
}
"""What the functions of nodes need beside the name of the file."""


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders of the host below tmp_path, a secret file beside them, and links in the input folder."""
    for name in ("input", "output", "temp", "models", "secret", "here"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "secret" / "face.png")
    for name in ("input/a.png", "output/a.png", "temp/a.png"):
        (tmp_path / name).write_bytes((tmp_path / "secret" / "face.png").read_bytes())
    (tmp_path / "input" / "out.png").symlink_to(tmp_path / "secret" / "face.png")
    (tmp_path / "input" / "folder").symlink_to(tmp_path / "secret")
    (tmp_path / "input" / "within.png").symlink_to(tmp_path / "output" / "a.png")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(tmp_path / "models"))
    with host().using_folders(tmp_path / "input", tmp_path / "output", tmp_path / "temp"):
        yield tmp_path


def names_outside(places):
    secret = places / "secret" / "face.png"
    return [
        str(secret),
        "../secret/face.png",
        "sub/../../secret/face.png",
        "../secret/face.png [output]",
        f"{secret} [temp]",
        "out.png",
        "folder/face.png",
        "/etc/passwd",
        "/proc/self/environ",
        "../" * 40 + "etc/passwd",
    ]


class TestReading:
    def test_inside(self, places):
        for name in ("a.png", "a.png [output]", "a.png [temp]", "within.png", "../input/a.png"):
            assert input_path(name).read_bytes().startswith(b"\x89PNG")
        assert input_path(str(places / "output" / "a.png")) == places / "output" / "a.png"

    def test_outside(self, places):
        for name in names_outside(places):
            with pytest.raises(
                ForbiddenPathError, match="a workflow may read nothing else: put it there, or name"
            ):
                input_path(name)

    def test_what_is_not_there_is_not_told_apart(self, places):
        with pytest.raises(ForbiddenPathError):
            input_path(str(places / "secret" / "none.png"))

    @pytest.mark.parametrize("name", ["", "none.png", "a\0b", "x" * 5000, "~/none.png", ".", ".."])
    def test_no_file(self, places, name):
        with pytest.raises((FileNotFoundError, ForbiddenPathError)):
            input_path(name)

    def test_links_that_lead_out_are_not_listed(self, places):
        assert input_files.input_files("image") == ["a.png", "within.png"]

    def test_a_link_to_itself(self, places):
        (places / "input" / "round.png").symlink_to("round.png")
        with pytest.raises(FileNotFoundError, match="not the path of a file"):
            input_path("round.png")

    def test_what_the_user_names(self, places):
        secret = places / "secret" / "face.png"
        with host().using_files([secret]):
            assert input_path(str(secret)) == secret
            assert input_path("../secret/face.png").resolve() == secret.resolve()
            assert input_path("out.png").resolve() == secret.resolve()
            (places / "secret" / "other.png").touch()
            with pytest.raises(ForbiddenPathError):
                input_path(str(places / "secret" / "other.png"))
            with host().using_files([places / "secret" / "other.png"]):
                assert input_path(str(secret)) == secret
        with pytest.raises(ForbiddenPathError):
            input_path(str(secret))

    def test_in_comfyui_nothing_else_is_read(self, places, monkeypatch):
        class Inside:
            in_comfyui = True
            input_folder, output_folder, temp_folder = (places / n for n in ("input", "output", "temp"))

        monkeypatch.setattr(input_files, "host", Inside)
        assert input_path("a.png").is_file()
        for name in names_outside(places):
            with pytest.raises(ForbiddenPathError, match=r"may read nothing else: put it there$"):
                input_path(name)

    def test_folders_that_are_links_themselves(self, places):
        (places / "linked").symlink_to(places / "input")
        with host().using_folders(input=places / "linked"):
            assert input_path("a.png").is_file()


class TestModels:
    def test_below_a_models_folder_by_name_or_path(self, places):
        file = places / "models" / "diffusion_models" / "w.safetensors"
        file.parent.mkdir()
        file.touch()
        for name in ("w.safetensors", str(file), "../diffusion_models/w.safetensors"):
            assert named_model_path(name, "diffusion_models") == file
        assert named_model_path("diffusion_models", "diffusion_models") == file.parent

    def test_a_models_folder_may_hold_links(self, places):
        (places / "secret" / "w.safetensors").touch()
        (places / "models" / "w.safetensors").symlink_to(places / "secret" / "w.safetensors")
        assert named_model_path("w.safetensors", "diffusion_models") == places / "models" / "w.safetensors"

    def test_elsewhere(self, places):
        (places / "secret" / "w.safetensors").touch()
        (places / "here" / "w.safetensors").touch()
        (places / "models" / "link").symlink_to(places / "secret")
        for name in (
            str(places / "secret" / "w.safetensors"),
            str(places / "models" / ".." / "secret" / "w.safetensors"),
            "../secret/w.safetensors",
            "../../secret/w.safetensors",
            str(places / "here" / "w.safetensors"),
        ):
            with pytest.raises((FileNotFoundError, ForbiddenPathError)):
                named_model_path(name, "diffusion_models")
        with pytest.raises(ForbiddenPathError, match="outside of the models folders"):
            named_model_path(str(places / "secret" / "w.safetensors"), "diffusion_models")

    def test_what_the_user_names(self, places):
        folder = places / "secret"
        (folder / "w.safetensors").touch()
        with host().using_files([folder, folder / "w.safetensors"]):
            assert named_model_path(str(folder), "diffusion_models") == folder
            assert named_model_path(str(folder / "w.safetensors"), "x") == folder / "w.safetensors"


class TestNodes:
    def test_every_input_that_names_a_file_is_known(self):
        """A new one has to be added here, and to obey; the words of its tooltip tell."""
        found = set()
        for kind, declared in local_definitions().items():
            for name, s in declared.items():
                told = f"{name} {s.options.get('tooltip', '')}".lower()
                upload = any(key.endswith("_upload") for key in s.options)
                text = s.type == "STRING" and any(word in told for word in PATH_WORDS)
                if name != "filename_prefix" and (upload or "names_file" in s.options or text):
                    found.add((kind, name))
        assert found - NAMES_NO_PATH == FILE_INPUTS

    @pytest.mark.parametrize(("kind", "name"), sorted(FILE_INPUTS - MODEL_FILE_INPUTS))
    def test_each_refuses_what_lies_outside(self, places, kind, name):
        node_class = node_classes()[kind]
        for path in names_outside(places):
            with pytest.raises(ForbiddenPathError):
                self.read(node_class, kind, name, path)

    def read(self, node_class, kind, name, path):
        """Let a node read a file, by its own function where that needs no more than that input."""
        if kind == "TP_Portrait":
            return node_class().make(torch.zeros(1, 8, 8, 3), 0, 1024, 0, landmarks=path)
        if kind == "TP_RetargetMotion":
            return node_class.IS_CHANGED(calibration=path)
        return getattr(node_class(), node_class.FUNCTION)(**{name: path}, **OTHER_ARGUMENTS.get(kind, {}))

    def test_wan_refuses_too(self, places):
        load = node_classes()["TP_LoadWan"]()
        (places / "secret" / "w.safetensors").touch()
        with pytest.raises(ForbiddenPathError):
            load.load("Wan 2.1 I2V 14B", transformer_file=str(places / "secret" / "w.safetensors"))
        with pytest.raises(ForbiddenPathError):
            node_classes()["TP_WanLoRA"]().add(None, str(places / "secret" / "w.safetensors"), 1.0)

    @pytest.mark.parametrize(
        ("kind", "name"),
        [("TP_Portrait", "landmarks"), ("TP_RetargetMotion", "calibration"), ("TP_MotionFromCSV", "file")],
    )
    def test_texts_that_name_files_are_checked_first(self, places, kind, name):
        judge = node_classes()[kind].VALIDATE_INPUTS
        assert judge(**{name: None}) is judge(**{name: "a.png"}) is True
        assert judge(**{name: ""}) == ("name a file" if kind == "TP_MotionFromCSV" else True)
        assert "outside of" in judge(**{name: str(places / "secret" / "face.png")})
        assert "there is no file" in judge(**{name: "none.csv"})

    def test_the_file_of_a_transformer_is_checked_first(self, places):
        judge = node_classes()["TP_LoadWan"].VALIDATE_INPUTS
        (places / "models" / "w.safetensors").touch()
        assert judge(None) is judge("") is judge(" w.safetensors ") is True
        assert "outside of" in judge(str(places / "secret" / "face.png"))
        assert "there is no weight file none" in judge("none")

    def test_checking_says_so_before_anything_runs(self, places):
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": str(places / "secret" / "face.png")}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        }
        report = validate_graph(graph, node_classes()).node_errors["1"]["errors"][0]
        assert "outside of" in report["details"]
        file = WorkflowFile(Path("w"), api=graph)
        prepared = prepared_workflow(file, [f"1.image={places / 'secret' / 'face.png'}"])
        with host().using_files(prepared.files):
            assert validate_graph(graph, node_classes()).node_errors == {}

    def test_landmarks_beside_a_picture_that_the_user_names(self, places):
        (places / "secret" / "face.landmarks.json").write_text(json.dumps({"secret": 1}))
        load = node_classes()["TP_LoadPortraitImage"]()
        graph = {"1": {"class_type": "TP_LoadPortraitImage", "inputs": {"image": "a.png"}}}
        picture = places / "secret" / "face.png"
        prepared = prepared_workflow(WorkflowFile(Path("w"), api=graph), [f"1.image={picture}"])
        with host().using_files(prepared.files):
            _, landmarks = load.load(str(picture))
            assert input_path(landmarks) == picture.with_name("face.landmarks.json")


class TestWriting:
    @pytest.mark.parametrize(
        "prefix",
        [
            "../x",
            "/tmp/x",
            "a/../../x",
            "..",
            "a\\..\\..\\x",
            "linked/x",
            "../" * 40 + "etc/x",
            "a\0b",
            "%year%/../../x",
        ],
    )
    def test_prefixes_that_lead_out(self, places, prefix):
        (places / "output" / "linked").symlink_to(places / "secret")
        before = sorted(places.rglob("*"))
        for kind in ("output", "temp"):
            if (prefix, kind) == ("linked/x", "temp"):
                continue
            with pytest.raises(ValueError, match="filename_prefix"):
                next_output_file(prefix, ".png", kind=kind)
        assert sorted(places.rglob("*")) == before

    def test_every_saving_node_refuses_them(self, places):
        saving = {
            (kind, name)
            for kind, node_class in node_classes().items()
            for name in input_specifications(node_class)
            if name == "filename_prefix"
        }
        assert saving == {
            ("SaveImage", "filename_prefix"),
            ("SaveAudio", "filename_prefix"),
            ("SaveVideo", "filename_prefix"),
            ("TP_SaveMotionCSV", "filename_prefix"),
            ("TP_RenderTalkingVideo", "filename_prefix"),
        }
        image = node_classes()["LoadImage"]().load_image("a.png")[0]
        with pytest.raises(ValueError, match="leads out of the output folder"):
            node_classes()["SaveImage"]().save_images(image, "../../x")
        with pytest.raises(ValueError, match="leads out of the output folder"):
            node_classes()["TP_SaveMotionCSV"]().save(None, "../x")

    def test_inside(self, places):
        target = next_output_file("sub/../x", ".png").path
        assert target.parent == (places / "output").resolve()


def test_files_that_are_allowed_end_with_the_block():
    owner = StandaloneHost()
    with owner.using_files([Path("x")]):
        assert owner.allowed_files == {Path(os.path.realpath("x"))}
    assert owner.allowed_files == frozenset()
