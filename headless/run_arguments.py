"""Options of the commands that run workflows, which load nothing heavy."""

from __future__ import annotations

import argparse


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    add_file_argument(parser)
    add_setting_arguments(parser)
    parser.add_argument(
        "--out", "--output-folder", metavar="DIR", help="where results go (default: ./output)"
    )
    parser.add_argument("--input-folder", metavar="DIR", help="where files are looked for (default: ./input)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="write what happens to stdout, a line of JSON per event of ComfyUI; the last names the saved files",
    )
    parser.add_argument(
        "--server", metavar="URL", help="run on a ComfyUI server, such as http://127.0.0.1:8188"
    )
    parser.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        help="what the server wants with every request, such as 'Authorization: Bearer ...'; may be repeated",
    )


def add_file_argument(parser: argparse.ArgumentParser) -> None:
    """Add the workflow's file, which `workflow_files.named_workflow` reads."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a workflow's JSON file (either form), or a picture, video or sound that carries one; - for stdin",
    )


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that set inputs of a workflow."""
    parser.add_argument(
        "--set",
        metavar="NODE.input=value",
        action="append",
        default=[],
        help="set an input; NODE is an id, or a title or class name that only one node has",
    )
    parser.add_argument(
        "--inputs",
        metavar="FILE.json",
        help='set many inputs: {"NODE.input": value, ...} or {"NODE": {"input": value}}; --set wins over it',
    )
