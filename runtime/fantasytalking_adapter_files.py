"""The files of FantasyTalking's published audio weights: their forms, the chosen one, and whether it changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..weights_manifest.manifest import weight_row
from .input_files import file_fingerprint
from .weight_files import first_found
from .weights import fetch_weight, find_weight

AUTOMATIC = "automatic"
ADAPTER_ROWS: tuple[str, ...] = ("fantasytalking", "fantasytalking_safetensors", "fantasytalking_kijai_fp16")
"""The forms of the published audio weights."""


def adapter_choices() -> list[str]:
    """Return what can be chosen as FantasyTalking's weights: what belongs to the Wan, or a published form by name."""
    return [AUTOMATIC, *(weight_row(name).file for name in ADAPTER_ROWS)]


def require_adapter_choice(choice: str) -> None:
    """Raise ValueError for what is not one of `adapter_choices`."""
    if choice not in adapter_choices():
        raise ValueError(
            f"there are no audio weights {choice!r}; choose one of {', '.join(adapter_choices())}"
        )


def chosen_adapter(
    choice: str,
    find: Callable[[], Path],
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return the file of one of `adapter_choices`. find: gives the one that is taken by "automatic".

    download: fetch another that is missing. Raises WeightNotFoundError (an OSError) that says where it comes from, what
    `find` raises, and ValueError for another choice.
    """
    require_adapter_choice(choice)
    if choice == AUTOMATIC:
        return find()
    (name,) = _rows(choice)
    return fetch_weight(name, progress) if download else find_weight(name)


def adapter_stamp(choice: str) -> str:
    """Return a text that changes when one of the files that a choice may take is replaced, appears or goes."""
    found = (first_found((name,))[0] for name in _rows(choice))
    return "".join("-" if path is None else file_fingerprint(path) for path in found)


def _rows(choice: str) -> tuple[str, ...]:
    return tuple(name for name in ADAPTER_ROWS if choice in (AUTOMATIC, weight_row(name).file))
