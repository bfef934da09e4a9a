"""What the training commands' parsers share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def option_of(name: str) -> str:
    """Return the option of a field: learning_rate -> --learning-rate."""
    return "--" + name.replace("_", "-")


def add_export(
    actions: argparse._SubParsersAction, action: Callable[[argparse.Namespace], int], prefix: str = ""
) -> None:
    """Add `export`, from a run or a checkpoint to a weight file. prefix: of its help."""
    parser = actions.add_parser(
        "export", help=f"{prefix}a checkpoint's averaged weights as a file that the loader node reads"
    )
    parser.add_argument(
        "source", type=Path, metavar="RUN_OR_CHECKPOINT", help="a run's folder or a checkpoint's file"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="X.safetensors")
    parser.add_argument("--half", action="store_true", help="in float16: half as large")
    parser.set_defaults(action=action)
