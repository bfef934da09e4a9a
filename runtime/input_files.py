"""Files that nodes load: what the user put into the input folder, and the demo's own."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING

from ..weights_manifest.manifest import PACKAGE_FOLDER
from .host import host

if TYPE_CHECKING:
    import numpy as np

DEMO_FOLDER = PACKAGE_FOLDER / "workflows" / "assets"
DEMO_LANDMARKS_FILE = DEMO_FOLDER / "astronaut.landmarks.json"
DEMO_HEAD_FILE = DEMO_FOLDER / "made_head.png"
DEMO_SPEECH_FILE = DEMO_FOLDER / "demo_speech.wav"
DEMO_DRIVING_FILE = DEMO_FOLDER / "demo_driving.mp4"

_MORE_TYPES = {".webp": "image/webp", ".flac": "audio/flac", ".opus": "audio/ogg", ".mkv": "video/x-matroska"}
"""Suffixes that some systems do not know."""


def input_files(*kinds: str) -> list[str]:
    """Return the names of the files in the host's input folder, sorted; kinds: "image", "audio", "video"."""
    folder = host().input_folder
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_file() and _kind(path) in kinds)


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    content_type = _MORE_TYPES.get(suffix) or mimetypes.guess_type(f"file{suffix}")[0] or ""
    return content_type.partition("/")[0]


def input_path(name: str) -> Path:
    """Return the path of a file named by a loader: in the input folder, or anywhere by an absolute path.

    As in ComfyUI, a name may end in " [output]" or " [temp]" to mean another of the host's folders.
    Raises FileNotFoundError when there is no such file.
    """
    folders = {"input": host().input_folder, "output": host().output_folder, "temp": host().temp_folder}
    folder = folders["input"]
    for kind, candidate in folders.items():
        if name.endswith(f" [{kind}]"):
            name, folder = name.removesuffix(f" [{kind}]"), candidate
    path = Path(folder, name).expanduser()
    if not name or not path.is_file():
        raise FileNotFoundError(
            f"there is no file {name!r} in the folder {folder}: upload it, or choose another"
        )
    return path


def landmarks_beside(picture: Path) -> Path | None:
    """Return the landmarks file beside a picture, photo.landmarks.json beside photo.jpg, or None."""
    path = picture.with_name(f"{picture.stem}.landmarks.json")
    return path if path.is_file() else None


def file_fingerprint(path: Path) -> str:
    """Return a text that changes when the file is replaced or edited: its path, size and time of change."""
    status = path.stat()
    return hashlib.sha256(f"{path}|{status.st_size}|{status.st_mtime_ns}".encode()).hexdigest()


def demo_portrait() -> tuple[np.ndarray, Path]:
    """Return the demo portrait, (512, 512, 3) uint8 RGB, and the path of its landmarks file.

    The picture is NASA's photograph of Eileen Collins, in the public domain, as scikit-image ships it.
    Raises ValueError when scikit-image is not installed.
    """
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise ValueError(
            "the demo portrait comes with scikit-image, which is not installed: pip install scikit-image, or "
            "choose a picture of your own"
        ) from error
    return astronaut(), DEMO_LANDMARKS_FILE


def demo_head() -> tuple[np.ndarray, Path]:
    """Return the made head that small models trained here know, (256, 256, 3) uint8 RGB, and its landmarks' path."""
    from ..core_models.face.picture import load_picture

    return load_picture(DEMO_HEAD_FILE), DEMO_HEAD_FILE.with_name(f"{DEMO_HEAD_FILE.stem}.landmarks.json")
