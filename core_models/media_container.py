"""Opening media files with errors that say what to do, and reading the text stored beside the streams."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av


def open_media(path: str | os.PathLike[str]) -> av.container.InputContainer:
    """Return the open container of a sound or video file; the caller closes it (`with`).

    Raises IsADirectoryError, FileNotFoundError or another OSError for a path that cannot be read, and
    ValueError for a file that is no media file or whose beginning is broken.
    """
    import av

    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a sound or video file")
    with open(path, "rb") as file:  # gives the system's own error for a missing or forbidden file
        if not file.read(1):
            raise ValueError(f"{path} is an empty file (0 bytes)")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path} is not a sound or video file that can be read, or it is cut off ({error.strerror}); "
            "convert or copy it again"
        ) from error
    kind = _kind_ffmpeg_plays_as_video(container.format.name)
    if kind is not None:
        container.close()
        raise ValueError(f"{path} is a {kind}, expected a sound or video file")
    return container


def _kind_ffmpeg_plays_as_video(format_name: str) -> str | None:
    """Return "text file" or "picture" for what ffmpeg opens as a video of scrolling text or of one frame."""
    if format_name == "tty":
        return "text file"
    return "picture" if format_name == "image2" or format_name.endswith("_pipe") else None


def stream_kinds(container: av.container.InputContainer) -> str:
    """Return what a container holds, for error messages: "video, audio"."""
    return ", ".join(str(stream.type) for stream in container.streams) or "none"


def expect_decoder(stream: av.stream.Stream, path: Path) -> None:
    """Raise ValueError for a stream that cannot be decoded; older PyAV would crash on it."""
    if getattr(stream, "codec_context", None) is None:
        raise ValueError(f"{path} is cut off, or its {stream.type} is in a format that cannot be decoded")


def is_cover_picture(stream: av.VideoStream) -> bool:
    """Return whether a video stream is only the cover of a sound file (PyAV 14.2 and newer can tell)."""
    if getattr(stream, "codec_context", None) is None or not hasattr(stream, "disposition"):
        return False
    disposition = stream.disposition
    return bool(disposition & type(disposition).attached_pic)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the text tags of a media file, as ComfyUI's `workflow` and `prompt` (JSON text).

    Tags of the container or, for formats that keep them there (ogg), of its streams.
    Raises what `open_media` raises.
    """
    with open_media(path) as container:
        tags: dict[str, str] = {}
        if "ogg" in container.format.name:
            for stream in container.streams:
                tags.update(stream.metadata)
        tags.update(container.metadata)
        return tags
