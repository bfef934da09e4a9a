"""Run the code of docs/python.md in order, and write what it prints, and the pictures it makes, into the document.

`TALKING_PORTRAIT_MODELS=<folder with face_landmarker.task> python docs/make_python_guide.py`. Code that needs models
which are not here stays as it is: its fence says what it needs, as in ```python needs=face_landmarker```.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talking_portrait.runtime.weights import WeightNotFoundError, find_weight

GUIDE = Path(__file__).resolve().parent / "python.md"
PICTURES = "pictures"
"""Folder, beside the guide and beside the code that runs, of the pictures."""
_BLOCK = re.compile(
    r"^```python(?: needs=(?P<needs>\w+))?\n(?P<code>.*?)^```\n(?P<output>\n```text\n(?P<text>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One piece of code of the guide.

    code: as written. needs: row of the weights manifest it cannot do without, None where there is none. printed: what
    the guide says it prints. span: of all this in the guide's text.
    """

    code: str
    needs: str | None
    printed: str
    span: tuple[int, int]


def blocks_of(text: str) -> list[Block]:
    """Return the code of a guide, in order."""
    return [
        Block(found["code"], found["needs"], found["text"] or "", found.span())
        for found in _BLOCK.finditer(text)
    ]


def can_run(block: Block) -> bool:
    """Say whether what a block needs is on this computer."""
    try:
        return block.needs is None or find_weight(block.needs) is not None
    except WeightNotFoundError:
        return False


def run_block(block: Block, names: dict[str, Any]) -> str:
    """Run a block among the names of those before it, and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.code, GUIDE.name, "exec"), names)
    return printed.getvalue()


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, with one for pictures in it, and go back."""
    before = Path.cwd()
    (folder / PICTURES).mkdir(exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_guide(text: str, folder: Path) -> dict[int, str]:
    """Run what can run, in order, inside a folder; return {number of the block: what it printed}."""
    names: dict[str, Any] = {"__name__": "guide"}
    with inside(folder):
        return {
            number: run_block(block, names) for number, block in enumerate(blocks_of(text)) if can_run(block)
        }


def with_printed(text: str, printed: Mapping[int, str]) -> str:
    """Return the guide's text with what its blocks printed after them."""
    for number, block in reversed(list(enumerate(blocks_of(text)))):
        if number in printed:
            start, end = block.span
            code = text[start:end].partition("\n```text\n")[0]
            shown = f"\n```text\n{printed[number]}```\n" if printed[number] else ""
            text = text[:start] + code + shown + text[end:]
    return text


def main() -> int:
    """Write the guide and its pictures anew."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    text = GUIDE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        printed = run_guide(text, Path(folder))
        for picture in sorted(Path(folder, PICTURES).iterdir()):
            (GUIDE.parent / PICTURES).mkdir(exist_ok=True)
            shutil.copyfile(picture, GUIDE.parent / PICTURES / picture.name)
    GUIDE.write_text(with_printed(text, printed), encoding="utf-8")
    sys.stdout.write(f"{len(printed)} of {len(blocks_of(text))} blocks were run\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
