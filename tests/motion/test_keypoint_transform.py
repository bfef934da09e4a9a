"""Takin-ADA's and LivePortrait's keypoint transforms, against closed forms and each other."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.motion import keypoint_transform as transforms
from talking_portrait.core_models.motion.keypoint_geometry import (
    degrees_from_bins,
    extractor_rotation,
    placed_keypoints,
)
from talking_portrait.core_models.motion.keypoint_transform import (
    KeypointTransform,
    KeypointTransformError,
    placed_by,
)


def drawn(seed: int = 0, batch: int = 3, count: int = 5):
    generator = torch.Generator().manual_seed(seed)
    canonical, deformation = torch.randn(2, batch, count, 3, generator=generator, dtype=torch.float64)
    angles, translation = torch.randn(2, batch, 3, generator=generator, dtype=torch.float64)
    return canonical, transforms.rotation_of_angles(30 * angles), deformation, translation


def test_liveportraits_form_is_that_of_the_arrays():
    canonical, rotation, deformation, translation = drawn()
    scale = torch.tensor([0.5, 1.0, 1.6], dtype=torch.float64)
    placed = placed_by(KeypointTransform.LIVEPORTRAIT, canonical, rotation, deformation, translation, scale)
    expected = placed_keypoints(*(v.numpy() for v in (canonical, rotation, deformation, scale, translation)))
    np.testing.assert_allclose(placed.numpy(), expected, atol=1e-12)


def test_without_scale_moves_in_depth_too():
    canonical, rotation, deformation, translation = drawn()
    placed = placed_by(KeypointTransform.WITHOUT_SCALE, canonical, rotation, deformation, translation)
    further = placed_by(
        KeypointTransform.WITHOUT_SCALE,
        canonical,
        rotation,
        deformation,
        translation + torch.tensor([0, 0, 2.0]),
    )
    torch.testing.assert_close(further - placed, torch.tensor([0.0, 0, 2]).double().expand_as(placed))


def test_at_scale_1_the_two_differ_by_the_depth_of_the_translation_alone():
    values = drawn()
    plain = placed_by(KeypointTransform.WITHOUT_SCALE, *values)
    scaled = placed_by(KeypointTransform.LIVEPORTRAIT, *values, torch.ones(3).double())
    difference = plain - scaled
    torch.testing.assert_close(difference[..., :2], torch.zeros_like(difference[..., :2]))
    torch.testing.assert_close(difference[..., 2], values[3][:, None, 2].expand(3, 5))


def test_one_transform_refuses_the_others_motion():
    values = drawn()
    with pytest.raises(KeypointTransformError, match=r"a scale is given.*'without_scale'"):
        placed_by(KeypointTransform.WITHOUT_SCALE, *values, torch.ones(3).double())
    with pytest.raises(KeypointTransformError, match=r"no scale is given.*'liveportrait'"):
        placed_by(KeypointTransform.LIVEPORTRAIT, *values)
    with pytest.raises(
        KeypointTransformError, match=r"a\.safetensors places .*'liveportrait'.*'without_scale'"
    ):
        transforms.require_transform(
            KeypointTransform.LIVEPORTRAIT, KeypointTransform.WITHOUT_SCALE, "a.safetensors"
        )
    transforms.require_transform(KeypointTransform.LIVEPORTRAIT, KeypointTransform.LIVEPORTRAIT, "it")


def test_names_lead_to_transforms_and_others_are_refused():
    assert KeypointTransform.named("without_scale") is KeypointTransform.WITHOUT_SCALE
    assert KeypointTransform.named("liveportrait") is KeypointTransform.LIVEPORTRAIT
    with pytest.raises(ValueError, match="'scaled', expected one of 'without_scale', 'liveportrait'"):
        KeypointTransform.named("scaled")


def test_rotation_and_degrees_are_those_of_the_arrays():
    generator = torch.Generator().manual_seed(1)
    angles = 60 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    np.testing.assert_allclose(
        transforms.rotation_of_angles(angles).numpy(), extractor_rotation(angles.numpy()), atol=1e-12
    )
    logits = 3 * torch.randn(6, 66, generator=generator, dtype=torch.float64)
    np.testing.assert_allclose(transforms.expected_degrees(logits).numpy(), degrees_from_bins(logits.numpy()))
    assert transforms.expected_degrees(torch.zeros(1, 66)).item() == pytest.approx(0, abs=1e-4)


def test_gradients_reach_every_part_of_both_transforms():
    for transform in KeypointTransform:
        parts = [value.clone().requires_grad_() for value in drawn()]
        scale = torch.ones(3).double().requires_grad_()
        more = [scale] if transform is KeypointTransform.LIVEPORTRAIT else []
        placed_by(transform, *parts, *more).square().sum().backward()
        assert all(part.grad.abs().sum() > 0 for part in [*parts, *more])


@pytest.mark.parametrize("name", ["canonical", "rotation", "deformation", "translation", "scale"])
def test_other_shapes_are_refused(name):
    shapes = {
        "canonical": (2, 4, 3),
        "rotation": (2, 3, 3),
        "deformation": (2, 4, 3),
        "translation": (2, 3),
        "scale": (2,),
    }
    tensors = {key: torch.zeros(*((7, *size[1:]) if key == name else size)) for key, size in shapes.items()}
    with pytest.raises(ValueError, match=r"has shape .*expected"):
        placed_by(KeypointTransform.LIVEPORTRAIT, **tensors)


def test_angles_and_logits_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"angles has shape \(3,\)"):
        transforms.rotation_of_angles(torch.zeros(3))
    with pytest.raises(ValueError, match=r"logits has shape \(2, 65\)"):
        transforms.expected_degrees(torch.zeros(2, 65))
