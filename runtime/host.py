"""The host: ComfyUI or standalone, found out once; device, progress, cancelling and folders behind one interface.

Whether ComfyUI is there is read from sys.modules: ComfyUI has always imported its own modules before packs.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .progress import ComfyUIProgress, ReportedProgress, TerminalProgress

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

logger = logging.getLogger(__name__)

FOLDER_KIND = "talking_portrait"
"""This package's own folder in ComfyUI's models folder, and its key in extra_model_paths.yaml."""

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".task", ".npz", ".onnx")

INPUT_VARIABLE = "TALKING_PORTRAIT_INPUT"
OUTPUT_VARIABLE = "TALKING_PORTRAIT_OUTPUT"
TEMP_VARIABLE = "TALKING_PORTRAIT_TEMP"
DEVICE_VARIABLE = "TALKING_PORTRAIT_DEVICE"
MODELS_VARIABLE = "TALKING_PORTRAIT_MODELS"
"""Environment variables of the standalone host: folders, the torch device, and folders of weight files
(several are separated as in PATH)."""


class WorkCancelledError(Exception):
    """The user cancelled. Standalone only: in ComfyUI its own exception is raised."""


class Progress(Protocol):
    """One piece of long work on its way."""

    def update(self, done: int, total: int | None = None, preview: Image | np.ndarray | None = None) -> None:
        """Show that `done` of `total` steps are done; raise when the user has cancelled.

        preview: a picture to show beside the progress, (H, W, 3) uint8 RGB or a PIL image.
        """


class Host(Protocol):
    """What nodes and the model cache may ask of the program they run in."""

    in_comfyui: bool

    @property
    def input_folder(self) -> Path:
        """Where the user's files are."""

    @property
    def output_folder(self) -> Path:
        """Where results go."""

    @property
    def temp_folder(self) -> Path:
        """Where previews and other passing files go."""

    def device(self, requested: str = "auto") -> torch.device:
        """Return where networks run; `requested` may name one, such as "cuda:1"."""

    def progress(self, total: int, node_id: str | None = None) -> Progress:
        """Return a display for work of `total` steps."""

    def check_cancelled(self) -> None:
        """Raise when the user has cancelled."""

    def model_folders(self, kind: str) -> list[Path]:
        """Return the folders searched for weight files of a kind, in order, whether they exist or not."""


@functools.cache
def host() -> Host:
    """Return the host of this process."""
    inside = "comfy.model_management" in sys.modules and "folder_paths" in sys.modules
    return ComfyUIHost() if inside else StandaloneHost()


class ComfyUIHost:
    """ComfyUI's own devices, progress, Cancel button and folders."""

    in_comfyui = True

    def __init__(self) -> None:
        self._folder_paths = sys.modules["folder_paths"]
        self._model_management = sys.modules["comfy.model_management"]
        _register_folder_kind(self._folder_paths)

    @property
    def input_folder(self) -> Path:
        return Path(self._folder_paths.get_input_directory())

    @property
    def output_folder(self) -> Path:
        return Path(self._folder_paths.get_output_directory())

    @property
    def temp_folder(self) -> Path:
        return Path(self._folder_paths.get_temp_directory())

    def device(self, requested: str = "auto") -> torch.device:
        return _named_device(requested) if requested != "auto" else self._model_management.get_torch_device()

    def progress(self, total: int, node_id: str | None = None) -> Progress:
        bar = sys.modules["comfy.utils"].ProgressBar(total, node_id=node_id)
        return ComfyUIProgress(bar, total, self.check_cancelled)

    def check_cancelled(self) -> None:
        self._model_management.throw_exception_if_processing_interrupted()

    def model_folders(self, kind: str) -> list[Path]:
        known = []
        if kind in self._folder_paths.folder_names_and_paths:
            known = [Path(folder) for folder in self._folder_paths.get_folder_paths(kind)]
        own = Path(self._folder_paths.models_dir) / kind
        return list(dict.fromkeys([*known, own, *_variable_folders(kind), user_models_folder()]))


def _register_folder_kind(folder_paths: Any) -> None:
    """Make ComfyUI know our models folder. Paths from extra_model_paths.yaml are kept, before the default."""
    default = str(Path(folder_paths.models_dir) / FOLDER_KIND)
    paths, suffixes = folder_paths.folder_names_and_paths.get(FOLDER_KIND, ([], set()))
    paths = [*paths, *([] if default in paths else [default])]
    folder_paths.folder_names_and_paths[FOLDER_KIND] = (paths, set(suffixes) or set(WEIGHT_SUFFIXES))


@dataclass(frozen=True)
class Folders:
    """The standalone host's folders; relative ones are meant from the current folder."""

    input: Path
    output: Path
    temp: Path


