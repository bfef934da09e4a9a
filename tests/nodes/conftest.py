"""Inputs the node tests share: real wire values, small enough to be quick."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


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
