"""What the training commands' parsers share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.host import host

if TYPE_CHECKING:
    import torch

RUN_NUMBERS = ("until", "checkpoint_every", "log_every")
"""Options of a training that are numbers of steps."""


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


def add_run_options(parser: argparse.ArgumentParser, checkpoint_every: int, log_every: int) -> None:
    """Add what both trainings have: the run's folder, going on and stopping, device and threads."""
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop there; --resume goes on later")
    every = {"checkpoint_every": checkpoint_every, "log_every": log_every}
    for name, steps in every.items():
        parser.add_argument(
            option_of(name), type=int, default=steps, metavar="STEPS", help="default: %(default)s"
        )
    parser.add_argument("--threads", type=int, metavar="N", help="of the processor")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return the options that were given, by name."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def prepared_device(options: argparse.Namespace) -> torch.device:
    """Set the processor's threads and return the device that was asked for, the processor where none can be."""
    import torch

    if options.threads is not None:
        torch.set_num_threads(max(1, options.threads))
    return host().device(getattr(options, "device", "cpu"))


def require_at_least_one(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ValueError for a number below 1; what was not given is passed over."""
    for name, value in given(options, names).items():
        if value < 1:
            raise ValueError(f"{option_of(name)} is {value}, expected at least 1")


def require_new_run(checkpoint: Path) -> None:
    """Raise ValueError when a run's folder holds a checkpoint already."""
    if checkpoint.exists():
        raise ValueError(
            f"{checkpoint.parent} holds a run already: go on with --resume, or choose another folder"
        )


def require_given_alike(asked: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Raise ValueError naming every option that is given otherwise than a checkpoint has it."""
    other = [f"{option_of(n)} {v} (it is {kept[n]})" for n, v in asked.items() if v != kept[n]]
    if other:
        raise ValueError(
            f"a run goes on as it began, but these differ from the checkpoint: {', '.join(other)}. Leave them out, or "
            "begin a new run in another folder"
        )
