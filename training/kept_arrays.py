"""Arrays that take long to make: made once, and kept in a file for as long as what they are made of stays the same."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from ..core_models.whole_file import renamed_when_whole

logger = logging.getLogger(__name__)


def kept_arrays(
    path: Path, kind: str, digest: str, names: Sequence[str], make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return arrays by name: read from a file, or made and written there, whole or not at all.

    kind: what such files say they are. digest: of all that the arrays are made of; a file with another one, or a
    damaged one, is written anew. Raises what `make` raises, and OSError when the file cannot be written.
    """
    kept = _read(path, kind, digest, names)
    if kept is not None:
        return kept
    made = dict(make())
    with renamed_when_whole(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, kind=np.array(kind), digest=np.array(digest), **made)
    return made


def _read(path: Path, kind: str, digest: str, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["kind"]) == kind and str(archive["digest"]) == digest:
                return {name: archive[name] for name in names}
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s cannot be read (%s): it is made anew", path, error)
        return None
    logger.info("%s is of other clips or another autoencoder: it is made anew", path)
    return None


def network_digest(network: nn.Module, begin: str = "") -> str:
    """Return a SHA-256 of a text and a network's weights."""
    digest = hashlib.sha256(begin.encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
