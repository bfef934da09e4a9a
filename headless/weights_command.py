"""The command `talking-portrait weights`: list, fetch, verify and convert weight files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..runtime.host import host
from ..runtime.weight_plan import (
    FetchPlan,
    WeightStatus,
    plan_fetch,
    require_disk_space,
    rows_named,
    weight_status,
    with_hub_sizes,
)
from ..runtime.weights import fetch_weight, origin
from ..weights_manifest.manifest import EMBEDDED, WeightRow, weight_names

PROBLEMS_FOUND = 1


def add_weights_actions(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `weights` to its parser; each sets `command`, called with the parsed options."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the weight files and where they are")
    listing.add_argument("--system", metavar="S", help="only what this system needs, such as liveportrait")
    listing.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    listing.set_defaults(command=list_command)
    fetch = actions.add_parser("fetch", help="fetch what a system needs, or single files")
    fetch.add_argument("names", nargs="+", metavar="SYSTEM_OR_NAME")
    fetch.add_argument("--yes", action="store_true", help="do not ask after showing the plan")
    fetch.add_argument("--to", metavar="DIR", type=Path, help="put the files below this folder")
    fetch.set_defaults(command=fetch_command)
    verify = actions.add_parser("verify", help="hash files again and compare with what is known")
    verify.add_argument("names", nargs="*", metavar="SYSTEM_OR_NAME", help="default: all that are here")
    verify.add_argument("--online", action="store_true", help="ask the hub for checksums not known here")
    verify.set_defaults(command=verify_command)
    convert = actions.add_parser("convert", help="rewrite a .pth or .ckpt file as safetensors")
    convert.add_argument("file", type=Path)
    convert.add_argument("--out", metavar="FILE", type=Path, help="default: beside it, with .safetensors")
    convert.set_defaults(command=convert_command)


def list_command(options: argparse.Namespace) -> int:
    """Print the weight files as a table, or with all fields as JSON."""
    rows = rows_named([options.system]) if options.system else rows_named(weight_names())
    statuses = [weight_status(row) for row in rows]
    if options.json:
        sys.stdout.write(json.dumps([_entry(status) for status in statuses], indent=2) + "\n")
        return 0
    lines = [("NAME", "FILE", "SIZE", "LICENCE", "FOUND", "")]
    for status in statuses:
        row = status.row
        found = str(status.found) if status.found else "by hand" if row.source.kind == "manual" else "-"
        checked = ("verified" if status.verified else "not verified") if status.found else ""
        lines.append((row.name, row.file, size_text(row.bytes), _licence(row), found, checked))
    sys.stdout.write(_table(lines))
    return 0


def _entry(status: WeightStatus) -> dict[str, Any]:
    found = str(status.found) if status.found else None
    return {**asdict(status.row), "found": found, "verified": status.verified}


def _licence(row: WeightRow) -> str:
    marks = [mark for mark, is_so in (("non-commercial", row.non_commercial), ("gated", row.gated)) if is_so]
    return f"{row.licence} [{', '.join(marks)}]" if marks else row.licence


def size_text(size: int | None) -> str:
    """Return a size for people to read, in units of 1000 bytes."""
    if size is None:
        return "size unknown"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size} B"


def fetch_command(options: argparse.Namespace) -> int:
    """Show what would be fetched, ask, and fetch it."""
    plan = with_hub_sizes(plan_fetch(options.names, options.to))
    sys.stdout.write(plan_text(plan))
    sys.stdout.flush()
    require_disk_space(plan)
    failures = _fetch_all(plan) if plan.fetch and (options.yes or _agreed()) else []
    for failure in failures:
        sys.stderr.write(f"error: {failure}\n")
    return PROBLEMS_FOUND if plan.by_hand or failures else 0


def _fetch_all(plan: FetchPlan) -> list[str]:
    """Fetch every row of a plan, those after a failure too; return what failed."""
    from ..weights_manifest.downloading import FetchError

    failures = []
    for number, (row, folder) in enumerate(plan.fetch, start=1):
        try:
            path = fetch_weight(row.name, _byte_bar(f"{number}/{len(plan.fetch)} {row.file}"), folder)
            sys.stdout.write(f"{row.name}: {path}\n")
        except FetchError as error:
            failures.append(str(error))
    return failures


def plan_text(plan: FetchPlan) -> str:
    """Return a plan for people to read: files, sizes, licences, total, free disk, and what is left to them."""
    lines = [f"here: {status.row.name} ({status.found})\n" for status in plan.here]
    if plan.fetch:
        table = [
            (row.name, size_text(row.bytes), _licence(row), f"{origin(row)} -> {folder}")
            for row, folder in plan.fetch
        ]
        unknown = sum(row.bytes is None for row, _ in plan.fetch)
        lines += ["to fetch:\n", _table(table), f"total: {size_text(plan.known_bytes)}"]
        lines.append(f" and {unknown} file(s) of unknown size\n" if unknown else "\n")
        lines += [
            f"free on the disk of {folder}: {size_text(free)}\n" for folder, free in plan.free_bytes().items()
        ]
    for row, _ in plan.fetch:
        if row.gated:
            lines.append(
                f"{row.name} is gated: accept its licence at https://huggingface.co/{row.source.repository}, then "
                "log in with 'hf auth login' or set HF_TOKEN\n"
            )
    if any(row.non_commercial for row, _ in plan.fetch):
        lines.append("files marked non-commercial must not be used commercially\n")
    lines += [f"by hand: {row.name}: {origin(row)}\n" for row in plan.by_hand]
    return "".join(lines)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise ValueError("nothing was fetched: add --yes to fetch without being asked")
    sys.stdout.write("fetch these? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _byte_bar(task: str) -> Callable[[int, int], None]:
    """Return a progress callback that draws a bar of bytes, and lets Ctrl-C through."""
    from tqdm import tqdm

    bar = tqdm(desc=task, unit="B", unit_scale=True, file=sys.stderr, mininterval=0.2, disable=None)

    def update(done: int, total: int) -> None:
        host().check_cancelled()
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


def verify_command(options: argparse.Namespace) -> int:
    """Hash the files that are here; return 1 when one of them is damaged."""
    rows = rows_named(options.names or weight_names())
    results = [_verified(status, options.online) for row in rows if (status := weight_status(row)).found]
    for line, _ in results:
        sys.stdout.write(f"{line}\n")
    if not results:
        sys.stdout.write("none of these files is here\n")
    return 0 if all(is_good for _, is_good in results) else PROBLEMS_FOUND


def _verified(status: WeightStatus, online: bool) -> tuple[str, bool]:
    from ..weights_manifest.checksums import file_sha256, problem_with_file
    from ..weights_manifest.lock_record import record_verified, recorded_file

    row, path = status.row, status.found
    recorded = recorded_file(path)
    expected, source, revision = row.sha256, "the manifest", None
    if expected is None and recorded is not None:
        expected, source, revision = recorded.sha256, recorded.source, recorded.revision
    if expected is None and online and row.source.kind == "hub":
        from ..weights_manifest.hub import hub_file

        known = hub_file(row)
        expected, source, revision = known.sha256, known.url, known.revision
    if expected is None:
        checksum = file_sha256(path, _byte_bar(row.file))
        hint = "" if online or row.source.kind != "hub" else "; --online asks the hub"
        return f"unknown   {row.name}: {path}: no checksum to compare with{hint}; sha256 {checksum}", True
    problem = problem_with_file(path, row, expected, _byte_bar(row.file))
    if problem is not None:
        again = f"delete it and run: talking-portrait weights fetch {row.name}"
        return f"DAMAGED   {row.name}: {path}: {problem}; {again}", False
    if row.source.kind != EMBEDDED:  # the package's own folder keeps no records
        record_verified(path, row.name, expected, source, revision)
    return f"verified  {row.name}: {path}", True


def convert_command(options: argparse.Namespace) -> int:
    """Rewrite a pickle as safetensors."""
    from ..runtime.weight_conversion import convert_to_safetensors

    target = convert_to_safetensors(options.file, options.out)
    sys.stdout.write(f"{target} ({size_text(target.stat().st_size)})\n")
    return 0


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)
