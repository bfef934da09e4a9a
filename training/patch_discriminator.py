"""A discriminator that judges patches of pictures at two sizes, after face-vid2vid (arXiv 2011.15126, appendix)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from .takin_ada_losses import image_pyramid

NEGATIVE_SLOPE = 0.2
"""Of the leaky ReLU."""
KERNEL = 4
"""Side of the strided convolutions."""


@dataclass(frozen=True)
class DiscriminatorParameters:
    """first_channels: after the first layer, doubled by each of the others. layers: each halves the picture.

    scales: sizes that are judged, 1, 1/2...

    Raises ValueError for a number below 1.
    """

    first_channels: int = 64
    layers: int = 4
    scales: int = 2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")

    @property
    def smallest_picture(self) -> int:
        """Pixels that a picture's shorter side must have."""
        return 2 ** (self.layers + self.scales - 1)


class Judgement(NamedTuple):
    """scores: a patch map (B, 1, h, w) for each scale, high for real. features: all maps before them, in order."""

    scores: list[Tensor]
    features: list[Tensor]


class _OneScale(nn.Module):
    """Strided convolutions with spectral norm and leaky ReLU; instance norm after all but the first."""

    def __init__(self, parameters: DiscriminatorParameters) -> None:
        super().__init__()
        widths = [3, *(parameters.first_channels << level for level in range(parameters.layers))]
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, KERNEL, stride=2, padding=1))
            for before, after in pairwise(widths)
        )
        self.last = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, picture: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the patch map (B, 1, h, w) of (B, 3, H, W) pictures, and the maps before it."""
        features: list[Tensor] = []
        x = picture
        for index, layer in enumerate(self.layers):
            x = layer(x)
            x = F.leaky_relu(F.instance_norm(x) if index and x[0, 0].numel() > 1 else x, NEGATIVE_SLOPE)
            features.append(x)
        return self.last(x), features


class PatchDiscriminator(nn.Module):
    """Pictures (B, 3, H, W) in 0..1, sides of at least 2^(layers + scales - 1), to a `Judgement`."""

    def __init__(self, parameters: DiscriminatorParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = parameters or DiscriminatorParameters()
        self.scales = nn.ModuleList(
            _OneScale(self.parameters_used) for _ in range(self.parameters_used.scales)
        )

    def forward(self, pictures: Tensor) -> Judgement:
        """Return what each scale says. Raises ValueError for pictures that are too small."""
        least = self.parameters_used.smallest_picture
        if min(pictures.shape[2:]) < least:
            raise ValueError(
                f"pictures of {tuple(pictures.shape[2:])} pixels are too small for this discriminator, expected sides "
                f"of {least} on"
            )
        sizes = image_pyramid(pictures, len(self.scales))
        judged = [scale(picture) for scale, picture in zip(self.scales, sizes, strict=True)]
        return Judgement([scores for scores, _ in judged], [one for _, maps in judged for one in maps])


def new_discriminator(parameters: DiscriminatorParameters, seed: int) -> PatchDiscriminator:
    """Return a discriminator to be trained; the same seed gives the same weights. The global seed stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PatchDiscriminator(parameters)
