"""A motion space: the networks that read a picture's motion and draw one picture with another's motion, at any size.

They are LivePortrait's four networks (arXiv 2407.03168) composed as Takin-ADA's first stage does (arXiv 2410.14283):
source and driving keypoints are both placed from the *source's* canonical ones. A weight file is one safetensors file
whose metadata holds the sizes and the keypoint transform.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..key_tables import KEY_TABLES
from ..motion.keypoint_geometry import POSE_BIN_COUNT
from ..motion.keypoint_transform import (
    KeypointTransform,
    expected_degrees,
    placed_by,
    require_shape,
    require_transform,
    rotation_of_angles,
)
from ..motion.motion_extractor import MotionExtractor, MotionExtractorParameters
from ..strict_loading import load_strict, read_metadata
from ..whole_file import renamed_when_whole
from .liveportrait.appearance import AppearanceFeatureExtractor, AppearanceParameters
from .liveportrait.dense_motion import DenseMotionParameters
from .liveportrait.generator import GeneratorParameters, SpadeGenerator, SpectralNormConvolution
from .liveportrait.warping import WarpingModule, WarpingParameters

MOTION_SPACE_KIND = "takin_ada_motion_space_1"
KIND_ENTRY, PARAMETERS_ENTRY = "kind", "parameters"
CANONICAL_REACH = 0.6
"""New canonical keypoints lie in -0.6..0.6 of the picture's half sides, so that they start apart."""
NEW_WEIGHT_GAIN = 0.6
"""Deviation of the extractor's new weights over the inverse root of how many numbers each output sums."""
NEW_HEAD_DEVIATION = 0.002
"""Of the heads that place keypoints: what they read has norm sqrt(width), and coordinates are to start near 0."""
SPECTRAL_ITERATIONS = 20
"""Power iterations that find a new convolution's largest singular value."""
_FILES = ("appearance", "motion_extractor", "warping", "generator")


@dataclass(frozen=True)
class MotionSpaceParameters:
    """Sizes of the four networks, how keypoints are placed, and the side of the pictures; defaults: the published ones.

    picture_size: pixels of what the networks read.

    Raises ValueError when sizes do not go together.
    """

    extractor: MotionExtractorParameters = field(default_factory=MotionExtractorParameters)
    appearance: AppearanceParameters = field(default_factory=AppearanceParameters)
    warping: WarpingParameters = field(default_factory=WarpingParameters)
    generator: GeneratorParameters = field(default_factory=GeneratorParameters)
    transform: KeypointTransform = KeypointTransform.WITHOUT_SCALE
    picture_size: int = 256

    def __post_init__(self) -> None:
        extractor, dense = self.extractor, self.warping.dense_motion
        pairs = {
            "keypoints of extractor and warping": (extractor.keypoints, dense.keypoints),
            "volume_channels of appearance and warping": (
                self.appearance.volume_channels,
                dense.volume_channels,
            ),
            "volume_depth of appearance and warping": (self.appearance.volume_depth, dense.volume_depth),
            "channels that warping makes and generator takes": (
                self.warping.out_channels,
                self.generator.feature_channels,
            ),
            "angle_bins and the bins degrees are read from": (extractor.angle_bins, POSE_BIN_COUNT),
            "stages that extractor.depths and extractor.widths have": (
                len(extractor.depths),
                len(extractor.widths),
            ),
        }
        for name, (first, second) in pairs.items():
            if first != second:
                raise ValueError(f"{name} are {first} and {second}, expected the same")
        step = math.lcm(2 << len(extractor.widths), 1 << (self.appearance.down_blocks + dense.blocks))
        if self.picture_size < 1 or self.picture_size % step:
            raise ValueError(
                f"picture_size is {self.picture_size}, expected a multiple of {step} for networks of these depths"
            )

    @property
    def keypoints(self) -> int:
        """How many implicit keypoints there are."""
        return self.extractor.keypoints

    @property
    def feature_size(self) -> int:
        """Height and width of the feature volume."""
        return self.picture_size >> self.appearance.down_blocks

    @property
    def output_size(self) -> int:
        """Pixels of the sides of what the generator draws."""
        return self.feature_size * 4 * self.generator.upscale

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries, ready for JSON."""
        return {**asdict(self), "transform": self.transform.value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MotionSpaceParameters:
        """Rebuild from `to_dict`. Raises ValueError for what does not exist, is missing or out of range."""
        try:
            rest = _nested(values)
            extractor, warping = dict(rest.pop("extractor")), dict(rest.pop("warping"))
            for name in ("depths", "widths"):
                extractor[name] = tuple(extractor[name])
            return cls(
                extractor=MotionExtractorParameters(**extractor),
                appearance=AppearanceParameters(**rest.pop("appearance")),
                warping=WarpingParameters(
                    dense_motion=DenseMotionParameters(**warping.pop("dense_motion")), **warping
                ),
                generator=GeneratorParameters(**rest.pop("generator")),
                transform=KeypointTransform.named(rest.pop("transform")),
                **rest,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are not the sizes of a motion space: {error}") from error


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes as `to_dict` gives them; the first files had two of them beside the networks, not in them."""
    rest = dict(values)
    if "mask_kernel" in rest:
        warping = dict(rest["warping"])
        dense = {**warping["dense_motion"], "mask_kernel": rest.pop("mask_kernel")}
        rest["warping"] = {**warping, "dense_motion": dense}
    if "modulation_channels" in rest:
        rest["generator"] = {**rest["generator"], "modulation_channels": rest.pop("modulation_channels")}
    return rest


