"""The command `talking-portrait`. Heavy modules are imported by the commands that need them."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ..runtime.host import StandaloneHost, WorkCancelledError, host
from .batch_command import add_batch_arguments
from .calibrate_command import add_calibrate_arguments
from .events import one_line
from .live_command import add_live_arguments
from .run_arguments import add_run_arguments
from .weights_command import add_weights_actions

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED = 0, 1, 130
EXIT_BAD_INPUT, EXIT_FAILED = 2, 3
"""Of the commands that run workflows: nothing ran because of what the user gave, or something failed later."""


def console() -> NoReturn:
    """Run the command as a program and end the process with its exit code.

    After Ctrl-C nothing is waited for: threads that a node began, and the second that PyTorch takes to end.
    """
    _prepare_streams()
    code = main()
    if code == EXIT_INTERRUPTED:
        _end_child_processes()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _prepare_streams() -> None:
    """Let no letter that a stream cannot write, such as those of a title, and no closed stream end the command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _end_child_processes() -> None:
    """End processes that a node's library began, as the interpreter does when it ends by itself."""
    multiprocessing = sys.modules.get("multiprocessing")
    for child in multiprocessing.active_children() if multiprocessing is not None else ():
        child.terminate()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 130 after Ctrl-C or SIGTERM, 1 after an error.

    The commands that run workflows return 2 for a bad workflow or input and 3 for what fails later.
    arguments: those of the command line when None. Usage errors end the process with 2, as argparse does.
    """
    options = build_parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(levelname)s: %(message)s",
    )
    with _interruptible(ends_at_second=getattr(options, "tells_kinds_of_errors", False)):
        try:
            return options.command(options)
        except (KeyboardInterrupt, WorkCancelledError):
            return _end("cancelled", EXIT_INTERRUPTED)
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _exit_code(error, options)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            if options.verbose:
                traceback.print_exc()
            line = f"error: {' '.join(str(error).split()) or type(error).__name__}"
            return _end(line, _exit_code(error, options))


def _exit_code(error: Exception, options: argparse.Namespace) -> int:
    if not getattr(options, "tells_kinds_of_errors", False):
        return EXIT_ERROR
    return EXIT_BAD_INPUT if isinstance(error, ValueError) else EXIT_FAILED


def _end(line: str, code: int) -> int:
    sys.stderr.write(f"{one_line(line)}\n")
    return code


@contextmanager
def _interruptible(ends_at_second: bool) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM raise KeyboardInterrupt, and cancel the work too if something swallows that.

    ends_at_second: the second one ends the process at once, wherever it is. Otherwise each one raises.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if ends_at_second:
            signal.signal(number, signal.SIG_DFL)
        owner = host()
        if isinstance(owner, StandaloneHost):
            owner.cancel()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `parse_args` gives a namespace whose `command` runs the chosen command."""
    parser = argparse.ArgumentParser(prog="talking-portrait", description="Makes portraits talk.")
    parser.add_argument("--verbose", action="store_true", help="log more, and show where errors come from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_live(commands)
    _add_run(commands)
    _add_batch(commands)
    _add_convert(commands)
    _add_check(commands)
    _add_nodes(commands)
    _add_train(commands)
    _add_weights(commands)
    _add_calibrate(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("demo", help="make a talking video from a picture and speech")
    parser.add_argument(
        "--portrait", metavar="P", help="picture file (default: a public-domain NASA portrait)"
    )
    parser.add_argument("--speech", metavar="S", help="sound or video file (default: a short clip)")
    parser.add_argument("--emotion", metavar="E", help="neutral, happy, sad, angry, surprised, disgusted")
    parser.add_argument("--strength", type=float, help="of the emotion, 0 to 2; 1 is a natural display")
    parser.add_argument("--seed", type=int, help="another number gives another performance")
    parser.add_argument("--fps", type=float, help="frames per second of the video (default 25)")
    parser.add_argument("--out", metavar="X.mp4", default="talking_portrait.mp4", help="default: %(default)s")
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch the face detector for --portrait if it is not here (4 MB)",
    )
    parser.set_defaults(command=_demo)


def _add_live(commands: argparse._SubParsersAction) -> None:
    summary = "make a talking video while the sound comes in"
    add_live_arguments(commands.add_parser("live", help=summary, description=summary))


def _add_run(commands: argparse._SubParsersAction) -> None:
    summary = "run a workflow file, in UI or API form"
    parser = commands.add_parser("run", help=summary, description=summary)
    add_run_arguments(parser)
    parser.set_defaults(command=_run, tells_kinds_of_errors=True)


def _add_batch(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("batch", help="run a workflow over the rows of a list")
    add_batch_arguments(parser)
    parser.set_defaults(command=_batch, tells_kinds_of_errors=True)
    worker = commands.add_parser("batch-worker")  # started by `batch` alone
    worker.set_defaults(command=_batch_worker, tells_kinds_of_errors=True)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    from .convert_command import add_convert_arguments

    summary = "write a workflow file in API form"
    add_convert_arguments(commands.add_parser("convert", help=summary, description=summary))


def _add_check(commands: argparse._SubParsersAction) -> None:
    from .check_command import add_check_arguments

    summary = "say whether a workflow file could run here, and which weights are missing"
    add_check_arguments(commands.add_parser("check", help=summary, description=summary))


def _add_nodes(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("nodes", help="list the nodes of this package")
    parser.add_argument("--json", action="store_true", help="everything, as ComfyUI's /object_info has it")
    parser.add_argument("--all", action="store_true", help="also the nodes of ComfyUI that the runner brings")
    parser.set_defaults(command=_nodes)


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("train", help="train a model of this package", add_help=False)
    parser.add_argument(
        "model", choices=["pocket", "kdtalker", "takin-ada", "actalker", "fantasytalking"], help="which one"
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="arguments of the training")
    parser.set_defaults(command=_train)


def _add_weights(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("weights", help="weight files: list, fetch, verify, convert")
    add_weights_actions(parser)


def _add_calibrate(commands: argparse._SubParsersAction) -> None:
    summary = "fit the retargeting of blendshapes to what LivePortrait makes of it"
    add_calibrate_arguments(commands.add_parser("calibrate", help=summary, description=summary))


def _demo(options: argparse.Namespace) -> int:
    from .demo import demo_command

    return demo_command(options)


def _run(options: argparse.Namespace) -> int:
    from .run_command import run_command

    return run_command(options)


def _batch(options: argparse.Namespace) -> int:
    from .batch_command import batch_command

    return batch_command(options)


def _batch_worker(_options: argparse.Namespace) -> int:
    from .batch_worker import work_on_standard_streams

    return work_on_standard_streams()


def _nodes(options: argparse.Namespace) -> int:
    from .listing import list_nodes

    sys.stdout.write(list_nodes(as_json=options.json, with_core=options.all))
    return EXIT_OK


def _train(options: argparse.Namespace) -> int:
    if options.model == "kdtalker":
        from .train_kdtalker_command import main as train
    elif options.model == "takin-ada":
        from .train_takin_ada_command import main as train
    elif options.model == "actalker":
        from .train_actalker_command import main as train
    elif options.model == "fantasytalking":
        from .train_fantasytalking_command import main as train
    else:
        from ..training.pocket import main as train
    return train(options.rest)
