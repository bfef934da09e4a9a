"""Made clips as .npz files of stacked arrays, and the checks that their dataclasses share."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core_models.whole_file import renamed_when_whole
from .clip_file import require_finite


def read_only(array: np.ndarray) -> np.ndarray:
    """Return the array itself, which can no longer be written to."""
    array.setflags(write=False)
    return array


def keep_arrays(clip: Any, expected: Mapping[str, tuple[type, tuple]], name: str) -> None:
    """Make sure that a frozen clip's arrays are what they should be, and read-only; those that are not are copied.

    expected: dtype and shape of each field. name: of the clip, for errors.
    Raises ValueError for another dtype or shape, NaN or infinity.
    """
    for field, (dtype, shape) in expected.items():
        values = getattr(clip, field)
        if values.shape != shape or values.dtype != dtype:
            raise ValueError(
                f"{type(clip).__name__}.{field} is {values.dtype} {values.shape}, expected {np.dtype(dtype)} {shape}"
            )
        require_finite(values, field, name)
        if values.flags.writeable:
            object.__setattr__(clip, field, read_only(values.copy()))


def require_boxes(owner: str, boxes: np.ndarray, size: int) -> None:
    """Raise ValueError unless boxes (..., 4) of left, top, right, bottom hold something and lie in a square picture.

    owner: what is said to hold them. size: of the picture in pixels.
    """
    for left, top, right, bottom in boxes.reshape(-1, 4).tolist():
        if not (0 <= left < right <= size and 0 <= top < bottom <= size):
            raise ValueError(
                f"{owner} is {[left, top, right, bottom]}, expected left < right and top < bottom in 0..{size}"
            )


def write_clip_archive(
    path: Path,
    kind: str,
    clips: Iterable[Any],
    names: Sequence[str],
    more: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write clips of one length as one .npz of stacked arrays, not compressed, whole or not at all.

    kind: what the file says it is. names: fields of the clips. more: arrays of the file as a whole.
    Raises ValueError for no clip, clips of several lengths or another suffix; OSError when it cannot be written.
    """
    kept = list(clips)
    if path.suffix.lower() != ".npz":
        raise ValueError(f"clips are written as .npz, but the name is {path.name!r}")
    lengths = sorted({len(clip) for clip in kept})
    if len(lengths) != 1:
        raise ValueError(f"a file holds clips of one length, but these have {lengths or 'none'} frames")
    arrays = {name: np.stack([getattr(clip, name) for clip in kept]) for name in names}
    with renamed_when_whole(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, kind=np.array(kind), **arrays, **(more or {}))


def read_clip_archive(path: Path, kind: str, names: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """Return a file's arrays, read-only. names: of those that are wanted. what: such files hold, for errors.

    Raises FileNotFoundError, and ValueError for a file that is damaged or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of clips {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "kind" not in archive or str(archive["kind"]) != kind:
                raise ValueError("its kind is another")
            return {name: read_only(archive[name]) for name in names}
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole file of {what} ({error}): make it again") from error
