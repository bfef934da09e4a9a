"""Pasting many crops of one portrait back over its picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from ..types import Portrait
from .crop import paste_back


def edge_mask(size: int, feather: float) -> np.ndarray:
    """Return (size, size) float32: 1 inside, falling smoothly to 0 at the border.

    feather: width of the fall as a share of the side, 0..0.5. 0 gives ones.
    """
    if not (math.isfinite(feather) and 0 <= feather <= 0.5):
        raise ValueError(f"feather is {feather}, expected a share of the crop's side from 0 to 0.5")
    from_border = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
    ramp = np.clip(from_border / max(feather * size, 0.5), 0, 1)
    ramp = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return np.minimum(ramp[:, None], ramp[None, :])


def paste_crops(
    portrait: Portrait,
    crops: Iterable[np.ndarray],
    count: int,
    masks: np.ndarray | None = None,
    feather: float = 0.08,
) -> Iterator[np.ndarray]:
    """Yield the portrait's picture with each crop laid over it, (H, W, 3) uint8.

    crops: `count` squares (S, S, 3) uint8; another side than the portrait's crop_size is allowed.
    masks: (1 or count, S, S) or (1 or count, H, W) float 0..1; None fades out at the crop's border over
    `feather` of its side.
    Raises ValueError for crops that are not square, or masks of another number or size.
    """
    if masks is not None and len(masks) not in (1, count):
        raise ValueError(f"{len(masks)} masks for {count} crops: give one for all, or one for each")
    for index, crop in enumerate(crops):
        if crop.shape[0] != crop.shape[1]:
            raise ValueError(f"crop {index} is {crop.shape[1]} x {crop.shape[0]} px; crops must be square")
        crop_to_frame = _for_crop_size(portrait, crop.shape[0])
        mask = edge_mask(crop.shape[0], feather) if masks is None else masks[index if len(masks) > 1 else 0]
        yield paste_back(portrait.frame, crop, crop_to_frame, mask)


def _for_crop_size(portrait: Portrait, size: int) -> np.ndarray:
    """Return the portrait's (2, 3) crop-to-frame affine for a crop that was enlarged or shrunk to `size`."""
    step = portrait.crop_size / size
    affine = np.array(portrait.crop_to_frame, np.float64)
    affine[:, 2] += affine[:, :2].sum(axis=1) * (step - 1) / 2
    affine[:, :2] *= step
    return affine.astype(np.float32)
