"""Texts that pictures, videos and sounds carry beside what they show: where saved files keep their workflow.

ComfyUI and this package store the keys `prompt` (API form) and `workflow` (UI form), each a JSON text: in PNG as text
chunks, in WebP as EXIF texts "key:json", in the others as tags of the container.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"comf")
"""`comf` is laid out as tEXt; ComfyUI's animated PNG files have it."""

SIGNATURE_BYTES = 16
MPEG_SYNC, MPEG_SYNC_MASK = 0xFFE0, 0xFFE0
"""Eleven bits that begin a frame of MP3."""


MOST_TEXTS = 4
"""All texts of a file together may be this many times as long as one: both forms of a workflow, and what else."""


class MediaTagError(ValueError):
    """A picture, video or sound that is broken, or whose texts are too long to be a workflow."""


def media_kind(start: bytes) -> str | None:
    """Return what a file is by its first 16 bytes: "png", "webp", or FFmpeg's name of its container.

    None for other files.
    """
    if start.startswith(PNG_SIGNATURE):
        return "png"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "webp"
    if start[4:8] == b"ftyp":
        return "mov"
    for signature, name in (
        (b"\x1aE\xdf\xa3", "matroska"),
        (b"fLaC", "flac"),
        (b"OggS", "ogg"),
        (b"ID3", "mp3"),
    ):
        if start.startswith(signature):
            return name
    text_in_utf16 = start[:2] == b"\xff\xfe" and start[3:4] == b"\0"
    sync = len(start) > 1 and int.from_bytes(start[:2], "big") & MPEG_SYNC_MASK == MPEG_SYNC
    return "mp3" if sync and not text_in_utf16 else None


def media_tags(path: Path, kind: str, longest: int) -> dict[str, str]:
    """Return the texts of a file by their names in small letters, the first of each name.

    kind: as of `media_kind`. longest: bytes or characters that one text may have.
    Raises MediaTagError for a file that cannot be read as that kind, for a text that is longer, and for more than
    MOST_TEXTS times as much of all texts together, as compressed ones can have in a small file.
    """
    if kind == "png":
        with path.open("rb") as file:
            return _by_name(_png_texts(file, longest), longest)
    if kind == "webp":
        with path.open("rb") as file:
            return _by_name(_webp_texts(file, longest), longest)
    return _by_name(_container_texts(path, kind), longest)


def _by_name(texts: Iterator[tuple[str, str]], longest: int) -> dict[str, str]:
    found: dict[str, str] = {}
    total = 0
    for name, text in texts:
        _expect_length(len(text), name, longest)
        total += len(text)
        if total > MOST_TEXTS * longest:
            raise MediaTagError(f"its texts have more than {MOST_TEXTS * longest} characters in all")
        found.setdefault(name.lower(), text)
    return found


def _expect_length(length: int, name: str, longest: int) -> None:
    if length > longest:
        raise MediaTagError(f"its text {name[:40]!r} is longer than {longest} characters")


def _png_texts(file: BinaryIO, longest: int) -> Iterator[tuple[str, str]]:
    """Yield the texts of a PNG; one that is cut off has those before the cut."""
    file.seek(len(PNG_SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind not in PNG_TEXT_CHUNKS:
            file.seek(length + 4, 1)
            continue
        _expect_length(length, kind.decode(), longest)
        name, _, rest = file.read(length).partition(b"\0")
        file.seek(4, 1)
        yield name.decode("latin-1"), _decoded(_png_text(kind, rest, longest))


def _png_text(kind: bytes, rest: bytes, longest: int) -> bytes:
    """Return a chunk's text, given what follows its name."""
    if kind == b"zTXt":
        return _inflated(rest[1:], longest)
    if kind == b"iTXt":
        compressed, text = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
        return _inflated(text, longest) if compressed else text
    return rest


def _inflated(data: bytes, longest: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, longest + 1)
    except zlib.error as error:
        raise MediaTagError(f"one of its texts is broken ({error})") from error


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _webp_texts(file: BinaryIO, longest: int) -> Iterator[tuple[str, str]]:
    """Yield what the EXIF texts of a WebP hold as "name:text"."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        if kind != b"EXIF":
            file.seek(length + length % 2, 1)
            continue
        _expect_length(length, "EXIF", longest)
        block = file.read(length)
        if len(block) < length:
            raise MediaTagError("it is cut off")
        for value in _exif_values(block):
            name, colon, text = value.partition(":")
            if colon:
                yield name, text
        return


def _exif_values(block: bytes) -> list[str]:
    from PIL import Image

    exif = Image.Exif()
    try:
        exif.load(block)
        values = list(exif.values())
    except (OSError, ValueError, SyntaxError, KeyError, IndexError, TypeError, struct.error) as error:
        raise MediaTagError(f"its EXIF block is broken ({error})") from error
    return [value for value in values if isinstance(value, str)]


def _container_texts(path: Path, container: str) -> Iterator[tuple[str, str]]:
    """Yield the tags of a container and then those of its streams, where Ogg has them.

    The container is named, so that no list of other files or addresses is followed.
    """
    import av

    try:
        with path.open("rb") as file, av.open(file, format=container, metadata_errors="replace") as opened:
            found: list[Mapping[str, str]] = [
                opened.metadata,
                *(stream.metadata for stream in opened.streams),
            ]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaTagError(f"it cannot be read as {container} ({error})") from error
    for tags in found:
        yield from tags.items()