def published_motion_space() -> MotionSpaceParameters:
    """Return LivePortrait's sizes (256 px in, 512 px out) with Takin-ADA's transform."""
    return MotionSpaceParameters()


def small_motion_space() -> MotionSpaceParameters:
    """Return sizes for pictures of 64 px that learn on one core. Ours: the paper has no small model."""
    dense = DenseMotionParameters(
        volume_channels=8,
        volume_depth=4,
        compressed_channels=1,
        first_channels=8,
        max_channels=64,
        blocks=2,
        mask_kernel=3,
    )
    return MotionSpaceParameters(
        extractor=MotionExtractorParameters(depths=(1, 2, 3, 1), widths=(32, 64, 128, 192)),
        appearance=AppearanceParameters(
            first_channels=16, max_channels=64, volume_channels=8, volume_depth=4, residual_blocks=2
        ),
        warping=WarpingParameters(out_channels=16, dense_motion=dense),
        generator=GeneratorParameters(
            feature_channels=16,
            channels=48,
            middle_blocks=2,
            out_channels=16,
            upscale=1,
            modulation_channels=16,
        ),
        picture_size=64,
    )


class SpaceMotion(NamedTuple):
    """What pictures show, of B pictures and K keypoints.

    canonical: (B, K, 3). rotation: (B, 3, 3) for row vectors. angles: (B, 3) degrees (pitch, yaw, roll) of the
    extractor's convention. deformation: (B, K, 3). translation: (B, 3). scale: (B,), None without one. transform: the
    one that places them.
    """

    canonical: Tensor
    rotation: Tensor
    angles: Tensor
    deformation: Tensor
    translation: Tensor
    scale: Tensor | None
    transform: KeypointTransform

    def rows(self, index: slice) -> SpaceMotion:
        """Return the pictures that `index` picks."""
        picked = (None if values is None else values[index] for values in self[:-1])
        return SpaceMotion(*picked, self.transform)


