"""Losses of Takin-ADA's first stage: keypoints and pictures learnt by reenacting frames of one clip.

Pure functions of tensors on any device. B is the batch, K the number of implicit keypoints, whose axes are x to the
picture's right, y down, z away from the camera, in half sides of the crop from its middle (-1..1). Sizes may not be 0.
Source: Takin-ADA (arXiv 2410.14283) section on stage 1, equations 1 and 2. What it only names is face-vid2vid's
(arXiv 2011.15126, appendix on losses). It gives no weights and no constants of its penalties: those here are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core_models.motion.keypoint_transform import keypoints_without_scale as keypoints_without_scale
from ..core_models.motion.keypoint_transform import require_shape as _require_shape
from .random_warp import RandomWarp, warp_points

HUBER_DELTA = 0.1
"""Where Huber's parabola becomes a line; the usual 1 would leave only the parabola in coordinates of -1..1."""
WING_OMEGA, WING_EPSILON = 0.1, 0.01
"""Where Wing's logarithm becomes a line, and how sharply it bends at 0; in coordinates of -1..1."""
KEYPOINT_DISTANCE = 0.1
"""D_t of the keypoint prior: squared distance that two keypoints keep."""
KEYPOINT_DEPTH = 0.33
"""z_t of the keypoint prior: mean depth of the keypoints."""
GUIDED_KEYPOINTS = tuple(range(10))
"""Keypoints that landmarks guide when training from scratch."""
GUIDED_KEYPOINTS_OF_LIVEPORTRAIT = tuple(range(11, 21))
"""Keypoints that landmarks guide when training begins with LivePortrait's weights: the last ten of its 21."""
GUIDING_LANDMARKS = (36, 39, 37, 42, 45, 43, 48, 54, 51, 57)
"""Of the 68-point scheme, one for each guided keypoint: three of either eye, four of the mouth."""
PYRAMID_LEVELS = 4
"""Sizes at which pictures are compared: 1, 1/2, 1/4, 1/8."""
BLUR_RADIUS_IN_SIGMAS = 4

FeatureNetwork = Callable[[Tensor], Sequence[Tensor]]
"""(B, C, H, W) pictures to feature maps with leading axis B, as VGG-19 after relu1_1 to relu5_1."""


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}, expected a finite number above 0")


def huber(difference: Tensor, delta: float = HUBER_DELTA) -> Tensor:
    """Return, element by element, d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2).

    Raises ValueError for a delta not above 0.
    """
    _require_positive("delta", delta)
    return F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)


def wing(difference: Tensor, omega: float = WING_OMEGA, epsilon: float = WING_EPSILON) -> Tensor:
    """Return, element by element, omega ln(1 + |d| / epsilon) where |d| < omega, else |d| - C, joined by C.

    C = omega - omega ln(1 + omega / epsilon). Source: Wing loss (arXiv 1711.06753) equation 5, as LivePortrait's
    landmark guidance uses it. Raises ValueError for an omega or epsilon not above 0.
    """
    _require_positive("omega", omega)
    _require_positive("epsilon", epsilon)
    size = difference.abs()
    offset = omega - omega * math.log1p(omega / epsilon)
    return torch.where(size < omega, omega * torch.log1p(size / epsilon), size - offset)


PENALTIES: Mapping[str, Callable[[Tensor], Tensor]] = {"huber": huber, "l1": torch.abs, "wing": wing}
"""How differences count. The paper's equations say Huber; its introduction calls one loss MAE, the other Wing."""


def _penalised(difference: Tensor, penalty: str) -> Tensor:
    if penalty not in PENALTIES:
        raise ValueError(f"penalty is {penalty!r}, expected one of {', '.join(PENALTIES)}")
    return PENALTIES[penalty](difference)


