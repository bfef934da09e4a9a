"""Random warps: identity, closed form, spread, pictures that move with points; and Takin-ADA's loss that uses them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.training.random_warp import (
    AFFINE_SIGMA,
    SPLINE_SIGMA,
    RandomWarp,
    random_warp,
    warp_image,
    warp_points,
)
from talking_portrait.training.takin_ada_losses import equivariance_loss


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def affine_warp(*rows: list[float], batch: int = 1) -> RandomWarp:
    return RandomWarp(torch.tensor([rows] * batch), torch.zeros(batch, 25))


def position(pixel: int, size: int) -> float:
    return (2 * pixel + 1) / size - 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(1, 12), width=st.integers(1, 12))
def test_without_sigmas_the_warp_is_the_identity(seed, height, width):
    warp = random_warp(2, generator(seed), affine_sigma=0, spline_sigma=0)
    points = torch.rand(2, 7, 2, generator=generator(seed)) * 4 - 2
    image = torch.rand(2, 3, height, width, generator=generator(seed))
    assert torch.equal(warp_points(warp, points), points)
    torch.testing.assert_close(warp_image(warp, image), image, atol=1e-5, rtol=0)


def test_affine_part_by_hand():
    warp = affine_warp([2.0, 3.0, 0.5], [-1.0, 4.0, 0.25])
    moved = warp_points(warp, torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.5, -0.5]]]))
    torch.testing.assert_close(moved, torch.tensor([[[2.5, -0.75], [3.5, 4.25], [0.0, -2.25]]]))


def test_spline_part_by_hand():
    """One weight, at the third point of the second row: (0, -0.5). Distances are |x| + |y|, both axes move alike."""
    weights = torch.zeros(1, 25)
    weights[0, 7] = 0.1
    warp = RandomWarp(torch.eye(2, 3)[None], weights)
    moved = warp_points(warp, torch.tensor([[[0.3, 0.1], [0.0, -0.5], [0.0, 0.5]]]))
    first = 0.1 * 0.9**2 * math.log(0.9 + 1e-6)
    expected = torch.tensor([[[0.3 + first, 0.1 + first], [0.0, -0.5], [1e-7, 0.5 + 1e-7]]])
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=1e-6)


def test_control_points_are_a_grid_with_x_running_fastest():
    points = random_warp(1, generator(0)).control_points
    assert points.shape == (25, 2)
    assert points[0].tolist() == [-1, -1]
    assert points[4].tolist() == [1, -1]
    assert points[7].tolist() == [0, -0.5]
    assert points[24].tolist() == [1, 1]


def test_what_is_drawn_has_the_stated_spread():
    warp = random_warp(2000, generator(3))
    noise = warp.affine - torch.eye(2, 3)
    assert noise.std(0).sub(AFFINE_SIGMA).abs().max() < 0.1 * AFFINE_SIGMA
    assert noise.mean(0).abs().max() < 0.1 * AFFINE_SIGMA
    assert warp.spline_weights.std() == pytest.approx(SPLINE_SIGMA, rel=0.02)
    assert warp.spline_weights.mean().abs() < 0.02 * SPLINE_SIGMA
    assert random_warp(1, generator(3), control_points_per_side=3).spline_weights.shape == (1, 9)


def test_randomness_is_the_generators_alone():
    before = torch.get_rng_state()
    source = generator(5)
    first, second, again = random_warp(2, source), random_warp(2, source), random_warp(2, generator(5))
    assert torch.equal(first.affine, again.affine)
    assert torch.equal(first.spline_weights, again.spline_weights)
    assert not torch.equal(first.affine, second.affine)
    assert not torch.equal(first.affine[0], first.affine[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, -3), (1, 2)])
def test_whole_pixels_shift_the_picture_exactly(dx, dy):
    """The warped picture shows at p what the image shows at p + (dx, dy) pixels, and mirrors what lies beyond."""
    height, width = 8, 16
    image = torch.rand(1, 2, height, width, generator=generator(1))
    warped = warp_image(affine_warp([1.0, 0.0, 2 * dx / width], [0.0, 1.0, 2 * dy / height]), image)

    def mirrored(index: int, size: int) -> int:
        return -1 - index if index < 0 else min(index, 2 * size - 1 - index)

    rows = [mirrored(y + dy, height) for y in range(height)]
    columns = [mirrored(x + dx, width) for x in range(width)]
    torch.testing.assert_close(warped, image[:, :, rows][:, :, :, columns], atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(48, 64),
    width=st.integers(48, 64),
    x=st.floats(0.4, 0.6),
    y=st.floats(0.4, 0.6),
)
def test_a_bright_dot_lands_where_the_point_goes(seed, height, width, x, y):
    """A pixel of the warped picture near the middle, and a dot in the original at the place T takes that pixel to."""
    warp = random_warp(1, generator(seed))
    column, row = int(x * width), int(y * height)
    pixel = torch.tensor([[[position(column, width), position(row, height)]]])
    target = warp_points(warp, pixel)[0, 0]
    xs, ys = (torch.tensor([position(i, size) for i in range(size)]) for size in (width, height))
    blur = 2 * (1.5 * 2 / width) ** 2
    image = torch.exp(-((xs[None, :] - target[0]) ** 2 + (ys[:, None] - target[1]) ** 2) / blur)
    warped = warp_image(warp, image[None, None])[0, 0]
    brightest = divmod(int(warped.argmax()), width)
    assert abs(brightest[0] - row) <= 1
    assert abs(brightest[1] - column) <= 1
    total = warped.sum()
    assert abs((warped.sum(0) * xs).sum() / total - pixel[0, 0, 0]) < 1.2 / width
    assert abs((warped.sum(1) * ys).sum() / total - pixel[0, 0, 1]) < 1.2 / height


def test_a_picture_of_positions_is_warped_to_the_points():
    """An image whose channels hold x and y shows, warped, the place of each pixel: exact but for interpolation."""
    size = 32
    warp = random_warp(3, generator(8), affine_sigma=0.02, spline_sigma=0.002)
    line = torch.tensor([position(i, size) for i in range(size)])
    image = torch.stack(torch.meshgrid(line, line, indexing="xy"))[None].expand(3, -1, -1, -1)
    warped = warp_image(warp, image)[:, :, 8:24, 8:24]
    moved = warp_points(warp, image[:, :, 8:24, 8:24].flatten(2).mT)
    torch.testing.assert_close(warped.flatten(2).mT, moved, atol=2e-6, rtol=0)


def test_each_warp_of_a_batch_moves_its_own_sample():
    warp = random_warp(3, generator(2))
    points = torch.rand(3, 4, 2, generator=generator(3))
    image = torch.rand(3, 1, 9, 7, generator=generator(4))
    for i in range(3):
        alone = RandomWarp(warp.affine[i : i + 1], warp.spline_weights[i : i + 1])
        torch.testing.assert_close(
            warp_points(alone, points[i : i + 1]), warp_points(warp, points)[i : i + 1]
        )
        torch.testing.assert_close(warp_image(alone, image[i : i + 1]), warp_image(warp, image)[i : i + 1])


def test_gradients_are_finite_also_on_control_points():
    warp = random_warp(1, generator(6))
    points = warp.control_points[None].clone().requires_grad_()
    image = torch.rand(1, 1, 6, 6, requires_grad=True)
    (warp_points(warp, points).square().sum() + warp_image(warp, image).square().sum()).backward()
    assert points.grad.isfinite().all()
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_half_precision_pictures_keep_their_dtype_and_points_their_places():
    warp = random_warp(1, generator(6))
    image = torch.rand(1, 1, 8, 8)
    warped = warp_image(warp, image.bfloat16())
    assert warped.dtype == torch.bfloat16
    torch.testing.assert_close(warped.float(), warp_image(warp, image), atol=0.01, rtol=0)
    points = torch.rand(1, 5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = warp_points(warp, points)
    assert torch.equal(inside, warp_points(warp, points))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"control_points_per_side": 1}, "control_points_per_side is 1"),
        ({"affine_sigma": -0.1}, "affine_sigma is -0.1"),
        ({"affine_sigma": math.nan}, "affine_sigma is nan"),
        ({"spline_sigma": math.inf}, "spline_sigma is inf"),
    ],
)
def test_refused_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        random_warp(**{"batch": 1, "generator": generator(0), **changes})


@pytest.mark.parametrize(
    ("affine", "weights", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(1, 25), "affine has shape"),
        (torch.zeros(1, 3, 3), torch.zeros(1, 25), "affine has shape"),
        (torch.zeros(0, 2, 3), torch.zeros(0, 25), "affine has shape"),
        (torch.zeros(2, 2, 3), torch.zeros(1, 25), "spline_weights has shape"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 25, 1), "spline_weights has shape"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 24), "expected a square"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 1), "expected a square"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 25).double(), "one floating dtype"),
        (torch.zeros(1, 2, 3).int(), torch.zeros(1, 25).int(), "one floating dtype"),
    ],
)
def test_refused_warps(affine, weights, message):
    with pytest.raises(ValueError, match=message):
        RandomWarp(affine, weights)


@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 4, 2), (4, 2), (1, 2)])
def test_refused_points(shape):
    with pytest.raises(ValueError, match="points have shape"):
        warp_points(random_warp(1, generator(0)), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 8, 8), (1, 3, 0, 8), (1, 0, 8, 8)])
def test_refused_pictures(shape):
    with pytest.raises(ValueError, match="image has shape"):
        warp_image(random_warp(1, generator(0)), torch.zeros(shape))


def test_refused_picture_of_whole_numbers():
    with pytest.raises(ValueError, match=r"image is torch\.uint8"):
        warp_image(random_warp(1, generator(0)), torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), axes=st.sampled_from([2, 3]))
def test_equivariance_loss_is_0_for_keypoints_that_commute_with_the_warp(seed, axes):
    """Keypoints that stick to the content: seen at p in the warped picture, they are at T(p) in the original."""
    warp = random_warp(2, generator(seed))
    of_warped = torch.randn(2, 5, axes, generator=generator(seed))
    keypoints = torch.cat([warp_points(warp, of_warped[..., :2]), of_warped[..., 2:] + 1], dim=-1)
    assert equivariance_loss(keypoints, of_warped, warp) == 0
    assert equivariance_loss(keypoints + 0.1, of_warped, warp).item() == pytest.approx(0.1, rel=1e-4)


def test_equivariance_loss_of_keypoints_that_stand_still_is_how_far_the_warp_moves_them():
    warp = RandomWarp(torch.tensor([[[1.0, 0.0, 0.2], [0.0, 1.0, -0.4]]]), torch.zeros(1, 25))
    assert equivariance_loss(*torch.zeros(2, 1, 4, 3), warp).item() == pytest.approx(0.3)


def test_equivariance_loss_of_a_detector_of_pictures():
    """The middle of a soft blob, found in pixels, moves with the picture; one that ignores the picture does not."""
    line = (2 * torch.arange(64) + 1) / 64 - 1
    image = torch.exp(-((line[None, :] - 0.15) ** 2 + (line[:, None] + 0.2) ** 2) / (2 * 0.03**2))

    def middle(pictures):
        shares = pictures[:, 0] / pictures.sum((1, 2, 3))[:, None, None]
        return torch.stack([shares.sum(1) @ line, shares.sum(2) @ line], dim=-1)[:, None]

    images, warp = image.expand(8, 1, 64, 64), random_warp(8, generator(11))
    found = middle(images)
    moved_with_it = equivariance_loss(found, middle(warp_image(warp, images)), warp)
    assert moved_with_it < 0.002
    assert equivariance_loss(found, found, warp) > 10 * moved_with_it


@pytest.mark.parametrize(
    ("first", "second", "batch", "message"),
    [
        ((1, 5, 4), (1, 5, 4), 1, "keypoints has shape"),
        ((), (), 1, "keypoints has shape"),
        ((1, 0, 2), (1, 0, 2), 1, "keypoints has shape"),
        ((1, 5, 3), (1, 5, 2), 1, "keypoints_of_warped has shape"),
        ((1, 5, 3), (1, 5, 3), 2, "points have shape"),
    ],
)
def test_equivariance_loss_refuses_other_shapes(first, second, batch, message):
    with pytest.raises(ValueError, match=message):
        equivariance_loss(torch.zeros(first), torch.zeros(second), random_warp(batch, generator(0)))
