"""Random warps of the plane for the equivariance loss: an affine map plus a thin-plate spline.

Positions are x (right), y (down) in half sides of the picture from its middle, so that the picture spans -1..1 from
edge to edge and pixel i of W lies at (2 i + 1) / W - 1, as in the package's keypoints.

A warp T leads from the warped picture back to the original: the warped picture shows at p what the original shows at
T(p). Keypoints found in the warped picture are thus taken by `warp_points` to where they belong in the original.
Source: the first-order motion model (arXiv 2003.00196), section on equivariance, whose settings and public behaviour
face-vid2vid (arXiv 2011.15126) and with it Takin-ADA (arXiv 2410.14283) took over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

AFFINE_SIGMA = 0.05
"""Standard deviation of each of the six affine numbers around the identity."""
SPLINE_SIGMA = 0.005
"""Standard deviation of the spline's weight at each control point."""
CONTROL_POINTS_PER_SIDE = 5
"""The spline's control points are a square grid over -1..1."""
KERNEL_EPSILON = 1e-6
"""Keeps the logarithm of the spline's kernel finite at distance 0."""


@dataclass(frozen=True, eq=False)
class RandomWarp:
    """B warps T(p) = A p + b + (1, 1) sum_i w_i k(|p - c_i|_1) with k(r) = r^2 log(r + 1e-6).

    affine: (B, 2, 3) floating point, [A | b] for column vectors (x, y). spline_weights: (B, n n) w of the same dtype,
    for the control points c of an n by n grid (n at least 2) over -1..1, x running fastest. The spline moves x and y
    alike and measures distances as |x| + |y|, as in the public code.

    Raises ValueError for other shapes or dtypes.
    """

    affine: Tensor
    spline_weights: Tensor

    def __post_init__(self) -> None:
        affine, weights = self.affine, self.spline_weights
        if affine.ndim != 3 or affine.shape[1:] != (2, 3) or len(affine) == 0:
            raise ValueError(f"affine has shape {tuple(affine.shape)}, expected (B, 2, 3)")
        if weights.ndim != 2 or len(weights) != len(affine):
            raise ValueError(
                f"spline_weights has shape {tuple(weights.shape)}, expected ({len(affine)}, n n) as affine"
            )
        side = math.isqrt(weights.shape[1])
        if side < 2 or side * side != weights.shape[1]:
            raise ValueError(
                f"spline_weights has {weights.shape[1]} points, expected a square: 4, 9, 16, 25..."
            )
        if not affine.is_floating_point() or affine.dtype != weights.dtype:
            raise ValueError(
                f"affine is {affine.dtype} and spline_weights {weights.dtype}, expected one floating dtype"
            )

    @property
    def batch(self) -> int:
        """How many warps there are."""
        return len(self.affine)

    @property
    def control_points(self) -> Tensor:
        """(n n, 2) x, y of the control points, x running fastest."""
        positions = torch.linspace(
            -1,
            1,
            math.isqrt(self.spline_weights.shape[1]),
            dtype=self.affine.dtype,
            device=self.affine.device,
        )
        return torch.cartesian_prod(positions, positions).flip(-1)


def random_warp(
    batch: int,
    generator: torch.Generator,
    affine_sigma: float = AFFINE_SIGMA,
    spline_sigma: float = SPLINE_SIGMA,
    control_points_per_side: int = CONTROL_POINTS_PER_SIDE,
) -> RandomWarp:
    """Return `batch` independent float32 warps on the generator's device; with both sigmas 0 they are the identity.

    All six affine numbers are normal around the identity's, the spline's weights normal around 0. The same state of
    the generator gives the same warps, and takes it forward by the same draws whatever the sigmas.

    Raises ValueError for a batch below 1, fewer than 2 control points per side, and a sigma below 0 or not finite.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}, expected at least 1")
    if control_points_per_side < 2:
        raise ValueError(f"control_points_per_side is {control_points_per_side}, expected at least 2")
    for name, sigma in (("affine_sigma", affine_sigma), ("spline_sigma", spline_sigma)):
        if not 0 <= sigma < math.inf:
            raise ValueError(f"{name} is {sigma}, expected a finite number from 0 on")
    device = generator.device
    affine_noise = torch.randn(batch, 2, 3, generator=generator, device=device)
    spline_noise = torch.randn(batch, control_points_per_side**2, generator=generator, device=device)
    return RandomWarp(
        torch.eye(2, 3, device=device) + affine_sigma * affine_noise, spline_sigma * spline_noise
    )


def warp_points(warp: RandomWarp, points: Tensor) -> Tensor:
    """Return T of points, (B, N, 2) x, y: from the warped picture to the original, in the warp's dtype.

    Differentiable in the points, also on a control point. Autocast is off inside: bfloat16 would be a pixel of 512 off.

    Raises ValueError unless points are (B, N, 2) with the warp's B.
    """
    if points.ndim != 3 or points.shape[0] != warp.batch or points.shape[2] != 2:
        raise ValueError(
            f"points have shape {tuple(points.shape)}, expected ({warp.batch}, N, 2) as the warp"
        )
    return _moved(warp, points)


def warp_image(warp: RandomWarp, image: Tensor) -> Tensor:
    """Return the warped picture, (B, C, H, W) of the image's dtype: it shows at p what the image shows at T(p).

    Sampling is bilinear; what lies beyond an edge is its mirror image. Where there is no mirroring, `warp_points`
    takes a place in the result to the place in the image it was sampled from.

    Raises ValueError unless the image is (B, C, H, W) floating point with the warp's B.
    """
    if image.ndim != 4 or image.shape[0] != warp.batch or 0 in image.shape:
        raise ValueError(
            f"image has shape {tuple(image.shape)}, expected ({warp.batch}, C, H, W) as the warp"
        )
    if not image.is_floating_point():
        raise ValueError(f"image is {image.dtype}, expected floating point")
    height, width = image.shape[2:]
    y, x = (
        (2 * torch.arange(size, dtype=warp.affine.dtype, device=warp.affine.device) + 1) / size - 1
        for size in (height, width)
    )
    pixels = torch.cartesian_prod(y, x).flip(-1)[None]
    places = _moved(warp, pixels).unflatten(1, (height, width))
    sampled = F.grid_sample(image.to(places.dtype), places, padding_mode="reflection", align_corners=False)
    return sampled.to(image.dtype)


def _moved(warp: RandomWarp, points: Tensor) -> Tensor:
    """T of (B, N, 2) points, or of (1, N, 2) that all warps share, whose distances are then worked out once."""
    with torch.autocast(points.device.type, enabled=False):
        points = points.to(warp.affine.dtype)
        distances = (points[:, :, None] - warp.control_points).abs().sum(-1)
        kernel = distances.square() * torch.log(distances + KERNEL_EPSILON)
        affine = points @ warp.affine[:, :, :2].mT + warp.affine[:, None, :, 2]
        return affine + kernel @ warp.spline_weights[:, :, None]
