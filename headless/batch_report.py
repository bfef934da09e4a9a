"""The report of a batch: report.jsonl for programs, report.html for people, which needs nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..core_models.whole_file import renamed_when_whole
from .batch_folder import REPORT_LINES, REPORT_PAGE, THUMBNAIL_FILE
from .batch_run import EARLIER, FINISHED, GOOD, NOT_RUN, RowResult

LONGEST_VALUE, LONGEST_ERROR = 200, 2000
"""Characters of a setting and of an error on the page; report.jsonl has all of them."""

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --good: #2a8a4a; --bad: #c33; }
@media (prefers-color-scheme: dark) { :root { --soft: #9a9a9a; --good: #5cc17e; --bad: #ff7b72; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 80rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { margin: .2rem 0 1.2rem; color: var(--soft); }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: .55rem .7rem; border-top: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; }
td.picture { width: 160px; }
td.name { min-width: 7rem; }
td.files { min-width: 15rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
img { display: block; max-width: 160px; max-height: 160px; border-radius: 4px; }
dl { display: grid; grid-template-columns: fit-content(12rem) 1fr; gap: 0 .7rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 8rem; white-space: pre-wrap; }
ul { list-style: none; margin: 0; padding: 0; }
.status { white-space: nowrap; font-weight: 600; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.none { color: var(--soft); }
.error { color: var(--bad); margin-top: .3rem; white-space: pre-wrap; }
@media (max-width: 56rem) {
  table, tbody, tr, td { display: block; }
  thead { display: none; }
  tr { border-top: 1px solid var(--line); padding: .6rem 0; }
  td, td.picture { border: 0; padding: .15rem 0; width: auto; }
  td:empty { display: none; }
  td.number { text-align: left; }
  td.number:not(:empty)::after { content: " s"; }
}
"""


@dataclass(frozen=True)
class ReportHead:
    """What stands above the rows.

    title: what ran, such as the workflow's name. seconds: how long the whole batch took. interrupted: it was stopped.
    """

    title: str
    seconds: float
    interrupted: bool = False


def write_report(folder: Path, head: ReportHead, results: Sequence[RowResult]) -> Path:
    """Write report.jsonl and report.html into a batch's folder and return the path of the latter."""
    with renamed_when_whole(folder / REPORT_LINES) as unfinished:
        unfinished.write_text("".join(json.dumps(row_entry(r)) + "\n" for r in results), encoding="utf-8")
    page = folder / REPORT_PAGE
    with renamed_when_whole(page) as unfinished:
        unfinished.write_text(report_page(folder, head, results), encoding="utf-8")
    return page


def row_entry(result: RowResult) -> dict[str, Any]:
    """Return a row's line of report.jsonl; `files` are relative to the batch's folder."""
    row = result.job.row
    return {
        "number": row.number,
        "line": row.line,
        "name": row.name,
        "status": result.status,
        "settings": dict(row.settings),
        "files": [f"{row.name}/{file}" for file in result.files],
        "seconds": round(result.seconds, 3),
        "attempts": result.attempts,
        "worker": result.worker or None,
        "error": result.error,
    }


def report_page(folder: Path, head: ReportHead, results: Sequence[RowResult]) -> str:
    """Return report.html: one row each with a thumbnail, settings, status, seconds and links to what it saved."""
    title = html.escape(head.title)
    rows = "\n".join(_table_row(folder, result) for result in results)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>{html.escape(summary_line(head, results))}</p>
<table>
<thead>
<tr><th></th><th>Row</th><th>Status</th><th class="number">Seconds</th><th>Settings</th><th>Files</th></tr>
</thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def summary_line(head: ReportHead, results: Sequence[RowResult]) -> str:
    """Return how many rows ended in which way, how long it took, and when that was."""
    statuses = [result.status for result in results]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    stopped = "stopped; " if head.interrupted else ""
    when = time.strftime("%Y-%m-%d %H:%M")
    return f"{stopped}{len(results)} rows: {counts} · {_duration(head.seconds)} · {when}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min"
        if hours
        else f"{minutes} min {rest:02} s"
        if minutes
        else f"{seconds:.1f} s"
    )


def _table_row(folder: Path, result: RowResult) -> str:
    row = result.job.row
    mark = "good" if result.status in GOOD else "none" if result.status == NOT_RUN else "bad"
    again = f"<br>{result.attempts} attempts" if result.attempts > 1 else ""
    error = (
        f'<div class="error">{html.escape(_shortened(result.error, LONGEST_ERROR))}</div>'
        if result.error
        else ""
    )
    seconds = f"{result.seconds:.1f}" if result.status in (FINISHED, EARLIER) else ""
    return (
        f'<tr><td class="picture">{_thumbnail(folder / row.name, result)}</td>'
        f'<td class="name">{html.escape(row.name)}</td>'
        f'<td><span class="status {mark}">{result.status}</span>{again}</td><td class="number">{seconds}</td>'
        f'<td>{_settings(row.settings)}{error}</td><td class="files">{_links(row.name, result.files)}</td></tr>'
    )


def _thumbnail(folder: Path, result: RowResult) -> str:
    if result.status not in GOOD:
        return ""
    try:
        content = (folder / THUMBNAIL_FILE).read_bytes()
    except OSError:
        return ""
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(content).decode()}">'


def _settings(settings: Mapping[str, Any]) -> str:
    entries = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(_shortened(_text(value), LONGEST_VALUE))}</dd>"
        for name, value in settings.items()
    )
    return f"<dl>{entries}</dl>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shortened(text: str | None, longest: int) -> str:
    text = text or ""
    return text if len(text) <= longest else text[:longest] + " …"


def _links(name: str, files: Iterable[str]) -> str:
    items = "".join(
        f'<li><a href="{html.escape(quote(f"{name}/{file}"))}">{html.escape(file)}</a></li>' for file in files
    )
    return f"<ul>{items}</ul>" if items else ""
