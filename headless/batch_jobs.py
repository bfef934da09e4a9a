"""Lists of jobs: CSV or JSON lines, one row per run of a workflow, its keys the inputs to set."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .graph import WorkflowError

NAME_COLUMNS = ("name", "id")
"""Columns that name the row's folder instead of setting an input."""

TABLE_SUFFIXES, LINES_SUFFIXES = (".csv", ".tsv"), (".jsonl", ".ndjson")

MAXIMUM_LIST_BYTES = 64 * 2**20
"""A longer list is refused before it is read: 64 MiB are hundreds of thousands of rows."""

MAXIMUM_NAME, MAXIMUM_NAME_BYTES = 100, 200
"""Characters of a row's name, and its bytes in UTF-8: file systems take 255, and unfinished rows have longer names."""

PROBLEMS_SHOWN = 10
"""So many problems of a list are told at once."""

_DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³]) *(\..*)?", re.IGNORECASE)
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""What Windows does not allow in the name of a folder."""


class JobListError(WorkflowError):
    """A list of jobs that cannot be read; its text names the lines and what to change."""


@dataclass(frozen=True)
class JobRow:
    """One row of a list.

    number: its place among the rows, from 1. line: where it begins in the file, from 1. name: of its folder.
    settings: {column: value}. typed: the values are JSON's, from a file of JSON lines; else texts, from a table.
    """

    number: int
    line: int
    name: str
    settings: Mapping[str, Any]
    typed: bool = False


def read_job_list(path: str | Path) -> list[JobRow]:
    """Return the rows of a .csv, .tsv, .jsonl or .ndjson file, UTF-8 with or without a byte order mark.

    A table's first line names the columns, which commas, or else semicolons or tabs, part. Lines without content
    are left out. Rows without a name are called by their number: 0001, 0002, ...
    Raises JobListError for a file that cannot be read or is too long, another encoding, rows with too few or too
    many cells, empty cells, columns that come twice, and names that come twice or cannot name a folder.
    """
    path = Path(path)
    text = _text_of(path)
    if path.suffix.lower() in TABLE_SUFFIXES:
        rows = _table_rows(text, path)
    elif path.suffix.lower() in LINES_SUFFIXES:
        rows = _json_rows(text, path)
    else:
        raise JobListError(
            f"{path} is not a list of jobs by its name: it has to end in {', '.join(TABLE_SUFFIXES + LINES_SUFFIXES)}"
        )
    if not rows:
        raise JobListError(f"{path} holds no rows: the first line of a table only names the columns")
    return _named(rows, path)


def _text_of(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAXIMUM_LIST_BYTES:
            raise JobListError(
                f"{path} has {size / 2**20:.0f} MiB, a list of jobs at most {MAXIMUM_LIST_BYTES >> 20}: split it"
            )
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise JobListError(f"the list of jobs {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise JobListError(
            f"{path} is not UTF-8 (byte {error.start}): save it again as UTF-8, in a spreadsheet as 'CSV UTF-8'"
        ) from error


def _raise_if_any(problems: Sequence[str], path: Path) -> None:
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        shown = "; ".join(problems[:PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise JobListError(f"{path}: {shown}")


_Numbered = list[tuple[int, dict[str, Any]]]
"""(line, {column: value}) of every row."""


def _table_rows(text: str, path: Path) -> _Numbered:
    lines = _table_lines(text, path)
    line, columns = next(lines, (1, []))
    columns = [column.strip() for column in columns]
    _raise_if_any(_column_problems(line, columns), path)
    rows, problems = [], []
    for line, cells in lines:
        problems += _cell_problems(line, columns, cells)
        rows.append((line, dict(zip(columns, cells, strict=False))))
    _raise_if_any(problems, path)
    return rows


def _table_lines(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield where each row with content begins, and its cells. A quoted cell may go over several lines."""
    delimiter = _delimiter(next((line for line in text.splitlines() if line.strip()), ""))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        raise JobListError(
            f"{path}: the row of line {begins} is not CSV ({error}): quotes inside a quoted cell are doubled"
        ) from error


