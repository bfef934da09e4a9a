"""LivePortrait's three small networks over keypoints: stitching, eye and lip retargeting.

Keypoints come and go as numpy (N, 21, 3); the networks run where their weights are, in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .keypoint_geometry import KEYPOINT_COUNT

if TYPE_CHECKING:
    from torch import nn


def stitched(network: nn.Module, source: np.ndarray, driven: np.ndarray) -> np.ndarray:
    """Return driven keypoints with the network's corrections: one for each, and a shift in x and y of all."""
    count = len(driven)
    result = _applied(network, [source.reshape(count, -1), driven.reshape(count, -1)])
    size = 3 * KEYPOINT_COUNT
    shift = np.concatenate([result[:, size:], np.zeros((count, 1))], axis=1)
    return driven + result[:, :size].reshape(count, KEYPOINT_COUNT, 3) + shift[:, None, :]


def eye_delta(
    network: nn.Module, source: np.ndarray, source_openings: np.ndarray, opening: np.ndarray
) -> np.ndarray:
    """Return (N, 21, 3) to be added so that the eyes are open by the ratio `opening`, (N,).

    source_openings: (N, 3), the portrait's own ratios of left eye, right eye and lips.
    """
    columns = [source.reshape(len(source), -1), source_openings[:, :2], opening[:, None]]
    return _applied(network, columns).reshape(-1, KEYPOINT_COUNT, 3)


def lip_delta(
    network: nn.Module, source: np.ndarray, source_openings: np.ndarray, opening: np.ndarray
) -> np.ndarray:
    """Return (N, 21, 3) to be added so that the lips are apart by the ratio `opening`, (N,)."""
    columns = [source.reshape(len(source), -1), source_openings[:, 2:], opening[:, None]]
    return _applied(network, columns).reshape(-1, KEYPOINT_COUNT, 3)


def _applied(network: nn.Module, columns: list[np.ndarray]) -> np.ndarray:
    import torch

    weight = next(network.parameters())
    rows = torch.from_numpy(np.concatenate(columns, axis=1)).to(weight.device, weight.dtype)
    with torch.inference_mode():
        return network(rows).float().cpu().numpy().astype(np.float64)
