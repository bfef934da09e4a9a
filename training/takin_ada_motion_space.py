"""Training of Takin-ADA's first stage: a step's losses and updates (arXiv 2410.14283, section on stage 1).

Every random choice of a step is drawn from its seed and number, so that a run that goes on from a checkpoint is the
run that was never interrupted, to the bit on a CPU.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core_models.rendering.motion_space import (
    MotionSpaceNetworks,
    MotionSpaceParameters,
    SpaceMotion,
    new_motion_space,
)
from .kdtalker_run import TrainingDivergedError
from .patch_discriminator import Judgement, PatchDiscriminator, new_discriminator
from .perceptual_features import RandomFeatures, features_name
from .random_warp import RandomWarp, random_warp, warp_image
from .takin_ada_frames import FrameBatch, FrameSampler
from .takin_ada_losses import (
    FeatureNetwork,
    canonical_keypoint_loss,
    deformation_prior,
    equivariance_loss,
    feature_matching_loss,
    head_pose_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    keypoint_prior,
    landmark_loss,
    perceptual_loss,
)
from .takin_ada_motion_space_recipe import (
    MotionSpaceTrainingParameters,
    learning_rate_at,
    require_recipe_for,
)

ADAM_BETAS = (0.5, 0.999)
"""Of both optimisers, face-vid2vid's."""
REGION_RADIUS = 0.12
"""Standard deviation, in half sides, of the bump around each landmark where pictures count more."""


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the generator, on the CPU, of what an update draws."""
    drawn = torch.Generator().manual_seed(seed)
    first = int(torch.randint(0, 2**62, (), generator=drawn))
    return torch.Generator().manual_seed((first + step) % 2**63)


def frame_size(parameters: MotionSpaceParameters) -> int:
    """Return the pixels a side that frames need: what the networks read and what they draw are made of them."""
    return max(parameters.picture_size, parameters.output_size)


def network_pictures(pictures: Tensor, size: int) -> Tensor:
    """Return (B, 3, size, size) of (B, 3, S, S) pictures, averaged where they are larger."""
    if pictures.shape[-1] == size:
        return pictures
    return F.interpolate(pictures, size=(size, size), mode="area")


def region_mask(landmarks: Tensor, size: int) -> Tensor:
    """Return (B, 1, size, size) in 0..1: near 1 around (B, N, 2) landmarks in -1..1, 0 far from them."""
    places = (2 * torch.arange(size, dtype=landmarks.dtype, device=landmarks.device) + 1) / size - 1
    near = torch.exp(-0.5 * ((places - landmarks[..., None]) / REGION_RADIUS) ** 2)
    x, y = near.unbind(2)
    return (y[..., :, None] * x[..., None, :]).amax(dim=1, keepdim=True)


class Reenactment(NamedTuple):
    """What the networks make of a batch.

    source, driving, further: motions. source_keypoints, driving_keypoints, warped_keypoints: (B, K, 3), placed from the
    source's canonical ones. prediction, target: (B, 3, O, O) in 0..1. warp: leads from the warped driving pictures, of
    which the warped keypoints are, back to the driving pictures.
    """

    source: SpaceMotion
    driving: SpaceMotion
    further: SpaceMotion
    source_keypoints: Tensor
    driving_keypoints: Tensor
    warped_keypoints: Tensor
    prediction: Tensor
    target: Tensor
    warp: RandomWarp


def reenacted(networks: MotionSpaceNetworks, batch: FrameBatch, warp: RandomWarp) -> Reenactment:
    """Return the source picture with the driving motion, and what the losses compare; warp: for equivariance."""
    size, count = networks.parameters_used.picture_size, len(batch.source)
    read = torch.cat([batch.source, batch.driving, batch.further, warp_image(warp, batch.driving)])
    motion = networks.motion(network_pictures(read, size))
    source, driving, further, moved = (motion.rows(slice(i * count, (i + 1) * count)) for i in range(4))
    at_source, at_driving, at_warped = (
        networks.keypoints(each, source.canonical) for each in (source, driving, moved)
    )
    prediction = networks.render_keypoints(network_pictures(batch.source, size), at_source, at_driving)
    target = network_pictures(batch.driving, networks.parameters_used.output_size)
    return Reenactment(source, driving, further, at_source, at_driving, at_warped, prediction, target, warp)


class MotionSpaceTrainer:
    """Networks and discriminator on their device, their optimisers, and how many updates are done.

    features: what the perceptual loss compares; None takes `RandomFeatures`; features_name tells it from others.
    Raises ValueError when frames are smaller than what the networks read or draw, and as `require_recipe_for` does.
    """

    def __init__(
        self,
        networks: MotionSpaceNetworks,
        recipe: MotionSpaceTrainingParameters,
        sampler: FrameSampler,
        device: torch.device | str = "cpu",
        features: FeatureNetwork | None = None,
    ) -> None:
        p = networks.parameters_used
        require_recipe_for(recipe, p)
        if sampler.frames.size < frame_size(p):
            raise ValueError(
                f"frames have {sampler.frames.size} pixels a side, but the networks read {p.picture_size} and draw "
                f"{p.output_size}: make larger frames"
            )
        self.device = torch.device(device)
        self.networks, self.recipe, self.sampler = networks.to(self.device).train(), recipe, sampler
        self.features = features if features is not None else RandomFeatures().to(self.device)
        self.features_name = features_name(self.features)
        self.optimiser = _adam(self.networks, recipe)
        self.discriminator: PatchDiscriminator | None = None
        self.discriminator_optimiser: torch.optim.Adam | None = None
        if recipe.adversarial:
            self.discriminator = new_discriminator(recipe.discriminator, recipe.seed).to(self.device)
            self.discriminator_optimiser = _adam(self.discriminator, recipe)
        self.step = 0

    @classmethod
    def begin(
        cls,
        parameters: MotionSpaceParameters,
        recipe: MotionSpaceTrainingParameters,
        sampler: FrameSampler,
        device: torch.device | str = "cpu",
        features: FeatureNetwork | None = None,
    ) -> MotionSpaceTrainer:
        """Return a trainer of new networks."""
        return cls(new_motion_space(parameters, recipe.seed), recipe, sampler, device, features)

    def batch(self, step: int) -> FrameBatch:
        """Return the batch of a step, on the device."""
        drawn = self.sampler.batch(self.recipe.batch, self.recipe.seed, step)
        return FrameBatch(*(values.to(self.device) for values in drawn))

    def train_step(self) -> dict[str, float]:
        """Update all networks once; return the loss, its weighted parts and the gradient's norm.

        Raises TrainingDivergedError, before any weight is changed, when the loss or its gradient is not finite.
        """
        self._set_learning_rates()
        self.networks.follow_spectra()
        batch = self.batch(self.step)
        made = reenacted(self.networks, batch, self._warp())
        total = self.recipe.weights.total(self.terms(batch, made), self.step)
        self.optimiser.zero_grad(set_to_none=True)
        total.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.networks.parameters(), self.recipe.clip_norm)
        self._require_finite(total.loss.item(), norm.item())
        self.optimiser.step()
        figures = {"loss": total.loss.item(), **{name: part.item() for name, part in total.parts.items()}}
        figures.update({"gradient_norm": norm.item(), **self._discriminator_step(made)})
        self.step += 1
        return figures

    def _warp(self) -> RandomWarp:
        warp = random_warp(self.recipe.batch, step_generator(self.recipe.seed, self.step))
        return RandomWarp(warp.affine.to(self.device), warp.spline_weights.to(self.device))

    def terms(self, batch: FrameBatch, made: Reenactment) -> dict[str, Tensor]:
        """Return the terms whose weight is not 0, unweighted, by the names of `TakinADALossWeights`."""
        penalty = self.recipe.penalty
        makers = {
            "perceptual": lambda: self._picture_loss(batch, made),
            "equivariance": lambda: equivariance_loss(
                made.driving_keypoints, made.warped_keypoints, made.warp
            ),
            "keypoint_prior": lambda: keypoint_prior(made.driving_keypoints),
            "head_pose": lambda: _pose_loss(batch, made),
            "deformation": lambda: deformation_prior(made.driving.deformation),
            "canonical": lambda: _canonical_loss(made, penalty),
            "landmark": lambda: landmark_loss(
                made.source_keypoints,
                made.driving_keypoints,
                batch.source_landmarks,
                batch.driving_landmarks,
                self.recipe.guided,
                penalty,
            ),
        }
        terms = {n: make() for n, make in makers.items() if getattr(self.recipe.weights, n) > 0}
        return {**terms, **self._adversarial_terms(made)}

    def _picture_loss(self, batch: FrameBatch, made: Reenactment) -> Tensor:
        loss = perceptual_loss(made.prediction, made.target, self.features, self.recipe.pyramid_levels)
        if self.recipe.region_weight == 0:
            return loss
        mask = region_mask(batch.driving_landmarks, made.target.shape[-1])
        difference = (made.prediction - made.target).abs().mean(dim=1, keepdim=True)
        return loss + self.recipe.region_weight * (mask * difference).sum() / mask.sum()

    def _adversarial_terms(self, made: Reenactment) -> dict[str, Tensor]:
        if self.discriminator is None:
            return {}
        self.discriminator.requires_grad_(False)
        fake = self.discriminator(made.prediction)
        with torch.no_grad():
            real: Judgement = self.discriminator(made.target)
        share = min(1.0, self.step / max(1, self.recipe.adversarial_ramp_steps))
        share = share if self.recipe.adversarial_ramp_steps else 1.0
        return {
            "adversarial": share * hinge_generator_loss(fake.scores),
            "feature_matching": share * feature_matching_loss(fake.features, real.features),
        }

    def _discriminator_step(self, made: Reenactment) -> dict[str, float]:
        if self.discriminator is None or self.discriminator_optimiser is None:
            return {}
        self.discriminator.requires_grad_(True)
        fake = self.discriminator(made.prediction.detach())
        loss = hinge_discriminator_loss(self.discriminator(made.target).scores, fake.scores)
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.recipe.clip_norm)
        if math.isfinite(norm.item()):
            self.discriminator_optimiser.step()
        return {"discriminator": loss.item()}

    def _set_learning_rates(self) -> None:
        for optimiser in (self.optimiser, self.discriminator_optimiser):
            for group in optimiser.param_groups if optimiser is not None else ():
                group["lr"] = learning_rate_at(self.step, self.recipe)

    def _require_finite(self, loss: float, norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingDivergedError(
                f"training diverged in step {self.step}: loss {loss}, gradient norm {norm} at learning rate "
                f"{learning_rate_at(self.step, self.recipe):g}"
            )


def _adam(module: torch.nn.Module, recipe: MotionSpaceTrainingParameters) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=recipe.learning_rate, betas=ADAM_BETAS)


def _pose_loss(batch: FrameBatch, made: Reenactment) -> Tensor:
    predicted = torch.cat([made.source.angles, made.driving.angles])
    return head_pose_loss(predicted, torch.cat([batch.source_angles, batch.driving_angles]))


def _canonical_loss(made: Reenactment, penalty: str) -> Tensor:
    """Equation 1 over source and driving picture, and over source and the further picture of the same person."""
    source = torch.cat([made.source.canonical] * 2)
    others = torch.cat([made.driving.canonical, made.further.canonical])
    return canonical_keypoint_loss(source, others, penalty)
