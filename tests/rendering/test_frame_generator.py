"""The fast form of LivePortrait's renderer against the plain networks and torch's own convolutions."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.rendering.liveportrait import frame_generator, winograd
from talking_portrait.core_models.rendering.liveportrait.fourier_convolution import FourierConvolution3d
from talking_portrait.core_models.rendering.liveportrait.frame_generator import (
    FrameGenerator,
    default_method,
    images_as_bytes,
)
from talking_portrait.core_models.rendering.liveportrait.generator import (
    GeneratorParameters,
    SpadeGenerator,
    fold_spectral_norm,
)
from talking_portrait.core_models.rendering.liveportrait.prepared_source import interpolation_weights
from talking_portrait.core_models.rendering.liveportrait.tiled_map import (
    averaged_2x2,
    retiled,
    tiled,
    untiled,
)
from talking_portrait.core_models.rendering.liveportrait.transformed_warping import OcclusionConvolution
from talking_portrait.core_models.rendering.liveportrait.warping import WarpingModule
from torch import nn
from torch.nn import functional as F

LARGEST_DIFFERENCE = 1e-4
LARGEST_BFLOAT16_ERROR = 0.01
FRAMES = 2

quick = settings(max_examples=15, deadline=None)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def channels_last(x):
    return x.movedim(0, -1)


# Convolutions on small shapes.


@quick
@given(
    sizes=st.tuples(*[st.sampled_from([1, 2, 4, 6])] * 3),
    counts=st.tuples(*[st.integers(1, 3)] * 3),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    rows_at_a_time=st.booleans(),
)
def test_winograd_convolution_is_the_convolution(sizes, counts, channels, rows_at_a_time):
    into, out = channels
    x = random(into, *(size * count for size, count in zip(sizes, counts, strict=True)))
    weight, bias = random(out, into, 3, 3, 3, seed=1), random(out, seed=2)
    convolution = winograd.TransformedConvolution(weight, bias, winograd.winograd_axes(sizes))
    expected = F.conv3d(x[None].double(), weight.double(), bias.double(), padding=1)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "CHUNK_BYTES", 1 if rows_at_a_time else 1 << 30)
        found = untiled(convolution(tiled(channels_last(x), sizes)))
    assert relative_error(found, channels_last(expected)) < 1e-5


@quick
@given(
    scale=st.integers(2, 5), sides=st.tuples(st.integers(1, 5), st.integers(1, 5)), channels=st.integers(1, 4)
)
def test_convolution_after_enlarging_is_the_convolution(scale, sides, channels):
    x = random(channels, *sides)
    weight, bias = random(3, channels, 3, 3, seed=1), random(3, seed=2)
    axes = winograd.picture_axes(winograd.nearest_axis(scale))
    found = winograd.TransformedConvolution(weight, bias, axes)(tiled(channels_last(x)[None], (1, 1, 1)))
    enlarged = F.interpolate(x[None].double(), scale_factor=scale, mode="nearest")
    expected = F.conv2d(enlarged, weight.double(), bias.double(), padding=1)[0]
    assert relative_error(untiled(found)[0], channels_last(expected)) < 1e-5


@pytest.mark.parametrize("size", [2, 4, 6])
def test_bfloat16_products_are_rough_but_right(size):
    x, weight = random(32, 24, 24), random(16, 32, 3, 3, seed=1)
    axes = winograd.picture_axes(winograd.winograd_axis(size))
    convolution = winograd.TransformedConvolution(weight, None, axes, torch.bfloat16)
    found = untiled(convolution(tiled(channels_last(x)[None], (1, size, size))))[0]
    expected = channels_last(F.conv2d(x[None], weight, padding=1)[0])
    assert 1e-4 < relative_error(found, expected) < {2: 0.008, 4: 0.03, 6: 0.1}[size]


@quick
@given(
    sides=st.tuples(st.integers(1, 6), st.integers(1, 40), st.integers(1, 20)),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    kernel=st.sampled_from([3, 5, 7]),
)
def test_convolution_by_spectra_is_the_convolution(sides, channels, kernel):
    into, out = channels
    x, bias = random(into, *sides), random(out, seed=2)
    weight = random(out, into, kernel, kernel, kernel, seed=1)
    found = FourierConvolution3d(weight, bias, sides[0])(channels_last(x))
    expected = F.conv3d(x[None].double(), weight.double(), bias.double(), padding=kernel // 2)[0]
    assert found.shape == channels_last(expected).shape
    assert relative_error(found, channels_last(expected)) < 1e-5


def test_occlusion_convolution_is_the_convolution():
    volume, weight, bias = random(5, 3, 12, 10), random(1, 15, 7, 7, seed=1), random(1, seed=2)
    expected = F.conv2d(volume.flatten(0, 1)[None], weight, bias, padding=3)[0, 0]
    found = OcclusionConvolution(weight, bias, 3)(channels_last(volume))
    assert relative_error(found, expected) < 1e-5


@quick
@given(size=st.integers(2, 9), shift=st.floats(-2.5, 2.5))
def test_interpolation_weights_sample_as_grid_sample_does(size, shift):
    values, positions = random(1, 1, 1, size), torch.linspace(-1, 1, size)
    grid = torch.stack([positions + shift, torch.zeros(size)], dim=-1)[None, None]
    expected = F.grid_sample(values, grid, align_corners=False)[0, 0, 0]
    weights = interpolation_weights(positions, torch.tensor(shift), size)
    assert torch.allclose(weights @ values.flatten(), expected, atol=1e-5)


def test_tiling_is_undone_and_averages_rows_and_columns():
    volume = random(4, 8, 12, 3)
    tiles = tiled(volume, (2, 4, 2))
    assert tiles.shape == (2, 2, 4, 2, 2, 6, 3)
    assert torch.equal(untiled(tiles), volume)
    assert torch.equal(untiled(retiled(tiles, (1, 1, 3))), volume)
    expected = F.avg_pool3d(volume.permute(3, 0, 1, 2), (1, 2, 2)).permute(1, 2, 3, 0)
    assert torch.allclose(untiled(averaged_2x2(tiles)), expected, atol=1e-6)


# The whole, at the published sizes.


@pytest.fixture(scope="module")
def networks(liveportrait_cases, liveportrait_tools):
    """The two plain networks with deterministic weights."""

    def filled(build, name, rules=()):
        shapes = json.loads((liveportrait_cases / f"state_dict_{name}.json").read_text())
        with torch.device("meta"):
            module = build()
        module.load_state_dict(
            liveportrait_tools.state_dict_for(shapes, 1.0, rules), strict=True, assign=True
        )
        return module.eval().requires_grad_(False)

    generator = filled(SpadeGenerator, "spade_generator", ("spectral_uv",))
    return filled(WarpingModule, "warping_module"), fold_spectral_norm(generator)


@pytest.fixture(scope="module")
def scene():
    """A source's features and keypoints, and driving keypoints."""
    source = random(1, 21, 3, seed=1).clamp(-1, 1) / 2
    return random(1, 32, 16, 64, 64), source, source + 0.08 * random(FRAMES, 21, 3, seed=2)