def keypoint_prior(keypoints: Tensor) -> Tensor:
    """Return, as the batch's mean, sum over i != j of max(0, D_t - |x_i - x_j|^2), plus |mean_k z_k - z_t|.

    keypoints: (B, K, 3), the driving ones. Every pair counts twice, as (i, j) and (j, i). The public code also counts
    i = j, which adds K D_t without a gradient. Raises ValueError for other shapes.
    """
    _require_shape("keypoints", keypoints, "B", "K", 3)
    squared = (keypoints[:, :, None] - keypoints[:, None]).square().sum(-1)
    itself = torch.eye(keypoints.shape[1], dtype=torch.bool, device=keypoints.device)
    nearness = F.relu(KEYPOINT_DISTANCE - squared).masked_fill(itself, 0).sum((1, 2))
    depth = (keypoints[:, :, 2].mean(1) - KEYPOINT_DEPTH).abs()
    return (nearness + depth).mean()


def head_pose_loss(predicted: Tensor, reference: Tensor) -> Tensor:
    """Return, as the batch's mean, the sum over yaw, pitch and roll of the absolute error in degrees.

    predicted, reference: (B, 3) degrees in the same order and convention, reference from a frozen pose network; no
    gradient reaches it. Angles do not wrap: pose networks cover +-99 degrees. Raises ValueError for other shapes.
    """
    _require_shape("predicted", predicted, "B", 3)
    _require_shape("reference", reference, *predicted.shape)
    return (predicted - reference.detach()).abs().sum(-1).mean()


def deformation_prior(deformation: Tensor) -> Tensor:
    """Return, as the batch's mean, the sum of all |deformation| of a sample: its 1-norm.

    deformation: (B, K, 3), the driving frame's. Raises ValueError for other shapes.
    """
    _require_shape("deformation", deformation, "B", "K", 3)
    return deformation.abs().sum((1, 2)).mean()


def canonical_keypoint_loss(canonical: Tensor, other: Tensor, penalty: str = "huber") -> Tensor:
    """Return, as the mean over keypoints and batch, the penalty between canonical keypoints, summed over x, y, z.

    canonical, other: (B, K, 3), of two images of the same person each. Symmetric; gradients reach both. Constant
    keypoints minimise it, so it is ramped up (`TakinADALossWeights`) beside the reconstruction.
    Source: equation 1. Raises ValueError for other shapes or an unknown penalty.
    """
    _require_shape("canonical", canonical, "B", "K", 3)
    _require_shape("other", other, *canonical.shape)
    return _penalised(canonical - other, penalty).sum(-1).mean()


def landmark_loss(
    source_keypoints: Tensor,
    driving_keypoints: Tensor,
    source_landmarks: Tensor,
    driving_landmarks: Tensor,
    guided: Sequence[int] = GUIDED_KEYPOINTS,
    penalty: str = "huber",
) -> Tensor:
    """Return, as the batch's mean, 1/(2 N) sum_i [P(l_s,i, x_s,i) + P(l_d,i, x_d,i)] over x and y.

    source_keypoints, driving_keypoints: (B, K, 3). source_landmarks, driving_landmarks: (B, N, 2) x, y in the
    keypoints' units, landmark i for keypoint guided[i] (with the defaults, `GUIDING_LANDMARKS`). P is the penalty,
    summed over x and y; z is free. The paper writes one l for both pictures; each picture's own are meant.
    Source: equation 2. Raises ValueError for other shapes, indices outside 0..K-1 or twice, or an unknown penalty.
    """
    _require_shape("source_keypoints", source_keypoints, "B", "K", 3)
    _require_shape("driving_keypoints", driving_keypoints, *source_keypoints.shape)
    batch, count = source_keypoints.shape[:2]
    index = list(guided)
    if not index or len(set(index)) < len(index) or not all(0 <= i < count for i in index):
        raise ValueError(f"guided is {index}, expected different numbers from 0 to {count - 1}")
    _require_shape("source_landmarks", source_landmarks, batch, len(index), 2)
    _require_shape("driving_landmarks", driving_landmarks, batch, len(index), 2)
    source = _penalised(source_landmarks - source_keypoints[:, index, :2], penalty)
    driving = _penalised(driving_landmarks - driving_keypoints[:, index, :2], penalty)
    return (source + driving).sum(-1).mean() / 2


