"""The command `talking-portrait`. Heavy modules are imported by the commands that need them."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ..runtime.host import StandaloneHost, WorkCancelledError, host
from .calibrate_command import add_calibrate_arguments
from .live_command import add_live_arguments
from .weights_command import add_weights_actions

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED = 0, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 after an error, 130 after Ctrl-C.

    arguments: those of the command line when None. Usage errors end the process with 2, as argparse does.
    """
    options = build_parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(levelname)s: %(message)s",
    )
    with _interruptible():
        try:
            return options.command(options)
        except (KeyboardInterrupt, WorkCancelledError):
            return _end("cancelled", EXIT_INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_ERROR
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            if options.verbose:
                traceback.print_exc()
            return _end(f"error: {' '.join(str(error).split()) or type(error).__name__}", EXIT_ERROR)


def _end(line: str, code: int) -> int:
    sys.stderr.write(f"{line}\n")
    return code


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt, and cancel the work too if something swallows that."""

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        owner = host()
        if isinstance(owner, StandaloneHost):
            owner.cancel()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `parse_args` gives a namespace whose `command` runs the chosen command."""
    parser = argparse.ArgumentParser(prog="talking-portrait", description="Makes portraits talk.")
    parser.add_argument("--verbose", action="store_true", help="log more, and show where errors come from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_live(commands)
    _add_run(commands)
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
    parser = commands.add_parser("run", help="run a workflow file, in UI or API form")
    parser.add_argument("file", metavar="FILE", help="a workflow's JSON file")
    parser.add_argument(
        "--set",
        metavar="NODE.input=value",
        action="append",
        default=[],
        help="set an input before running; NODE is an id, or a class name or title that only one node has",
    )
    parser.add_argument(
        "--server", metavar="URL", help="run on a ComfyUI server, such as http://127.0.0.1:8188"
    )
    parser.add_argument("--input-folder", help="where files are looked for (default: ./input)")
    parser.add_argument("--output-folder", help="where results go (default: ./output)")
    parser.set_defaults(command=_run)


def _add_nodes(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("nodes", help="list the nodes that workflows may use here")
    parser.add_argument("--json", action="store_true", help="everything, as ComfyUI's /object_info has it")
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


def _nodes(options: argparse.Namespace) -> int:
    from .listing import list_nodes

    sys.stdout.write(list_nodes(as_json=options.json))
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
