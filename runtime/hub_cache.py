"""Files that the Hugging Face hub's library has already fetched for other programs, read without the library.

Layout: HUB/models--OWNER--NAME/refs/REVISION holds a commit, HUB/models--.../snapshots/COMMIT/FILE the file.
"""

from __future__ import annotations

import os
from pathlib import Path


def hub_cache_folder() -> Path:
    """Return the hub's cache folder: HF_HUB_CACHE, else HF_HOME/hub, else the user cache's huggingface/hub."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache") / "huggingface" / "hub"


def cached_hub_file(repository: str, file: str, revision: str = "main") -> Path | None:
    """Return the path of a file of a hub repository in the cache, None when it is not there."""
    folder = hub_cache_folder() / f"models--{repository.replace('/', '--')}"
    commit = revision
    reference = folder / "refs" / revision
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    path = folder / "snapshots" / commit / file
    return path if path.is_file() else None