def equivariance_loss(keypoints: Tensor, keypoints_of_warped: Tensor, warp: RandomWarp) -> Tensor:
    """Return the mean over all coordinates of |x - T(x_T)|, of x and y alone.

    keypoints: (B, K, 3) or (B, K, 2), of the driving picture. keypoints_of_warped: the same of
    `warp_image(warp, driving)`, rebuilt with the *source's* canonical keypoints. It is 0 for keypoints that move with
    the picture. Raises ValueError for other shapes or a warp of another batch size.
    """
    axes = keypoints.shape[-1] if keypoints.ndim else 0
    _require_shape("keypoints", keypoints, "B", "K", 2 if axes == 2 else 3)
    _require_shape("keypoints_of_warped", keypoints_of_warped, *keypoints.shape)
    return (keypoints[..., :2] - warp_points(warp, keypoints_of_warped[..., :2])).abs().mean()


def _require_maps(name: str, maps: Sequence[Tensor]) -> None:
    """A bare tensor would be taken apart along its batch without a word."""
    if isinstance(maps, Tensor):
        raise ValueError(f"{name} is a tensor of shape {tuple(maps.shape)}, expected a list of tensors")
    if len(maps) == 0:
        raise ValueError(f"{name} is empty, expected at least one tensor")


def hinge_generator_loss(fake_scores: Sequence[Tensor]) -> Tensor:
    """Return the sum over the discriminator's scales of -mean D(fake).

    fake_scores: one patch map of any shape for each scale. Raises ValueError for no map or a bare tensor.
    """
    _require_maps("fake_scores", fake_scores)
    return torch.stack([-scores.mean() for scores in fake_scores]).sum()


def hinge_discriminator_loss(real_scores: Sequence[Tensor], fake_scores: Sequence[Tensor]) -> Tensor:
    """Return the sum over scales of mean relu(1 - D(real)) + mean relu(1 + D(fake)).

    real_scores, fake_scores: one patch map of any shape for each scale; those of fake pictures are to come from
    detached pictures. The discriminator's optimiser minimises it alone; it is no part of the total.
    Raises ValueError for no map, a bare tensor, or unequal numbers of scales.
    """
    _require_maps("real_scores", real_scores)
    _require_maps("fake_scores", fake_scores)
    if len(real_scores) != len(fake_scores):
        raise ValueError(f"there are {len(real_scores)} real_scores and {len(fake_scores)} fake_scores")
    scales = zip(real_scores, fake_scores, strict=True)
    return torch.stack([F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in scales]).sum()


def feature_matching_loss(fake_features: Sequence[Tensor], real_features: Sequence[Tensor]) -> Tensor:
    """Return the sum over feature maps of the mean absolute difference; no gradient reaches the real ones.

    fake_features, real_features: a network's maps in the same order, all scales of a discriminator one after another.
    Raises ValueError for no map, a bare tensor, or unequal numbers or shapes.
    """
    _require_maps("fake_features", fake_features)
    _require_maps("real_features", real_features)
    shapes = [[tuple(values.shape) for values in maps] for maps in (fake_features, real_features)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"fake_features have shapes {shapes[0]}, real_features {shapes[1]}, expected the same"
        )
    pairs = zip(fake_features, real_features, strict=True)
    return torch.stack([(fake - real.detach()).abs().mean() for fake, real in pairs]).sum()


def image_pyramid(image: Tensor, levels: int = PYRAMID_LEVELS) -> list[Tensor]:
    """Return (B, C, H, W) pictures at 1, 1/2, 1/4... of their size (rounded up), finest first, without aliasing.

    Each is made from the original: a Gaussian of (step - 1) / 2 pixels, then every step-th pixel, as in the public
    code; beyond an edge its pixels are repeated (there: black), so that even pictures stay even.
    Raises ValueError for another shape, levels below 1, or pictures with a side under 2^(levels - 1).
    """
    _require_shape("image", image, "B", "C", "H", "W")
    if levels < 1:
        raise ValueError(f"levels is {levels}, expected at least 1")
    if min(image.shape[2:]) < 2 ** (levels - 1):
        raise ValueError(
            f"pictures of {tuple(image.shape[2:])} pixels are too small for {levels} levels, "
            f"expected sides of {2 ** (levels - 1)} on"
        )
    return [image] + [_shrunk(image, 2**level) for level in range(1, levels)]