@pytest.fixture(scope="module")
def expected(networks, scene):
    """What the plain networks draw, frame by frame."""
    warping, generator = networks
    feature_3d, source, driving = scene
    return torch.cat([generator(warping(feature_3d, frame[None], source).out) for frame in driving])


@pytest.fixture(scope="module")
def transformed(networks):
    return FrameGenerator(*networks)


def test_transformed_equals_plain_and_changes_nothing_given(transformed, scene, expected):
    feature_3d, source, driving = (value.clone() for value in scene)
    assert transformed.method == "transformed"
    prepared = transformed.prepare(feature_3d, source)
    before = [value.clone() for value in vars(prepared).values()]
    found = transformed.generate(prepared, driving)
    assert found.dtype == torch.float32
    assert found.shape == (FRAMES, 3, 512, 512)
    assert float((found - expected).abs().max()) < LARGEST_DIFFERENCE
    assert torch.equal(transformed.generate(prepared, driving[1:]), found[1:])  # again, and alone
    for value, kept in zip((feature_3d, source, driving), scene, strict=True):
        assert torch.equal(value, kept)
    for value, kept in zip(vars(prepared).values(), before, strict=True):
        assert torch.equal(value, kept)


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_check_may_end_a_frame_between_its_steps(transformed, scene, after):
    calls = []

    def check():
        calls.append(len(calls))
        if len(calls) > after:
            raise Cancelled

    prepared = transformed.prepare(*scene[:2])
    with pytest.raises(Cancelled):
        transformed.generate(prepared, scene[2], check)
    assert len(calls) == after + 1


