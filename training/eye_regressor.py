"""How far eyes are open, read off patches cut where the eyes' corners are known to be; it measures, it is no product.

Whole pictures of 64 pixels show lids in two or three of them, too few for `opening_regressor`. A patch that is cut
between the corners and turned level leaves nothing else to look at. It is for self-reenactment, whose output is to have
its corners where the driver has them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .opening_regressor import FittingParameters, fitted
from .takin_ada_frames import FrameSet, pictures_of

EYE_CORNERS = ((0, 1), (3, 4))
"""Guiding landmarks at the picture's left and right of either eye, the eye at the picture's left first."""
PATCH = (16, 32)
"""Height and width of a patch in pixels."""
REACH = (0.5, 0.85)
"""Half height and half width of a patch in eye widths."""
LEARNING_RATE = 2e-3
BATCH = 128
READ_AT_ONCE = 1024


def eye_patches(pictures: Tensor, landmarks: np.ndarray) -> Tensor:
    """Return (B, 2, 3, 16, 32): both eyes of pictures (B, 3, S, S), level, between the corners of landmarks (B, 10, 2).

    landmarks: x, y in half sides from the middle; lids and mouth are not looked at.
    """
    patches = []
    for left, right in EYE_CORNERS:
        ends = torch.from_numpy(np.ascontiguousarray(landmarks[:, [left, right]])).to(pictures)
        along = (ends[:, 1] - ends[:, 0]) * REACH[1]
        down = torch.stack([-along[:, 1], along[:, 0]], dim=1) * (REACH[0] / REACH[1])
        transform = torch.stack([along, down, ends.mean(dim=1)], dim=2)
        size = (len(pictures), 3, *PATCH)
        grid = F.affine_grid(transform, list(size), align_corners=False)
        patches.append(F.grid_sample(pictures, grid, padding_mode="border", align_corners=False))
    return torch.stack(patches, dim=1)


class EyeRegressor(nn.Module):
    """(B, 2, 3, 16, 32) patches to (B,) mean opening ratio of the eyes; both go through one network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, 48, 3, padding=1), nn.GroupNorm(8, 48), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(48 * PATCH[0] * PATCH[1] // 16, 48), nn.ReLU(), nn.Linear(48, 1),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, patches: Tensor) -> Tensor:
        each = self.body(patches.flatten(0, 1)).unflatten(0, (-1, 2))
        return each.mean(dim=(1, 2)) * self.deviation + self.mean

    @torch.no_grad()
    def read(self, pictures: Tensor, landmarks: np.ndarray) -> np.ndarray:
        """Return (N,) openings of many pictures (N, 3, S, S) with known corners."""
        parts = zip(
            pictures.split(READ_AT_ONCE),
            np.array_split(landmarks, range(READ_AT_ONCE, len(landmarks), READ_AT_ONCE)),
            strict=True,
        )
        return torch.cat([self(eye_patches(part, points)) for part, points in parts]).numpy()


def fitted_eye_regressor(frames: FrameSet, steps: int = 600, seed: int = 0) -> EyeRegressor:
    """Return a regressor fitted to frames with known openings, in evaluation mode; the same seed gives the same one.

    Raises ValueError for steps below 1.
    """
    wanted = torch.from_numpy(frames.openings[:, :2].mean(axis=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        regressor = EyeRegressor()

    def read(index: np.ndarray) -> Tensor:
        return regressor(eye_patches(pictures_of(frames, index), frames.landmarks[index]))

    return fitted(regressor, read, wanted, FittingParameters(steps, seed, BATCH, LEARNING_RATE))
