"""Laying crops back over the pictures they came from, through a soft mask.

What depends only on where a crop belongs (the region of the picture, the mask turned into it) is planned once;
each frame then costs one warp and one blend of that region. Coordinates are as in `crop.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from ..types import Portrait, PortraitVideo, portraits_of
from .crop import apply_affine

NETWORK_CROP_FEATHER = 1 / 32
"""Width of the soft border for crops a network generated whole, as a share of the side: 16 of 512 pixels, as
wide as the border of the mask LivePortrait pastes with."""
DEFAULT_FEATHER = 0.08
"""A wider border hides the seam of crops that differ more from their surroundings."""
_BAND_ROWS = 256
"""A region is blended in bands of so many rows, so that large pictures need no large intermediate ones."""
_MASK_EXCESS = 1e-3
"""Masks that were resampled may overshoot 0..1 by this; it is cut off."""


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


@dataclass(frozen=True)
class PasteBackPlan:
    """Where crops of one size land on pictures of one size, and how much of them is seen; see
    `plan_paste_back`.

    frame_size: (width, height) of the pictures. crop_size: side of the crops in pixels.
    box: (left, top, right, bottom) of the region that may change; empty when the mask misses the picture.
    sampled_size: side the crops are averaged down to before they are warped; crop_size for most.
    crop_to_box: (2, 3) float64 affine from the pixels of such a crop to the region's.
    share: (bottom - top, right - left) float32 in 0..1, read-only: how much of the crop is seen.
    interpolation: OpenCV's flag for the warp.
    """

    frame_size: tuple[int, int]
    crop_size: int
    box: tuple[int, int, int, int]
    sampled_size: int
    crop_to_box: np.ndarray
    share: np.ndarray
    interpolation: int

    def paste(self, frame: np.ndarray, crop: np.ndarray) -> np.ndarray:
        """Return a copy of `frame` (H, W, 3) uint8 with `crop` (S, S, 3) uint8 laid over it.

        Where the mask is 0, and outside the region, every bit stays.
        Raises ValueError for a frame or a crop of another size than planned.
        """
        _expect(frame, "frame", self.frame_size)
        _expect(crop, "crop", (self.crop_size, self.crop_size))
        if self.sampled_size != self.crop_size:
            crop = cv2.resize(crop, (self.sampled_size,) * 2, interpolation=cv2.INTER_AREA)
        result = frame.copy()
        left, top, right, bottom = self.box
        for start in range(top, bottom, _BAND_ROWS):
            stop = min(bottom, start + _BAND_ROWS)
            region = result[start:stop, left:right]
            share = self.share[start - top : stop - top]
            pasted = _warped(crop, self.crop_to_box, share.shape, start - top, self.interpolation)
            region[...] = cv2.blendLinear(pasted, region, share, 1 - share)
        return result


def plan_paste_back(
    frame_size: tuple[int, int],
    crop_size: int,
    crop_to_frame: np.ndarray,
    mask: np.ndarray | None = None,
    within: tuple[int, int, int, int] | None = None,
    sharp: bool = False,
) -> PasteBackPlan:
    """Return the plan for pasting crops of one place.

    frame_size: (width, height). crop_to_frame: (2, 3) or (3, 3) affine from crop pixels to frame pixels; the
    crop may be turned and lie partly or wholly outside the picture. mask: (S, S) of the crop's size in crop
    pixels, or (height, width) in frame pixels; float 0..1 or uint8 0..255; None fades out over
    NETWORK_CROP_FEATHER of the side. within: (left, top, right, bottom) outside of which nothing may change.
    sharp: sample cubically, and average crops that are shown at less than half their size; about twice the
    time. Otherwise linear, which with the crop's mask in uint8 is LivePortrait's paste-back, but for rounding
    where the release truncates.
    Raises ValueError for a mask of another size or range, or an affine that is not finite.
    """
    width, height = frame_size
    affine = _checked_affine(crop_to_frame)
    if mask is None:
        mask = edge_mask(crop_size, NETWORK_CROP_FEATHER)
    mask = _checked_mask(mask, ((crop_size, crop_size), (height, width)))
    region = _covered_box(affine, crop_size, _clipped((0, 0, width, height), within))
    share = _share(mask, affine, crop_size, region)
    box = _trimmed(region, share)
    left, top, right, bottom = box
    share.setflags(write=False)
    share = share[top - region[1] : bottom - region[1], left - region[0] : right - region[0]]
    sampled_size = _sampled_size(affine, crop_size) if sharp else crop_size
    crop_to_box = _moved(_affine_for_crop_size(affine, crop_size, sampled_size), left, top)
    crop_to_box.setflags(write=False)
    interpolation = cv2.INTER_CUBIC if sharp else cv2.INTER_LINEAR
    return PasteBackPlan((width, height), crop_size, box, sampled_size, crop_to_box, share, interpolation)


def paste_back(
    frame: np.ndarray, crop: np.ndarray, crop_to_frame: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """Return a copy of `frame` with one `crop` laid over it through a soft mask, sharp.

    frame: (H, W, 3) uint8; crop: (S, S, 3) uint8; the rest as for `plan_paste_back`.
    Pixels where the mask is 0, and all pixels outside the crop, stay bit-equal to the frame's.
    Raises ValueError when the mask fits neither the crop nor the frame.
    """
    size = (frame.shape[1], frame.shape[0])
    plan = plan_paste_back(size, crop.shape[0], crop_to_frame, mask, sharp=True)
    return plan.paste(frame, crop)


def paste_crops(
    portrait: Portrait | PortraitVideo,
    crops: Iterable[np.ndarray],
    count: int,
    masks: np.ndarray | None = None,
    feather: float = DEFAULT_FEATHER,
) -> Iterator[np.ndarray]:
    """Yield the portrait's picture, or each frame of its film, with a crop laid over it, (H, W, 3) uint8.

    crops: `count` squares (S, S, 3) uint8; another side than the portrait's crop_size is allowed. On a film each
    has its own frame (`PortraitVideo.rows`). masks: (1 or count, S, S) or (1 or count, H, W) float 0..1; None fades
    out at the crop's border over `feather` of its side. While size, mask and place stay, so does the plan.
    Raises ValueError for crops that are not square, more of them than `count`, or masks of another number or size.
    """
    if masks is not None and len(masks) not in (1, count):
        raise ValueError(f"{len(masks)} masks for {count} crops: give one for all, or one for each")
    portraits = portraits_of(portrait)
    rows = portrait.rows(count) if isinstance(portrait, PortraitVideo) else np.zeros(count, int)
    plan: PasteBackPlan | None = None
    planned: tuple | None = None
    for index, crop in enumerate(crops):
        if index >= count:
            raise ValueError(f"there are more crops than the {count} that were announced")
        target, size = portraits[rows[index]], _side(crop, index)
        which = 0 if masks is None or len(masks) == 1 else index
        wanted = (size, which, target.crop_to_frame.tobytes())
        if plan is None or wanted != planned:
            mask = edge_mask(size, feather) if masks is None else masks[which]
            affine = _affine_for_crop_size(target.crop_to_frame, target.crop_size, size)
            plan, planned = plan_paste_back(target.size, size, affine, mask, sharp=True), wanted
        yield plan.paste(target.frame, crop)


def _affine_for_crop_size(crop_to_frame: np.ndarray, planned_size: int, size: int) -> np.ndarray:
    """Return the (2, 3) float64 affine for a crop that was enlarged or shrunk from planned_size to size."""
    step = planned_size / size
    affine = np.array(crop_to_frame, np.float64)
    affine[:, 2] += affine[:, :2].sum(axis=1) * (step - 1) / 2
    affine[:, :2] *= step
    return affine


def _sampled_size(affine: np.ndarray, crop_size: int) -> int:
    """Return the side a crop has on the picture when that is less than half its own, else its own."""
    side = max(1, round(crop_size * math.sqrt(abs(np.linalg.det(affine[:, :2])))))
    return side if 2 * side <= crop_size else crop_size


def _side(crop: np.ndarray, index: int) -> int:
    if crop.shape[0] != crop.shape[1]:
        raise ValueError(f"crop {index} is {crop.shape[1]} x {crop.shape[0]} px; crops must be square")
    return crop.shape[0]


def _expect(picture: np.ndarray, name: str, size: tuple[int, int]) -> None:
    if picture.shape != (size[1], size[0], 3) or picture.dtype != np.uint8:
        raise ValueError(
            f"the {name} has shape {picture.shape} and type {picture.dtype}; this paste-back was planned for "
            f"({size[1]}, {size[0]}, 3) uint8"
        )


def _checked_affine(crop_to_frame: np.ndarray) -> np.ndarray:
    affine = np.asarray(crop_to_frame, np.float64)[:2]
    if affine.shape != (2, 3) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:, :2])) < 1e-12:
        raise ValueError(
            f"crop_to_frame is {np.asarray(crop_to_frame).tolist()}; expected (2, 3) finite numbers that do not "
            "flatten the crop"
        )
    return affine


def _checked_mask(mask: np.ndarray, shapes: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.shape not in shapes:
        raise ValueError(
            f"the mask has shape {mask.shape}; expected the crop's {shapes[0]} or the frame's {shapes[1]}"
        )
    if mask.dtype == np.uint8:
        return mask
    mask = mask.astype(np.float32, copy=False)
    low, high = float(mask.min()), float(mask.max())
    if not (low >= -_MASK_EXCESS and high <= 1 + _MASK_EXCESS):  # NaN is neither
        raise ValueError(f"mask values range over {low:g}..{high:g}; expected 0..1")
    return np.clip(mask, 0, 1) if low < 0 or high > 1 else mask


def _share(
    mask: np.ndarray, affine: np.ndarray, crop_size: int, box: tuple[int, int, int, int]
) -> np.ndarray:
    """Return the mask over a box of the frame, (h, w) float32 0..1; 0 outside the crop."""
    left, top, right, bottom = box
    shape = (bottom - top, right - left)
    if 0 in shape:
        return np.zeros(shape, np.float32)
    local = _moved(affine, left, top)
    if mask.shape == (crop_size, crop_size):
        return _unit(_warped(mask, local, shape, 0, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT))
    inside = np.ones((crop_size, crop_size), np.float32)
    inside = _warped(inside, local, shape, 0, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
    return _unit(mask[top:bottom, left:right]) * inside


def _unit(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.float32) / 255 if mask.dtype == np.uint8 else mask


def _warped(
    picture: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, int],
    first_row: int,
    interpolation: int,
    border: int = cv2.BORDER_REPLICATE,
) -> np.ndarray:
    """Return rows of the warped picture: `shape` (rows, columns) from `first_row` on."""
    return cv2.warpAffine(
        picture, _moved(affine, 0, first_row), (shape[1], shape[0]), flags=interpolation, borderMode=border
    )


def _moved(affine: np.ndarray, left: int, top: int) -> np.ndarray:
    """Return the affine into a region whose first pixel is (left, top), (2, 3) float64."""
    return affine - np.array([[0, 0, left], [0, 0, top]])


def _clipped(
    box: tuple[int, int, int, int], within: tuple[int, int, int, int] | None
) -> tuple[int, int, int, int]:
    if within is None:
        return box
    left, top, right, bottom = within
    return max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom)


def _covered_box(
    affine: np.ndarray, crop_size: int, limits: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the pixels within `limits` that a crop covers."""
    edge = crop_size - 0.5
    corners = apply_affine(affine, np.array([[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]]))
    low = [math.floor(value) for value in corners.min(axis=0)]
    high = [math.ceil(value) + 1 for value in corners.max(axis=0)]
    left, top, right, bottom = _clipped(limits, (*low, *high))
    return left, top, max(left, right), max(top, bottom)


def _trimmed(box: tuple[int, int, int, int], share: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box without the rows and columns at its sides in which nothing is seen."""
    x, y, width, height = cv2.boundingRect((share > 0).view(np.uint8)) if share.size else (0, 0, 0, 0)
    return box[0] + x, box[1] + y, box[0] + x + width, box[1] + y + height
