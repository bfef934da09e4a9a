"""What runs on the machines of a Ray cluster: an actor that keeps its models, and needs no disk in common with others.

This module is imported there by its name, so that the package has to be installed on every machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.host import FOLDER_KIND, TEMP_VARIABLE
from .batch_worker import RowOrder, local_row_runner, row_answer

PIECE_BYTES = 8 * 2**20
"""Files go through Ray in pieces of this size, so that its object store never holds a whole video."""

KEPT_BYTES = 4 * 2**30
"""An actor keeps files that rows sent until they are more than this; then those that the last row did not name go."""


def _user() -> int:
    """Return what tells users of a machine apart; where the system has no number for it, 0."""
    return getattr(os, "getuid", lambda: 0)()


class RowActor:
    """Runs rows one after another. Files come and go in pieces."""

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir(), f"{FOLDER_KIND}_ray_{_user()}")
        _remove_leftovers(base)
        self._folder = base / str(os.getpid())
        shutil.rmtree(self._folder, ignore_errors=True)
        for name in ("kept", "temp"):
            (self._folder / name).mkdir(parents=True)
        os.environ[TEMP_VARIABLE] = str(self._folder / "temp")
        self._run = local_row_runner()

    def where(self) -> tuple[str, int]:
        """Return the machine's name and the id of the actor's process."""
        return socket.gethostname(), os.getpid()

    def missing(self, digests: list[str]) -> list[str]:
        """Return which files, by the digests of their content, are not here."""
        return [digest for digest in digests if not self._kept(digest).is_file()]

    def receive(self, digest: str, piece: bytes, is_last: bool) -> None:
        """Take the next piece of a file."""
        unfinished = self._kept(digest).with_suffix(".part")
        with unfinished.open("ab") as file:
            file.write(piece)
        if is_last:
            unfinished.replace(self._kept(digest))

    def run(self, order: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
        """Run a row and return the answer about it, as `batch_worker.row_answer`.

        order: of `RowOrder.as_json`; its folders do not count. files: {name in the input folder: digest}.
        """
        for name in ("input", "output"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
            (self._folder / name).mkdir()
        for name, digest in files.items():
            _linked(self._kept(digest), self._folder / "input" / name)
        self._forget_files(set(files.values()))
        folders = {name: str(self._folder / name) for name in ("input", "output")}
        return row_answer(self._run, RowOrder.from_json({**order, **folders}), lambda event, data: None)

    def read(self, name: str, offset: int) -> bytes:
        """Return a piece of a file that the last row saved; empty at its end."""
        with (self._folder / "output" / name).open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)

    def close(self) -> None:
        """Remove everything that rows sent and saved here."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kept(self, digest: str) -> Path:
        return self._folder / "kept" / digest

    def _forget_files(self, needed: set[str]) -> None:
        kept = list((self._folder / "kept").iterdir())
        if sum(path.stat().st_size for path in kept) > KEPT_BYTES:
            for path in kept:
                if path.name not in needed:
                    path.unlink()


def _linked(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def _remove_leftovers(base: Path) -> None:
    """Remove what actors left that were killed."""
    with contextlib.suppress(FileNotFoundError):
        for folder in base.iterdir():
            if folder.name.isdecimal() and not _is_alive(int(folder.name)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
