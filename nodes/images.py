"""The border between ComfyUI's IMAGE and MASK tensors and the frames and masks of core_models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


def checked_image(image: Any) -> torch.Tensor:
    """Return an IMAGE unchanged, or raise ValueError unless it is a (B, H, W, C) tensor with B > 0."""
    shape = getattr(image, "shape", None)
    if shape is None or len(shape) != 4 or not hasattr(image, "detach"):
        given = f"shape {tuple(shape)}" if shape is not None else type(image).__name__
        raise ValueError(f"expected an IMAGE, a tensor (batch, height, width, channels), got {given}")
    if shape[0] == 0:
        raise ValueError("the IMAGE holds no pictures")
    return image


def frame_from_image(image: Any, index: int = 0) -> np.ndarray:
    """Return picture `index` of an IMAGE, float 0..1, as a frame: (H, W, 3) uint8 RGB.

    Raises ValueError for a value that is not an IMAGE, or a picture that it does not hold.
    """
    from ..core_models.face.picture import picture_from_array

    image = checked_image(image)
    if not 0 <= index < len(image):
        raise ValueError(f"picture {index} was asked for, but the IMAGE holds {len(image)} (counted from 0)")
    return picture_from_array(image[index].detach().cpu().float().numpy())


def frames_from_image(image: Any) -> Iterator[np.ndarray]:
    """Yield every picture of an IMAGE as a frame, (H, W, 3) uint8 RGB, one at a time."""
    for index in range(len(checked_image(image))):
        yield frame_from_image(image, index)


class ImageFrames(Sequence):
    """The pictures of an IMAGE as frames, (H, W, 3) uint8 RGB, each made when it is asked for."""

    def __init__(self, image: Any) -> None:
        """Raises ValueError unless `image` is an IMAGE."""
        self._image = checked_image(image)

    def __len__(self) -> int:
        return len(self._image)

    def __getitem__(self, index: int) -> np.ndarray:
        return frame_from_image(self._image, index)


def image_from_frames(frames: Iterable[np.ndarray], frame_total: int | None = None) -> torch.Tensor:
    """Return frames, (H, W, 3) uint8 RGB, as an IMAGE: (N, H, W, 3) float32 0..1 on the CPU.

    With `frame_total` the memory is reserved once and filled frame by frame.
    Raises ValueError when there are no frames, or another number of them than `frame_total`.
    """
    import numpy as np
    import torch

    if frame_total is None:
        frames = list(frames)
        frame_total = len(frames)
    image, count = None, 0
    for frame in frames:
        if image is None:
            image = torch.empty((frame_total, *frame.shape), dtype=torch.float32)
        if count < frame_total:
            image[count] = torch.from_numpy(np.array(frame, order="C")).float() / 255
        count += 1
    if image is None:
        raise ValueError("there are no frames to make an IMAGE of")
    if count != frame_total:
        raise ValueError(f"{frame_total} frames were announced, but {count} came")
    return image


def mask_from_arrays(masks: np.ndarray) -> torch.Tensor:
    """Return (N, H, W) or (H, W) float 0..1 as a MASK: (N, H, W) float32 on the CPU."""
    import torch

    mask = torch.tensor(masks, dtype=torch.float32)
    return mask if mask.ndim == 3 else mask[None]


def masks_from_mask(mask: Any) -> np.ndarray:
    """Return a MASK as (N, H, W) float32. Raises ValueError unless it is (B, H, W) or (H, W) with B > 0."""
    shape = getattr(mask, "shape", None)
    if shape is None or len(shape) not in (2, 3) or not hasattr(mask, "detach") or 0 in shape:
        given = f"shape {tuple(shape)}" if shape is not None else type(mask).__name__
        raise ValueError(f"expected a MASK, a tensor (batch, height, width), got {given}")
    masks = mask.detach().cpu().float().numpy()
    return masks if masks.ndim == 3 else masks[None]


def union_from_mask(mask: Any) -> np.ndarray:
    """Return a MASK as one (H, W) float32: of several, what any of them covers. Raises as `masks_from_mask`."""
    return masks_from_mask(mask).max(axis=0)
