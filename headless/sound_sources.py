"""Sound that comes in piece by piece: files, pipes, microphones; and its way to one rate."""

from __future__ import annotations

import logging
import math
import os
import queue
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from ..core_models.media_container import expect_decoder, open_media, stream_kinds

logger = logging.getLogger(__name__)

PIECE_SECONDS = 0.1
WAITING_PIECES = 64
"""Pieces that may wait between the source and the work; a source that is faster waits."""
POLL_SECONDS = 0.1
MICROPHONE_FORMATS = {"linux": ("pulse", "alsa"), "darwin": ("avfoundation",), "win32": ("dshow",)}
"""System -> ffmpeg's input devices, the first that is built in is used."""
PCM, FLOAT = 1, 3
EXTENSIBLE = 0xFFFE
WAV_TYPES = {(PCM, 16): ("<i2", 2.0**15), (PCM, 32): ("<i4", 2.0**31), (FLOAT, 32): ("<f4", 1.0)}
"""(format, bits) of a WAV header -> samples' type and full scale."""
UNKNOWN_LENGTH = 0x7FFFF000
"""From here on, and 0: what programs that write into a pipe give as the length of samples they do not know yet."""
CLOSING_SECONDS = 0.2
"""How long closing a source waits for it."""


@dataclass(frozen=True)
class SoundPiece:
    """waveform: (C, T) float32, full scale -1..1. sample_rate: Hz."""

    waveform: np.ndarray
    sample_rate: int


def file_pieces(path: Path) -> Iterator[SoundPiece]:
    """Yield the first sound of a file as it is decoded. Raises OSError and ValueError as `open_media` does.

    A change of rate or channels within the file is passed on. In a video file the sound begins with itself.
    """
    with open_media(path) as container:
        if not container.streams.audio:
            raise ValueError(f"{path} has no sound: its streams are {stream_kinds(container)}")
        expect_decoder(container.streams.audio[0], path)
        yield from _decoded(container, str(path))


def _decoded(container: av.container.InputContainer, name: str) -> Iterator[SoundPiece]:
    kind, converter = None, None
    try:
        for frame in container.decode(container.streams.audio[0]):
            now = frame.layout.name, frame.sample_rate
            if now != kind:
                kind, converter = now, av.AudioResampler("flt", frame.layout, frame.sample_rate)
            channels = len(frame.layout.channels)
            packed = [part.to_ndarray().reshape(-1, channels) for part in converter.resample(frame)]
            yield SoundPiece(np.concatenate(packed).T, frame.sample_rate)
    except av.error.EOFError:
        return
    except av.error.FFmpegError as error:
        logger.warning("%s breaks off (%s): what came before is used", name, error.strerror)


def microphone_pieces(name: str | None = None) -> Iterator[SoundPiece]:
    """Yield the sound of a microphone for ever.

    Raises OSError with what to do when it cannot be opened, ValueError as `microphone_device` does.
    """
    formats = MICROPHONE_FORMATS.get(sys.platform, ("alsa",))
    built_in = [form for form in formats if form in av.formats_available]
    if not built_in:
        raise OSError(
            f"this PyAV has no sound input ({', '.join(formats)}); pipe it in with --speech - instead"
        )
    device = microphone_device(built_in[0], name)
    try:
        container = av.open(device, format=built_in[0])
    except (av.error.FFmpegError, OSError) as error:
        raise OSError(
            f"there is no microphone {device!r} for {built_in[0]} ({error.strerror}): name another with "
            "--microphone NAME, or pipe sound in with --speech -"
        ) from error
    with container:
        yield from _decoded(container, f"microphone {device}")


def microphone_device(form: str, name: str | None) -> str:
    """Return how ffmpeg's input device `form` calls a microphone; None is the system's default one.

    Raises ValueError for dshow without a name: it knows no default.
    """
    if form == "dshow" and not name:
        raise ValueError(
            "--microphone needs a NAME on Windows, which has no default one for dshow: "
            "'ffmpeg -list_devices true -f dshow -i dummy' lists them"
        )
    if form == "dshow":
        return f"audio={name}"
    return f":{name or 0}" if form == "avfoundation" else name or "default"


