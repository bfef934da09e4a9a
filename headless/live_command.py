"""`talking-portrait live`: sound in as a stream, video frames out as they are made."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core_models.keypoint_diffusion.motion_stream import MotionStream
    from ..core_models.rendering.mesh import MeshRenderer
    from ..core_models.types import Emotion, FaceMotion, Portrait
    from .frame_sinks import FrameSink
    from .sound_sources import ReadAhead, SoundPiece

EXIT_OK, EXIT_INTERRUPTED = 0, 130
TOLD_EVERY = 0.5
"""Seconds between lines on how far it is."""


def add_live_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--speech", metavar="S", help="sound or video file, - for standard input (default: a clip)"
    )
    source.add_argument("--microphone", metavar="NAME", nargs="?", const="", help="listen to a microphone")
    parser.add_argument("--rate", type=int, help="Hz of raw samples on standard input (16 bit little-endian)")
    parser.add_argument("--channels", type=int, default=1, help="of raw samples (default 1)")
    parser.add_argument("--paced", action="store_true", help="play a file no faster than it sounds")
    parser.add_argument(
        "--stall-seconds", type=float, default=5.0, help="end when no sound came for so long (default 5)"
    )
    parser.add_argument(
        "--portrait", metavar="P", help="picture file (default: a public-domain NASA portrait)"
    )
    parser.add_argument(
        "--size", type=int, default=0, help="longest side of the video in pixels (default: as is)"
    )
    parser.add_argument(
        "--model", default="pocket", help="what turns sound into motion (default %(default)s)"
    )
    parser.add_argument(
        "--emotion", metavar="E[:strength]", default="neutral", help="such as happy or sad:0.5"
    )
    parser.add_argument("--seed", type=int, default=0, help="another number gives another performance")
    parser.add_argument(
        "--look-ahead", type=int, help="frames of sound to wait for (pocket: 4 to 25, default 12)"
    )
    parser.add_argument(
        "--out", metavar="X.mp4", default="live.mp4", help="- for raw frames on standard output"
    )
    parser.add_argument("--format", choices=("rgb24", "bgr24"), default="rgb24", help="of raw frames")
    parser.add_argument("--json", action="store_true", help="report as JSON")
    parser.set_defaults(command=live_command)


@dataclass(frozen=True)
class LiveReport:
    """What a live run did.

    frames, seconds: of the video. sound_for_first_frame: seconds of sound that had come in when the first frame was
    made. compute_to_first_frame: seconds of work from the last of that sound to the frame. frames_per_second: frames
    over seconds of work (motion, picture, writing), waiting left out. real_time_factor: seconds of work a second of
    video; below 1 is faster than real time. ended: "end", "stall", "interrupt" or "reader gone".
    """

    frames: int
    seconds: float
    sound_for_first_frame: float
    compute_to_first_frame: float
    frames_per_second: float
    real_time_factor: float
    ended: str


def live_command(arguments: argparse.Namespace) -> int:
    """Run until the sound ends and report; return 0, or 130 after Ctrl-C.

    After Ctrl-C the frames made so far are kept: the file is closed properly under its name. A second one leaves none.
    """
    from ..core_models.rendering.mesh import MeshRenderer
    from ..runtime.motion_streams import motion_stream
    from .demo import checked_target
    from .sound_sources import ReadAhead

    raw = arguments.out == "-"
    target = None if raw else checked_target(Path(arguments.out))
    chosen = arguments.model, parsed_emotion(arguments.emotion), arguments.seed, arguments.look_ahead
    stream, warm_up = motion_stream(*chosen), motion_stream(*chosen)
    renderer = MeshRenderer(read_portrait(arguments.portrait, arguments.size))
    for _ in renderer.frames(warm_up.finish()):
        pass  # what is loaded on first use must not make the first frame late
    interruption = Interruption()
    source = ReadAhead(sound_pieces(arguments), arguments.stall_seconds, lambda: interruption.asked)
    with interruption.listening():
        run = LiveRun(stream, renderer, interruption, _Teller())
        report = run.through(source, lambda piece: _sink(piece, stream, target, arguments.format))
    if report.ended == "reader gone":
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if source.stalled:
        sys.stderr.write(f"no sound came for {arguments.stall_seconds:g} s: finished with what there was\n")
    if target is not None and report.frames:
        sys.stderr.write(f"{target}\n")
    text = json.dumps(asdict(report)) if arguments.json else _described(report)
    (sys.stderr if raw else sys.stdout).write(f"{text}\n")
    return EXIT_INTERRUPTED if report.ended == "interrupt" else EXIT_OK


def sound_pieces(arguments: argparse.Namespace) -> Iterator[SoundPiece]:
    """Return the pieces of the source that the arguments name."""
    from ..runtime.input_files import DEMO_SPEECH_FILE
    from . import sound_sources as sources

    if arguments.microphone is not None:
        return sources.microphone_pieces(arguments.microphone or None)
    if arguments.speech == "-":
        if arguments.channels < 1 or (arguments.rate is not None and arguments.rate < 1):
            raise ValueError(
                f"--channels {arguments.channels} and --rate {arguments.rate}: both must be above 0"
            )
        return sources.pipe_pieces(sources.standard_input, arguments.rate, arguments.channels)
    path = Path(arguments.speech or DEMO_SPEECH_FILE).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"--speech: there is no file {path}")
    pieces = sources.file_pieces(path)
    return sources.paced(pieces) if arguments.paced else pieces


def parsed_emotion(text: str) -> Emotion:
    """Return the emotion of "name" or "name:strength". Raises ValueError for a bad name or strength."""
    from ..core_models.types import Emotion

    name, _, strength = text.partition(":")
    try:
        value = float(strength or 1)
    except ValueError as error:
        raise ValueError(
            f"--emotion {text!r}: {strength!r} is not a number; write happy or happy:0.5"
        ) from error
    if not 0 <= value <= 2:
        raise ValueError(f"--emotion {text!r}: the strength is {value:g}, expected 0 to 2")
    return Emotion.mixed({name: 1.0}, value)


def read_portrait(name: str | None, largest_side: int) -> Portrait:
    """Return the portrait of a picture file, of the demo without one, at most `largest_side` px unless that is 0.

    The landmarks are read from the file beside it, or found by the face detector.
    """
    from ..core_models.face.landmarks import read_landmarks
    from ..core_models.face.picture import load_picture
    from ..core_models.face.picture_size import fit_portrait
    from ..core_models.face.portrait import portrait_from_frame, portrait_from_landmarks
    from ..runtime.input_files import demo_portrait, landmarks_beside
    from ..runtime.weights import find_weight

    if name is None:
        frame, landmarks = demo_portrait()
    else:
        frame, landmarks = load_picture(Path(name).expanduser()), landmarks_beside(Path(name).expanduser())
    if landmarks is not None:
        face = read_landmarks(landmarks)
        return fit_portrait(portrait_from_landmarks(frame, face.landmarks, face.blendshapes), largest_side)
    from ..core_models.face.landmarker import FaceLandmarker

    return fit_portrait(
        portrait_from_frame(frame, FaceLandmarker(find_weight("face_landmarker"))), largest_side
    )


def _sink(piece: SoundPiece, stream: MotionStream, target: Path | None, pixel_format: str) -> FrameSink:
    from .frame_sinks import RawFrames, VideoFile, sound_rate_for_file

    if target is None:
        return RawFrames(sys.stdout.buffer, pixel_format)
    return VideoFile(target, stream.fps, sound_rate_for_file(piece.sample_rate), len(piece.waveform))


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
    """One run: sound through the stream and the renderer into the sink."""

    def __init__(
        self,
        stream: MotionStream,
        renderer: MeshRenderer,
        interruption: Interruption | None = None,
        tell: _Teller | None = None,
    ) -> None:
        self._stream, self._renderer = stream, renderer
        self._interruption, self._tell = interruption or Interruption(), tell
        self._frames = 0
        self._heard = self._work = 0.0
        self._first: tuple[float, float] | None = None
        self._arrivals: deque[tuple[float, float]] = deque()

    def through(self, source: ReadAhead, open_sink: Callable[[SoundPiece], FrameSink]) -> LiveReport:
        """Run to the end and return the report. open_sink: gives the sink, told the first piece of sound."""
        sink, ended = None, "end"
        try:
            for piece, arrival in source:
                if sink is None:
                    sink = open_sink(piece)
                    self._prepare(sink, piece)
                self._step(sink, piece, arrival)
            if sink is None and not self._interruption.asked:
                raise ValueError("the source ended before any sound came")
            ended = "stall" if source.stalled else "interrupt" if self._interruption.asked else "end"
            if sink is not None:
                self._finish(sink)
            if self._interruption.asked:
                ended = "interrupt"
        except BrokenPipeError:
            ended = "reader gone"
        except BaseException:
            if sink is not None:
                sink.abandon()
            raise
        return self._report(ended)

    def _prepare(self, sink: FrameSink, piece: SoundPiece) -> None:
        from .frame_sinks import sound_rate_for_file
        from .sound_sources import Resampler

        self._for_file = Resampler(sound_rate_for_file(piece.sample_rate), sink.channels)
        self._for_model = Resampler(self._stream.sample_rate, 1)

    def _step(self, sink: FrameSink, piece: SoundPiece, arrival: float) -> None:
        start = time.perf_counter()
        self._heard += piece.waveform.shape[1] / piece.sample_rate
        self._arrivals.append((self._heard, arrival))
        sink.sound(self._for_file.push(piece))
        self._show(sink, self._stream.push(self._for_model.push(piece)[0]), start)
        self._work += time.perf_counter() - start

    def _finish(self, sink: FrameSink) -> None:
        """Make the frames that wait for more sound, unless Ctrl-C came, and close the sink."""
        start = time.perf_counter()
        if not self._interruption.asked:
            sink.sound(self._for_file.finish())
            self._show(sink, self._stream.push(self._for_model.finish()[0]), start)
            self._show(sink, self._stream.finish(), start)
        sink.close()
        self._work += time.perf_counter() - start

    def _show(self, sink: FrameSink, motion: FaceMotion | None, start: float) -> None:
        for frame in () if motion is None else self._renderer.frames(motion):
            if self._interruption.asked:
                return
            self._interruption.at_once = sink.may_block
            sink.frame(frame)
            self._interruption.at_once = False
            self._frames += 1
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
        return LiveReport(self._frames, seconds, sound, compute, rate, factor, ended)


class _Teller:
    """One line on stderr that says how far it is."""

    def __init__(self) -> None:
        self._next = 0.0

    def frame(self, frames: int, work: float, delay: float) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + TOLD_EVERY
        end = "\r" if sys.stderr.isatty() else "\n"
        sys.stderr.write(
            f"{frames} frames, {frames / work:.0f} frames/s, {delay:.2f} s behind the sound{end}"
        )
        sys.stderr.flush()


def _described(report: LiveReport) -> str:
    return (
        f"{report.frames} frames, {report.seconds:.2f} s ({report.ended})\n"
        f"first frame: after {report.sound_for_first_frame:.2f} s of sound and "
        f"{report.compute_to_first_frame:.3f} s of compute\n"
        f"{report.frames_per_second:.1f} frames a second of compute, "
        f"{report.real_time_factor:.3f} s of compute a second of video"
    )
