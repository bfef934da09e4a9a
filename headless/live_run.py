"""One live run: sound from a source through a motion stream and a renderer into a sink, and what it took."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from ..core_models.keypoint_diffusion.motion_stream import MotionStream
    from ..core_models.rendering.mesh import MeshRenderer
    from ..core_models.types import FaceMotion
    from .frame_sinks import FrameSink
    from .sound_sources import ReadAhead, SoundPiece

TOLD_EVERY = 0.5
"""Seconds between lines on how far it is."""


@dataclass(frozen=True)
class LiveReport:
    """What a live run did.

    frames, seconds: of the video. sound_for_first_frame: seconds of sound that had come in when the first frame was
    made. compute_to_first_frame: seconds of work from the last of that sound to the frame. frames_per_second: frames
    over seconds of work (motion, picture, writing), waiting left out. real_time_factor: seconds of work a second of
    video; below 1 is faster than real time. ended: "end", "stall", "interrupt", "broken source" or "reader gone".
    width, height: of the frames in pixels, 0 where there are none.
    """

    frames: int
    seconds: float
    sound_for_first_frame: float
    compute_to_first_frame: float
    frames_per_second: float
    real_time_factor: float
    ended: str
    width: int
    height: int


class Interruption:
    """Ctrl-C: the first one asks the work to end, a second one ends it; while a pipe is written to, the first does."""

    def __init__(self) -> None:
        self.asked = False
        self.at_once = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C over inside a `with`."""

        def on_interrupt(_number: int, _frame: FrameType | None) -> None:
            again, self.asked = self.asked, True
            if again or self.at_once:
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class LiveRun:
    """One run: sound through the stream and the renderer into the sink.

    source_error: what the source raised after some sound, None where it did not.
    """

    def __init__(
        self,
        stream: MotionStream,
        renderer: MeshRenderer,
        interruption: Interruption | None = None,
        tell: Teller | None = None,
    ) -> None:
        from .sound_sources import Resampler

        self.source_error: Exception | None = None
        self._stream, self._renderer = stream, renderer
        self._interruption, self._tell = interruption or Interruption(), tell
        self._frames = 0
        self._size = (0, 0)
        self._heard = self._work = 0.0
        self._first: tuple[float, float] | None = None
        self._arrivals: deque[tuple[float, float]] = deque()
        self._for_model = Resampler(stream.sample_rate, 1)
        self._for_file: Resampler | None = None

    def through(self, source: ReadAhead, open_sink: Callable[[SoundPiece], FrameSink]) -> LiveReport:
        """Run to the end and return the report. open_sink: gives the sink, told the first piece of sound.

        Where the source raises after some sound, the frames made so far are finished and `source_error` is set.
        Raises what the source raises before any sound, and ValueError when none came.
        """
        from .frame_sinks import ReaderGoneError

        sink = None
        try:
            for piece, arrival in self._given(source):
                if sink is None:
                    sink = self._opened(open_sink, piece)
                self._step(sink, piece, arrival)
            if sink is None:
                self._require_reason(source)
            else:
                self._finish(sink)
            return self._report(self._ending(source))
        except ReaderGoneError:
            sink.abandon()
            return self._report("reader gone")
        except BaseException:
            if sink is not None:
                sink.abandon()
            raise

    def _given(self, source: ReadAhead) -> Iterator[tuple[SoundPiece, float]]:
        try:
            yield from source
        except Exception as error:  # noqa: BLE001 - raised when what came before is finished
            self.source_error = error

    def _opened(self, open_sink: Callable[[SoundPiece], FrameSink], piece: SoundPiece) -> FrameSink:
        from .frame_sinks import sound_rate_for_file
        from .sound_sources import Resampler

        sink = open_sink(piece)
        if sink.channels:
            self._for_file = Resampler(sound_rate_for_file(piece.sample_rate), sink.channels)
        return sink

    def _require_reason(self, source: ReadAhead) -> None:
        """Raise why no sound came, unless Ctrl-C is the reason."""
        if self.source_error is not None:
            raise self.source_error
        if source.stalled:
            raise ValueError(
                f"no sound came for {source.stall_seconds:g} s, so there is nothing to show: see that the source "
                "is on, or wait longer with --stall-seconds"
            )
        if not self._interruption.asked:
            raise ValueError("the source ended before any sound came")

    def _ending(self, source: ReadAhead) -> str:
        if self._interruption.asked:
            return "interrupt"
        if self.source_error is not None:
            return "broken source"
        return "stall" if source.stalled else "end"

    def _step(self, sink: FrameSink, piece: SoundPiece, arrival: float) -> None:
        start = time.perf_counter()
        self._heard += piece.waveform.shape[1] / piece.sample_rate
        if self._tell is not None:
            self._arrivals.append((self._heard, arrival))
        try:
            if self._for_file is not None:
                sink.sound(self._for_file.push(piece))
            self._show(sink, self._stream.push(self._for_model.push(piece)[0]), start)
        finally:  # a reader that goes away ends in the middle of it
            self._work += time.perf_counter() - start

    def _finish(self, sink: FrameSink) -> None:
        """Make the frames that wait for more sound, unless Ctrl-C came, and close the sink."""
        start = time.perf_counter()
        try:
            if not self._interruption.asked:
                if self._for_file is not None:
                    sink.sound(self._for_file.finish())
                self._show(sink, self._stream.push(self._for_model.finish()[0]), start)
                self._show(sink, self._stream.finish(), start)
            sink.close()
        finally:
            self._work += time.perf_counter() - start

    def _show(self, sink: FrameSink, motion: FaceMotion | None, start: float) -> None:
        for frame in () if motion is None else self._renderer.frames(motion):
            if self._interruption.asked:
                return
            self._interruption.at_once = sink.may_block
            sink.frame(frame)
            self._interruption.at_once = False
            self._frames += 1
            self._size = frame.shape[1], frame.shape[0]
            now = time.perf_counter()
            if self._first is None:
                self._first = self._heard, now - start
            if self._tell is not None:
                self._tell.frame(self._frames, self._work + now - start, self._delay())

    def _delay(self) -> float:
        """Return seconds since the sound of the newest frame came in."""
        end = self._frames / self._stream.fps
        while len(self._arrivals) > 1 and self._arrivals[0][0] < end:
            self._arrivals.popleft()
        return time.monotonic() - self._arrivals[0][1]

    def _report(self, ended: str) -> LiveReport:
        sound, compute = self._first or (0.0, 0.0)
        seconds = self._frames / self._stream.fps
        rate = self._frames / self._work if self._work else 0.0
        factor = self._work / seconds if seconds else 0.0
        return LiveReport(self._frames, seconds, sound, compute, rate, factor, ended, *self._size)


class Teller:
    """One line on stderr that says how far it is; where it cannot be written, nothing is said."""

    def __init__(self) -> None:
        self._next = 0.0

    def frame(self, frames: int, work: float, delay: float) -> None:
        """Say so, unless it was said just now. work: seconds of it. delay: seconds behind the sound."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + TOLD_EVERY
        end = "\r" if sys.stderr.isatty() else "\n"
        line = f"{frames} frames, {frames / work:.0f} frames/s, {delay:.2f} s behind the sound{end}"
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except OSError:
            let_go(sys.stderr)


def let_go(stream: TextIO) -> None:
    """Send what a stream still holds, and is given from now on, nowhere."""
    with suppress(OSError), open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())