def pipe_pieces(
    read: Callable[[int], bytes], sample_rate: int | None = None, channels: int | None = None
) -> Iterator[SoundPiece]:
    """Yield the sound of a pipe: WAV if it begins with a WAV header, else raw 16 bit little-endian samples.

    read: returns at most that many bytes, as soon as there are any, and none at the end.
    sample_rate, channels: of raw samples; channels is 1 where it is left out. A part of a sample at the end is left
    out, with a warning. What follows a WAV's samples is not read.
    Raises ValueError for a pipe that ends before its first byte, raw samples without a rate, a WAV with one, and a WAV
    of another format.
    """
    head = _exactly(read, 12)
    form = _pipe_format(head, read, sample_rate, channels)
    size = np.dtype(form.kind).itemsize * form.channels
    wanted = max(size, round(PIECE_SECONDS * form.sample_rate) * size)
    rest = b"" if form.is_wav else head
    left = math.inf if form.length is None else form.length
    while True:
        data = read(min(wanted, left))
        left -= len(data)
        rest += data
        whole = len(rest) // size * size
        if whole:
            samples = np.frombuffer(rest[:whole], form.kind).reshape(-1, form.channels).T
            yield SoundPiece((samples / form.full_scale).astype(np.float32), form.sample_rate)
            rest = rest[whole:]
        if not data or not left:
            break
    if rest:
        logger.warning("the sound ends in the middle of a sample: its last %d bytes are left out", len(rest))


@dataclass(frozen=True)
class _PipeFormat:
    """kind: numpy's name of the samples' type. length: bytes of samples, None as many as come."""

    kind: str
    full_scale: float
    channels: int
    sample_rate: int
    length: int | None = None
    is_wav: bool = False


def _pipe_format(
    head: bytes, read: Callable[[int], bytes], sample_rate: int | None, channels: int | None
) -> _PipeFormat:
    """Return what a pipe that begins with `head` holds; of a WAV, read up to its samples."""
    if not head:
        raise ValueError("the pipe ended before any sound came: look at what the program that fills it says")
    if head[:4] == b"RIFF" and b"WAVE".startswith(head[8:12]):
        if sample_rate is not None or channels is not None:
            raise ValueError(
                "the pipe begins with a WAV header, which says what its samples are: leave out --rate and --channels"
            )
        return _wav_format(read)
    if sample_rate is None:
        raise ValueError(
            "the pipe has no WAV header: say what the raw samples are with --rate and --channels"
        )
    return _PipeFormat("<i2", 2.0**15, 1 if channels is None else channels, sample_rate)


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    """Return `count` bytes, fewer where the pipe ends."""
    data = b""
    while len(data) < count:
        more = read(count - len(data))
        if not more:
            break
        data += more
    return data


def _wav_format(read: Callable[[int], bytes]) -> _PipeFormat:
    """Read up to the samples of a WAV and return what they are."""
    found = None
    while True:
        header = _exactly(read, 8)
        if len(header) < 8:
            raise ValueError("the WAV on the pipe ends before its samples")
        name, length = struct.unpack("<4sI", header)
        if name == b"data":
            break
        content = _exactly(read, length + length % 2)
        if name == b"fmt " and len(content) >= 16:
            found = content
    if found is None:
        raise ValueError("the WAV on the pipe does not say what its samples are")
    form, channels, rate, _, _, bits = struct.unpack("<HHIIHH", found[:16])
    if form == EXTENSIBLE and len(found) >= 26:
        form = struct.unpack("<H", found[24:26])[0]
    if (form, bits) not in WAV_TYPES or channels < 1 or rate < 1:
        raise ValueError(
            f"the WAV on the pipe has {bits} bits of format {form}, {channels} channels at {rate} Hz: 16 or 32 bits "
            "or 32 bit floats are read; convert it with ffmpeg -c:a pcm_s16le"
        )
    known = 0 < length < UNKNOWN_LENGTH
    return _PipeFormat(*WAV_TYPES[form, bits], channels, rate, length if known else None, is_wav=True)


def standard_input(count: int) -> bytes:
    """Read from standard input, not through Python's buffer: it must not be held when the program ends."""
    return os.read(sys.stdin.fileno(), count)


def paced(pieces: Iterable[SoundPiece]) -> Iterator[SoundPiece]:
    """Yield pieces no sooner than they would have been heard to their end."""
    start, heard = time.monotonic(), 0.0
    for piece in pieces:
        heard += piece.waveform.shape[1] / piece.sample_rate
        time.sleep(max(0.0, start + heard - time.monotonic()))
        yield piece