def _delimiter(header: str) -> str:
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _column_problems(line: int, columns: list[str]) -> list[str]:
    problems = [f"line {line}: column {n} has no name" for n, column in enumerate(columns, 1) if not column]
    return problems + [
        f"line {line}: the column {column!r} comes twice" for column in _repeated(columns) if column
    ]


def _repeated(texts: Iterable[str]) -> list[str]:
    texts = list(texts)
    return [text for text in dict.fromkeys(texts) if texts.count(text) > 1]


def _cell_problems(line: int, columns: list[str], cells: list[str]) -> list[str]:
    if len(cells) < len(columns):
        missing = ", ".join(repr(column) for column in columns[len(cells) :])
        return [f"line {line} has {len(cells)} cells of {len(columns)}: {missing} missing"]
    if len(cells) > len(columns):
        return [
            f"line {line} has {len(cells)} cells, the first line {len(columns)} columns: quote cells with commas"
        ]
    return [
        f"line {line}: {column!r} is empty: fill it in, or use a .jsonl list, whose rows may leave keys out"
        for column, cell in zip(columns, cells, strict=True)
        if not cell.strip()
    ]


def _json_rows(text: str, path: Path) -> _Numbered:
    rows, problems = [], []
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=_once_each, parse_constant=_not_json)
            json.dumps(row, ensure_ascii=False, allow_nan=False).encode()  # no 1e999, no half characters
        except (ValueError, RecursionError) as error:
            problems.append(f"line {line} is not JSON ({error})")
            continue
        if not isinstance(row, dict) or not row:
            problems.append(
                f'line {line} is not a JSON object with settings, such as {{"image": "face.jpg"}}'
            )
            continue
        rows.append((line, row))
    _raise_if_any(problems, path)
    return rows


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = _repeated(key for key, _ in pairs)
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} comes twice")
    return dict(pairs)


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _named(rows: _Numbered, path: Path) -> list[JobRow]:
    named, problems = [], []
    digits = max(4, len(str(len(rows))))
    for number, (line, row) in enumerate(rows, 1):
        given = [column for column in NAME_COLUMNS if column in row]
        if len(given) > 1:
            problems.append(f"line {line}: both 'name' and 'id' are given: keep one")
            continue
        name = row[given[0]] if given else f"{number:0{digits}}"
        if not isinstance(name, str) and type(name) is not int:
            problems.append(f"line {line}: the name {json.dumps(name)[:40]} is no text and no whole number")
            continue
        name = str(name).strip()
        problem = problem_with_name(name)
        problems += [f"line {line}: {problem}"] if problem else []
        settings = {column: value for column, value in row.items() if column not in NAME_COLUMNS}
        typed = path.suffix.lower() in LINES_SUFFIXES
        named.append(JobRow(number, line, unicodedata.normalize("NFC", name), settings, typed))
    _raise_if_any(problems + _shared_names(named), path)
    return named


def problem_with_name(name: str) -> str | None:
    """Return why a name cannot be that of a folder on every system; None when it can."""
    if not name or len(name) > MAXIMUM_NAME:
        return f"the name {name[:40]!r} has {len(name)} characters, expected 1 to {MAXIMUM_NAME}"
    size = len(name.encode())
    if size > MAXIMUM_NAME_BYTES:
        return (
            f"the name {name[:40]!r}... has {size} bytes, expected at most {MAXIMUM_NAME_BYTES}: shorten it"
        )
    forbidden = _NOT_IN_NAMES.search(name)
    if forbidden:
        return f"the name {name!r} holds {forbidden[0]!r}, which the name of a folder cannot"
    if name.startswith(".") or name.endswith((".", " ")) or _DEVICE_NAMES.fullmatch(name):
        return f"{name!r} cannot name a folder on every system: choose another"
    return None


def _shared_names(rows: list[JobRow]) -> list[str]:
    first: dict[str, JobRow] = {}
    problems = []
    for row in rows:
        other = first.setdefault(row.name.casefold(), row)
        if other is not row:
            problems.append(f"line {row.line}: the name {row.name!r} is that of line {other.line} too")
    return problems
