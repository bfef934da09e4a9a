"""Who a portrait shows, for models trained here: a small network in the place of the release's face recognition."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNEL, PADDING, STRIDE = 4, 1, 2


@dataclass(frozen=True)
class PortraitEncoderParameters:
    """Sizes. widths: of each convolution, which halve the picture. features: of the embedding."""

    widths: tuple[int, ...] = (16, 32, 64, 64)
    features: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if not self.widths or min(*self.widths, self.features) < 1:
            raise ValueError(f"widths {self.widths} and features {self.features} must be at least 1")


class PortraitEncoder(nn.Module):
    """Convolutions, the mean over the picture, a linear layer. It is trained with the model that reads it."""

    def __init__(self, parameters: PortraitEncoderParameters) -> None:
        super().__init__()
        widths = (3, *parameters.widths)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, KERNEL, STRIDE, PADDING) for inputs, outputs in pairwise(widths)
        )
        self.features = nn.Linear(widths[-1], parameters.features)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (B, features) of pictures (B, 3, H, W) in -1..1, at least as large as the convolutions halve."""
        for convolution in self.convolutions:
            pictures = functional.silu(convolution(pictures))
        return self.features(torch.mean(pictures, dim=(2, 3)))
