"""Files that nodes load: what the user put into the input folder, and the demo's own."""

from __future__ import annotations

import hashlib
import mimetypes
import os
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


class ForbiddenPathError(PermissionError):
    """A workflow names a file that lies outside of the folders it may read, and the user did not name it."""


def input_files(*kinds: str) -> list[str]:
    """Return the names of the files in the host's input folder, sorted; kinds: "image", "audio", "video".

    Links that lead out of the folders a workflow may read are left out.
    """
    folder = host().input_folder
    if not folder.is_dir():
        return []
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and _kind(path) in kinds and not (path.is_symlink() and not _may_be_read(path))
    )


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    content_type = _MORE_TYPES.get(suffix) or mimetypes.guess_type(f"file{suffix}")[0] or ""
    return content_type.partition("/")[0]


def input_path(name: str) -> Path:
    """Return the path of a file that a workflow names: in the input folder, or a whole path into one of the others.

    As in ComfyUI, a name may end in " [output]" or " [temp]" to mean another of the host's folders. A file outside
    of the input, output and temporary folders, links followed, is given only where the user named that very file
    (`StandaloneHost.using_files`) and for those that this package brings, so that a shared workflow reads nothing
    else of the computer.
    Raises ForbiddenPathError (an OSError) for such a file, FileNotFoundError when there is no such file.
    """
    folders = {"input": host().input_folder, "output": host().output_folder, "temp": host().temp_folder}
    folder = folders["input"]
    for kind, candidate in folders.items():
        if name.endswith(f" [{kind}]"):
            name, folder = name.removesuffix(f" [{kind}]"), candidate
    path = Path(folder, name)
    if not _may_be_read(path):
        raise ForbiddenPathError(_forbidden(name, f"the input, output and temporary folders ({folder})"))
    if not name or not _is_file(path):
        raise FileNotFoundError(
            f"there is no file {name!r} in the folder {folder}: upload it, or choose another"
        )
    return path


def text_validity(name: str | None) -> bool | str:
    """Return True, or why a file that a text names cannot be read, for a node's VALIDATE_INPUTS.

    An empty text names none. A linked one arrives as None and is checked when the node runs.
    """
    if name is None or not name.strip():
        return True
    try:
        input_path(name.strip())
    except OSError as error:
        return str(error)
    return True


def named_model_path(name: str, kind: str) -> Path:
    """Return the path of a model's file or folder that a workflow names: below a models folder, or where files may be.

    kind: whose folders are searched, such as "diffusion_models". A models folder may hold links to other places; `..`
    does not lead out of it. What the user named (`StandaloneHost.using_files`) may lie anywhere.
    Raises ForbiddenPathError (an OSError) for a path outside of these, FileNotFoundError when there is nothing.
    """
    folders = [Path(os.path.normpath(folder)) for folder in host().model_folders(kind)]
    given = Path(name).expanduser()
    places = [Path(os.path.normpath(folder / given)) for folder in (*folders, Path.cwd())]
    allowed = [
        place
        for place in places
        if any(place.is_relative_to(folder) for folder in folders) or _may_be_read(place)
    ]
    if not allowed:
        raise ForbiddenPathError(_forbidden(name, f"the models folders ({', '.join(map(str, folders))})"))
    found = next((place for place in allowed if _exists(place)), None)
    if found is None:
        raise FileNotFoundError(
            f"there is no weight file {name} in {', '.join(map(str, folders))}: put it there, or choose another"
        )
    return found


def _may_be_read(path: Path) -> bool:
    """Say whether a workflow may read a path: links followed, in one of its folders or named by the user."""
    owner = host()
    folders = (owner.input_folder, owner.output_folder, owner.temp_folder, DEMO_FOLDER)
    target = _resolved(path)
    return target in getattr(owner, "allowed_files", ()) or any(
        target.is_relative_to(folder.resolve()) for folder in folders
    )


def _resolved(path: Path) -> Path:
    """Return a path with its links followed. Raises FileNotFoundError for one that no system could have."""
    try:
        return path.resolve()
    except (ValueError, RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"{str(path)!r} is not the path of a file ({error}): choose another"
        ) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the system takes
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _forbidden(name: str, folders: str) -> str:
    """Return why a file is not read, and what to do."""
    way = "put it there" if host().in_comfyui else "put it there, or name it yourself with --set or --inputs"
    return f"{name!r} lies outside of {folders}, and a workflow may read nothing else: {way}"


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
