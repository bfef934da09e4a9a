"""Rendered frames, read back by the landmark network, show what was asked for."""

import numpy as np
import pytest
from talking_portrait.core_models.face.picture import load_picture
from talking_portrait.core_models.face.portrait import portrait_from_frame
from talking_portrait.core_models.rendering.mesh import MeshRenderer
from talking_portrait.core_models.types import BLENDSHAPE_INDEX, FaceMotion

PICTURES = ("woman_photo_astronaut.png", "older_woman_photo_uniform.jpg", "woman_painting_dark_skin.png")
FRAMES = 9


def sweep(peak: float) -> np.ndarray:
    return peak * (0.5 - 0.5 * np.cos(np.linspace(0, 2 * np.pi, FRAMES)))


@pytest.fixture(scope="module", params=PICTURES)
def read_back(request, shared_data, landmarker):
    """The renderer and a function that renders a motion and returns (coefficients (N, 52), yaw (N,))."""
    portrait = portrait_from_frame(load_picture(shared_data / "portraits" / request.param), landmarker)
    renderer = MeshRenderer(portrait)

    def read(expression: dict[str, np.ndarray], yaw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.zeros((FRAMES, 52))
        for name, track in expression.items():
            rows[:, BLENDSHAPE_INDEX[name]] = track
        still = np.zeros(FRAMES)
        rotation = np.stack([still, yaw, still], axis=1)
        motion = FaceMotion("blendshapes", 25.0, rows, rotation, np.zeros((FRAMES, 3)), np.ones(FRAMES))
        shown = [portrait_from_frame(frame, landmarker) for frame in renderer.frames(motion)]
        return (
            np.array([each.blendshapes for each in shown]),
            np.array([each.pose.rotation[1] for each in shown]),
        )

    return read


def correlation(asked: np.ndarray, seen: np.ndarray) -> float:
    return float(np.corrcoef(asked, seen)[0, 1])


def test_the_jaw_opens_as_asked(read_back):
    asked = sweep(0.6)
    seen = read_back({"jawOpen": asked}, np.zeros(FRAMES))[0][:, BLENDSHAPE_INDEX["jawOpen"]]
    assert correlation(asked, seen) >= 0.85
    assert seen.max() - seen.min() > 0.1


def test_the_eyes_blink_as_asked(read_back):
    asked = sweep(1.0)
    both = ("eyeBlinkLeft", "eyeBlinkRight")
    coefficients, _ = read_back(dict.fromkeys(both, asked), np.zeros(FRAMES))
    for name in both:
        seen = coefficients[:, BLENDSHAPE_INDEX[name]]
        assert correlation(asked, seen) >= 0.85
        assert seen.max() - seen.min() > 0.1


def test_the_head_turns_as_asked(read_back):
    asked = np.linspace(-9, 9, FRAMES)
    _, seen = read_back({}, asked)
    assert correlation(asked, seen) >= 0.97
    assert np.ptp(seen) > 8
