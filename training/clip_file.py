"""What all clip files of training have in common: safetensors, read in parts, whose numbers are finite."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def opened_clip_file(path: Path):
    """Return a safetensors file, opened for numpy, to be used in a `with`.

    Raises OSError, and ValueError for a file that is damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(os.fspath(path), framework="numpy")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): delete it and extract it again"
        ) from error


def require_finite(values: np.ndarray, part: str, name: str) -> None:
    """Raise ValueError that names a clip's part, for NaN or infinity in an array of any shape."""
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(
            f"{name}: {part} holds NaN or infinity ({int(bad.sum())} of {bad.size} numbers): extract the clip again, "
            "or take the file out of the folder"
        )
