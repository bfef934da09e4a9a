"""`talking-portrait demo`: the shipped audio-only workflow with a few of its inputs set.

One thing is changed: the renderer writes each frame into the video as it comes, instead of handing all of them on to
Create Video. The result is the same; the memory does not grow with the length of the speech.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runtime.host import host
from ..runtime.weights import WeightNotFoundError
from .executor import NodeFailedError, RunReport
from .graph import Graph, copied_graph
from .local_run import saved_files, using_files, using_folders
from .overrides import apply_overrides, find_node
from .preparation import drawn_page
from .registry import local_definitions, object_info
from .run_command import run_graph
from .widgets import widget_inputs
from .workflow_files import read_workflow_file

WORKFLOWS_FOLDER = Path(__file__).resolve().parent.parent / "workflows"
DEMO_GRAPH_FILE = WORKFLOWS_FOLDER / "api" / "audio_only.json"
DEMO_PAGE_FILE = WORKFLOWS_FOLDER / "audio_only.json"
"""The same workflow in both forms."""

INPUT_OF_OPTION = {
    "portrait": "TP_LoadPortraitImage.image",
    "speech": "TP_LoadSpeech.audio",
    "emotion": "TP_EmotionCondition.emotion",
    "strength": "TP_EmotionCondition.strength",
    "seed": "TP_KeypointDiffusionSampler.seed",
    "fps": "TP_KeypointDiffusionSampler.fps",
}
"""Which input of the workflow each option of the command sets."""


def demo_command(arguments: argparse.Namespace) -> int:
    """Make a talking video and write its path to stdout."""
    target = checked_target(Path(arguments.out))
    for option in ("portrait", "speech"):
        _expect_file(option, getattr(arguments, option))
    if arguments.portrait is None and importlib.util.find_spec("skimage") is None:
        raise ValueError(
            "the demo portrait comes with scikit-image, which is not installed: "
            'pip install "talking-portrait[demo]", or name a picture of your own with --portrait'
        )
    graph = demo_graph(arguments)
    workflow = drawn_page(graph, object_info(), read_workflow_file(DEMO_PAGE_FILE).page)
    folder_beside = _output_folder_beside(target)
    with folder_beside as folder, using_folders(output=folder), using_files(_files_named(arguments)):
        os.replace(saved_files(_run(graph, workflow), host())[0], target)
    sys.stdout.write(f"{target}\n")
    return 0


def _files_named(arguments: argparse.Namespace) -> list[Path]:
    """Return the files that the command names, and the landmarks beside the picture."""
    from ..runtime.input_files import landmarks_beside

    named = [arguments.portrait, arguments.speech]
    files = [Path(name).expanduser().absolute() for name in named if name is not None]
    return [*files, *filter(None, map(landmarks_beside, files))]


def _run(graph: Graph, workflow: dict[str, Any] | None) -> RunReport:
    try:
        return run_graph(graph, workflow)
    except NodeFailedError as error:
        if not isinstance(error.__cause__, WeightNotFoundError):
            raise
        raise WeightNotFoundError(
            f"{error.__cause__}. The demo fetches it when called with --download"
        ) from error


def demo_graph(arguments: argparse.Namespace) -> Graph:
    """Return the workflow with the options of the command in it."""
    given = {option: getattr(arguments, option, None) for option in INPUT_OF_OPTION}
    assignments = [
        f"{INPUT_OF_OPTION[option]}={value}" for option, value in given.items() if value is not None
    ]
    graph = copied_graph(read_workflow_file(DEMO_GRAPH_FILE).api)
    apply_overrides(graph, assignments, local_definitions())
    if arguments.portrait is not None:
        _find_face_in_portrait(graph, arguments.download)
    _stream_frames_to_file(graph)
    return graph


def _stream_frames_to_file(graph: Graph) -> None:
    """Put Render Talking Video in the place of Warping Renderer, Create Video and Save Video."""
    saver = graph.pop(find_node(graph, "SaveVideo"))
    del graph[find_node(graph, "CreateVideo")]
    renderer = graph[find_node(graph, "TP_WarpingRenderer")]
    renderer["class_type"] = "TP_RenderTalkingVideo"
    renderer["inputs"]["filename_prefix"] = saver["inputs"]["filename_prefix"]
    renderer["_meta"] = {"title": "Render Talking Video"}


def _find_face_in_portrait(graph: Graph, download: bool) -> None:
    """Let a face detector find the face of a portrait that brings no landmarks file."""
    from ..runtime.input_files import landmarks_beside

    loader = graph[find_node(graph, "TP_LoadPortraitImage")]
    if landmarks_beside(Path(loader["inputs"]["image"])) is not None:
        return
    detector = str(max(map(int, graph)) + 1)
    inputs = widget_inputs([], local_definitions()["TP_LoadFaceDetector"])
    inputs["download_if_missing"] = download
    graph[detector] = {
        "class_type": "TP_LoadFaceDetector",
        "inputs": inputs,
        "_meta": {"title": "Load Face Detector"},
    }
    portrait = graph[find_node(graph, "TP_Portrait")]["inputs"]
    portrait["face_detector"] = [detector, 0]
    portrait.pop("landmarks", None)


def _expect_file(option: str, name: str | None) -> None:
    if name is not None and not Path(name).expanduser().is_file():
        raise FileNotFoundError(f"--{option}: there is no file {name}")


def checked_target(path: Path) -> Path:
    """Return the absolute path of the video to write.

    Raises ValueError for a name that does not end in .mp4, OSError for a folder that cannot be written to.
    """
    path = path.expanduser().absolute()
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"--out: videos are written as mp4, but the name is {path.name!r}: end it in .mp4")
    if path.is_dir():
        raise IsADirectoryError(f"--out: {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"--out: the folder {path.parent} cannot be written to")
    return path


@contextmanager
def _output_folder_beside(target: Path) -> Iterator[Path]:
    """Give a temporary folder on the target's own disk, so that the video can be renamed into place."""
    folder = Path(tempfile.mkdtemp(prefix=".talking-portrait-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