def _shrunk(image: Tensor, step: int) -> Tensor:
    sigma = (step - 1) / 2
    radius = round(BLUR_RADIUS_IN_SIGMAS * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    weights = torch.softmax(-(offsets**2) / (2 * sigma**2), dim=0)
    channels = image.shape[1]
    kernel = weights.expand(channels, 1, -1)
    padded = F.pad(image, [radius] * 4, mode="replicate")
    rows = F.conv2d(padded, kernel[:, :, :, None], groups=channels, stride=(step, 1))
    return F.conv2d(rows, kernel[:, :, None], groups=channels, stride=(1, step))


def perceptual_loss(
    prediction: Tensor, target: Tensor, features: FeatureNetwork, levels: int = PYRAMID_LEVELS
) -> Tensor:
    """Return the sum over pyramid levels and feature maps of the features' mean absolute difference.

    prediction, target: (B, C, H, W) in the range and with the normalisation that `features` expects or applies
    itself; no gradient reaches the target. features: a frozen network, which must take the smallest level.
    Raises ValueError for unequal or other shapes, pictures too small for the levels, or a network that returns no list.
    """
    _require_shape("prediction", prediction, "B", "C", "H", "W")
    _require_shape("target", target, *prediction.shape)
    with torch.no_grad():
        wanted = [features(picture) for picture in image_pyramid(target, levels)]
    pairs = zip(image_pyramid(prediction, levels), wanted, strict=True)
    return torch.stack([feature_matching_loss(features(picture), real) for picture, real in pairs]).sum()


class TotalLoss(NamedTuple):
    """loss: what the optimiser minimises. parts: each term times its weight, without gradients; their sum is loss."""

    loss: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class TakinADALossWeights:
    """Weights of the first stage's terms. The paper gives none: these are face-vid2vid's, ours for its two own terms.

    perceptual, adversarial, feature_matching, equivariance, keypoint_prior, head_pose, deformation, canonical,
    landmark: of the functions of this module. canonical_ramp_steps: updates over which the weight of the canonical
    term rises linearly from 0 (at update 0) to its full value; 0 for none. A weight of 0 ablates its term.

    Raises ValueError for a weight or a number of steps that is below 0 or not finite.
    """

    perceptual: float = 10.0
    adversarial: float = 1.0
    feature_matching: float = 10.0
    equivariance: float = 20.0
    keypoint_prior: float = 10.0
    head_pose: float = 20.0
    deformation: float = 5.0
    canonical: float = 10.0
    landmark: float = 10.0
    canonical_ramp_steps: int = 10_000

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < math.inf:
                raise ValueError(
                    f"{field.name} is {getattr(self, field.name)}, expected a finite number from 0 on"
                )

    def at_step(self, step: int) -> dict[str, float]:
        """Return the weight of every term at update `step`, from 0 on. Raises ValueError below 0."""
        if step < 0:
            raise ValueError(f"step is {step}, expected 0 or more")
        weights = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "canonical_ramp_steps"}
        if step < self.canonical_ramp_steps:
            weights["canonical"] *= step / self.canonical_ramp_steps
        return weights

    def total(self, terms: Mapping[str, Tensor], step: int) -> TotalLoss:
        """Return the weighted sum of terms, scalars by the names of this class, at update `step`, and its parts.

        Terms whose weight is 0 from the start may be left out, others not.
        Raises ValueError for missing, unknown or no terms, for a term that is no scalar, and for a step below 0.
        """
        weights = self.at_step(step)
        unknown = sorted(set(terms) - set(weights))
        missing = [name for name in weights if name not in terms and getattr(self, name) > 0]
        if unknown or missing or not terms:
            raise ValueError(
                f"terms are wrong: unknown {', '.join(unknown) or 'none'}; missing {', '.join(missing) or 'none'}; "
                f"{len(terms)} given, expected every name with a weight: {', '.join(weights)}"
            )
        for name, value in terms.items():
            if value.ndim:
                raise ValueError(f"term {name} has shape {tuple(value.shape)}, expected a scalar")
        weighted = {name: weights[name] * value for name, value in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        return TotalLoss(loss, {name: value.detach() for name, value in weighted.items()})
