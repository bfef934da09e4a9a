"""Motion-space networks: sizes, motion, rendering, files, and what is refused."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from talking_portrait.core_models.motion.keypoint_geometry import extractor_rotation
from talking_portrait.core_models.motion.keypoint_transform import KeypointTransform, KeypointTransformError
from talking_portrait.core_models.motion.motion_extractor import MotionExtractorParameters
from talking_portrait.core_models.rendering import motion_space
from talking_portrait.core_models.rendering.liveportrait.appearance import AppearanceParameters
from talking_portrait.core_models.rendering.liveportrait.dense_motion import DenseMotionParameters
from talking_portrait.core_models.rendering.liveportrait.generator import (
    GeneratorParameters,
    SpectralNormConvolution,
)
from talking_portrait.core_models.rendering.liveportrait.warping import WarpingParameters
from talking_portrait.core_models.rendering.motion_space import (
    MotionSpaceParameters,
    load_motion_space,
    new_motion_space,
    save_motion_space,
)
from talking_portrait.core_models.strict_loading import WeightMismatchError


def tiny(transform: KeypointTransform = KeypointTransform.WITHOUT_SCALE) -> MotionSpaceParameters:
    dense = DenseMotionParameters(
        keypoints=12, volume_channels=2, volume_depth=2, compressed_channels=1, first_channels=2, max_channels=4,
        blocks=1, mask_kernel=3,
    )  # fmt: skip
    return MotionSpaceParameters(
        extractor=MotionExtractorParameters(depths=(1, 1), widths=(8, 16), keypoints=12),
        appearance=AppearanceParameters(4, 2, 8, volume_channels=2, volume_depth=2, residual_blocks=1),
        warping=WarpingParameters(out_channels=4, dense_motion=dense),
        generator=GeneratorParameters(
            4, 8, middle_blocks=1, out_channels=4, upscale=1, modulation_channels=4
        ),
        transform=transform,
        picture_size=16,
    )


def pictures(count: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def test_published_sizes_are_liveportraits():
    with torch.device("meta"):
        networks = motion_space.MotionSpaceNetworks(motion_space.published_motion_space())
    p = networks.parameters_used
    assert (p.picture_size, p.feature_size, p.output_size, p.keypoints) == (256, 64, 512, 21)
    assert networks.generator.up_0.norm_0.mlp_gamma.in_channels == 128
    assert networks.warping.dense_motion_network.mask.kernel_size == (7, 7, 7)
    assert p.to_dict()["transform"] == "without_scale"


def test_small_sizes_draw_what_they_read():
    p = motion_space.small_motion_space()
    assert (p.picture_size, p.output_size, p.keypoints) == (64, 64, 21)
    assert p.transform is KeypointTransform.WITHOUT_SCALE


def test_motion_holds_what_it_says():
    networks = new_motion_space(tiny(), 0).eval()
    motion = networks.motion(pictures())
    assert motion.canonical.shape == motion.deformation.shape == (2, 12, 3)
    assert motion.rotation.shape == (2, 3, 3)
    assert motion.translation.shape == motion.angles.shape == (2, 3)
    assert motion.scale is None
    expected = torch.from_numpy(extractor_rotation(motion.angles.detach().double().numpy())).float()
    torch.testing.assert_close(motion.rotation, expected)


def test_new_keypoints_start_apart_and_the_head_straight():
    motion = new_motion_space(motion_space.small_motion_space(), 0).eval().motion(pictures(2, 64))
    nearest = torch.cdist(motion.canonical, motion.canonical) + 9 * torch.eye(21)
    assert nearest.amin() > 0.02
    assert motion.canonical.abs().amax() < 0.75
    assert motion.angles.abs().amax() < 10
    assert motion.deformation.abs().amax() < 0.15


def test_keypoints_are_placed_from_the_canonical_ones_given():
    networks = new_motion_space(tiny(), 0).eval()
    motion = networks.motion(pictures())
    first, other = motion.rows(slice(0, 1)), motion.rows(slice(1, 2))
    moved = other.canonical @ first.rotation + first.deformation + first.translation[:, None]
    torch.testing.assert_close(networks.keypoints(first, other.canonical), moved)
    torch.testing.assert_close(networks.keypoints(motion)[:1], networks.keypoints(first))


def test_liveportraits_transform_uses_the_scale():
    networks = new_motion_space(tiny(KeypointTransform.LIVEPORTRAIT), 0).eval()
    motion = networks.motion(pictures())
    assert motion.scale.shape == (2,)
    doubled = motion._replace(scale=2 * motion.scale, translation=torch.zeros(2, 3))
    single = motion._replace(translation=torch.zeros(2, 3))
    torch.testing.assert_close(networks.keypoints(doubled), 2 * networks.keypoints(single))


def test_networks_refuse_a_motion_of_the_other_transform():
    scaled = new_motion_space(tiny(KeypointTransform.LIVEPORTRAIT), 0).eval()
    plain = new_motion_space(tiny(), 0).eval()
    motion = scaled.motion(pictures())
    with pytest.raises(KeypointTransformError, match="the motion places"):
        plain.keypoints(motion)
    with pytest.raises(KeypointTransformError):
        plain.render(pictures(), plain.motion(pictures()), motion)


def test_rendering_draws_pictures_and_gradients_reach_every_network():
    networks = new_motion_space(tiny(), 0)
    source, driving = networks.motion(pictures()), networks.motion(pictures().flip(3))
    drawn = networks.render(pictures(), source, driving)
    assert drawn.shape == (2, 3, 16, 16)
    assert 0 <= drawn.amin() <= drawn.amax() <= 1
    drawn.square().sum().backward()
    for name, network in networks.named_children():
        size = sum(float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None)
        assert size > 0, name


def test_same_seed_same_weights_and_the_global_seed_is_left_alone():
    torch.manual_seed(3)
    first = new_motion_space(tiny(), 5).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert drawn == torch.rand(1)
    second, other = new_motion_space(tiny(), 5).state_dict(), new_motion_space(tiny(), 6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_spectral_norms_follow_the_weights():
    networks = new_motion_space(tiny(), 0)
    networks.follow_spectra(50)
    for module in networks.generator.modules():
        if isinstance(module, SpectralNormConvolution):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-2)


def test_a_file_gives_back_networks_and_sizes(tmp_path):
    networks = new_motion_space(tiny(), 0).eval()
    path = tmp_path / "space.safetensors"
    save_motion_space(networks, path, {"steps": "3"})
    loaded = load_motion_space(path, KeypointTransform.WITHOUT_SCALE)
    assert loaded.parameters_used == networks.parameters_used
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    motion = networks.motion(pictures())
    drawn = networks.render(pictures(), motion, motion)
    torch.testing.assert_close(loaded.render(pictures(), motion, motion), drawn)
    with safe_open(path, "pt") as file:
        assert file.metadata()["steps"] == "3"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_file_of_the_other_transform_is_refused(tmp_path):
    path = tmp_path / "space.safetensors"
    save_motion_space(new_motion_space(tiny(KeypointTransform.LIVEPORTRAIT), 0), path)
    assert load_motion_space(path).parameters_used.transform is KeypointTransform.LIVEPORTRAIT
    with pytest.raises(KeypointTransformError, match=r"space\.safetensors places .*'liveportrait'"):
        load_motion_space(path, KeypointTransform.WITHOUT_SCALE)


def test_every_key_at_fault_is_named(tmp_path):
    path = tmp_path / "space.safetensors"
    save_motion_space(new_motion_space(tiny(), 0), path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors["generator.fc.bias"]
    tensors["stranger"] = torch.zeros(1)
    tensors["appearance.second.bias"] = torch.zeros(9)
    save_file(tensors, path, metadata)
    with pytest.raises(
        WeightMismatchError, match=r"generator\.fc\.bias.*stranger.*appearance\.second\.bias is \(9,\)"
    ):
        load_motion_space(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "space.safetensors"
    with pytest.raises(FileNotFoundError):
        load_motion_space(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is not a motion space"):
        load_motion_space(path)
    for sizes in (
        "{}",
        "nonsense",
        '{"extractor": {"depths": [1], "widths": [1], "size": 3}, "warping": {}}',
    ):
        save_file({"a": torch.zeros(1)}, path, {"kind": motion_space.MOTION_SPACE_KIND, "parameters": sizes})
        with pytest.raises(ValueError, match=r"space\.safetensors"):
            load_motion_space(path)
    with pytest.raises(ValueError, match="written as safetensors"):
        save_motion_space(new_motion_space(tiny(), 0), tmp_path / "space.pt")
    with pytest.raises(ValueError, match="may not be named kind"):
        save_motion_space(new_motion_space(tiny(), 0), path, {"kind": "mine"})


def test_sizes_survive_json():
    for parameters in (tiny(), motion_space.small_motion_space(), motion_space.published_motion_space()):
        assert MotionSpaceParameters.from_dict(parameters.to_dict()) == parameters
    assert tiny().to_dict()["transform"] == "without_scale"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picture_size": 20}, "picture_size is 20, expected a multiple of 8"),
        ({"extractor": MotionExtractorParameters((1,), (8,), keypoints=11)}, "keypoints .* 11 and 12"),
        ({"extractor": MotionExtractorParameters((1, 1), (8,), keypoints=12)}, r"stages .* 2 and 1"),
        ({"generator": GeneratorParameters(5)}, "4 and 5"),
        (
            {"appearance": AppearanceParameters(volume_channels=3, volume_depth=2)},
            "volume_channels .* 3 and 2",
        ),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **change)


def test_sizes_of_the_first_files_are_read():
    values = motion_space.small_motion_space().to_dict()
    first = {
        **values,
        "mask_kernel": values["warping"]["dense_motion"].pop("mask_kernel"),
        "modulation_channels": values["generator"].pop("modulation_channels"),
    }
    assert MotionSpaceParameters.from_dict(first) == motion_space.small_motion_space()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (DenseMotionParameters, {"mask_kernel": 4}, "mask_kernel is 4, expected an odd number"),
        (GeneratorParameters, {"modulation_channels": 0}, "modulation_channels is 0"),
    ],
)
def test_sizes_out_of_range_are_refused(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


def test_layers_have_the_sizes_asked_for():
    networks = new_motion_space(tiny(), 0)
    assert networks.warping.dense_motion_network.mask.kernel_size == (3, 3, 3)
    norm = networks.generator.up_0.norm_s
    assert {norm.mlp_shared[0].out_channels, norm.mlp_gamma.in_channels, norm.mlp_beta.in_channels} == {4}


def test_pictures_of_another_size_are_refused():
    networks = new_motion_space(tiny(), 0)
    with pytest.raises(ValueError, match=r"image has shape \(1, 3, 32, 32\)"):
        networks.motion(pictures(1, 32))
    motion = networks.motion(pictures(2))
    with pytest.raises(ValueError, match="source_image has shape"):
        networks.render(pictures(1), motion, motion)


def test_published_files_become_networks_that_can_be_trained(monkeypatch):
    fresh, asked = new_motion_space(tiny(), 3), []

    def loaded(build, path, table, dtype):
        asked.append((build, path))
        return getattr(fresh, path)

    monkeypatch.setattr(motion_space, "load_strict", loaded)
    monkeypatch.setattr(motion_space, "MotionSpaceParameters", lambda transform: tiny(transform))
    names = ("appearance", "motion_extractor", "warping", "generator")
    found = motion_space.motion_space_from_liveportrait(
        {name: name for name in names}, KeypointTransform.LIVEPORTRAIT
    )
    assert asked == [(type(getattr(fresh, name)), name) for name in names]
    assert found.training
    assert found.parameters_used.transform is KeypointTransform.LIVEPORTRAIT
    assert all(p.requires_grad for p in found.parameters())
    assert torch.equal(found.generator.fc.weight, fresh.generator.fc.weight)


def test_published_files_are_asked_for_by_name():
    with pytest.raises(
        ValueError, match=r"expected .*'appearance', 'generator', 'motion_extractor', 'warping'"
    ):
        motion_space.motion_space_from_liveportrait({"warping": "a.pth"}, KeypointTransform.WITHOUT_SCALE)
