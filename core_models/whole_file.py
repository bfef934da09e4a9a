"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def renamed_when_whole(target: Path) -> Iterator[Path]:
    """Give the path of an empty file beside `target`; rename it on success, remove it on anything else.

    Raises OSError at once when the folder is missing or cannot be written to.
    """
    if not target.parent.exists():
        raise FileNotFoundError(f"the folder {target.parent} does not exist: create it or choose another")
    unfinished = target.parent / f".{target.stem[:100]}.{uuid.uuid4().hex}.part"
    try:
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write into the folder {target.parent} ({error.strerror}): choose another"
        ) from error
    try:
        yield unfinished
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
