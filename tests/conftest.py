"""Shared inputs of the tests. Real portraits and clips live outside the repository; tests skip without."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real portraits, speech and driving video: ../shared/data or TALKING_PORTRAIT_TEST_DATA."""
    folder = Path(os.environ.get("TALKING_PORTRAIT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"no test data in {folder}; set TALKING_PORTRAIT_TEST_DATA to the folder that holds portraits/"
        )
    return folder


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The folder of numeric references: tests/golden or TALKING_PORTRAIT_GOLDEN."""
    return Path(os.environ.get("TALKING_PORTRAIT_GOLDEN", ROOT / "tests" / "golden"))


@pytest.fixture(scope="session")
def liveportrait_cases(golden_folder) -> Path:
    """The cases of LivePortrait and KDTalker."""
    return golden_folder / "liveportrait_kdtalker"


@pytest.fixture(scope="session")
def liveportrait_tools(golden_folder, liveportrait_cases):
    """How those cases' weights and inputs are made: the module beside them, or ours where they came without."""
    path = liveportrait_cases / "golden_tools.py"
    if not path.is_file():
        path = ROOT / "tests" / "golden" / "liveportrait_kdtalker" / "golden_tools.py"
    spec = importlib.util.spec_from_file_location("liveportrait_golden_tools", path)
    module = importlib.util.module_from_spec(spec)
    searched = [str(path.parent.parent), str(ROOT / "tests" / "golden")]  # it imports deterministic_weights
    sys.path[:0] = searched
    spec.loader.exec_module(module)
    del sys.path[: len(searched)]
    return module


@pytest.fixture(scope="session")
def face_bundle(shared_data) -> Path:
    """The official face landmark bundle."""
    path = shared_data / "face_landmarker.task"
    if not path.is_file():
        pytest.skip(f"the face landmark bundle is not at {path}")
    return path


@pytest.fixture(scope="session")
def landmarker(face_bundle):
    """A FaceLandmarker, loaded once for all tests."""
    pytest.importorskip("ai_edge_litert")
    from talking_portrait.core_models.face.landmarker import FaceLandmarker

    return FaceLandmarker(face_bundle)


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """NASA's public-domain portrait, (512, 512, 3) uint8."""
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="session")
def astronaut_landmarks():
    """The landmarks that ship for that portrait."""
    from talking_portrait.core_models.face.landmarks import read_landmarks

    return read_landmarks(ROOT / "workflows" / "assets" / "astronaut.landmarks.json")


@pytest.fixture(scope="session")
def astronaut_portrait(astronaut, astronaut_landmarks):
    """That portrait with its landmarks; needs no bundle."""
    from talking_portrait.core_models.face.portrait import portrait_from_landmarks

    return portrait_from_landmarks(astronaut, astronaut_landmarks.landmarks, astronaut_landmarks.blendshapes)
