"""Small pictures of what a row saved."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

THUMBNAIL_SIZE = 160
"""Longest side in pixels."""
THUMBNAIL_QUALITY = 75
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")


def write_thumbnail(files: Sequence[Path], target: Path) -> bool:
    """Write a JPEG of the first of some files that is a video, its first frame, or else a picture.

    Returns False, and writes nothing, when there is none or it cannot be read: a report is no reason to fail.
    """
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    pictures = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]
    for file in (*videos[:1], *pictures[:1]):
        try:
            picture = first_frame(file) if file in videos else _opened(file)
            picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
            _over_white(picture).save(target, "JPEG", quality=THUMBNAIL_QUALITY)
            return True
        except Exception as error:  # noqa: BLE001 - decoders raise what they like
            logger.warning("no thumbnail of %s: %s", file, error)
            with contextlib.suppress(OSError):
                target.unlink(missing_ok=True)
    return False


def first_frame(video: Path) -> Image:
    """Return the first frame of a video file."""
    import av

    with av.open(str(video)) as container:
        return next(container.decode(video=0)).to_image()


def _opened(path: Path) -> Image:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        return picture.copy()


def _over_white(picture: Image) -> Image:
    from PIL import Image

    if "A" not in picture.getbands():
        return picture.convert("RGB")
    base = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(base, picture.convert("RGBA")).convert("RGB")
