"""`talking-portrait batch`: one workflow over the rows of a list."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batch_display import BatchDisplay
from .events import JsonEventLines
from .graph import WorkflowError
from .run_arguments import add_setting_arguments

if TYPE_CHECKING:
    from .batch_folder import BatchFolder
    from .batch_run import Listener, RowResult
    from .batch_workflow import BatchJob, BatchWorkflow

EXIT_OK, EXIT_BAD_INPUT, EXIT_FAILED = 0, 2, 3


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `batch` to its parser."""
    parser.add_argument("workflow", metavar="WORKFLOW", help="a workflow file, or a result that carries one")
    parser.add_argument(
        "jobs",
        metavar="JOBS",
        help="rows to run, .csv or .jsonl: columns are inputs, as NODE.input or, where only one node has it, as input; "
        "name (or id) names the row's folder",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where results go (default: ./output/ and the list's name)"
    )
    add_setting_arguments(parser)
    parser.add_argument(
        "--workers", type=_count, metavar="N", help="default: one per graphics card, else one"
    )
    parser.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        help="what the servers want with every request, such as 'Authorization: Bearer ...'; may be repeated",
    )
    places = parser.add_mutually_exclusive_group()
    places.add_argument(
        "--server", metavar="URL", action="append", help="run on a ComfyUI server; several may be given"
    )
    places.add_argument(
        "--ray", metavar="ADDRESS", help="run on a Ray cluster, such as auto or ray://head:10001"
    )
    parser.add_argument(
        "--retries",
        type=_count_or_none,
        default=2,
        metavar="N",
        help="how often a row is begun again whose worker was lost (default: %(default)s)",
    )
    parser.add_argument("--time-limit", type=_seconds, metavar="S", help="seconds that one row may take")
    parser.add_argument("--input-folder", metavar="DIR", help="where files are looked for (default: ./input)")
    parser.add_argument("--json", action="store_true", help="write events to stdout, one line of JSON each")


def _count(text: str) -> int:
    return _at_least(text, 1)


def _count_or_none(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def batch_command(options: argparse.Namespace) -> int:
    """Run the rows of a list and write a report; the exit code is 0, 2 when rows were refused, 3 when rows failed.

    Nothing runs unless the whole list can be read and its columns are known.
    Raises WorkflowError for a list, a workflow or a setting that cannot be used, and for a folder that another batch
    writes into; BatchError when workers do not start; OSError for a server that cannot be reached.
    """
    try:
        return _exit_code(_run_batch(options))
    except (WorkflowError, OSError) as error:
        if options.json:
            from .run_command import refusal

            JsonEventLines()("error", refusal(error))
        raise


def _run_batch(options: argparse.Namespace) -> list[RowResult]:
    from .batch_jobs import read_job_list
    from .batch_workflow import BatchWorkflow
    from .overrides import read_inputs_file
    from .workflow_files import read_workflow_file

    rows = read_job_list(options.jobs)
    workflow = BatchWorkflow(
        read_workflow_file(options.workflow),
        options.set,
        read_inputs_file(options.inputs) if options.inputs else None,
        beside=Path(options.jobs).absolute().parent,
        input_folder=Path(options.input_folder).absolute() if options.input_folder else None,
        server_classes=_server_classes(options.server, options.header),
    )
    out = Path(options.out) if options.out else Path("output", Path(options.jobs).stem)
    return _run_in_folder(options, workflow, workflow.jobs(rows), out, BatchDisplay(as_json=options.json))


def _server_classes(servers: Sequence[str] | None, headers: Sequence[str] | None) -> Mapping[str, Any] | None:
    """Return the node classes of the first server that answers; None without servers."""
    if not servers:
        return None
    from .server_address import header_fields
    from .server_api import ComfyUIServer
    from .server_errors import ServerUnreachableError

    for url in servers:
        try:
            return ComfyUIServer(url, header_fields(headers) if headers else None).object_info()
        except ServerUnreachableError as error:
            problem = error
    raise problem


def _run_in_folder(
    options: argparse.Namespace,
    workflow: BatchWorkflow,
    jobs: list[BatchJob],
    out: Path,
    show: BatchDisplay,
) -> list[RowResult]:
    """Run what is not done yet; the report is written whatever happens."""
    from .batch_folder import open_batch_folder
    from .batch_report import ReportHead, write_report

    started, interrupted = time.monotonic(), True
    with open_batch_folder(out) as folder:
        results = known_results(folder, jobs)
        show.begin(len(jobs), list(results.values()))
        try:
            run_rows(
                options,
                workflow,
                folder,
                [job for job in jobs if job.row.number not in results],
                results,
                show,
            )
            interrupted = False
        finally:
            ordered = [results.get(job.row.number) or _not_run(job) for job in jobs]
            head = ReportHead(
                f"{Path(options.workflow).name} · {Path(options.jobs).name}",
                time.monotonic() - started,
                interrupted,
            )
            show.end(write_report(folder.path, head, ordered), ordered, head.seconds)
    return ordered


def _not_run(job: BatchJob) -> RowResult:
    from .batch_run import RowResult

    return RowResult(job)


def known_results(folder: BatchFolder, jobs: Sequence[BatchJob]) -> dict[int, RowResult]:
    """Return what is known without running, by number: rows that are done already, and those that cannot run.

    Raises WorkflowError when a row's folder holds what no batch put there.
    """
    from .batch_run import EARLIER, REJECTED, RowResult

    results = {}
    for job in jobs:
        folder.require_free_name(job.row.name)
        if job.problem is not None:
            results[job.row.number] = RowResult(job, REJECTED, error=job.problem)
        elif (record := folder.finished(job.row.name, job.key)) is not None:
            results[job.row.number] = RowResult(job, EARLIER, record.files, record.seconds)
    return results


def run_rows(
    options: argparse.Namespace,
    workflow: BatchWorkflow,
    folder: BatchFolder,
    jobs: list[BatchJob],
    results: dict[int, RowResult],
    listener: Listener,
) -> None:
    """Run rows where the options say; `results` gets what became of them, after an exception too."""
    if not jobs:
        return
    from .batch_places import batch_place
    from .batch_run import Batch, BatchParameters

    with batch_place(options, workflow, folder.unfinished, len(jobs)) as place:
        parameters = BatchParameters(place.workers, options.retries, options.time_limit)
        batch = Batch(folder, workflow, place.start_worker, parameters, listener)
        try:
            batch.run(jobs)
        finally:
            results.update(batch.results)


def _exit_code(results: Sequence[RowResult]) -> int:
    from .batch_run import GOOD, REJECTED

    statuses = {result.status for result in results}.difference(GOOD)
    return EXIT_OK if not statuses else EXIT_BAD_INPUT if statuses == {REJECTED} else EXIT_FAILED
