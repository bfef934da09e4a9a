"""Running prepared workflows in this process, one after another, with what can be shared kept between them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.host import Host, StandaloneHost, host
from .events import EventListener
from .executor import GraphExecutor, RunReport
from .graph import NodeClasses
from .node_call import NodeOutput
from .registry import node_classes

if TYPE_CHECKING:
    from .preparation import PreparedWorkflow


@dataclass(frozen=True)
class RunResult:
    """What a run gave.

    saved: the files that output nodes saved, previews left out. seconds: how long the run took.
    executed, cached: ids of the nodes that ran, and of those whose earlier results were used.
    blocked: why nodes were blocked, one text each.
    ui: {output node id: {"images": [{"filename", "subfolder", "type"}, ...], ...}}, as ComfyUI's history has it.
    """

    saved: tuple[Path, ...]
    executed: tuple[str, ...]
    cached: tuple[str, ...]
    blocked: tuple[str, ...]
    ui: Mapping[str, Mapping[str, list[Any]]]
    seconds: float


class LocalRunner:
    """Runs workflows in this process; results, node objects and loaded models stay for the next run."""

    def __init__(self, classes: NodeClasses | None = None, keep_results: bool = True) -> None:
        """classes: {name: class}, those of this package and the core ones it brings when None.

        keep_results: False drops every result once nothing waits for it, which bounds the memory of one run.
        """
        self._executor = GraphExecutor(
            classes if classes is not None else node_classes(), keep_results=keep_results
        )
        self._folder: Path | None = None

    def run(
        self,
        prepared: PreparedWorkflow,
        listener: EventListener | None = None,
        *,
        input_folder: Path | str | None = None,
        output_folder: Path | str | None = None,
    ) -> RunResult:
        """Run a workflow and return what it saved.

        listener: told ComfyUI's events while it runs. Folders that are None stay the host's own.
        Raises GraphValidationError before anything runs, NodeFailedError for the first node that fails, and
        WorkCancelledError or KeyboardInterrupt when the work is cancelled.
        """
        started = time.perf_counter()
        with using_folders(input=input_folder, output=output_folder), using_files(prepared.files):
            self._forget_files_saved_elsewhere(host().output_folder)
            report = self._executor.run(prepared.graph, prepared.page, listener=listener)
            saved = saved_files(report, host())
        return _result(report, saved, time.perf_counter() - started)

    def _forget_files_saved_elsewhere(self, folder: Path) -> None:
        """Let nodes save again what is not in the output folder of this run."""
        moved, self._folder = self._folder not in (None, folder), folder

        def is_elsewhere(output: NodeOutput) -> bool:
            files = _saved_in(folder, output.ui)
            return bool(files) and (moved or not all(file.is_file() for file in files))

        self._executor.forget_results(is_elsewhere)


def _result(report: RunReport, saved: list[Path], seconds: float) -> RunResult:
    return RunResult(
        saved=tuple(saved),
        executed=tuple(report.executed),
        cached=tuple(report.cached),
        blocked=tuple(report.blocked),
        ui=report.ui,
        seconds=seconds,
    )


def saved_files(report: RunReport, owner: Host) -> list[Path]:
    """Return the files that output nodes saved, previews left out."""
    return [file for ui in report.ui.values() for file in _saved_in(owner.output_folder, ui)]


def _saved_in(folder: Path, ui: Mapping[str, list[Any]]) -> list[Path]:
    """Return the files in an output folder that a node's ui names."""
    found = []
    for references in ui.values():
        for reference in references:
            if isinstance(reference, dict) and reference.get("type") == "output":
                found.append(folder / reference.get("subfolder", "") / reference["filename"])
    return found


def using_folders(**folders: Path | str | None) -> contextlib.AbstractContextManager[None]:
    """Let the standalone host use other folders (input, output, temp) inside a `with`; None leaves one as it is."""
    owner = host()
    given = {name: Path(folder) for name, folder in folders.items() if folder is not None}
    return owner.using_folders(**given) if isinstance(owner, StandaloneHost) else contextlib.nullcontext()


def using_files(files: Iterable[Path]) -> contextlib.AbstractContextManager[None]:
    """Let workflows read files outside of the standalone host's folders inside a `with`: those the user named."""
    owner = host()
    return owner.using_files(files) if isinstance(owner, StandaloneHost) else contextlib.nullcontext()
