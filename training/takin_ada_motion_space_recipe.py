"""The recipe of Takin-ADA's first stage: what its training is told (arXiv 2410.14283, section on stage 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..core_models.rendering.motion_space import MotionSpaceParameters
from .patch_discriminator import DiscriminatorParameters
from .takin_ada_losses import GUIDED_KEYPOINTS, GUIDING_LANDMARKS, PENALTIES, TakinADALossWeights


@dataclass(frozen=True)
class MotionSpaceTrainingParameters:
    """The recipe. learning_rate and betas are face-vid2vid's; what else the paper leaves open is ours.

    steps: updates in all. batch: samples of an update. decay_share: of the steps, at the end, over which the learning
    rates fall to 0 in a straight line. clip_norm: largest norm of either gradient. adversarial_ramp_steps: updates over
    which the two adversarial terms come in. region_weight: of a further absolute difference around eyes and lips, which
    counts as part of the perceptual term (ours: they are a few pixels of small pictures). penalty: of equations 1
    and 2. pyramid_levels: sizes at which pictures are compared. guided: the keypoint that each of the ten guiding
    landmarks guides; the first ten from scratch, the last ten of LivePortrait's where training begins with its weights.
    discriminator: its sizes, which no option changes; it exists when a term needs it.

    Raises ValueError for a number outside its range.
    """

    steps: int = 100_000
    batch: int = 32
    learning_rate: float = 2e-4
    decay_share: float = 0.0
    clip_norm: float = 10.0
    adversarial_ramp_steps: int = 0
    region_weight: float = 0.0
    penalty: str = "huber"
    pyramid_levels: int = 4
    seed: int = 0
    guided: tuple[int, ...] = GUIDED_KEYPOINTS
    weights: TakinADALossWeights = field(default_factory=TakinADALossWeights)
    discriminator: DiscriminatorParameters = field(default_factory=DiscriminatorParameters)

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "adversarial_ramp_steps": 0, "seed": 0, "pyramid_levels": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {bound}")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a finite number above 0")
        if not 0 <= self.decay_share <= 1:
            raise ValueError(f"decay_share is {self.decay_share}, expected 0 to 1")
        if not 0 <= self.region_weight < math.inf:
            raise ValueError(f"region_weight is {self.region_weight}, expected a finite number from 0 on")
        if self.penalty not in PENALTIES:
            raise ValueError(f"penalty is {self.penalty!r}, expected one of {', '.join(PENALTIES)}")
        count = len(GUIDING_LANDMARKS)
        if len(self.guided) != count or len(set(self.guided)) < count or min(self.guided) < 0:
            raise ValueError(f"guided is {self.guided}, expected {count} different keypoints from 0 on")

    @property
    def adversarial(self) -> bool:
        """Whether there is a discriminator."""
        return self.weights.adversarial > 0 or self.weights.feature_matching > 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MotionSpaceTrainingParameters:
        """Rebuild from `to_dict`; the first files do not name the guided keypoints, which are the first ten.

        Raises TypeError for what does not exist, KeyError for what is missing.
        """
        rest = dict(values)
        rest["guided"] = tuple(rest.get("guided", GUIDED_KEYPOINTS))
        weights = TakinADALossWeights(**rest.pop("weights"))
        discriminator = DiscriminatorParameters(**rest.pop("discriminator"))
        return cls(weights=weights, discriminator=discriminator, **rest)


SMALL_WEIGHTS = TakinADALossWeights(
    perceptual=10.0,
    adversarial=0.0,
    feature_matching=0.0,
    equivariance=10.0,
    keypoint_prior=0.2,
    head_pose=0.2,
    deformation=0.05,
    canonical=100.0,
    landmark=200.0,
    canonical_ramp_steps=300,
)
"""For `small_motion_space`. The priors are weak, because they are sums over all keypoints and would otherwise outweigh
equation 2 a hundred times: its Huber penalty is 0.0002 where a lid is a fifth of its opening off."""


def small_training_recipe(**changes: Any) -> MotionSpaceTrainingParameters:
    """Return a recipe for `small_motion_space` on one core, without a discriminator."""
    small = MotionSpaceTrainingParameters(
        steps=1500,
        batch=8,
        learning_rate=4e-4,
        decay_share=0.4,
        region_weight=1.0,
        adversarial_ramp_steps=300,
        weights=SMALL_WEIGHTS,
        discriminator=DiscriminatorParameters(first_channels=16, layers=3),
    )
    return replace(small, **changes)


def learning_rate_at(step: int, recipe: MotionSpaceTrainingParameters) -> float:
    """Return the learning rate of update `step`, from 0 on."""
    falling = recipe.decay_share * recipe.steps
    left = max(0.0, recipe.steps - step)
    return recipe.learning_rate * (min(1.0, left / falling) if falling > 0 else 1.0)


def require_recipe_for(recipe: MotionSpaceTrainingParameters, sizes: MotionSpaceParameters) -> None:
    """Raise ValueError when networks of these sizes cannot be trained by a recipe.

    Landmarks may guide only keypoints that there are; the smallest picture that is compared or judged has a pixel.
    """
    if recipe.weights.landmark > 0 and max(recipe.guided) >= sizes.keypoints:
        raise ValueError(
            f"guided is {recipe.guided}, but the networks have keypoints 0 to {sizes.keypoints - 1}"
        )
    if sizes.output_size < 2 ** (recipe.pyramid_levels - 1):
        raise ValueError(
            f"pyramid_levels is {recipe.pyramid_levels}, but pictures have {sizes.output_size} pixels a side"
        )
    if recipe.adversarial and sizes.output_size < recipe.discriminator.smallest_picture:
        raise ValueError(
            f"pictures have {sizes.output_size} pixels a side, but the discriminator needs "
            f"{recipe.discriminator.smallest_picture}: leave out the adversarial terms"
        )
