"""Frozen networks whose features the perceptual loss compares: VGG-19 from a file, or random convolutions (ours).

Random convolutions need no file: fixed and seeded, they respond to edges and colours of all directions. The picture
itself is their first map, so that the loss has plain absolute differences on the pyramid in it too.
"""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core_models.strict_loading import load_strict
from .takin_ada_losses import FeatureNetwork

RANDOM_WIDTHS = (3, 12, 24)
"""Channels of the picture and after each random convolution."""
RANDOM_SEED = 20241014
"""Whence the random convolutions are drawn when nothing else is said."""
VGG_WIDTHS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 1))
"""Channels and convolutions of each of VGG-19's stages up to relu5_1."""
VGG_MEAN, VGG_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures, by which VGG-19 was trained."""
_VGG_TABLE = {"features.30.*": None, "features.32.*": None, "features.34.*": None, "classifier.*": None}
"""Layers of torchvision's file beyond relu5_1."""


class RandomFeatures(nn.Module):
    """The picture, and what seeded random convolutions make of it, each at half the size before; frozen."""

    def __init__(self, seed: int = RANDOM_SEED) -> None:
        super().__init__()
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in pairwise(RANDOM_WIDTHS)
        )
        with torch.no_grad():
            for convolution in self.convolutions:
                weight = convolution.weight
                drawn = torch.randn(weight.shape, generator=generator)
                drawn -= drawn.mean(
                    dim=(2, 3), keepdim=True
                )  # blind to even areas: the picture itself shows them
                weight.copy_(drawn / weight[0].numel() ** 0.5)
        self.requires_grad_(False)

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Return maps of (B, 3, H, W) pictures in 0..1."""
        maps = [picture]
        for index, convolution in enumerate(self.convolutions):
            x = maps[-1]
            x = F.avg_pool2d(x, 2, ceil_mode=True) if index else x
            maps.append(F.leaky_relu(convolution(x), 0.2))
        return maps


class Vgg19Features(nn.Module):
    """VGG-19 (arXiv 1409.1556) after relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1; keys are torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taken: list[int] = []
        before = 3
        for width, count in VGG_WIDTHS:
            for index in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
                if index == 0:
                    self.taken.append(len(layers) - 1)
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers[:-1])

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Return five maps of (B, 3, H, W) pictures in 0..1, which are normalised here."""
        mean, deviation = (picture.new_tensor(v)[:, None, None] for v in (VGG_MEAN, VGG_DEVIATION))
        x, maps = (picture - mean) / deviation, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taken:
                maps.append(x)
        return maps


def load_vgg19(path: str | os.PathLike[str]) -> Vgg19Features:
    """Return the frozen network of a VGG-19 file in torchvision's layout. Raises what `load_strict` raises."""
    return load_strict(Vgg19Features, path, _VGG_TABLE, torch.float32).requires_grad_(False)


def features_name(features: FeatureNetwork) -> str:
    """Return what tells feature networks apart, so that a run goes on with its own.

    VGG-19 is told by a SHA-256 of its weights, random convolutions by their channels and seed, others by their type.
    """
    if isinstance(features, RandomFeatures):
        return f"random convolutions of {'-'.join(map(str, RANDOM_WIDTHS))} channels, seed {features.seed}"
    if isinstance(features, Vgg19Features):
        return f"VGG-19, SHA-256 {_digest(features)}"
    return type(features).__qualname__


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(memoryview(values.detach().cpu().contiguous().numpy()).cast("B"))
    return digest.hexdigest()
