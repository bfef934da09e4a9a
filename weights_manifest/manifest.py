"""The manifest of weight files: one row per published file, kept in manifest.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

NoneType = type(None)

MANIFEST_FILE = Path(__file__).with_name("manifest.json")
PACKAGE_FOLDER = Path(__file__).resolve().parent.parent

EMBEDDED = "embedded"
"""The kind of source of weights that ship inside this package."""

SOURCE_KEYS: dict[str, frozenset[str]] = {
    "url": frozenset({"url"}),
    "hub": frozenset({"repository", "revision", "file"}),
    EMBEDDED: frozenset({"path"}),
    "manual": frozenset({"instructions"}),
}
"""Where a file comes from: an address, a Hugging Face repository, this package, or a person's own hands."""


@dataclass(frozen=True)
class WeightSource:
    """Where a weight file comes from; which fields are set depends on `kind`, one of SOURCE_KEYS.

    url: address to fetch. repository, revision, file: on the Hugging Face hub. path: inside this package.
    instructions: what a person has to do.
    """

    kind: str
    url: str | None = None
    repository: str | None = None
    revision: str | None = None
    file: str | None = None
    path: str | None = None
    instructions: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in SOURCE_KEYS:
            raise ValueError(f"unknown kind of source {self.kind!r}; known: {', '.join(sorted(SOURCE_KEYS))}")
        given = {field.name for field in fields(self) if getattr(self, field.name) is not None} - {"kind"}
        if given != SOURCE_KEYS[self.kind]:
            wanted = ", ".join(sorted(SOURCE_KEYS[self.kind]))
            raise ValueError(
                f"a source of kind {self.kind!r} has the fields {wanted}; got {', '.join(sorted(given))}"
            )


_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "system", "role", "file", "licence", "layout", "comfyui_folder"), (str,)),
    **dict.fromkeys(("non_commercial", "gated"), (bool,)),
    "bytes": (int, NoneType),
    "sha256": (str, NoneType),
    "other_names": (tuple,),
}


