"""Face-Mask Builder: what it draws for portraits, films and batches, and what saved workflows get of it."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.types import PortraitVideo

pytestmark = pytest.mark.usefixtures("host_folders")

SAVED_WIDGETS = ("grow", "feather", "on_missing_face", "face_index")
"""What workflows hold that were saved before boxes could be drawn, in their order."""


@pytest.fixture
def build(nodes):
    """Calls the node as a workflow does that was saved with its four widgets only, and with what is given."""
    node = nodes["TP_FaceMaskBuilder"]
    saved = {name: node.INPUT_TYPES()["required"][name][1]["default"] for name in SAVED_WIDGETS}
    return lambda **inputs: node().build(**{**saved, **inputs})


@pytest.fixture
def small_portrait(astronaut_portrait):
    from talking_portrait.core_models.face.picture_size import fit_portrait

    return fit_portrait(astronaut_portrait, 192)


@pytest.fixture
def film(small_portrait):
    """Two frames; in the second the face is elsewhere."""
    from dataclasses import replace

    shift = np.array([20, 8, 0], np.float32)
    return PortraitVideo(
        (small_portrait, replace(small_portrait, landmarks=small_portrait.landmarks + shift)), 25.0
    )


def test_masks_add_up(build, small_portrait):
    face, mouth, motion, preview = build(portrait=small_portrait, feather=0.0)
    assert face.shape == (1, 192, 192)
    assert preview.shape == (1, 192, 192, 3)
    torch.testing.assert_close(face, mouth + motion)
    assert 0 < mouth.sum() < motion.sum()


def test_masks_need_one_source(build, small_portrait, image_of):
    with pytest.raises(ValueError, match="either portrait or image"):
        build()
    with pytest.raises(ValueError, match="need face_detector"):
        build(image=image_of(small_portrait.frame))


def test_saved_workflows_get_the_masks_they_got(nodes, build, small_portrait):
    """Old widget values mean what they meant, and the new inputs' defaults draw contours per frame."""
    from talking_portrait.core_models.face.masks import face_mask, motion_mask, mouth_mask
    from talking_portrait.headless.registry import local_definitions
    from talking_portrait.headless.widgets import widget_inputs

    inputs = widget_inputs([3.0, 5.0, "previous", 0], local_definitions()["TP_FaceMaskBuilder"])
    assert dict(zip(SAVED_WIDGETS, (3.0, 5.0, "previous", 0), strict=True)).items() <= inputs.items()
    drawn = build(portrait=small_portrait, **inputs)
    for mask, draw in zip(drawn, (face_mask, mouth_mask, motion_mask), strict=False):
        expected = draw(small_portrait.landmarks, (192, 192), 3.0, 5.0)
        np.testing.assert_allclose(mask[0].numpy(), expected, atol=1e-6)
    assert nodes["TP_FaceMaskBuilder"].RETURN_NAMES[:3] == ("face", "mouth", "motion")


def test_defaults_of_the_method_are_those_of_the_widgets(nodes):
    import inspect

    node = nodes["TP_FaceMaskBuilder"]
    parameters = inspect.signature(node.build).parameters
    for name, (_, options) in node.INPUT_TYPES()["optional"].items():
        assert parameters[name].default == options.get("default"), name


def test_boxes_are_rectangles_of_0_and_1(build, small_portrait):
    face, mouth, motion, _ = build(portrait=small_portrait, feather=0.0, shape="boxes")
    for mask in (face[0], mouth[0]):
        rows, columns = torch.nonzero(mask.amax(dim=1)), torch.nonzero(mask.amax(dim=0))
        assert mask.sum() == len(rows) * len(columns)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(motion, face - mouth)
    half = build(portrait=small_portrait, feather=0.0, shape="boxes", mouth_box="lower half")[1]
    assert half.sum() > 4 * mouth.sum()
    wide = build(portrait=small_portrait, feather=0.0, shape="boxes", extension=2.0)[0]
    assert wide.sum() > 2 * face.sum()


@pytest.mark.parametrize("shape", ["contours", "boxes"])
def test_films_get_a_mask_per_frame_or_one_for_all(build, film, shape):
    each = build(portrait=film, shape=shape)
    union = build(portrait=film, shape=shape, frames="union")
    assert [tuple(mask.shape) for mask in each[:3]] == [(2, 192, 192)] * 3
    assert [tuple(mask.shape) for mask in union[:3]] == [(1, 192, 192)] * 3
    assert not torch.equal(each[0][0], each[0][1])
    for per_frame, common in zip(each[:2], union[:2], strict=True):
        assert (common >= per_frame).all()
    torch.testing.assert_close(union[2], union[0] - union[1])
    assert each[3].shape == union[3].shape == (2, 192, 192, 3), (
        "every frame is shown, with the common mask too"
    )


def test_pictures_of_a_batch_are_previewed_small(nodes, build, astronaut, image_of, face_bundle, monkeypatch):
    monkeypatch.setenv("TALKING_PORTRAIT_MODELS", str(face_bundle.parent))
    (detector,) = nodes["TP_LoadFaceDetector"]().load("face_landmarker", False)
    large = np.repeat(np.repeat(astronaut, 2, axis=0), 2, axis=1)[:, :1001]  # an odd width
    face, mouth, motion, preview = build(image=image_of(large), face_detector=detector, shape="boxes")
    assert face.shape == mouth.shape == motion.shape == (1, 1024, 1001)
    assert preview.shape == (1, 512, 500, 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"shape": "ovals"}, "shape is 'ovals'; choose one of contours, boxes"),
        ({"frames": "some"}, "frames is 'some'; choose one of per frame, union"),
        ({"shape": "boxes", "mouth_box": "chin"}, "mouth_box is 'chin'"),
        ({"shape": "boxes", "extension": 0.5}, "extension is 0.5"),
        ({"shape": "boxes", "extension": float("nan")}, "extension is nan"),
    ],
)
def test_bad_inputs_are_said(build, small_portrait, inputs, message):
    with pytest.raises(ValueError, match=message):
        build(portrait=small_portrait, **inputs)


def test_an_empty_image_is_said(build):
    with pytest.raises(ValueError, match="holds no pictures"):
        build(image=torch.zeros(0, 8, 8, 3))
