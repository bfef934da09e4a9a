"""The parts of a published model, each of which comes in several layouts: found, fetched, or explained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..weights_manifest.manifest import WeightRow, alternatives, weight_names, weight_row
from .weight_files import SYSTEM_NAMES, first_found, share_of_the_bar, where_from
from .weights import WeightNotFoundError, fetch_weight

FETCHABLE = ("url", "hub")
"""Kinds of sources that a file can be fetched from."""


@dataclass(frozen=True)
class FoundPart:
    """The files of a part that are here. layout: how they are laid out, as the manifest calls it. paths: in order."""

    layout: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class _Layout:
    """A layout of a part. found: the path of each of its rows that is here. damaged: what was not taken."""

    rows: tuple[WeightRow, ...]
    found: Mapping[str, Path]
    damaged: tuple[str, ...]

    @property
    def missing(self) -> tuple[WeightRow, ...]:
        return tuple(row for row in self.rows if row.name not in self.found)

    @property
    def fetchable(self) -> bool:
        return all(row.source.kind in FETCHABLE for row in self.missing)

    def as_part(self, paths: Mapping[str, Path]) -> FoundPart:
        return FoundPart(self.rows[0].layout, tuple(paths[row.name] for row in self.rows))


def found_parts(
    parts: Mapping[str, str],
    system: str,
    loader: str,
    advice: str,
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, FoundPart]:
    """Return {part: its files}, each in the first layout that is here whole.

    parts: {part: a row of it}; rows of the same system and role are its other layouts, or its other shards. system:
    what to fetch to have all of them. loader: the node that loads them, which has a switch 'download_if_missing'.
    advice: what else can be done, one sentence without its full stop. download: fetch what is missing, in the layout of
    which most is here.
    Raises WeightNotFoundError (an OSError) that names every missing file of that layout, where it comes from, where it
    belongs, and the command that fetches it.
    """
    searched = {part: _layouts(weight_row(row)) for part, row in parts.items()}
    whole = {
        part: next((one for one in layouts if not one.missing), None) for part, layouts in searched.items()
    }
    wanted = {part: _nearest(layouts) for part, layouts in searched.items() if whole[part] is None}
    found = {part: one.as_part(one.found) for part, one in whole.items() if one is not None}
    if wanted and not (download and all(layout.fetchable for layout in wanted.values())):
        raise _not_found(searched, wanted, system, loader, advice)
    rows = [row for layout in wanted.values() for row in layout.missing]
    fetched = {
        row.name: fetch_weight(row.name, share_of_the_bar(progress, index, len(rows)))
        for index, row in enumerate(rows)
    }
    found |= {part: layout.as_part({**layout.found, **fetched}) for part, layout in wanted.items()}
    return {part: found[part] for part in parts}


def _layouts(of: WeightRow) -> list[_Layout]:
    rows = [row for row in map(weight_row, weight_names()) if (row.system, row.role) == (of.system, of.role)]
    (layouts,) = alternatives(rows)
    return [_searched(layout) for layout in layouts]


def _searched(rows: Iterable[WeightRow]) -> _Layout:
    rows, found, damaged = tuple(rows), {}, []
    for row in rows:
        path, lines = first_found((row.name,))
        damaged += lines
        if path is not None:
            found[row.name] = path
    return _Layout(rows, found, tuple(damaged))


def _nearest(layouts: list[_Layout]) -> _Layout:
    """Return the layout of which most files are here; of none, the first that can be fetched."""
    return max(layouts, key=lambda one: (len(one.found), one.fetchable))


def _not_found(
    searched: Mapping[str, list[_Layout]],
    wanted: Mapping[str, _Layout],
    system: str,
    loader: str,
    advice: str,
) -> WeightNotFoundError:
    lines = [
        f"{_lack(part, layout)}\n{where_from(layout.missing)}\n  {_others(searched[part], layout)}"
        for part, layout in wanted.items()
    ]
    damaged = [line for part in wanted for layout in searched[part] for line in layout.damaged]
    return WeightNotFoundError(
        f"{SYSTEM_NAMES[system]}'s files are not on this computer; missing are\n"
        + "\n".join(lines)
        + f"\n'talking-portrait weights fetch {system}', or 'download_if_missing' in {loader}, fetches what can be "
        + f"fetched.{''.join(f' {line}.' for line in damaged)} {advice}",
        damaged,
    )


def _lack(part: str, layout: _Layout) -> str:
    if not layout.found:
        return f"the {part}:"
    return f"the {part}, of which {len(layout.found)} of {len(layout.rows)} files are here:"


def _others(layouts: list[_Layout], chosen: _Layout) -> str:
    names = [
        row.file if len(one.rows) == 1 else f"{row.file} and its {len(one.rows) - 1} further shards"
        for one in layouts
        if one is not chosen
        for row in one.rows[:1]
    ]
    return f"(or {'; or '.join(names)})" if names else "(there is no other form of it)"
