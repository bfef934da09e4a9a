"""Implicit keypoints of pictures, read by LivePortrait's motion extractor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from .keypoint_geometry import KEYPOINT_COUNT, KeypointReadings, degrees_from_bins, extractor_rotation

if TYPE_CHECKING:
    import torch

    from .motion_extractor import MotionExtractor

NETWORK_SIZE = 256
"""Side in pixels of the pictures that the motion and the appearance extractor look at."""
CPU_BATCH, ACCELERATOR_BATCH = 1, 16
"""Pictures read at once: on a CPU, which they keep busy one by one, more only cost memory."""

Item = TypeVar("Item")


def network_picture(
    crop: np.ndarray, interpolation: int = cv2.INTER_AREA, size: int = NETWORK_SIZE
) -> np.ndarray:
    """Return a square crop (S, S, 3) uint8 as the networks see it: (size, size, 3) uint8.

    The release averages a portrait's crop and interpolates a driver's (cv2.INTER_LINEAR).
    """
    return cv2.resize(crop, (size, size), interpolation=interpolation)


def network_input(pictures: Sequence[np.ndarray], network: torch.nn.Module) -> torch.Tensor:
    """Return (B, 3, 256, 256) in 0..1, where and as the network's weights are, of (256, 256, 3) uint8 pictures."""
    import torch

    weight = next(network.parameters())
    stacked = torch.from_numpy(np.stack(pictures)).to(weight.device)
    return stacked.permute(0, 3, 1, 2).to(weight.dtype) / 255


def read_keypoints(pictures: Sequence[np.ndarray], extractor: MotionExtractor) -> KeypointReadings:
    """Return the readings of pictures, (256, 256, 3) uint8 each, all in one batch. Openings are not known."""
    import torch

    with torch.inference_mode():
        found = extractor(network_input(pictures, extractor))
        arrays = {
            name: value.float().cpu().numpy().astype(np.float64) for name, value in found._asdict().items()
        }
    angles = np.stack([degrees_from_bins(arrays[name]) for name in ("pitch", "yaw", "roll")], axis=-1)
    count = len(pictures)
    return KeypointReadings(
        canonical=arrays["keypoints"].reshape(count, KEYPOINT_COUNT, 3),
        expression=arrays["expression"].reshape(count, KEYPOINT_COUNT, 3),
        rotation=extractor_rotation(angles),
        translation=arrays["translation"],
        scale=arrays["scale"].reshape(count),
    )


def joined_readings(parts: Sequence[KeypointReadings]) -> KeypointReadings:
    """Return readings one after the other. Openings are kept when all parts know them."""
    names = ["canonical", "expression", "rotation", "translation", "scale"]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    known = all(part.openings is not None for part in parts)
    openings = np.concatenate([part.openings for part in parts]) if known else None
    return KeypointReadings(**joined, openings=openings)


def batch_size(network: torch.nn.Module) -> int:
    """Return how many pictures to read at once on the network's device."""
    return CPU_BATCH if next(network.parameters()).device.type == "cpu" else ACCELERATOR_BATCH


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one perhaps shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
