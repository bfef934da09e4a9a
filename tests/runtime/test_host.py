"""The host: standalone, and in something that looks like ComfyUI."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from talking_portrait.runtime.host import (
    FOLDER_KIND,
    ComfyUIHost,
    Folders,
    StandaloneHost,
    WorkCancelledError,
    folders_from_environment,
    host,
)
from talking_portrait.runtime.progress import ComfyUIProgress, TerminalProgress

torch = pytest.importorskip("torch")


class TestStandalone:
    @pytest.fixture
    def owner(self, tmp_path):
        return StandaloneHost(Folders(tmp_path / "in", tmp_path / "out", tmp_path / "temp"))

    def test_this_process_has_one(self):
        assert host() is host()
        assert not host().in_comfyui

    def test_folders_default_to_the_current_one(self, monkeypatch, tmp_path):
        for name in ("INPUT", "OUTPUT", "TEMP"):
            monkeypatch.delenv(f"TALKING_PORTRAIT_{name}", raising=False)
        monkeypatch.chdir(tmp_path)
        owner = StandaloneHost()
        assert (owner.input_folder, owner.output_folder) == (tmp_path / "input", tmp_path / "output")
        assert owner.temp_folder.is_absolute()

    def test_folders_from_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TALKING_PORTRAIT_OUTPUT", str(tmp_path / "there"))
        assert folders_from_environment().output == tmp_path / "there"

    def test_other_folders_for_a_while(self, owner, tmp_path):
        with owner.using_folders(output=tmp_path / "other"):
            assert owner.output_folder == tmp_path / "other"
            assert owner.input_folder == tmp_path / "in"
        assert owner.output_folder == tmp_path / "out"

    def test_cancelling(self, owner):
        progress = owner.progress(10)
        progress.update(1)
        owner.cancel()
        with pytest.raises(WorkCancelledError):
            progress.update(2)
        with pytest.raises(WorkCancelledError):
            owner.check_cancelled()
        owner.allow_work()
        owner.check_cancelled()

    def test_models_folders(self, owner, monkeypatch, tmp_path):
        monkeypatch.setenv("TALKING_PORTRAIT_MODELS", f"{tmp_path}")
        folders = owner.model_folders("mediapipe")
        assert folders[:2] == [tmp_path, tmp_path / "mediapipe"]
        assert len(folders) == 3

    def test_device(self, owner, monkeypatch):
        assert owner.device("cpu") == torch.device("cpu")
        monkeypatch.setenv("TALKING_PORTRAIT_DEVICE", "meta")
        assert owner.device() == torch.device("meta")
        with pytest.raises(ValueError, match="'quantum' is not a torch device"):
            owner.device("quantum")


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = TerminalProgress("Render", 4, lambda: None)
    progress.update(2)
    progress.update(8, total=8)
    assert "Render: 100%" in terminal.text
    assert "8/8" in terminal.text
    assert terminal.text.endswith("\n")


def test_no_bar_where_nobody_looks(capsys):
    TerminalProgress("Render", 2, lambda: None).update(2)
    assert capsys.readouterr().err == ""


class InterruptProcessingException(Exception):
    """As in ComfyUI."""


@pytest.fixture
def comfyui(monkeypatch, tmp_path):
    """Modules with the names and functions of ComfyUI that the host uses."""
    folder_paths = types.ModuleType("folder_paths")
    folder_paths.models_dir = str(tmp_path / "models")
    folder_paths.folder_names_and_paths = {"mediapipe": ([str(tmp_path / "more")], {".task"})}
    folder_paths.get_folder_paths = lambda kind: list(folder_paths.folder_names_and_paths[kind][0])
    for kind in ("input", "output", "temp"):
        setattr(folder_paths, f"get_{kind}_directory", lambda kind=kind: str(tmp_path / kind))
    management = types.ModuleType("comfy.model_management")
    management.interrupted = False

    def check():
        if management.interrupted:
            management.interrupted = False
            raise InterruptProcessingException

    management.throw_exception_if_processing_interrupted = check
    management.get_torch_device = lambda: torch.device("cpu")
    utilities = types.ModuleType("comfy.utils")
    utilities.bars = []
    utilities.ProgressBar = lambda total, node_id=None: utilities.bars.append(Bar()) or utilities.bars[-1]
    for module in (folder_paths, management, utilities):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return types.SimpleNamespace(paths=folder_paths, management=management, utils=utilities)


class Bar:
    def __init__(self):
        self.calls = []

    def update_absolute(self, value, total=None, preview=None):
        self.calls.append((value, total, preview))


class TestInComfyUI:
    def test_is_found_out_from_loaded_modules(self, comfyui):
        fresh = host.__wrapped__()
        assert isinstance(fresh, ComfyUIHost)
        assert fresh.in_comfyui

    def test_folders(self, comfyui, tmp_path):
        owner = ComfyUIHost()
        assert owner.output_folder == tmp_path / "output"
        assert owner.input_folder == tmp_path / "input"
        assert owner.temp_folder == tmp_path / "temp"

    def test_own_models_folder_is_made_known(self, comfyui, tmp_path):
        owner = ComfyUIHost()
        paths, suffixes = comfyui.paths.folder_names_and_paths[FOLDER_KIND]
        assert paths == [str(tmp_path / "models" / FOLDER_KIND)]
        assert ".safetensors" in suffixes
        assert owner.model_folders(FOLDER_KIND)[0] == tmp_path / "models" / FOLDER_KIND

    def test_extra_model_paths_come_first(self, comfyui, tmp_path):
        comfyui.paths.folder_names_and_paths[FOLDER_KIND] = (["/extra"], set())
        owner = ComfyUIHost()
        ComfyUIHost()  # asking twice adds nothing
        paths, suffixes = comfyui.paths.folder_names_and_paths[FOLDER_KIND]
        assert paths == ["/extra", str(tmp_path / "models" / FOLDER_KIND)]
        assert ".task" in suffixes
        assert owner.model_folders(FOLDER_KIND)[0] == Path("/extra")
        assert owner.model_folders("mediapipe")[:2] == [tmp_path / "more", tmp_path / "models" / "mediapipe"]

    def test_cancel_button(self, comfyui):
        progress = ComfyUIHost().progress(10)
        comfyui.management.interrupted = True
        with pytest.raises(InterruptProcessingException):
            progress.update(1)
        progress.update(10)

    def test_progress_and_preview_reach_the_bar(self, comfyui):
        progress = ComfyUIHost().progress(2)
        progress.update(2, 2, preview=np.zeros((4, 6, 3), np.uint8))
        [(value, total, (kind, picture, size))] = comfyui.utils.bars[0].calls
        assert (value, total, kind) == (2, 2, "JPEG")
        assert picture.size == (6, 4)
        assert size >= 256

    def test_many_fast_steps_send_few_messages_but_always_the_last(self, comfyui):
        bar = Bar()
        checks = []
        progress = ComfyUIProgress(bar, 1000, lambda: checks.append(1))
        for step in range(1, 1001):
            progress.update(step)
        assert len(checks) == 1000
        assert len(bar.calls) < 500
        assert bar.calls[-1][0] == 1000


def test_a_preview_goes_along_with_the_updates_that_follow():
    from talking_portrait.runtime.progress import PreviewedProgress

    class Recorder:
        def __init__(self):
            self.told = []

        def update(self, done, total=None, preview=None):
            self.told.append((done, total, preview))

    recorder = Recorder()
    progress = PreviewedProgress(recorder)
    progress.update(1, 3)
    progress.show("picture")
    progress.update(2, 3)
    progress.update(3, 3)
    progress.show("last picture")
    assert recorder.told == [
        (1, 3, None),
        (1, 3, "picture"),
        (2, 3, "picture"),
        (3, 3, "picture"),
        (3, 3, "last picture"),
    ]


def test_the_picture_of_the_last_window_reaches_the_page():
    """With ComfyUI's own bar, which leaves out what comes too soon, but never the last update."""
    from talking_portrait.runtime.progress import PreviewedProgress

    class Bar:
        def __init__(self):
            self.pictures = []

        def update_absolute(self, done, total, picture=None):
            self.pictures.append(picture)

    bar = Bar()
    progress = PreviewedProgress(ComfyUIProgress(bar, 1, lambda: None))
    for step in range(1, 9):
        progress.update(step, 8)
    progress.show(np.zeros((4, 4, 3), np.uint8))
    assert bar.pictures[-1] is not None