def folders_from_environment() -> Folders:
    """Return ./input, ./output and a folder in the system's temporary one, or what the environment names."""
    return Folders(
        input=Path(os.environ.get(INPUT_VARIABLE) or "input"),
        output=Path(os.environ.get(OUTPUT_VARIABLE) or "output"),
        temp=Path(os.environ.get(TEMP_VARIABLE) or Path(tempfile.gettempdir(), f"{FOLDER_KIND}_temp")),
    )


@dataclass(frozen=True, eq=False)
class Task:
    """What the standalone host works on.

    name: shown in front of progress bars. listener: told the steps done and their total in the place of a bar.
    call: "<node>.<call>" when a node's function is called, None otherwise. graphs: numbers the graphs it builds.
    """

    name: str = ""
    listener: Callable[[int, int], None] | None = None
    call: str | None = None
    graphs: Iterator[int] = field(default_factory=itertools.count)


class StandaloneHost:
    """The same interface over torch, a progress bar on stderr, and plain folders."""

    in_comfyui = False

    def __init__(self, folders: Folders | None = None) -> None:
        self.folders = folders or folders_from_environment()
        self.allowed_files: frozenset[Path] = frozenset()
        self._tasks: list[Task] = []
        self._task_of_caller: ContextVar[Task | None] = ContextVar("task", default=None)
        self._cancelled = threading.Event()

    @property
    def input_folder(self) -> Path:
        return self.folders.input.absolute()

    @property
    def output_folder(self) -> Path:
        return self.folders.output.absolute()

    @property
    def temp_folder(self) -> Path:
        return self.folders.temp.absolute()

    @contextmanager
    def using_folders(
        self, input: Path | None = None, output: Path | None = None, temp: Path | None = None
    ) -> Iterator[None]:
        """Use other folders inside a `with`; those left out stay."""
        given = {"input": input, "output": output, "temp": temp}
        before = self.folders
        self.folders = replace(
            before, **{name: Path(path) for name, path in given.items() if path is not None}
        )
        try:
            yield
        finally:
            self.folders = before

    @contextmanager
    def using_files(self, files: Iterable[Path]) -> Iterator[None]:
        """Let workflows read these files too inside a `with`, wherever they lie: those that the user named.

        What a workflow names by itself has to lie in the input, output or temporary folder; see `input_path`.
        """
        before = self.allowed_files
        self.allowed_files = before | {Path(file).resolve() for file in files}
        try:
            yield
        finally:
            self.allowed_files = before

    @contextmanager
    def running(
        self, name: str, listener: Callable[[int, int], None] | None = None, call: str | None = None
    ) -> Iterator[None]:
        """Show `name` in front of every progress bar started inside a `with`.

        listener: told (steps done, total) of that work; no bars are drawn then. call: which call of which node
        it is, which begins the ids of the graphs that the node builds.
        """
        task = Task(name, listener, call)
        token = self._task_of_caller.set(task)
        self._tasks.append(task)
        try:
            yield
        finally:
            self._tasks.remove(task)
            self._task_of_caller.reset(token)

    @property
    def task(self) -> Task:
        """The work that the caller belongs to; in a thread of its own, what began last."""
        return self._task_of_caller.get() or next(reversed(self._tasks), Task())

    def next_graph_prefix(self) -> str | None:
        """Return "<node>.<call>.<graph>.", another one each time; None when no node is running."""
        task = self.task
        return None if task.call is None else f"{task.call}.{next(task.graphs)}."

    def device(self, requested: str = "auto") -> torch.device:
        import torch

        requested = requested if requested != "auto" else os.environ.get(DEVICE_VARIABLE, "auto")
        if requested != "auto":
            return _named_device(requested)
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    def progress(self, total: int, node_id: str | None = None) -> Progress:
        task = self.task
        if task.listener is not None:
            return ReportedProgress(task.listener, total, self.check_cancelled)
        return TerminalProgress(task.name, total, self.check_cancelled)

    def cancel(self) -> None:
        """Ask the work under way to stop: its next progress step or check raises WorkCancelledError."""
        self._cancelled.set()

    def allow_work(self) -> None:
        """Forget an earlier `cancel`."""
        self._cancelled.clear()

    def check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise WorkCancelledError("cancelled")

    def model_folders(self, kind: str) -> list[Path]:
        return list(dict.fromkeys([*_variable_folders(kind), user_models_folder()]))


def _named_device(name: str) -> torch.device:
    import torch

    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is not a torch device; use auto, cpu, cuda, cuda:1, mps, ...") from error


def _variable_folders(kind: str) -> list[Path]:
    listed = os.environ.get(MODELS_VARIABLE, "").split(os.pathsep)
    folders = [Path(entry).expanduser() for entry in listed if entry.strip()]
    return [place for folder in folders for place in (folder, folder / kind)]


def user_models_folder() -> Path:
    """Return the folder in the user's cache that fetched weights go to outside ComfyUI."""
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / FOLDER_KIND / "models"
