"""How long and how large Wan's videos are: frames in groups of four after the first, sides in multiples of 16.

The rules named after the release are those of FantasyTalking's published program; its sizes are kept to the pixel.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...audio.frame_clock import frame_count

LOGGER = logging.getLogger(__name__)

FRAMES_PER_LATENT = 4
"""Video frames that a latent frame stands for; the first latent frame stands for one."""
FEWEST_FRAMES = 5
"""The shortest video that sound steers: one latent frame after the first."""
RELEASE_FPS = 23.0
"""Frames per second that FantasyTalking was trained at."""
RELEASE_FRAMES = 81
"""Frames of its clips at most."""
SIZE_MULTIPLE = 16
"""Both sides of a picture are multiples of this: 8 pixels to a latent cell, 2 cells to a token."""
NOTICED_STRETCH = 1.2
"""How many times wider or higher a picture may become before that is said."""


def latent_frames(frames: int) -> int:
    """Return how many latent frames hold `frames` video frames: (N - 1) / 4 + 1.

    Raises ValueError for a number of frames that is not 1, 5, 9, ...
    """
    if frames < 1 or (frames - 1) % FRAMES_PER_LATENT:
        raise ValueError(
            f"there are {frames} frames, but Wan's videos have 1, 5, 9, ...: use "
            f"{video_frames(max(1, math.ceil((frames - 1) / FRAMES_PER_LATENT) + 1))}"
        )
    return (frames - 1) // FRAMES_PER_LATENT + 1


def video_frames(latents: int) -> int:
    """Return how many video frames `latents` latent frames hold: 4 (F - 1) + 1. Raises ValueError for none."""
    if latents < 1:
        raise ValueError(f"there are {latents} latent frames, expected at least 1")
    return FRAMES_PER_LATENT * (latents - 1) + 1


def covering_frames(duration: float, fps: float) -> int:
    """Return the fewest frames 4k + 1, at least 5, that last as long as the sound: nothing is cut or stretched.

    duration: seconds of sound. fps: frames per second. Raises what `frame_clock.frame_count` raises.
    """
    needed = max(FEWEST_FRAMES, frame_count(duration, fps))
    return video_frames(math.ceil((needed - 1) / FRAMES_PER_LATENT) + 1)


def release_frames(duration: float, fps: float = RELEASE_FPS, largest: int = RELEASE_FRAMES) -> int:
    """Return how many frames the release makes of a sound, 1 to 5 more than it lasts unless there are `largest`.

    duration: seconds. Raises ValueError for a duration below 0 or not finite, a rate that is not positive, or a largest
    number that is not 5, 9, 13, ...
    """
    if not (math.isfinite(duration) and duration >= 0):
        raise ValueError(f"duration is {duration} s, expected a finite number >= 0")
    _require_rate(fps)
    if largest < FEWEST_FRAMES or (largest - 1) % FRAMES_PER_LATENT:
        raise ValueError(f"the largest number of frames is {largest}, expected 5, 9, 13, ...")
    whole_groups = int(fps * duration // FRAMES_PER_LATENT)
    return min(whole_groups * FRAMES_PER_LATENT + FEWEST_FRAMES, largest)


def _require_rate(fps: float) -> None:
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}, expected a positive number")


def resized_size(width: int, height: int, image_size: int) -> tuple[int, int]:
    """Return (width, height) of a picture whose longer side is brought to `image_size`, fractions of pixels dropped.

    A side is never less than 1. Raises ValueError for a picture without pixels, or an image size below 16.
    """
    if min(width, height) < 1:
        raise ValueError(f"the picture has no pixels: {width} x {height}")
    if image_size < SIZE_MULTIPLE:
        raise ValueError(f"an image size of {image_size} px is below the model's least, {SIZE_MULTIPLE} px")
    scale = image_size / max(width, height)
    return max(1, int(width * scale)), max(1, int(height * scale))


def rendered_size(width: int, height: int, image_size: int, multiple: int = SIZE_MULTIPLE) -> tuple[int, int]:
    """Return (width, height) of the video of a picture: `resized_size`, both sides rounded up to multiples.

    Raises what `resized_size` raises, and ValueError for a multiple below 1.
    """
    if multiple < 1:
        raise ValueError(f"sides are to be multiples of {multiple}, expected at least 1")
    across, down = resized_size(width, height, image_size)
    return -(-across // multiple) * multiple, -(-down // multiple) * multiple


def prepared_image(picture: np.ndarray, image_size: int, multiple: int = SIZE_MULTIPLE) -> Tensor:
    """Return a picture as the first frame of its video, (3, H, W) float32 in -1..1.

    picture: (height, width, 3) uint8 RGB. It is resized twice as in the release: to `resized_size` by Lanczos, and to
    `rendered_size` by bicubic interpolation, which stretches it a little; by more than a fifth only with a warning.
    Raises what `rendered_size` raises, and ValueError for an array of another kind.
    """
    picture = _rgb(picture)
    height, width = picture.shape[:2]
    _warn_of_stretch((width, height), rendered_size(width, height, image_size, multiple))
    resized = Image.fromarray(picture).resize(
        resized_size(width, height, image_size), Image.Resampling.LANCZOS
    )
    return image_values(stretched(np.asarray(resized), *rendered_size(width, height, image_size, multiple)))


def _warn_of_stretch(given: tuple[int, int], rendered: tuple[int, int]) -> None:
    """given, rendered: (width, height)."""
    wider = rendered[0] * given[1] / (rendered[1] * given[0])
    factor = max(wider, 1 / wider)
    if factor > NOTICED_STRETCH:
        LOGGER.warning(
            "The picture of %d x %d px becomes %d x %d: it is stretched to %.1f times its %s. Crop it to a less "
            "extreme shape, or choose a larger image size",
            *(*given, *rendered, factor, "width" if wider > 1 else "height"),
        )


def stretched(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return a picture (h, w, 3) uint8 at another size, (height, width, 3), by Pillow's bicubic interpolation.

    Raises ValueError for an array that is not such a picture.
    """
    return np.array(Image.fromarray(_rgb(picture)).resize((width, height), Image.Resampling.BICUBIC))


def image_values(picture: np.ndarray) -> Tensor:
    """Return a picture (H, W, 3) uint8 as Wan sees it, (3, H, W) float32 in -1..1.

    Raises ValueError for an array that is not such a picture.
    """
    values = _rgb(picture).astype(np.float32) * np.float32(2 / 255) - 1
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def _rgb(picture: np.ndarray) -> np.ndarray:
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise ValueError(
            f"the picture is {picture.dtype} of shape {picture.shape}, expected uint8 (height, width, 3): RGB, such as "
            "face.picture.picture_from_array gives"
        )
    return picture
