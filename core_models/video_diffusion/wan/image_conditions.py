"""What Wan's image-to-video model is given of the first frame: a mask, a video with nothing behind it, CLIP's view."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .frame_rules import FRAMES_PER_LATENT, latent_frames

MASK_CHANNELS = FRAMES_PER_LATENT
"""Channels of the mask: one for each video frame of a latent frame."""
CLIP_SIDE = 224
"""Pixels of a side of what CLIP sees."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of red, green and blue in 0..1, which CLIP's input is brought to 0 by."""
CLIP_SPREAD = (0.26862954, 0.26130258, 0.27577711)
"""Their standard deviations, which it is divided by."""


def first_frame_mask(frames: int, height: int, width: int) -> Tensor:
    """Return (4, F, h, w) float32: 1 where a frame is given, which is all of the first latent frame, else 0.

    frames, height, width: of the latents. Raises ValueError for a size below 1.
    """
    if min(frames, height, width) < 1:
        raise ValueError(f"a mask of {frames} x {height} x {width} latents is empty: each must be at least 1")
    mask = torch.zeros(MASK_CHANNELS, frames, height, width)
    mask[:, 0] = 1
    return mask


def condition_video(image: Tensor, frames: int) -> Tensor:
    """Return the video (3, N, H, W) that the autoencoder encodes for the model: the image, then mid-grey (0).

    image: (3, H, W) in -1..1. frames: N = 4k + 1.
    Raises ValueError for another shape or number of frames.
    """
    _require_image(image)
    latent_frames(frames)
    return torch.cat(
        [image[:, None], image.new_zeros(1, 1, 1, 1).expand(3, frames - 1, *image.shape[1:])], dim=1
    )


def image_conditions(mask: Tensor, latents: Tensor) -> Tensor:
    """Return (..., 4 + C, F, h, w): the mask (4, F, h, w) above the latents (..., C, F, h, w) of `condition_video`.

    Raises ValueError where their frames or sizes differ.
    """
    if mask.ndim != 4 or latents.ndim < 4 or mask.shape[1:] != latents.shape[-3:]:
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)} and the latents {tuple(latents.shape)}, expected (4, F, h, w) and "
            "(..., C, F, h, w) of one video"
        )
    mask = mask.to(latents).expand(*latents.shape[:-4], *mask.shape)
    return torch.cat([mask, latents], dim=-4)


def clip_vision_pixels(image: Tensor) -> Tensor:
    """Return what CLIP sees of an image, (3, 224, 224) float32, or (B, 3, 224, 224) of a batch.

    image: (3, H, W) or (B, 3, H, W) in -1..1. It is squashed to a square by bicubic interpolation that neither averages
    over pixels that fall away nor stays within the range, as in the release.
    Raises ValueError for another shape.
    """
    if image.ndim == 3:
        return clip_vision_pixels(image[None])[0]
    if image.ndim != 4:
        _require_image(image)
    _require_image(image[0])
    squashed = functional.interpolate(
        image.float(), size=(CLIP_SIDE, CLIP_SIDE), mode="bicubic", align_corners=False, antialias=False
    )
    mean, spread = (squashed.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_SPREAD))
    return ((squashed + 1) / 2 - mean) / spread


def _require_image(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"the image has shape {tuple(image.shape)}, expected (3, H, W) in -1..1")