def test_another_dtype_leaves_the_weights_alone(transformed):
    before = {name: value.dtype for name, value in transformed.state_dict().items()}
    assert transformed.to(torch.bfloat16) is transformed
    assert {name: value.dtype for name, value in transformed.state_dict().items()} == before
    assert not list(transformed.parameters())


def test_transformed_bfloat16_is_near(networks, scene, expected):
    frames = FrameGenerator(*networks, precision="bfloat16")
    assert torch.bfloat16 in {value.dtype for value in frames.state_dict().values()}
    found = frames.generate(frames.prepare(*scene[:2]), scene[2][:1])
    assert relative_error(found, expected[:1]) < LARGEST_BFLOAT16_ERROR


@pytest.mark.parametrize(("precision", "count"), [("float32", FRAMES), ("bfloat16", 1)])
def test_direct_is_near(networks, scene, expected, precision, count):
    frames = FrameGenerator(*networks, precision=precision, method="direct")
    found = frames.generate(frames.prepare(*scene[:2]), scene[2][:count])
    assert found.dtype == torch.float32
    if precision == "float32":
        assert float((found - expected).abs().max()) < LARGEST_DIFFERENCE
    else:
        assert relative_error(found, expected[:count]) < LARGEST_BFLOAT16_ERROR


def test_keypoints_outside_and_far_apart(networks, transformed, scene):
    """Heatmaps that are zero almost everywhere, samples from outside the volume."""
    warping, _ = networks
    feature_3d, source, driving = scene
    driving = driving[0] * torch.linspace(-3, 3, 21)[:, None]
    expected = warping(feature_3d, driving[None], source)
    deformation, occlusion_map = transformed.warping.dense_motion(
        transformed.prepare(feature_3d, source), driving
    )
    assert float((deformation - expected.deformation[0]).abs().max()) < 1e-5
    assert float((occlusion_map - expected.occlusion_map[0, 0]).abs().max()) < 1e-5


# Choices.


def small_generator():
    with torch.device("meta"):
        return SpadeGenerator(GeneratorParameters(middle_blocks=1)), WarpingModule()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "float8"}, "precision is 'float8', expected one of float32"),
        ({"method": "magic"}, "method is 'magic', expected one of transformed, direct"),
        ({"precision": "float16", "method": "transformed"}, "no float16"),
        ({"method": "transformed", "compiled": True}, "cannot be compiled"),
    ],
)
def test_other_words_are_refused(arguments, message):
    generator, warping = small_generator()
    with pytest.raises(ValueError, match=message):
        FrameGenerator(warping, generator, **arguments)


def test_wrong_keypoints_are_refused(transformed, scene):
    prepared = transformed.prepare(*scene[:2])
    with pytest.raises(ValueError, match=r"driving keypoints are \(21, 3\), expected \('B', 21, 3\)"):
        transformed.generate(prepared, scene[2][0])


def test_default_method_by_device_and_precision():
    assert default_method("cpu") == default_method(torch.device("cpu"), "bfloat16") == "transformed"
    assert default_method("cpu", "float16") == default_method("cuda:0") == default_method("cuda", "float16")
    assert set(frame_generator.METHODS) == {"transformed", "direct"}


def test_bytes_are_cut_down_not_rounded():
    images = (
        torch.tensor([-0.5, 0.0, 0.9 / 255, 1 / 255, 254.99 / 255, 1.0, 1.5])
        .view(1, 1, 1, 7)
        .repeat(1, 3, 2, 1)
    )
    kept = images.clone()
    found = images_as_bytes(images)
    assert found.shape == (1, 2, 7, 3)
    assert found.dtype == torch.uint8
    assert found[0, 0, :, 0].tolist() == [0, 0, 0, 1, 254, 255, 255]
    assert torch.equal(images, kept)


def test_built_modules_hold_no_plain_network(transformed):
    plain = (nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.BatchNorm3d)
    assert not [name for name, module in transformed.named_modules() if isinstance(module, plain)]