class Resampler:
    """Sound piece by piece to one rate and channel count; what is held back comes with `finish`."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self._rate: int | None = None
        self._stream = None

    def push(self, piece: SoundPiece) -> np.ndarray:
        """Return what is ready, (channels, n) float32. A source that changes its rate goes on without a gap."""
        from ..core_models.audio.resample import RESAMPLING_QUALITY

        rows = with_channels(piece.waveform, self.channels)
        ended = self.finish() if piece.sample_rate != self._rate else rows[:, :0]
        if piece.sample_rate != self._rate:
            self._rate = piece.sample_rate
            if self._rate != self.sample_rate:
                import soxr

                self._stream = soxr.ResampleStream(
                    self._rate, self.sample_rate, self.channels, "float32", RESAMPLING_QUALITY
                )
        return np.concatenate([ended, self._passed(rows)], axis=1)

    def finish(self) -> np.ndarray:
        """Return the rest, (channels, n) float32."""
        rest = self._passed(np.zeros((self.channels, 0), np.float32), last=True)
        self._stream = self._rate = None
        return rest

    def _passed(self, rows: np.ndarray, last: bool = False) -> np.ndarray:
        if self._stream is None:
            return rows
        made = self._stream.resample_chunk(np.ascontiguousarray(rows.T), last)
        return made.reshape(-1, self.channels).T


def with_channels(waveform: np.ndarray, channels: int) -> np.ndarray:
    """Return (channels, T) float32: as it is where the count agrees, else all channels mixed to one and repeated."""
    if len(waveform) == channels:
        return waveform.astype(np.float32)
    return np.repeat(waveform.mean(axis=0, keepdims=True, dtype=np.float64), channels, axis=0).astype(
        np.float32
    )


def require_finite(piece: SoundPiece) -> None:
    """Raise ValueError for a piece with NaN or infinite samples."""
    broken = int(piece.waveform.size - np.isfinite(piece.waveform).sum())
    if broken:
        raise ValueError(
            f"the sound has {broken} NaN or infinite samples among {piece.waveform.size}: repair its source"
        )


class ReadAhead:
    """A source read on a thread of its own, so that the work may time out or be stopped while it waits.

    Iterating yields (piece, time.monotonic() when it came). It ends with the source, when `stopped` says so, when it is
    closed, or when nothing came for `stall_seconds`: then `stalled` is True. What the source raises is raised here, and
    ValueError for samples that are not finite. Leaving it as a `with` closes it.
    """

    def __init__(
        self, pieces: Iterable[SoundPiece], stall_seconds: float, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        if not stall_seconds > 0:
            raise ValueError(
                f"the seconds after which a source has stalled are {stall_seconds}, expected more than 0"
            )
        self.stalled, self.stall_seconds = False, stall_seconds
        self._stopped = stopped
        self._closed = threading.Event()
        self._waiting: queue.Queue = queue.Queue(WAITING_PIECES)
        self._thread = threading.Thread(target=self._read, args=(pieces,), daemon=True)
        self._thread.start()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the source go; a generator is closed, and with it its file or device.

        Waits up to CLOSING_SECONDS. A source that is waiting for sound even then is closed as soon as some comes.
        """
        self._closed.set()
        self._thread.join(CLOSING_SECONDS)

    def _read(self, pieces: Iterable[SoundPiece]) -> None:
        end: Exception | None = None
        try:
            self._pass_on(pieces)
        except Exception as error:  # noqa: BLE001 - raised again where the pieces are used
            end = error
        self._put((end, 0.0))

    def _pass_on(self, pieces: Iterable[SoundPiece]) -> None:
        try:
            for piece in pieces:
                arrival = time.monotonic()
                require_finite(piece)
                if not self._put((piece, arrival)):
                    return
        finally:
            if isinstance(pieces, Generator):
                pieces.close()

    def _put(self, item: tuple[SoundPiece | Exception | None, float]) -> bool:
        """Wait until there is room; return False when nobody wants it any more."""
        while not self._closed.is_set():
            try:
                self._waiting.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[tuple[SoundPiece, float]]:
        waited, patience = 0.0, min(POLL_SECONDS, self.stall_seconds)
        while not (self._stopped() or self._closed.is_set()):
            try:
                piece, arrival = self._waiting.get(timeout=patience)
            except queue.Empty:
                waited += patience
                if waited >= self.stall_seconds:
                    self.stalled = True
                    return
                continue
            waited = 0.0
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                return
            yield piece, arrival