class MotionSpaceNetworks(nn.Module):
    """Motion extractor, appearance extractor, warping module and generator. New weights come from torch's seed."""

    def __init__(self, parameters: MotionSpaceParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or MotionSpaceParameters()
        self.motion_extractor = MotionExtractor(p.extractor)
        self.appearance = AppearanceFeatureExtractor(p.appearance)
        self.warping = WarpingModule(p.warping)
        self.generator = SpadeGenerator(p.generator)

    def motion(self, image: Tensor) -> SpaceMotion:
        """Return the motion of (B, 3, S, S) pictures in 0..1, S being `picture_size`. Raises ValueError for others."""
        side, transform = self.parameters_used.picture_size, self.parameters_used.transform
        require_shape("image", image, "B", 3, side, side)
        found = self.motion_extractor(image)
        angles = torch.stack([expected_degrees(bins) for bins in (found.pitch, found.yaw, found.roll)], dim=1)
        return SpaceMotion(
            canonical=found.keypoints.unflatten(1, (-1, 3)),
            rotation=rotation_of_angles(angles),
            angles=angles,
            deformation=found.expression.unflatten(1, (-1, 3)),
            translation=found.translation,
            scale=found.scale[:, 0] if transform is KeypointTransform.LIVEPORTRAIT else None,
            transform=transform,
        )

    def keypoints(self, motion: SpaceMotion, canonical: Tensor | None = None) -> Tensor:
        """Return (B, K, 3): where a motion places canonical keypoints, its own or (B, K, 3) of the source.

        Raises KeypointTransformError for a motion of the other transform, ValueError for other shapes.
        """
        require_transform(motion.transform, self.parameters_used.transform, "the motion")
        shape = motion.canonical if canonical is None else canonical
        return placed_by(
            motion.transform, shape, motion.rotation, motion.deformation, motion.translation, motion.scale
        )

    def render(self, source_image: Tensor, source_motion: SpaceMotion, driving_motion: SpaceMotion) -> Tensor:
        """Return the source with the driving motion, (B, 3, O, O) in 0..1, O being `output_size`.

        source_image: (B, 3, S, S) in 0..1. Canonical keypoints are the source's.
        Raises KeypointTransformError for motions of the other transform, ValueError for other shapes.
        """
        side = self.parameters_used.picture_size
        require_shape("source_image", source_image, len(source_motion.canonical), 3, side, side)
        source = self.keypoints(source_motion)
        driving = self.keypoints(driving_motion, source_motion.canonical)
        return self.render_keypoints(source_image, source, driving)

    def render_keypoints(self, source_image: Tensor, source: Tensor, driving: Tensor) -> Tensor:
        """Return what `render` does, for keypoints (B, K, 3) that this model's transform placed."""
        return self.generator(self.warping(self.appearance(source_image), driving, source).out)

    @torch.no_grad()
    def follow_spectra(self, iterations: int = 1) -> None:
        """Let the generator's spectral norms follow their weights; training needs it once before each step.

        The published files hold what training left: loaded networks are not to call it.
        """
        for module in self.generator.modules():
            if isinstance(module, SpectralNormConvolution):
                _follow_spectrum(module, iterations)


def _follow_spectrum(convolution: SpectralNormConvolution, iterations: int) -> None:
    """Power iteration (arXiv 1802.05957, algorithm 1)."""
    weight = convolution.weight_orig.flatten(1)
    u, v = convolution.weight_u, convolution.weight_v
    for _ in range(iterations):
        v = nn.functional.normalize(weight.mT @ u, dim=0)
        u = nn.functional.normalize(weight @ v, dim=0)
    convolution.weight_u.copy_(u)
    convolution.weight_v.copy_(v)


def new_motion_space(parameters: MotionSpaceParameters, seed: int) -> MotionSpaceNetworks:
    """Return networks to be trained from nothing, in training mode; the same seed gives the same weights.

    Canonical keypoints start apart, deformation near 0, head and translation at 0. The global seed is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = MotionSpaceNetworks(parameters)
        _begin_extractor(networks.motion_extractor)
    networks.follow_spectra(SPECTRAL_ITERATIONS)
    return networks.train()


@torch.no_grad()
def _begin_extractor(extractor: MotionExtractor) -> None:
    for module in extractor.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=NEW_WEIGHT_GAIN * module.weight[0].numel() ** -0.5)
            nn.init.zeros_(module.bias)
    heads = extractor.detector
    for head in (heads.fc_kp, heads.fc_exp, heads.fc_t, heads.fc_scale):
        nn.init.trunc_normal_(head.weight, std=NEW_HEAD_DEVIATION)
    nn.init.uniform_(heads.fc_kp.bias, -CANONICAL_REACH, CANONICAL_REACH)
    nn.init.ones_(heads.fc_scale.bias)


def save_motion_space(
    networks: MotionSpaceNetworks, path: str | os.PathLike[str], facts: Mapping[str, str] | None = None
) -> None:
    """Write the weights as one safetensors file, whole or not at all, with sizes and transform in its metadata.

    facts: further entries of the metadata. Raises ValueError for a name that does not end in .safetensors or a fact
    named as one of ours, OSError when it cannot be written.
    """
    from safetensors.torch import save_file

    path, own = Path(path), {KIND_ENTRY, PARAMETERS_ENTRY}
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"weights are written as safetensors, but the name is {path.name!r}")
    if own & set(facts or {}):
        raise ValueError(f"facts may not be named {', '.join(sorted(own & set(facts or {})))}")
    sizes = json.dumps(networks.parameters_used.to_dict())
    metadata = {**(facts or {}), KIND_ENTRY: MOTION_SPACE_KIND, PARAMETERS_ENTRY: sizes}
    tensors = {name: value.detach().contiguous() for name, value in networks.state_dict().items()}
    with renamed_when_whole(path) as unfinished:
        save_file(tensors, str(unfinished), metadata)


def load_motion_space(
    path: str | os.PathLike[str], transform: KeypointTransform | None = None
) -> MotionSpaceNetworks:
    """Return the networks of a file, on the CPU, in evaluation mode, with gradients off.

    transform: what the caller places keypoints by; None takes the file's.
    Raises FileNotFoundError; ValueError for a file that is damaged or no motion space; WeightMismatchError naming all
    missing, unexpected and misshapen keys; KeypointTransformError when the file's transform is the other one.
    """
    metadata = read_metadata(path)
    if metadata.get(KIND_ENTRY) != MOTION_SPACE_KIND:
        raise ValueError(
            f"{path} is not a motion space: its metadata has no {KIND_ENTRY!r} {MOTION_SPACE_KIND!r}; train one: "
            "talking-portrait train takin-ada motion-space"
        )
    try:
        parameters = MotionSpaceParameters.from_dict(json.loads(metadata.get(PARAMETERS_ENTRY, "{}")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if transform is not None:
        require_transform(parameters.transform, transform, str(path))
    return load_strict(lambda: MotionSpaceNetworks(parameters), path).requires_grad_(False)


def motion_space_from_liveportrait(
    paths: Mapping[str, str | os.PathLike[str]], transform: KeypointTransform
) -> MotionSpaceNetworks:
    """Return networks to be trained further from LivePortrait's four published files, in training mode.

    paths: files by the names appearance, motion_extractor, warping and generator. With Takin-ADA's transform the scale
    that the files learnt is left out, which training has to make up for.
    Raises ValueError for other names, and what `load_strict` raises.
    """
    if set(paths) != set(_FILES):
        raise ValueError(f"files are given for {sorted(paths)}, expected {sorted(_FILES)}")
    table = KEY_TABLES["liveportrait_pth"]
    with torch.device("meta"):
        networks = MotionSpaceNetworks(MotionSpaceParameters(transform=transform))
    for name in _FILES:
        kind = type(getattr(networks, name))
        setattr(networks, name, load_strict(kind, paths[name], table, torch.float32))
    left = [
        name for name, value in chain(networks.named_parameters(), networks.named_buffers()) if value.is_meta
    ]
    if left:
        raise RuntimeError(f"no file holds {', '.join(left)}")
    return networks.train()
