"""What the loading nodes share: choosing a file of the input folder, and noticing when it changes."""

from __future__ import annotations

from typing import Any

from ...runtime.input_files import file_fingerprint, input_files, input_path


def upload_input(option: str, *kinds: str) -> tuple[list[str], dict[str, Any]]:
    """Return the declaration of an input that chooses a file of the input folder.

    option: "image_upload", "audio_upload" or "video_upload". kinds: as of `input_files`.
    """
    return input_files(*kinds), {option: True}


def validity(name: str | None, what: str) -> bool | str:
    """Return True, or why a file cannot be chosen. A linked name arrives as None and is checked when it runs."""
    if name is None:
        return True
    try:
        input_path(name)
    except OSError as error:
        return f"Invalid {what} file: {name} ({error})"
    return True


def fingerprint(name: str | None) -> str | float:
    """Return a text that changes with the file; for a linked name, NaN: always run."""
    return float("NaN") if name is None else file_fingerprint(input_path(name))