@dataclass(frozen=True)
class WeightRow:
    """One published weight file.

    name: how code asks for it. system: which system it belongs to. role: what it is, in words; rows of one
    system and role that differ in layout hold the same model, and one layout of them is enough.
    file: its path below a models folder, with forward slashes. source: where it comes from.
    bytes, sha256: its size and checksum, None where not known.
    licence: SPDX identifier or words. non_commercial, gated: restrictions to show to the user.
    layout: how its content is laid out, which decides how it is loaded.
    comfyui_folder: the folder under ComfyUI's models it belongs in.
    other_names: paths under which other packs keep the same file, below that folder or below models.
    Raises ValueError, naming the row and the field, for a value of the wrong type or range.
    """

    name: str
    system: str
    role: str
    file: str
    source: WeightSource
    bytes: int | None
    sha256: str | None
    licence: str
    non_commercial: bool
    gated: bool
    layout: str
    comfyui_folder: str
    other_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, kinds in _FIELD_TYPES.items():
            value = getattr(self, name)
            if type(value) not in kinds or value == "":
                expected = " or ".join(kind.__name__ for kind in kinds).replace("NoneType", "null")
                raise ValueError(f"weight {self.name!r}: {name} is {value!r}, expected {expected}")
        if not all(isinstance(name, str) and name for name in self.other_names):
            raise ValueError(f"weight {self.name!r}: other_names is {self.other_names!r}, expected texts")
        if any(PurePosixPath(path).is_absolute() or ".." in path.split("/") for path in self.file_names):
            raise ValueError(f"weight {self.name!r}: {self.file_names} leads out of the models folder")
        if self.bytes is not None and self.bytes <= 0:
            raise ValueError(f"weight {self.name!r}: bytes is {self.bytes}, expected a positive number")
        if self.sha256 is not None and (len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef")):
            raise ValueError(
                f"weight {self.name!r}: sha256 is {self.sha256!r}, expected 64 lower-case hex digits"
            )

    @property
    def file_names(self) -> tuple[str, ...]:
        """All names the file may have in a models folder, our own first."""
        return (self.file, *self.other_names)


def parse_row(content: Mapping[str, Any]) -> WeightRow:
    """Return a manifest row from its JSON object. Raises ValueError for unknown or missing fields."""
    if not isinstance(content, Mapping):
        raise ValueError(f"a manifest row is an object, got {content!r}")
    known = {field.name for field in fields(WeightRow)}
    label = content.get("name", "without a name")
    for problem, names in (("has unknown", set(content) - known), ("lacks the", known - set(content))):
        if names:
            raise ValueError(f"manifest row {label!r} {problem} field(s) {', '.join(sorted(names))}")
    try:
        source = WeightSource(**content["source"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"manifest row {label!r}: {error}") from error
    other_names = content["other_names"]
    if not isinstance(other_names, list):
        raise ValueError(f"manifest row {label!r}: other_names is {other_names!r}, expected a list")
    return WeightRow(**{**content, "source": source, "other_names": tuple(other_names)})


def read_manifest(path: Path = MANIFEST_FILE) -> dict[str, WeightRow]:
    """Return the rows by name. Raises ValueError for a damaged manifest or a name that occurs twice."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [parse_row(row) for row in content["rows"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read the weights manifest {path}: {error}") from error
    by_name = {row.name: row for row in rows}
    if len(by_name) < len(rows):
        raise ValueError(f"the weights manifest {path} has two rows of one name")
    return by_name


def read_systems(path: Path = MANIFEST_FILE) -> dict[str, tuple[str, ...]]:
    """Return, by system, the systems of the rows it stands on, its own first.

    A system that is not listed in the manifest stands on its own rows alone.
    Raises ValueError for a damaged manifest, or a part that has no rows.
    """
    own = dict.fromkeys(row.system for row in read_manifest(path).values())
    systems = {system: (system,) for system in own}
    listed = json.loads(path.read_text(encoding="utf-8")).get("systems", {})
    for system, parts in listed.items():
        unknown = [part for part in parts if part not in own]
        if unknown:
            raise ValueError(
                f"the weights manifest {path}: system {system!r} stands on {', '.join(unknown)}, which has no rows"
            )
        systems[system] = tuple(parts)
    return systems


@cache
def _shipped_manifest() -> dict[str, WeightRow]:
    return read_manifest()


@cache
def _shipped_systems() -> dict[str, tuple[str, ...]]:
    return read_systems()


def weight_names() -> tuple[str, ...]:
    """Return the names of all rows."""
    return tuple(_shipped_manifest())


def system_names() -> tuple[str, ...]:
    """Return the names of all systems."""
    return tuple(_shipped_systems())


def weight_row(name: str) -> WeightRow:
    """Return the manifest row of that name. Raises ValueError, listing the names, when there is none."""
    rows = _shipped_manifest()
    if name not in rows:
        raise ValueError(f"no weight is called {name!r}; the manifest knows {', '.join(rows)}")
    return rows[name]


def system_rows(system: str) -> tuple[WeightRow, ...]:
    """Return the rows a system stands on, its own first. Raises ValueError, listing the systems, for another."""
    systems = _shipped_systems()
    if system not in systems:
        raise ValueError(f"no system is called {system!r}; the manifest knows {', '.join(systems)}")
    rows = _shipped_manifest().values()
    return tuple(row for part in systems[system] for row in rows if row.system == part)


def alternatives(rows: Iterable[WeightRow]) -> list[list[list[WeightRow]]]:
    """Return rows grouped: for every role, its layouts in order of preference; for every layout, its rows."""
    roles: dict[tuple[str, str], dict[str, list[WeightRow]]] = {}
    for row in rows:
        roles.setdefault((row.system, row.role), {}).setdefault(row.layout, []).append(row)
    return [list(layouts.values()) for layouts in roles.values()]
