"""What latents will look like, roughly and at once: colours as a linear map of latents, without the autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

PREVIEW_FRAMES = 4
"""Frames shown side by side, evenly out of the clip."""
PREVIEW_HEIGHT = 128
"""Pixels to which each is enlarged, at least."""


@dataclass(frozen=True)
class LatentColours:
    """A map from latents to colours, found on one picture and its latents, so that any autoencoder will do.

    weights: (C + 1, 3) float32; the last row is added.
    """

    weights: np.ndarray

    @classmethod
    def of_picture(cls, latents: Tensor, picture: np.ndarray) -> LatentColours:
        """Return the map that comes nearest, by least squares. latents: (C, h, w). picture: (H, W, 3) uint8."""
        height, width = latents.shape[1:]
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        table = _with_ones(latents[None])
        weights, *_ = np.linalg.lstsq(table, small.reshape(-1, 3).astype(np.float32), rcond=None)
        return cls(weights.astype(np.float32))

    def strip(self, latents: Tensor) -> np.ndarray:
        """Return a few frames of latents (N, C, h, w) side by side, (H, W, 3) uint8."""
        chosen = np.unique(np.linspace(0, len(latents) - 1, PREVIEW_FRAMES).round().astype(int))
        shown = latents[torch.from_numpy(chosen).to(latents.device)]
        height, width = shown.shape[2:]
        colours = (_with_ones(shown) @ self.weights).clip(0, 255).round().astype(np.uint8)
        frames = colours.reshape(len(chosen), height, width, 3)
        factor = max(1, -(-PREVIEW_HEIGHT // height))
        return np.concatenate([frame.repeat(factor, 0).repeat(factor, 1) for frame in frames], axis=1)


def _with_ones(latents: Tensor) -> np.ndarray:
    """Return (N h w, C + 1) float32: the numbers of each place, and 1; what is not finite is 0."""
    places = (
        torch.nan_to_num(latents.detach().float(), 0, 0, 0).permute(0, 2, 3, 1).flatten(0, 2).cpu().numpy()
    )
    return np.concatenate([places, np.ones((len(places), 1), np.float32)], axis=1)
