"""Pictures from files and arrays, always as (H, W, 3) uint8 RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

BACKGROUND = (128, 128, 128)
"""Transparent parts of a picture are laid over neutral grey, which suits dark and light hair alike."""
_GREATEST_EXCESS = 2.0
"""Float pictures may overshoot 1 a little after resampling; beyond this they are in another range."""


def load_picture(path: str | Path) -> np.ndarray:
    """Read a picture file of any kind Pillow reads as (H, W, 3) uint8 RGB.

    EXIF orientation is applied, transparency is laid over neutral grey, 16-bit and float pictures are scaled
    to 8 bit, palettes and CMYK are converted; of an animation the first frame is taken.
    Raises FileNotFoundError or another OSError when the file cannot be read, ValueError when it is not a
    picture, is damaged, or is too large to be one.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a picture: give a PNG, JPEG, WebP, TIFF or the like") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large to be a picture: {error}") from error
    except (SyntaxError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's own error says it best
        raise ValueError(f"{path} is a damaged picture: {error}") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        # Pillow opens 16-bit grey as "I" too, depending on the format and its version.
        grey = values if values.max(initial=0) <= 255 and image.mode == "I" else values / 257
        return _grey_to_rgb(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    if image.mode == "F":
        return picture_from_array(np.asarray(image))
    if "A" in image.getbands() or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return np.array(image.convert("RGB"))


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def picture_from_array(values: np.ndarray) -> np.ndarray:
    """Return an array as a picture, (H, W, 3) uint8 RGB that shares nothing with it.

    values: (H, W), or (H, W, C) with C 1 (grey), 3 (RGB) or 4 (RGBA, laid over neutral grey); float 0..1 as
    in ComfyUI's IMAGE, uint8 0..255 or uint16 0..65535.
    Raises ValueError for another shape or type, no pixels, NaN or infinity, or floats in another range.
    """
    values = np.asarray(values)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"a picture is (height, width) or (height, width, 1, 3 or 4), but this array is {values.shape}"
        )
    if 0 in values.shape:
        raise ValueError(f"the picture has no pixels: {values.shape[1]} x {values.shape[0]}")
    unit = _to_unit_range(values)
    if values.shape[2] == 4:
        alpha = unit[..., 3:]
        unit = unit[..., :3] * alpha + np.array(BACKGROUND, np.float32) / 255 * (1 - alpha)
    picture = np.rint(unit * 255).astype(np.uint8)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def _to_unit_range(values: np.ndarray) -> np.ndarray:
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(np.float32) / np.iinfo(values.dtype).max
    if values.dtype.kind != "f":
        raise ValueError(
            f"a picture holds float, uint8 or uint16 values, but this array holds {values.dtype}"
        )
    if not np.isfinite(values).all():
        raise ValueError("the picture holds NaN or infinity")
    if values.max() > _GREATEST_EXCESS or values.min() < -1:
        raise ValueError(
            f"float pictures range over 0..1, but this one over {values.min():g}..{values.max():g}: "
            "divide by its white value first"
        )
    return np.clip(values.astype(np.float32), 0, 1)
