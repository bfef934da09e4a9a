"""Inputs the node tests share: real wire values, small enough to be quick."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
LIVEPORTRAIT_FILES = {
    "appearance_feature_extractor": (),
    "motion_extractor": ("affine_nd",),
    "warping_module": (),
    "spade_generator": ("spectral_uv",),
}
"""File -> the rules by which its weights are made."""
STITCHING = {"stitching": "retarget_shoulder", "lip": "retarget_mouth", "eye": "retarget_eye"}


@pytest.fixture
def nodes():
    """The node table, id to class."""
    from talking_portrait.nodes import NODE_CLASS_MAPPINGS

    return NODE_CLASS_MAPPINGS


@pytest.fixture
def image_of():
    """Makes an IMAGE of uint8 frames."""
    import torch

    return lambda *frames: torch.stack([torch.tensor(frame).float() / 255 for frame in frames])


@pytest.fixture
def host_folders(tmp_path):
    """Folders of the standalone host, input/ and output/ below tmp_path, for one test."""
    from talking_portrait.runtime.host import host

    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
    with host().using_folders(tmp_path / "input", tmp_path / "output", tmp_path / "temp"):
        yield tmp_path


@pytest.fixture
def talking_motion():
    """Half a second at 25 fps in which the jaw opens and closes, the head turns and the eyes blink once."""
    from talking_portrait.core_models.types import BLENDSHAPE_INDEX, BLENDSHAPES, FaceMotion

    count = 12
    phase = np.linspace(0, np.pi, count)
    expression = np.zeros((count, 52))
    expression[:, BLENDSHAPE_INDEX["jawOpen"]] = 0.5 * np.sin(phase)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        expression[5:7, BLENDSHAPE_INDEX[name]] = 1.0
    rotation = np.zeros((count, 3))
    rotation[:, 1] = 8 * np.sin(phase)
    return FaceMotion(BLENDSHAPES, 25.0, expression, rotation, np.zeros((count, 3)), np.ones(count))


@pytest.fixture
def tone():
    """Makes AUDIO: a stereo tone of so many samples at 44.1 kHz."""
    import torch

    def make(samples: int, sample_rate: int = 44100) -> dict:
        wave = torch.sin(torch.arange(samples) * 0.05)[None, None].repeat(1, 2, 1) * 0.3
        return {"waveform": wave, "sample_rate": sample_rate}

    return make


@pytest.fixture(scope="session")
def liveportrait_files(liveportrait_cases, liveportrait_tools, tmp_path_factory, face_bundle):
    """A folder with the five files of the safetensors repack, filled with made weights, and the face bundle.

    Networks loaded from it stay in the shared cache until the last test is done: making them ready takes long.
    """
    from safetensors.torch import save_file
    from talking_portrait.runtime.model_cache import model_cache

    cases, state_dict_for = liveportrait_cases, liveportrait_tools.state_dict_for
    folder = tmp_path_factory.mktemp("models")
    for name, rules in LIVEPORTRAIT_FILES.items():
        shapes = json.loads((cases / f"state_dict_{name}.json").read_text())
        state = state_dict_for(shapes, 1.0, rules)
        if name == "motion_extractor":  # faces have a size above 0 and keypoints within the crop
            state["detector.fc_scale.bias"].fill_(1.5)
            for head in ("fc_scale", "fc_kp", "fc_exp", "fc_t"):
                state[f"detector.{head}.weight"] *= 0.05
        save_file(state, folder / f"{name}.safetensors")
    small = {}
    for part, prefix in STITCHING.items():
        shapes = json.loads((cases / f"state_dict_stitching_{part}.json").read_text())
        small |= {f"{prefix}.{key}": value for key, value in state_dict_for(shapes, 0.02).items()}
    save_file(small, folder / "stitching_retargeting_module.safetensors")
    (folder / "face_landmarker.task").symlink_to(face_bundle)
    yield folder
    model_cache().clear()


@pytest.fixture(scope="module")
def small_actalker_folder(tmp_path_factory):
    """A models folder with a small ACTalker of random weights, mine.safetensors, for one module."""
    from .actalker_graph import small_actalker_here

    with small_actalker_here(tmp_path_factory.mktemp("models")) as folder:
        yield folder


@pytest.fixture(scope="session")
def made_portrait():
    """The portrait of a made head, 96 pixels a side."""
    from talking_portrait.training.made_heads.identity import made_identity
    from talking_portrait.training.made_heads.portrait import draw_portrait

    return draw_portrait(made_identity(5), 96)


@pytest.fixture
def actalker_graph(small_actalker_folder, nodes, made_portrait):
    """The nodes of an ACTalker clip, on that model and portrait."""
    from .actalker_graph import Graph

    return Graph(nodes, made_portrait)


@pytest.fixture(scope="module")
def small_fantasytalking_folder(tmp_path_factory):
    """A models folder with two small FantasyTalkings, mine and hearing.safetensors, for one module."""
    from .fantasytalking_graph import small_fantasytalking_here

    with small_fantasytalking_here(tmp_path_factory.mktemp("models")) as folder:
        yield folder


@pytest.fixture
def fantasytalking_graph(small_fantasytalking_folder, nodes, made_portrait):
    """The nodes of a FantasyTalking clip, on the model with all branches and that portrait."""
    from .fantasytalking_graph import Graph

    return Graph(nodes, made_portrait)


@pytest.fixture
def hearing_graph(small_fantasytalking_folder, nodes, made_portrait):
    """The same on the model that has only the branches of the release."""
    from .fantasytalking_graph import Graph

    return Graph(nodes, made_portrait, "hearing.safetensors")
