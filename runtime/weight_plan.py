"""What is here of the weights, and what fetching a system would bring."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..weights_manifest.checksums import problem_with_file
from ..weights_manifest.lock_record import verified_file
from ..weights_manifest.manifest import (
    EMBEDDED,
    WeightRow,
    alternatives,
    system_names,
    system_rows,
    weight_names,
    weight_row,
)
from .weights import WeightNotFoundError, fetch_folder, find_weight

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightStatus:
    """A manifest row with where its file was found (None: nowhere) and whether its bytes were verified."""

    row: WeightRow
    found: Path | None
    verified: bool


@dataclass(frozen=True)
class FetchPlan:
    """What fetching would do.

    fetch: the rows to fetch, each with its folder. here: rows that are here already. by_hand: rows that a
    person has to get.
    """

    fetch: tuple[tuple[WeightRow, Path], ...]
    here: tuple[WeightStatus, ...]
    by_hand: tuple[WeightRow, ...]

    @property
    def known_bytes(self) -> int:
        """Sum of the sizes that are known."""
        return sum(row.bytes or 0 for row, _ in self.fetch)

    def free_bytes(self) -> dict[Path, int]:
        """Return the free bytes of the disk of every folder that files would go to."""
        return {folder: free_bytes(folder) for folder in dict.fromkeys(folder for _, folder in self.fetch)}


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk a folder is on, or will be on when it is made."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def weight_status(row: WeightRow) -> WeightStatus:
    """Look for a row's file, and whether it is verified: by the record beside it, or, if embedded, by its hash."""
    try:
        path = find_weight(row.name)
    except WeightNotFoundError:
        return WeightStatus(row, None, False)
    if row.source.kind == EMBEDDED:  # ships with its checksum; small enough to be hashed each time
        return WeightStatus(row, path, problem_with_file(path, row) is None)
    entry = verified_file(path)
    return WeightStatus(row, path, entry is not None and row.sha256 in (None, entry.sha256))


def rows_named(names: Sequence[str]) -> tuple[WeightRow, ...]:
    """Return the rows of names or systems, each once. Raises ValueError for what is neither."""
    rows: dict[str, WeightRow] = {}
    for name in names:
        if name not in system_names() and name not in weight_names():
            raise ValueError(
                f"{name!r} is neither a system ({', '.join(system_names())}) nor a row of the weights "
                "manifest (talking-portrait weights list)"
            )
        found = system_rows(name) if name in system_names() else (weight_row(name),)
        rows.update((row.name, row) for row in found)
    return tuple(rows.values())


def plan_fetch(names: Iterable[str], folder: Path | None = None) -> FetchPlan:
    """Plan what to fetch for systems or single rows: what is here is left out.

    Of the layouts in which one model is published, the one that is here counts, else the first that can be
    fetched; a row asked for by its own name is always meant. folder: where to put the files, in place of each
    row's own folder. Raises ValueError for an unknown name.
    """
    names = list(names)
    groups = alternatives(rows_named([name for name in names if name in system_names()]))
    groups += [[[row]] for row in rows_named([name for name in names if name not in system_names()])]
    chosen = [row for layouts in groups for row in _chosen_layout(layouts)]
    statuses = [weight_status(row) for row in dict.fromkeys(chosen)]
    missing = [status.row for status in statuses if status.found is None]
    return FetchPlan(
        fetch=tuple(
            (row, folder or fetch_folder(row)) for row in missing if row.source.kind in ("url", "hub")
        ),
        here=tuple(status for status in statuses if status.found is not None),
        by_hand=tuple(row for row in missing if row.source.kind not in ("url", "hub")),
    )


def with_hub_sizes(plan: FetchPlan) -> FetchPlan:
    """Return the plan with the sizes that only the hub knows; those it refuses to tell stay unknown."""
    return replace(plan, fetch=tuple((_with_hub_size(row), folder) for row, folder in plan.fetch))


def _with_hub_size(row: WeightRow) -> WeightRow:
    from ..weights_manifest.downloading import FetchError
    from ..weights_manifest.hub import hub_file

    if row.bytes is not None or row.source.kind != "hub":
        return row
    try:
        return replace(row, bytes=hub_file(row).bytes)
    except FetchError as error:
        logger.warning("%s", error)
        return row


def require_disk_space(plan: FetchPlan) -> None:
    """Raise ValueError when the known sizes of a plan do not fit on the disk of a folder they go to."""
    for folder, free in plan.free_bytes().items():
        wanted = sum(row.bytes or 0 for row, place in plan.fetch if place == folder)
        if wanted > free:
            raise ValueError(
                f"nothing was fetched: {wanted} bytes do not fit on the disk of {folder}, which has {free} free; "
                "make room, or name another folder with --to"
            )


def _chosen_layout(layouts: list[list[WeightRow]]) -> list[WeightRow]:
    for rows in layouts:
        if all(weight_status(row).found for row in rows):
            return rows
    fetchable = [rows for rows in layouts if all(row.source.kind in ("url", "hub") for row in rows)]
    return (fetchable or layouts)[0]
