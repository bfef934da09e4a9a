"""Sound that comes in piece by piece: files, pipes, microphones; and its way to one rate."""

from __future__ import annotations

import logging
import os
import queue
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
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
    """Yield the sound of a microphone for ever. Raises OSError with what to do when it cannot be opened."""
    formats = MICROPHONE_FORMATS.get(sys.platform, ("alsa",))
    built_in = [form for form in formats if form in av.formats_available]
    if not built_in:
        raise OSError(
            f"this PyAV has no sound input ({', '.join(formats)}); pipe it in with --speech - instead"
        )
    device = {"avfoundation": f":{name or 0}", "dshow": f"audio={name}"}.get(built_in[0], name or "default")
    try:
        container = av.open(device, format=built_in[0])
    except (av.error.FFmpegError, OSError) as error:
        raise OSError(
            f"there is no microphone {device!r} for {built_in[0]} ({error.strerror}): name another with "
            "--microphone NAME, or pipe sound in with --speech -"
        ) from error
    with container:
        yield from _decoded(container, f"microphone {device}")


def pipe_pieces(
    read: Callable[[int], bytes], sample_rate: int | None = None, channels: int = 1
) -> Iterator[SoundPiece]:
    """Yield the sound of a pipe: WAV if it begins with a WAV header, else raw 16 bit little-endian samples.

    read: returns at most that many bytes, as soon as there are any, and none at the end.
    sample_rate, channels: of raw samples. A part of a sample at the end is left out, with a warning.
    Raises ValueError for raw samples without a rate, and for a WAV of another format.
    """
    head = _exactly(read, 12)
    kind, scale, rest = "<i2", 2.0**15, head
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        kind, scale, channels, sample_rate = _wav_format(read)
        rest = b""
    elif sample_rate is None:
        raise ValueError(
            "the pipe has no WAV header: say what the raw samples are with --rate and --channels"
        )
    size = np.dtype(kind).itemsize * channels
    wanted = max(size, round(PIECE_SECONDS * sample_rate) * size)
    while True:
        data = read(wanted)
        rest += data
        whole = len(rest) // size * size
        if whole:
            samples = np.frombuffer(rest[:whole], kind).reshape(-1, channels).T
            yield SoundPiece((samples / scale).astype(np.float32), sample_rate)
            rest = rest[whole:]
        if not data:
            break
    if rest:
        logger.warning("the sound ends in the middle of a sample: its last %d bytes are left out", len(rest))


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    """Return `count` bytes, fewer where the pipe ends."""
    data = b""
    while len(data) < count:
        more = read(count - len(data))
        if not more:
            break
        data += more
    return data


def _wav_format(read: Callable[[int], bytes]) -> tuple[str, float, int, int]:
    """Read up to the samples of a WAV; return their type, full scale, channels and rate."""
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
    return *WAV_TYPES[form, bits], channels, rate


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


class ReadAhead:
    """A source read on a thread of its own, so that the work may time out or be stopped while it waits.

    Iterating yields (piece, time.monotonic() when it came). It ends with the source, when `stopped` says so, or when
    nothing came for `stall_seconds`: then `stalled` is True. What the source raises is raised here.
    """

    def __init__(
        self, pieces: Iterable[SoundPiece], stall_seconds: float, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        if not stall_seconds > 0:
            raise ValueError(
                f"the seconds after which a source has stalled are {stall_seconds}, expected more than 0"
            )
        self.stalled = False
        self._stall, self._stopped = stall_seconds, stopped
        self._waiting: queue.Queue = queue.Queue(WAITING_PIECES)
        threading.Thread(target=self._read, args=(pieces,), daemon=True).start()

    def _read(self, pieces: Iterable[SoundPiece]) -> None:
        end: Exception | None = None
        try:
            for piece in pieces:
                self._waiting.put((piece, time.monotonic()))
        except Exception as error:  # noqa: BLE001 - raised again where the pieces are used
            end = error
        self._waiting.put((end, 0.0))

    def __iter__(self) -> Iterator[tuple[SoundPiece, float]]:
        waited = 0.0
        while not self._stopped():
            try:
                piece, arrival = self._waiting.get(timeout=min(POLL_SECONDS, self._stall))
            except queue.Empty:
                waited += min(POLL_SECONDS, self._stall)
                if waited >= self._stall:
                    self.stalled = True
                    return
                continue
            waited = 0.0
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                return
            yield piece, arrival
