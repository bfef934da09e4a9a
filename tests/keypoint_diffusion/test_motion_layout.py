"""The parts of a frame's motion vector: which number is mouth, expression, head angle, place or size."""

import dataclasses
import json

import numpy as np
import pytest
from talking_portrait.core_models.keypoint_diffusion.motion_layout import (
    CONTROL_NAMES,
    MotionLayout,
    blendshape_layout,
    keypoint_layout,
)
from talking_portrait.core_models.keypoint_diffusion.motion_vectors import motion_vectors
from talking_portrait.core_models.motion.keypoint_geometry import extractor_angles
from talking_portrait.core_models.types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES

LIPS_OF_LIVEPORTRAIT = (6, 12, 14, 17, 19, 20)


@pytest.mark.parametrize("layout", [keypoint_layout(), blendshape_layout()], ids=["keypoints", "blendshapes"])
def test_parts_cover_the_vector_once(layout):
    parts = [*layout.mouth, *layout.expression, *layout.angles, *layout.location, *layout.scale]
    assert sorted(parts) == list(range(layout.size))


@pytest.mark.parametrize("layout", [keypoint_layout(), blendshape_layout()], ids=["keypoints", "blendshapes"])
def test_travels_as_json(layout):
    assert MotionLayout(**json.loads(json.dumps(layout.to_dict()))) == layout


def test_keypoints_are_where_the_motion_vectors_have_them(source_reading):
    layout, vector = keypoint_layout(), motion_vectors(source_reading)[0]
    angles = extractor_angles(source_reading.rotation)[0]
    np.testing.assert_allclose(vector[list(layout.angles)], angles, atol=1e-9)
    np.testing.assert_allclose(vector[list(layout.location)][:2], source_reading.translation[0, :2])
    assert vector[layout.scale[0]] == source_reading.scale[0]
    lips = source_reading.expression[0, list(LIPS_OF_LIVEPORTRAIT)].reshape(-1)
    np.testing.assert_allclose(vector[list(layout.mouth)], lips)
    assert len(layout.expression) == 63 - 18


def test_other_lip_keypoints():
    layout = keypoint_layout((6, 7, 8, 9))
    assert layout.mouth == tuple(range(7 + 18, 7 + 30))
    assert len(layout.expression) == 63 - 12


def test_blendshapes_of_the_mouth_are_no_expression():
    layout = blendshape_layout()
    names = {BLENDSHAPE_NAMES[index] for index in layout.expression}
    assert {"browInnerUp", "browDownLeft", "eyeBlinkLeft", "cheekSquintRight", "noseSneerLeft"} <= names
    assert not any(name.startswith(("mouth", "jaw")) for name in names)
    assert BLENDSHAPE_INDEX["jawOpen"] in layout.mouth
    assert (layout.angles, layout.location, layout.scale) == ((52, 53, 54), (55, 56, 57), ())


def test_controls_are_the_parts_that_there_are():
    assert tuple(keypoint_layout().controls) == CONTROL_NAMES
    assert tuple(blendshape_layout().controls) == ("angles", "location")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mouth": (0, 52)}, "different numbers"),
        ({"location": (56, 57, 58)}, "from 0 to 57"),
        ({"location": (-1, 56, 57)}, "from 0 to 57"),
        ({"expression": ()}, "needs an expression"),
    ],
)
def test_impossible_layouts(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(blendshape_layout(), **changes)
